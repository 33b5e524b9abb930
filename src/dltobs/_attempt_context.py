"""Which attempt of a retry loop the current code belongs to, and what becomes of the loop.

A loop is tenacity's (see `dltobs.integrations.retries`); nothing here knows it. The tracker puts the attempt
on the events of the runs in it, and `dltobs.sinks.one_story` waits with alerts until the loop is over.
"""

from __future__ import annotations

import contextlib
import os
import threading
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

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


class RetryLoop(Protocol):
    """A loop that has begun."""

    retry_id: str

    @property
    def is_left(self) -> bool:
        """Whether nobody can go on with it any more."""

    def leave(self) -> None:
        """End it as it is; called from any thread, and again when it is over."""


@dataclass(slots=True)
class _Open:
    loop: RetryLoop
    listeners: dict[Any, Listener] = field(default_factory=dict)
    process: int = field(default_factory=os.getpid)


_current: ContextVar[RetryAttempt | None] = ContextVar("dltobs_attempt", default=None)
_lock = threading.Lock()
_open: dict[str, _Open] = {}
"""The loops that are on, by their ids."""


def current_attempt() -> RetryAttempt | None:
    """The innermost attempt that is on. Nobody says when a context is left, so ended ones are passed over."""
    attempt = _current.get()
    while attempt is not None and not attempt.is_on:
        attempt = attempt.outer
    return attempt


def enter(attempt: RetryAttempt) -> None:
    """Make an attempt the current one until it has ended."""
    _current.set(attempt)


def opened(loop: RetryLoop) -> None:
    """A loop begins."""
    with _lock:
        _open[loop.retry_id] = _Open(loop)


def listen(retry_id: str, key: object, listener: Listener) -> bool:
    """Have `listener` called when the loop is over. False: it is already."""
    with _lock:
        found = _open.get(retry_id)
        if found is None:
            return False
        found.listeners[key] = listener
        return True


def over(retry_id: str) -> None:
    """A loop has made its last attempt."""
    with _lock:
        found = _open.pop(retry_id, None)
    for listener in () if found is None else found.listeners.values():
        with contextlib.suppress(Exception):  # it warns itself; the loop is the user's
            listener(retry_id)


def end_left() -> None:
    """End the loops with which nobody can go on: they were left in a pause, or by `break` after a failure."""
    _end([one.loop for one in list(_open.values()) if one.loop.is_left])


def end_all() -> None:
    """End all loops of this process, which ends."""
    _end([one.loop for one in list(_open.values()) if one.process == os.getpid()])


def _end(loops: list[RetryLoop]) -> None:
    for loop in loops:
        with contextlib.suppress(Exception):  # as above
            loop.leave()
