"""Which process this is, how it ends by a signal, and whether another one is still alive.

A process id alone says little: it is used again, and in containers it is 1 again and again. So a process is
named by host, kernel boot, process-id namespace, id and start time. Only within the same boot and namespace
the kernel can be asked whether it lives; `is_alive` answers None elsewhere.

Sources: `man 5 proc` (`/proc/<pid>/stat`, fields 3 and 22), `man 7 pid_namespaces`.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_DEAD_STATES = frozenset("ZXx")


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process. `start` is in clock ticks since the boot; where there is no /proc, three fields are None."""

    host: str
    pid: int
    boot: str | None = None
    namespace: str | None = None
    start: int | None = None


def own_process() -> ProcessIdentity:
    """This process, as of now: a forked child is another one."""
    pid = os.getpid()
    # where /proc is that of another namespace, `self` is this process, and a number is some other one
    state = _state_of("self")
    start = None if state is None else state[1]
    return ProcessIdentity(socket.gethostname(), pid, _boot(), _namespace(pid), start)


def is_alive(other: ProcessIdentity, own: ProcessIdentity) -> bool | None:
    """Whether a process is alive; None: it cannot be known from here."""
    if other == own:
        return True
    if None in (other.boot, other.namespace, other.start):
        return None
    if (other.boot, other.namespace) != (own.boot, own.namespace):
        return None
    state = _state_of(other.pid)
    return state is not None and state[0] not in _DEAD_STATES and state[1] == other.start


def _state_of(pid: int | str) -> tuple[str, int] | None:
    try:
        # the name, in brackets, may hold anything
        fields = (_PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def _boot() -> str | None:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text("ascii").strip() or None
    except (OSError, ValueError):
        return None


def _namespace(pid: int) -> str | None:
    try:
        if str((_PROC / "self").readlink()) != str(pid):
            return None
        return str((_PROC / "self/ns/pid").readlink())
    except OSError:
        return None


def die_of(number: int) -> None:
    """End this process by a signal; where that does not kill it (PID 1, a blocked signal), exit likewise.

    Python lets only the main thread do it.
    """
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)


def main_thread_position() -> object:
    """Where the main thread is: the same twice means that it has run no bytecode in between."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001 - documented
    return None if frame is None else (id(frame), frame.f_lasti)
