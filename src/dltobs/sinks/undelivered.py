"""Knows what a back end has not answered yet, and puts it into the spool when nobody will send it."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LARGEST = 512
"""Items in one delivery: the size of OpenTelemetry's batches."""


class Stored(NamedTuple):
    """What was put into the spool: the number of items, and the id to take it out again."""

    items: int
    entry_id: str


class Undelivered:
    """What is queued and what is on the wire, of one sender in this process. Safe in several threads.

    Whoever takes a batch out, the answer or the end of the set-up, is the only one to deal with it.

    Args:
        store: Puts items into the spool; None if that cannot be done.
        discard: Takes them out again, by id: a late answer has acknowledged them.
    """

    def __init__(
        self, store: Callable[[Sequence[Any]], Stored | None], discard: Callable[[str], None]
    ) -> None:
        self._store = store
        self._discard = discard
        self._forget()

    def queued(self, item: Any) -> None:
        """An item waits to be sent."""
        self._check_process()
        self._queue[id(item)] = item

    def gone(self, item: Any) -> None:
        """An item will not be sent, and that has been dealt with."""
        self._queue.pop(id(item), None)

    def sending(self, items: Sequence[Any]) -> None:
        """These items are on the wire now."""
        self._check_process()
        with self._lock:
            for item in items:
                self._queue.pop(id(item), None)
            self._batches[id(items)] = items

    def answered(self, items: Sequence[Any], *, is_taken: bool) -> None:
        """The back end has answered for good to what `sending` was called with."""
        with self._lock:
            was_here = self._batches.pop(id(items), None) is not None
            entry_id = self._rescued.pop(id(items), None)
        if not was_here and entry_id is not None and is_taken:
            self._discard(entry_id)

    def keep(self, items: Sequence[Any]) -> int:
        """Put what could not be sent into the spool; gives the number of items kept."""
        with self._lock:
            batch = self._batches.pop(id(items), None)
        stored = self._stored(batch) if batch else None
        return 0 if stored is None else stored.items

    def rescue(self) -> int:
        """Put all that has no answer into the spool; gives the number of items kept."""
        self._check_process()
        with self._lock:
            batches, queue = dict(self._batches), list(self._queue.values())
            self._batches.clear()
            self._queue.clear()
        kept = 0
        for key, batch in batches.items():
            stored = self._stored(batch)
            if stored is not None:
                kept += stored.items
                with self._lock:
                    self._rescued[key] = stored.entry_id
        for start in range(0, len(queue), _LARGEST):
            stored = self._stored(queue[start : start + _LARGEST])
            kept += 0 if stored is None else stored.items
        return kept

    def _stored(self, items: Sequence[Any]) -> Stored | None:
        try:
            return self._store(items)
        except Exception:  # noqa: BLE001 - these are counted as lost; the others still have to be kept
            return None

    def _check_process(self) -> None:
        if self._process != os.getpid():  # a forked child: what is under way is its parent's
            self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._queue: dict[int, Any] = {}
        self._batches: dict[int, Sequence[Any]] = {}
        self._rescued: dict[int, str] = {}
