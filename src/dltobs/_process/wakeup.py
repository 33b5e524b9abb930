"""The descriptor to which Python's C-level signal handler writes each signal's number, shared with others.

There is one for a process (https://docs.python.org/3/library/signal.html#signal.set_wakeup_fd). What was
there before, an event loop's for one, gets its bytes from us; one that is set later wins. Only the main
thread may change it.

A child has it until it has run its hooks or its `exec`, and the numbers of its signals come to its parent. So
it is a socket where it can be, not a pipe: Linux says which process has written what (`man 7 unix`,
SO_PASSCRED).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct

_MAX_BYTES = 64
_CREDENTIALS = struct.Struct("3i")
_KERNEL_TELLS = hasattr(socket, "SO_PASSCRED")


class WakeupDescriptor:
    """A pair of sockets, or a pipe; `receiver` is the descriptor to read from."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        try:
            self.receiver, self._sender = self._sockets() if _KERNEL_TELLS else pipe()
        except Exception:  # noqa: BLE001 - tests forbid sockets by putting something else in their place
            self.receiver, self._sender = pipe()
        self._previous: tuple[int, object] | None = None

    def _sockets(self) -> tuple[int, int]:
        receiver, sender = socket.socketpair()
        for end in (receiver, sender):
            end.settimeout(0)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket = receiver
        return receiver.fileno(), sender.detach()

    def attach(self) -> None:
        """Have the numbers of signals written to our socket."""
        old = signal.set_wakeup_fd(self._sender, warn_on_full_buffer=False)
        self._previous = None if old == -1 else (old, _identity(old))

    def take_back(self) -> None:
        """Attach again if somebody has taken us away and left nothing in our place, as asyncio does."""
        current = signal.set_wakeup_fd(self._sender, warn_on_full_buffer=False)
        if current not in {-1, self._sender}:
            signal.set_wakeup_fd(current)

    def detach(self) -> None:
        """Put back what was there before; what has been set since stays."""
        current = signal.set_wakeup_fd(-1)
        if current == self._sender:
            current = -1 if self._previous is None or not self._is_chained() else self._previous[0]
        if current != -1:
            signal.set_wakeup_fd(current)

    def close(self) -> None:
        """Let go of it."""
        if self._socket is None:
            close(self.receiver)
        else:
            with contextlib.suppress(OSError):
                self._socket.close()
        close(self._sender)

    def read(self) -> bytes:
        """The numbers that have come to this process.

        They are passed on to the descriptor that was there before, which would have got a child's, too.
        """
        found, is_own = b"", True
        with contextlib.suppress(OSError):
            if self._socket is None:
                found = os.read(self.receiver, _MAX_BYTES)
            else:
                # the kernel gives the bytes of one writer at a time
                found, told, *_ = self._socket.recvmsg(_MAX_BYTES, socket.CMSG_SPACE(_CREDENTIALS.size))
                is_own = os.getpid() in _writers(told)
        if found and self._previous is not None and self._is_chained():
            with contextlib.suppress(OSError):
                os.write(self._previous[0], found)
        return found if is_own else b""

    def _is_chained(self) -> bool:
        """Whether the descriptor from before is still the same one: its number may be used again."""
        previous = self._previous
        return previous is not None and previous[1] is not None and _identity(previous[0]) == previous[1]


def pipe() -> tuple[int, int]:
    """A pipe that makes nobody wait: the end to read from, and the end to write to."""
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    return ends


def readable(timeout: float | None, *descriptors: int) -> set[int]:
    """Which of them can be read from, after `timeout` seconds at most; None waits for one.

    It takes those from 1024 on as well, which `select()` does not.
    """
    if not hasattr(select, "poll"):  # eventlet takes it away
        return set(select.select(descriptors, (), (), timeout)[0])
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return {descriptor for descriptor, _ in poll.poll(None if timeout is None else timeout * 1000)}


def close(*descriptors: int) -> None:
    """Close them, whatever has become of them."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def _writers(told: list[tuple[int, int, bytes]]) -> set[int]:
    """The process ids in what has come beside the bytes."""
    wanted = socket.SOL_SOCKET, socket.SCM_CREDENTIALS
    return {_CREDENTIALS.unpack(data)[0] for level, kind, data in told if (level, kind) == wanted}


def _identity(descriptor: int) -> object:
    with contextlib.suppress(OSError):
        found = os.fstat(descriptor)
        return found.st_dev, found.st_ino
    return None
