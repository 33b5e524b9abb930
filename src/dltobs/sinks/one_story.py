"""Makes one story of all attempts of a retry loop, in front of a sink that alerts people."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from dltobs._events import RunFinished
from dltobs._runs.attempt_context import listen

if TYPE_CHECKING:
    from dltobs._dispatch import Sink
    from dltobs._events import Event
    from dltobs._warnings import Warner

_HELD = frozenset({"failed", "ok_with_failed_jobs"})
"""Outcomes that another attempt may make good."""


class OneStory:
    """Holds a run that went wrong in an attempt back until it is known whether another one follows.

    The last run of a loop is passed on with the earlier ones in it. What is held when the process ends, in
    the pause between two attempts for example, is passed on then.

    Args:
        sink: The one that alerts.
        warner: Told of what goes wrong.
    """

    def __init__(self, sink: Sink, warner: Warner) -> None:
        self._sink = sink
        self._warner = warner
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._held: dict[tuple[str, str], list[RunFinished]] = {}

    def emit(self, event: Event) -> None:
        """Pass on what is no run of an attempt, and what no attempt can change any more."""
        if not isinstance(event, RunFinished) or event.run.retry_id is None:
            self._sink.emit(event)
            return
        if self._process != os.getpid():
            # what is held is the story of the process we were forked from
            self._process, self._held, self._lock = os.getpid(), {}, threading.Lock()
        key = (event.run.retry_id, event.run.pipeline)
        if event.outcome in _HELD:
            with self._lock:
                self._held.setdefault(key, []).append(event)
            if not listen(event.run.retry_id, self, self._release):
                self._release(event.run.retry_id)
            return
        with self._lock:
            earlier = self._held.pop(key, [])
        self._sink.emit(replace(event, earlier_attempts=tuple(earlier)) if earlier else event)

    def flush(self, timeout: float) -> bool:
        """Tell what is held, and have the sink deliver."""
        self._release(None)
        return self._sink.flush(timeout)

    def close(self) -> None:
        """Close the sink."""
        self._release(None)
        self._sink.close()

    def _release(self, retry_id: str | None) -> None:
        """Pass on what is held of a loop, or of all."""
        if self._process != os.getpid():
            return
        with self._lock:
            keys = [key for key in self._held if retry_id in {None, key[0]}]
            stories = [self._held.pop(key) for key in keys]
        for *earlier, last in stories:
            try:
                self._sink.emit(replace(last, will_retry=False, earlier_attempts=tuple(earlier)))
            except Exception as error:  # noqa: BLE001 - we are called from the user's code or at the end
                self._warner.internal_error("retries", error)
