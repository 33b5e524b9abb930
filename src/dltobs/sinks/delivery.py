"""Counts what a back end took, what is kept for later and what was lost, and says so once.

What sends to a back end calls `submitted()` for what it is given, then, when the end is known, one of
`delivered()`, `dropped()`, and where `keep()` has put it into the spool, `kept()`, within `ending()`; also
`recovered()`, if the back end took it. It sets `route`, so that what is there can be sent later, and calls
`abandon()` when it is closed.

Of cumulative sums each export contains those before it, so only the last that was kept or lost counts: they
are submitted by `replacing()`, and its turn is named with the end.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dltobs.sinks.reasons import advice
from dltobs.sinks.sums import Sums

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dltobs._spool.spool import Spool
    from dltobs._warnings import Warner
    from dltobs.sinks.route import Route


_REASON_LENGTH = 200
_ENDING_TIMEOUT = 10.0
"""Seconds for a file to be written; whoever closes waits less."""
_SINGULAR = {"entries": "entry"}


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """What became of what was sent to a back end since `configure()`.

    Attributes:
        delivered: Items (spans, events) that the back end acknowledged.
        dropped: Items that are lost.
        last_error: Why the last ones were lost or kept, without secrets; None if none were.
        spooled: Items that were put into the spool, to be sent later, by this run or another.
    """

    delivered: int = 0
    dropped: int = 0
    last_error: str | None = None
    spooled: int = 0


class Delivery:
    """The counters of one back end. Safe to be used from several threads.

    Args:
        name: `otlp`, `sentry`, ….
        items: What is counted, in the plural, for the warning.
        warner: Says what was lost or kept, once for each reason.
        spool: Where it is kept; None: nowhere.

    Attributes:
        route: How the spool reaches the back end; set by what sends, if it can.
        address: Where the back end is, for warnings: without secrets. Set by what sends.
        resend: Has what is in the spool sent in the background; set by what does so.
    """

    def __init__(self, name: str, items: str, warner: Warner, spool: Spool | None = None) -> None:
        self.name = name
        self.route: Route | None = None
        self.address = ""
        self.resend: Callable[[], None] | None = None
        self._spool = spool
        self._items = items
        self._warner = warner
        self._begin()
        self._abandoned = self._settled = False

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._status = BackendStatus()
        self._submitted = self._failed = self._told = self._turn = 0
        self._endings = 0
        self._sums = Sums()
        self._waits = False

    @property
    def status(self) -> BackendStatus:
        """The counters as they are now."""
        return self._status

    @property
    def pending(self) -> int:
        """Items submitted whose end is not known yet."""
        status = self._status
        return self._submitted - status.delivered - status.dropped - status.spooled

    @property
    def is_abandoned(self) -> bool:
        """Whether nothing is to be sent any more."""
        return self._abandoned

    def everything_delivered(self) -> bool:
        """Whether nothing is pending, and nothing was lost or kept since this was asked before."""
        with self._lock:
            before, self._told = self._told, self._failed
            return self.pending == 0 and self._told == before

    def submitted(self, count: int) -> None:
        """`count` items have been handed over to be sent."""
        with self._lock:
            self._submitted += count

    def replacing(self, count: int) -> int:
        """As `submitted()`, of `count` sums that contain all that were submitted before.

        Of those, what is pending counts no more unless it is delivered after all; what was kept or lost
        counts until the end of these. Returns the turn, for `delivered()`, `dropped()` or `kept()`.
        """
        with self._lock:
            self._submitted += count - self.pending
            self._turn += 1
            return self._turn

    @contextlib.contextmanager
    def ending(self) -> Iterator[bool]:
        """The end of items is known: they are taken out of what waits, perhaps written, and counted.

        `abandon()` waits for that, or it would count as lost what is just being put into the spool. False: it
        has counted them already, and what still waits is kept by the route.
        """
        with self._lock:
            is_counted = not self._settled
            self._endings += is_counted
        try:
            yield is_counted
        finally:
            with self._lock:
                self._endings -= is_counted
                self._ended.notify_all()

    def delivered(self, count: int, turn: int = 0) -> None:
        """The back end has acknowledged `count` items."""
        with self._lock:
            if self._settled:
                return
            if turn < self._turn:
                self._submitted += count
                self._add(delivered=count)
            else:
                self._end(delivered=count)

    def dropped(self, count: int, reason: str, turn: int = 0) -> None:
        """`count` items are lost. `reason` must be the same text for the same trouble."""
        reason = self._clean(reason)
        with self._lock:
            if self._settled or turn < self._turn or count <= 0:
                return
            self._end(dropped=count, reason=reason)
        self._warn(count, reason)

    def keep(self, payload: bytes, items: int, entry_id: str | None = None) -> bool:
        """Put a delivery of this back end into the spool; False where it is not there or cannot be written.

        The items are counted by `kept()`, or by `abandon()` where the route rescues them.
        """
        if self._spool is None or self.route is None:
            return False
        return self._spool.keep(self.name, self.route.target, payload, items=items, entry_id=entry_id)

    def discard(self, entry_id: str) -> None:
        """Take a delivery out of the spool that has been acknowledged after all."""
        if self._spool is not None:
            self._spool.discard(self.name, entry_id)

    def kept(self, count: int, reason: str, turn: int = 0) -> None:
        """`count` items are in the spool. `reason` must be the same text for the same trouble."""
        reason = self._clean(reason)
        with self._lock:
            if self._settled or turn < self._turn or count <= 0:
                return
            self._end(spooled=count, reason=reason)
        self.waits()
        self._warn_of_kept(count, reason)

    def waits(self) -> None:
        """Remember that something is in the spool which the back end may take once it is there again."""
        self._waits = True

    def recovered(self) -> None:
        """The back end has taken something: have it sent what waits in the spool, on another thread."""
        if self._waits and self.resend is not None:
            self._waits = False
            self.resend()

    def lost_from_spool(self, count: int, reason: str) -> None:
        """`count` items, perhaps of an earlier run, are lost that were in the spool."""
        reason = self._clean(reason)
        with self._lock:
            self._submitted += count
            self._failed += count
            self._add(dropped=count, reason=reason)
        self._warn(count, reason)

    def abandon(self, reason: str) -> None:
        """What is still pending will not be sent by this run any more; a late answer changes nothing."""
        reason = self._clean(reason)
        with self._lock:
            if self._abandoned:
                return
            self._abandoned = True
            self._ended.wait_for(lambda: not self._endings, _ENDING_TIMEOUT)
            self._settled = True
            count = self.pending
        if count <= 0:
            return
        kept = min(self._rescued(), count)
        with self._lock:
            self._end(dropped=count - kept, spooled=kept, reason=reason)
        self._warn_of_kept(kept, reason)
        self._warn(count - kept, reason)

    def overdue(self) -> None:
        """The time for closing is over: say of how many items the end is not known even so."""
        count = self.pending
        if count > 0:
            self._warner.warn(
                self.name,
                f"{self.name}: {self._counted(count)} had neither been sent nor put into the spool when the "
                "time for closing was over",
                reason="overdue",
            )

    def absorb(self, delivered: int, dropped: int, spooled: int, last_error: str | None) -> None:
        """Add the counts of another process, which has warned of its losses itself."""
        with self._lock:
            self._submitted += delivered + dropped + spooled
            self._failed += dropped + spooled
            self._add(delivered, dropped, spooled, last_error)

    def forget(self) -> None:
        """Begin anew, in a forked child: what is under way is the parent's."""
        self._begin()

    def _rescued(self) -> int:
        if self._spool is None or self.route is None:
            return 0
        try:
            return self.route.rescue()
        except Exception as error:  # noqa: BLE001 - it is lost then, and counted
            self._warner.internal_error("spool", error)
            return 0

    def _end(
        self, *, delivered: int = 0, dropped: int = 0, spooled: int = 0, reason: str | None = None
    ) -> None:
        """What was submitted last has ended; what it contains counts no more."""
        before, self._sums = self._sums, self._sums.followed_by(self._turn, dropped, spooled)
        more_dropped, more_spooled = self._sums.dropped - before.dropped, self._sums.spooled - before.spooled
        self._submitted += more_dropped - dropped + more_spooled - spooled
        self._failed += dropped + spooled
        self._add(delivered, more_dropped, more_spooled, reason)

    def _add(self, delivered: int = 0, dropped: int = 0, spooled: int = 0, reason: str | None = None) -> None:
        old = self._status
        dropped, spooled = old.dropped + dropped, old.spooled + spooled
        last_error = (reason or old.last_error) if dropped or spooled else None
        self._status = BackendStatus(old.delivered + delivered, dropped, last_error, spooled)

    def _warn(self, count: int, reason: str) -> None:
        if count > 0:
            self._warner.warn(
                self.name,
                f"{self.name}: {self._counted(count)} could not be delivered: {reason}{self._help(reason)}",
                reason=reason,
            )

    def _warn_of_kept(self, count: int, reason: str) -> None:
        if count > 0:
            self._warner.warn(
                self.name,
                f"{self.name}: {self._counted(count)} kept in the spool ({reason}){self._help(reason)}",
                reason=f"kept: {reason}",
            )

    def _help(self, reason: str) -> str:
        """Return the address, and what to do, for the end of a warning."""
        parts = (self.address and f"address {self.address}", advice(self.name, reason, self.address))
        return "".join(f"; {part}" for part in parts if part)

    def _clean(self, reason: str) -> str:
        # cut afterwards: half a secret is not found
        return self._warner.clean(reason)[:_REASON_LENGTH]

    def _counted(self, count: int) -> str:
        return f"{count} {_SINGULAR.get(self._items, self._items[:-1]) if count == 1 else self._items}"
