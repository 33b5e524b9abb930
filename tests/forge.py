"""Runs Python scripts in forks of a process that has already imported what they need.

A fork is a process of its own, with its own environment, folder, output, signals and exit. dlt and other libraries
have been executed in it, but stand in `sys.modules` only once the script imports them. dltobs has not been imported.
What depends on how they are imported needs a new interpreter.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import resolve_name
from pathlib import Path
from typing import TYPE_CHECKING, Any

from type_hints import remember_type_hints

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

LIBRARIES = (
    "dlt",
    "ahocorasick",
    "concurrent_log_handler",
    "dlt.destinations.impl.duckdb.duck",
    "dlt.sources.helpers.requests",
    "duckdb",
    "encodings.idna",
    "html",
    "loguru",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.propagate",
    "opentelemetry.trace.propagation.tracecontext",
    "pythonjsonlogger.json",
    "pythonjsonlogger.orjson",
    "sentry_sdk",
    "sentry_sdk.integrations.logging",
)
"""What scripts import sooner or later."""
_READ_BY_IMPORTS = {"OTEL_PROPAGATORS", "OTEL_PYTHON_CONTEXT"}
"""Environment variables that the libraries read while they are imported."""
_LONGEST = 1 << 18
"""Bytes of a request."""
_lock = threading.Lock()


class Fork(subprocess.Popen[str]):
    """A script in a fork of the prepared process; otherwise a `subprocess.Popen` with pipes."""

    def _execute_child(self, args: Any, *others: Any) -> None:
        folder, environment, out, error = others[4], others[5], others[12], others[14]
        request = json.dumps([args[1:], str(folder), dict(environment)]).encode()
        self._status, status = os.pipe()
        with _lock:
            channel = _channel()
            socket.send_fds(channel, [request], [out, error, status])
            self.pid = int(channel.recv(_LONGEST))
        for descriptor in (out, error, status):
            os.close(descriptor)

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if wait_flags == os.WNOHANG and not select.select([self._status], [], [], 0)[0]:
            return 0, 0
        status = int(os.read(self._status, _LONGEST))
        os.close(self._status)
        return self.pid, status

    def _internal_poll(self, *_: object, **__: object) -> int | None:
        with self._waitpid_lock:
            if self.returncode is None and (ended := self._try_wait(os.WNOHANG))[0]:
                self._handle_exitstatus(ended[1])
        return self.returncode


def start(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start a Python with these arguments (`-c` and code, or a script)."""
    return Fork(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=environment,
        encoding="utf-8",
    )


@functools.cache
def _channel() -> socket.socket:
    """Start the process that is forked, one for all of our threads, and return the socket to it."""
    channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        source = (
            f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import forge; forge.serve()"
        )
        subprocess.Popen([sys.executable, "-c", source], stdin=theirs)
    return channel


def serve() -> None:
    """Fork for each request; in the fork, run the script, and return for the exit."""
    prepared = Prepared(LIBRARIES)
    remember_type_hints(prepared.modules)
    assert not {"dltobs", "dlt", "opentelemetry"} & sys.modules.keys()
    assert threading.active_count() == 1
    gc.collect()
    gc.freeze()  # else the first collection in a fork copies every page
    channel = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    ended, wakeup = os.pipe()
    os.set_blocking(ended, False)
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([channel, ended], [], [])
        if ended in ready:
            os.read(ended, _LONGEST)
            _report_ended(running)
        if channel not in ready:
            continue
        request, descriptors, _, _ = socket.recv_fds(channel, _LONGEST, 3)
        if not request:
            return
        pid = os.fork()
        if pid == 0:
            break
        running[pid] = descriptors.pop()
        for descriptor in descriptors:
            os.close(descriptor)
        channel.send(str(pid).encode())
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    channel.close()
    for descriptor in (ended, wakeup, descriptors.pop(), *running.values()):
        os.close(descriptor)
    for number, descriptor in enumerate(descriptors, 1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    command, folder, environment = json.loads(request)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    if not _READ_BY_IMPORTS & environment.keys():
        sys.meta_path.insert(0, prepared)
    _run(command)


def _report_ended(running: dict[int, int]) -> None:
    """Send the status of each process that has ended to the one that waits for it."""
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        descriptor = running.pop(pid)
        with contextlib.suppress(OSError):  # it does not wait
            os.write(descriptor, str(status).encode())
        os.close(descriptor)


class Prepared(MetaPathFinder, Loader):
    """Imports modules and removes them from `sys.modules`, and gives them to whoever imports them then."""

    def __init__(self, names: Sequence[str]) -> None:
        before = set(sys.modules)
        self._imports: dict[str, set[str]] = defaultdict(set)
        self._import = builtins.__import__
        builtins.__import__ = self._record
        try:
            for name in names:
                with contextlib.suppress(ImportError):  # beside Prefect some are not installed
                    importlib.import_module(name)
        finally:
            builtins.__import__ = self._import
        added = [
            name
            for name in sys.modules
            if name not in before and name.partition(".")[0] not in sys.stdlib_module_names
        ]
        self.modules: dict[str, ModuleType] = {name: sys.modules.pop(name) for name in added}
        self._specs = {name: module.__spec__ for name, module in self.modules.items()}

    def _record(self, name: str, globals_: Any = None, *others: Any, **named: Any) -> ModuleType:
        """Import, and note which module did."""
        fromlist, level = [*others[1:], *[(), 0][len(others[1:]) :]]
        if globals_ and "__name__" in globals_:
            found = resolve_name("." * level + name, globals_.get("__package__") or globals_["__name__"])
            self._imports[globals_["__name__"]] |= {found, *(f"{found}.{one}" for one in fromlist or ())}
        return self._import(name, globals_, *others, **named)

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        original = self._specs.get(name)
        if original is None or name not in self.modules:
            return None
        spec = ModuleSpec(
            name, self, origin=original.origin, is_package=original.submodule_search_locations is not None
        )
        spec.has_location = original.has_location
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module, and put what it has imported into `sys.modules`, as its execution would."""
        module = self.modules[spec.name]
        names = [spec.name]
        while names:
            name = names.pop()
            if found := self.modules.pop(name, None):
                sys.modules.setdefault(name, found)
                names += [name.rpartition(".")[0], *self._imports[name]]
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._specs[module.__name__]


def _run(command: list[str]) -> None:
    """As the interpreter itself does it, so that tracebacks and exits are the same."""
    main: dict[str, Any] = vars(sys.modules["__main__"])
    for name in ("sys", "forge"):
        del main[name]
    del sys.modules["forge"], sys.modules["type_hints"]
    sys.path.remove(str(Path(__file__).parent))
    if command[0] == "-c":
        sys.argv = ["-c"]
        failed = ctypes.pythonapi.PyRun_SimpleString(command[1].encode())
    else:
        sys.argv = command
        sys.path[0] = str(Path(command[0]).parent)
        libc = ctypes.CDLL(None)
        libc.fopen.restype = ctypes.c_void_p
        file = ctypes.c_void_p(libc.fopen(command[0].encode(), b"r"))
        failed = ctypes.pythonapi.PyRun_SimpleFileExFlags(file, command[0].encode(), 1, None)
    # after an interrupt that nobody took, the interpreter dies of the signal when this returns
    if failed and getattr(sys, "last_type", None) is not KeyboardInterrupt:
        sys.exit(1)
