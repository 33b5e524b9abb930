"""Runs scripts in forks of a process that has imported dlt, which is half of what many a script takes.

A fork is where an interpreter would be after `import dlt`: a process of its own, without dltobs, with its own
environment, folder, output, signals and exit. What depends on that import itself needs a new interpreter.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST = 1 << 18
"""Bytes of a request."""
_making = threading.Lock()


class Forge:
    """The process, and one script at a time in a fork of it: whoever calls `run()` holds the lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            source = (
                f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import forge; forge.serve()"
            )
            subprocess.Popen([sys.executable, "-c", source], stdin=theirs, close_fds=True)

    def run(
        self, command: list[str], folder: Path, environment: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run()` does it for a Python with these arguments: `-c` and code, or a script."""
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        request = json.dumps([command, str(folder), dict(environment)]).encode()
        socket.send_fds(self._channel, [request], [out_end, err_end])
        os.close(out_end)
        os.close(err_end)
        pid = int(self._channel.recv(_LONGEST))
        texts = ["", ""]

        def read(number: int, descriptor: int) -> None:
            with os.fdopen(descriptor, encoding="utf-8") as pipe:
                texts[number] = pipe.read()

        readers = [threading.Thread(target=read, args=pair, daemon=True) for pair in enumerate((out, err))]
        for reader in readers:
            reader.start()
        late = threading.Timer(timeout, os.kill, (pid, signal.SIGKILL))
        late.start()
        status = int(self._channel.recv(_LONGEST))
        is_late = not late.is_alive()
        late.cancel()
        for reader in readers:
            reader.join(timeout)
        if is_late or any(reader.is_alive() for reader in readers):
            raise subprocess.TimeoutExpired(command, timeout, *texts)
        return subprocess.CompletedProcess(command, status, *texts)


def forge() -> Forge:
    """That of this process, one for all of its threads."""
    with _making:  # threads that ask a cache at once make one each
        return _made()


@functools.cache
def _made() -> Forge:
    return Forge()


def serve() -> None:
    """In the process: fork for each request; in the fork: run the script, and return for the exit."""
    import dlt  # noqa: F401 - this is what it is for

    assert not {"dltobs", "opentelemetry"} & sys.modules.keys()
    channel = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    while True:
        request, outputs, _, _ = socket.recv_fds(channel, _LONGEST, 2)
        if not request:
            return
        pid = os.fork()
        if pid == 0:
            break
        for descriptor in outputs:
            os.close(descriptor)
        channel.send(str(pid).encode())
        channel.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
    channel.close()
    for number, descriptor in enumerate(outputs, 1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    command, folder, environment = json.loads(request)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    _run(command)


def _run(command: list[str]) -> None:
    """As the interpreter itself does it, so that tracebacks and exits are the same."""
    main: dict[str, Any] = vars(sys.modules["__main__"])
    for name in ("sys", "forge"):
        del main[name]
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
