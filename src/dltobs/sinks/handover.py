"""Hands many spans over at once, in chunks that the queue of a batch processor holds.

OpenTelemetry's batch processor queues 2,048 spans and drops the rest in silence. A load of 10,000 jobs ends
its spans all at once; so the provider is flushed in between, for as long as its back ends take part.
"""

from __future__ import annotations

import os
import threading
import time
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from dltobs._process.deadline import LONGEST, run_within
from dltobs._process.fork_safe import fork_safe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")

_CHUNK = 256
"""Spans between two flushes."""
_QUEUE_SIZE = "OTEL_BSP_MAX_QUEUE_SIZE"
_QUEUE_SHARE = 4
"""The part of a smaller queue that a chunk may fill: it holds other spans, too."""
_SHARE = 0.2
"""Of `flush_timeout`: what a back end that hangs may cost a step."""


class Handover:
    """Counts what all runs together have handed over since the last flush.

    Args:
        flush_timeout: Seconds; the bound of all flushes of a step. One that takes more than a fifth of it is
            the last that the step waits for.
    """

    def __init__(self, flush_timeout: float) -> None:
        self._timeout = min(flush_timeout, LONGEST)
        self._chunk = _chunk_size()
        self._lock = fork_safe(threading.Lock())
        self._waiting = 0
        self._under_way: set[int] = set()

    def every(self, items: Iterable[T], end: Callable[[T], None], provider: Any) -> None:
        """Call `end`, which ends one span of `provider`, for every item."""
        flushed = _flushed(provider)
        left = self._timeout
        rest = iter(items)
        while chunk := list(islice(rest, self._chunk)):
            # one run at a time, or the chunks of many would fill the queue together; a back end that hangs
            # holds one of them up, and the others find its flush under way
            is_locked = self._lock.acquire(timeout=self._timeout if flushed else 0.0)
            try:
                if self._waiting + len(chunk) > self._chunk:
                    self._waiting = 0
                    before = time.monotonic()
                    # a back end that hangs is not waited for again in this step
                    flushed = self._flush(flushed, max(min(self._timeout * _SHARE, left), 0.0))
                    left -= time.monotonic() - before
                self._waiting += len(chunk)
                for item in chunk:
                    end(item)
            finally:
                if is_locked:
                    self._lock.release()

    def _flush(self, owners: list[Any], timeout: float) -> list[Any]:
        """Flush processors at the same time; those that are done before `timeout` seconds are returned."""
        done: list[Any] = []

        def flushing(owner: Any) -> Callable[[], None]:
            self._under_way.add(id(owner))

            def flush() -> None:
                try:
                    owner.force_flush()
                finally:
                    self._under_way.discard(id(owner))
                    done.append(owner)

            return flush

        # each flush that hangs would keep one more thread
        free = [owner for owner in owners if id(owner) not in self._under_way]
        if free:
            run_within(timeout, *map(flushing, free))
        return list(done)


def _flushed(provider: Any) -> list[Any]:
    """What has to be flushed: each processor of our own provider, so that one does not delay another."""
    switch = getattr(provider, "switch", None)
    if switch is not None:
        return list(switch.processors)
    return [provider] if callable(getattr(provider, "force_flush", None)) else []


def _chunk_size() -> int:
    """Of 256 spans, or less where the environment makes the queues small."""
    try:
        queue = int(os.environ.get(_QUEUE_SIZE, ""))
    except ValueError:
        return _CHUNK
    return min(_CHUNK, max(queue // _QUEUE_SHARE, 1)) if queue > 0 else _CHUNK
