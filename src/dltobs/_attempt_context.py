"""Which attempt of a retry loop the current code belongs to, and what becomes of the loop.

A loop is tenacity's (see `dltobs.integrations.retries`); nothing here knows it. The tracker puts the attempt
on the events of the runs in it, and `dltobs.sinks.one_story` waits with alerts until the loop is over.
"""

from __future__ import annotations

import contextlib
import threading
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    Listener = Callable[[str], None]
    """Called with the id of a loop."""


@dataclass(slots=True, eq=False)
class RetryAttempt:
    """One attempt of a loop.

    Attributes:
        retry_id: Of the loop, 32 hex digits.
        number: From 1.
        will_retry: Whether another one would follow if it ended with this exception; None if nobody knows.
        outer: The attempt of another loop in which this one is made.
        is_on: Whether it has not ended yet.
    """

    retry_id: str
    number: int
    will_retry: Callable[[BaseException], bool | None]
    outer: RetryAttempt | None = None
    is_on: bool = True


_current: ContextVar[RetryAttempt | None] = ContextVar("dltobs_attempt", default=None)
_lock = threading.Lock()
_listeners: dict[str, dict[Any, Listener]] = {}
"""Of the loops that are on, by their ids."""


def current_attempt() -> RetryAttempt | None:
    """The innermost attempt that is on. Nobody says when a context is left, so ended ones are passed over."""
    attempt = _current.get()
    while attempt is not None and not attempt.is_on:
        attempt = attempt.outer
    return attempt


def enter(attempt: RetryAttempt) -> None:
    """Make an attempt the current one until it has ended."""
    _current.set(attempt)


def opened(retry_id: str) -> None:
    """A loop begins."""
    with _lock:
        _listeners[retry_id] = {}


def listen(retry_id: str, key: object, listener: Listener) -> bool:
    """Have `listener` called when the loop is over. False: it is already."""
    with _lock:
        if retry_id not in _listeners:
            return False
        _listeners[retry_id][key] = listener
        return True


def over(retry_id: str) -> None:
    """A loop has made its last attempt."""
    with _lock:
        called = list(_listeners.pop(retry_id, {}).values())
    for listener in called:
        with contextlib.suppress(Exception):  # it warns itself; the loop is the user's
            listener(retry_id)
