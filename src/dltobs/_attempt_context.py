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

    Listener = Callable[[str, bool], None]
    """Called with the id of a loop, and whether it goes on."""


@dataclass(frozen=True, slots=True, eq=False)
class RetryAttempt:
    """One attempt of a loop.

    Attributes:
        retry_id: Of the loop, 32 hex digits.
        number: From 1.
        is_on: Whether it has not ended yet.
        will_retry: Whether another one would follow if it ended with this exception.
        outer: The attempt of another loop in which this one is made.
    """

    retry_id: str
    number: int
    is_on: Callable[[], bool]
    will_retry: Callable[[BaseException], bool]
    outer: RetryAttempt | None = None


_current: ContextVar[RetryAttempt | None] = ContextVar("dltobs_attempt", default=None)
_lock = threading.Lock()
_listeners: dict[str, dict[Any, Listener]] = {}


def current_attempt() -> RetryAttempt | None:
    """The innermost attempt that is on. Nobody says when a context is left, so ended ones are passed over."""
    attempt = _current.get()
    while attempt is not None and not attempt.is_on():
        attempt = attempt.outer
    return attempt


def enter(attempt: RetryAttempt) -> None:
    """Make an attempt the current one until it has ended."""
    _current.set(attempt)


def listen(retry_id: str, key: object, listener: Listener) -> None:
    """Have `listener` called when an attempt of the loop ends; the last time when it does not go on."""
    with _lock:
        _listeners.setdefault(retry_id, {})[key] = listener


def ended(retry_id: str, *, goes_on: bool) -> None:
    """Tell that an attempt of a loop has ended, and whether there is another one."""
    with _lock:
        called = list(_listeners.get(retry_id, {}).values())
        if not goes_on:
            _listeners.pop(retry_id, None)
    for listener in called:
        with contextlib.suppress(Exception):  # it warns itself; the loop is the user's
            listener(retry_id, goes_on)
