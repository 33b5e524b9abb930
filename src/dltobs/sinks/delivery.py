"""Counts what a back end took and what was lost, and says so once."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dltobs._warnings import Warner


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """What became of what was sent to a back end since `configure()`.

    Attributes:
        delivered: Items (spans, events) that the back end acknowledged.
        dropped: Items that are lost.
        last_error: Why the last ones were lost, without secrets; None if nothing was.
    """

    delivered: int = 0
    dropped: int = 0
    last_error: str | None = None


class Delivery:
    """The counters of one back end. Safe to be used from several threads.

    Args:
        name: `otlp`, `sentry`, ….
        items: What is counted, in the plural, for the warning.
        warner: Says what was lost, once for each reason.
    """

    def __init__(self, name: str, items: str, warner: Warner) -> None:
        self.name = name
        self._items = items
        self._warner = warner
        self._lock = threading.Lock()
        self._status = BackendStatus()
        self._submitted = 0
        self._abandoned = False
        self._told = 0

    @property
    def status(self) -> BackendStatus:
        """The counters as they are now."""
        return self._status

    @property
    def pending(self) -> int:
        """Items submitted whose end is not known yet."""
        return self._submitted - self._status.delivered - self._status.dropped

    @property
    def is_abandoned(self) -> bool:
        """Whether nothing is to be sent any more."""
        return self._abandoned

    def everything_delivered(self) -> bool:
        """Whether nothing is pending, and nothing was lost since this was asked before."""
        with self._lock:
            before, self._told = self._told, self._status.dropped
            return self.pending == 0 and self._told == before

    def submitted(self, count: int) -> None:
        """`count` items have been handed over to be sent."""
        with self._lock:
            self._submitted += count

    def delivered(self, count: int) -> None:
        """The back end has acknowledged `count` items."""
        with self._lock:
            if not self._abandoned:
                old = self._status
                self._status = BackendStatus(old.delivered + count, old.dropped, old.last_error)

    def dropped(self, count: int, reason: str) -> None:
        """`count` items are lost. `reason` must be the same text for the same trouble."""
        reason = self._warner.clean(reason)
        with self._lock:
            if self._abandoned:
                return
            self._drop(count, reason)
        self._warn(count, reason)

    def abandon(self, reason: str) -> None:
        """What is still pending will not be sent any more; a late answer changes nothing."""
        reason = self._warner.clean(reason)
        with self._lock:
            if self._abandoned:
                return
            self._abandoned = True
            count = self.pending
            self._drop(count, reason)
        self._warn(count, reason)

    def forget(self) -> None:
        """Begin anew, in a forked child: what is under way is the parent's."""
        self._lock = threading.Lock()
        self._status = BackendStatus()
        self._submitted = self._told = 0

    def _drop(self, count: int, reason: str) -> None:
        if count > 0:
            old = self._status
            self._status = BackendStatus(old.delivered, old.dropped + count, reason)

    def _warn(self, count: int, reason: str) -> None:
        if count > 0:
            self._warner.warn(
                self.name,
                f"{self.name}: {count} {self._items} could not be delivered: {reason}",
                reason=reason,
            )


def reason_of(error: BaseException) -> str:
    """Why a request failed, in a few words that are the same each time.

    The texts of HTTP libraries hold object addresses and URLs; the innermost error of the operating system
    says it better.
    """
    innermost: BaseException = error
    seen: set[int] = set()
    while id(innermost) not in seen:
        seen.add(id(innermost))
        nested = [arg for arg in innermost.args if isinstance(arg, BaseException)]
        reason = getattr(innermost, "reason", None)
        if isinstance(reason, BaseException):
            nested.append(reason)
        following = innermost.__cause__ or innermost.__context__ or next(iter(nested), None)
        if following is None:
            break
        innermost = following
    certificate_problem = getattr(innermost, "verify_message", None)
    if certificate_problem:
        return f"certificate not trusted: {certificate_problem}"
    if isinstance(innermost, OSError) and innermost.strerror:
        return innermost.strerror.lower()
    if "timeout" in type(error).__name__.lower() or isinstance(innermost, TimeoutError):
        return "timed out"
    return type(innermost).__name__
