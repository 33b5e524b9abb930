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

from dltobs._process.fork_safe import fork_safe

if TYPE_CHECKING:
    from collections.abc import Callable

    Listener = Callable[[str], None]
    """Called with the id of a loop."""


@dataclass(slots=True, eq=False)
class RetryAttempt:
    """One attempt of a loop.

    Attributes:
        loop: The loop.
        number: From 1.
        outer: The attempt of another loop in which this one is made.
        is_on: Whether it has not ended yet.
    """

    loop: RetryLoop
    number: int
    outer: RetryAttempt | None = None
    is_on: bool = True

    @property
    def retry_id(self) -> str:
        """The loop's."""
        return self.loop.retry_id

    @property
    def story_id(self) -> str:
        """That of the outermost loop that is on: whatever is tried in loops in it is one story."""
        return self._chain[-1].retry_id

    def count(self, pipeline: str) -> int:
        """Which attempt it is in that story for a pipeline that runs in it, from 1."""
        chain = self._chain
        tried = chain[-1].loop.tried
        count, last = tried.get(pipeline, (0, None))
        if last is not self:
            count += 1
            tried[pipeline] = count, self
        return max(count, *(one.number for one in chain))

    def will_retry(self, error: BaseException | None) -> bool | None:
        """Whether another one would follow, of this loop or of one around it, if this exception ended it.

        None if nobody knows. No exception is one that nobody knows.
        """
        answer = self.loop.would_retry(error)
        outer = self._chain[1:2]
        if answer is not False or not outer:
            return answer
        return outer[0].will_retry(error if self.loop.reraises else None)

    @property
    def _chain(self) -> list[RetryAttempt]:
        """This one and those around it that are on."""
        chain, outer = [self], self.outer
        while outer is not None:
            if outer.is_on:
                chain.append(outer)
            outer = outer.outer
        return chain


class RetryLoop(Protocol):
    """A loop that has begun.

    Attributes:
        retry_id: 32 hex digits.
        reraises: Whether its caller gets the exception of the last attempt itself.
        tried: How often each pipeline was tried in it and the loops inside, and the attempt of the last time.
    """

    retry_id: str
    reraises: bool
    tried: dict[str, tuple[int, RetryAttempt]]

    def would_retry(self, error: BaseException | None) -> bool | None:
        """Whether it would go on if this exception ended its attempt; as of `RetryAttempt.will_retry`."""

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
_lock = fork_safe(threading.Lock())
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
    end_left()
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
