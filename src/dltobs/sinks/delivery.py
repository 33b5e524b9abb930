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

    @property
    def status(self) -> BackendStatus:
        """The counters as they are now."""
        return self._status

    @property
    def pending(self) -> int:
        """Items submitted whose end is not known yet."""
        return self._submitted - self._status.delivered - self._status.dropped

    def submitted(self, count: int) -> None:
        """`count` items have been handed over to be sent."""
        with self._lock:
            self._submitted += count

    def abandon(self, reason: str) -> None:
        """What is still pending will not be sent any more; a late answer changes nothing."""
        self.dropped(self.pending, self._status.last_error or reason)
        self._abandoned = True

    def delivered(self, count: int) -> None:
        """The back end has acknowledged `count` items."""
        if self._abandoned:
            return
        with self._lock:
            old = self._status
            self._status = BackendStatus(old.delivered + count, old.dropped, old.last_error)

    def dropped(self, count: int, reason: str) -> None:
        """`count` items are lost. `reason` must be the same text for the same trouble."""
        if count <= 0 or self._abandoned:
            return
        reason = self._warner.clean(reason)
        with self._lock:
            old = self._status
            self._status = BackendStatus(old.delivered, old.dropped + count, reason)
        self._warner.warn(
            self.name, f"{self.name}: {count} {self._items} could not be delivered: {reason}", reason=reason
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
    if isinstance(innermost, OSError) and innermost.strerror:
        return innermost.strerror.lower()
    if "timeout" in type(error).__name__.lower() or isinstance(innermost, TimeoutError):
        return "timed out"
    return type(innermost).__name__
