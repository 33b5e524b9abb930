"""The descriptor to which Python's C-level signal handler writes each signal's number, shared with others.

There is one for a process (https://docs.python.org/3/library/signal.html#signal.set_wakeup_fd). What was
there before, an event loop's for one, gets its bytes from us; one that is set later wins. Only the main
thread may change it.
"""

from __future__ import annotations

import contextlib
import os
import signal

_MAX_BYTES = 64


class WakeupDescriptor:
    """A pipe; `receiver` is its end to read from."""

    def __init__(self) -> None:
        self.receiver, self._sender = pipe()
        self._previous: tuple[int, object] | None = None

    def attach(self) -> None:
        """Have the numbers of signals written to our pipe."""
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
        """Let go of the pipe."""
        close(self.receiver, self._sender)

    def read(self) -> bytes:
        """The numbers that have come; they are passed on to the descriptor that was there before."""
        found = b""
        with contextlib.suppress(OSError):
            found = os.read(self.receiver, _MAX_BYTES)
        if found and self._previous is not None and self._is_chained():
            with contextlib.suppress(OSError):
                os.write(self._previous[0], found)
        return found

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


def close(*descriptors: int) -> None:
    """Close them, whatever has become of them."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def _identity(descriptor: int) -> object:
    with contextlib.suppress(OSError):
        found = os.fstat(descriptor)
        return found.st_dev, found.st_ino
    return None
