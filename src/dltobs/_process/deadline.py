"""Bounds the time of calls that know no time-out."""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST = 1e6
"""Seconds; the locks of Python refuse to wait for ever longer."""
_NO_THREADS_AT_EXIT = tuple(sys.version_info[:2]) == (3, 12)
"""In an `atexit` function 3.12 starts no thread: https://github.com/python/cpython/issues/113964."""


def run_within(timeout: float, *calls: Callable[[], object]) -> bool:
    """Run calls side by side and wait for them for at most `timeout` seconds together.

    A call that is not done by then goes on in a daemon thread, which does not keep the process alive.

    Returns:
        Whether all calls ended in time, and none of them returned False or raised.
    """
    started = [_Call(call) for call in calls]
    deadline = time.monotonic() + min(timeout, LONGEST)
    for call in started:
        call.start()
    for call in started:
        call.done.wait(max(deadline - time.monotonic(), 0.0))
    return all(call.done.is_set() and call.succeeded for call in started)


def reserve(count: int) -> None:
    """See that `run_within` finds threads for `count` calls while the process exits."""
    if _NO_THREADS_AT_EXIT:
        _spare.grow(count)


class _Call:
    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self.done = threading.Event()
        self.succeeded = False

    def start(self) -> None:
        try:
            threading.Thread(target=self.run, name="dltobs-flush", daemon=True).start()
        except RuntimeError:
            if not _spare.take(self.run):
                self.run()

    def run(self) -> None:
        try:
            self.succeeded = self._call() is not False
        except Exception:  # noqa: BLE001 - the caller is told by the result
            self.succeeded = False
        finally:
            self.done.set()


class _SpareThreads:
    """Threads that were started while it was possible, and wait for calls."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._count = 0
        self._process = os.getpid()

    def grow(self, count: int) -> None:
        if self._process != os.getpid():  # threads do not survive a fork
            self.__init__()  # type: ignore[misc]
        while self._count < count:
            self._count += 1
            threading.Thread(target=self._work, name="dltobs-spare", daemon=True).start()

    def take(self, call: Callable[[], None]) -> bool:
        if not self._count or self._process != os.getpid():
            return False
        self._calls.put(call)
        return True

    def _work(self) -> None:
        while True:
            self._calls.get()()


_spare = _SpareThreads()
