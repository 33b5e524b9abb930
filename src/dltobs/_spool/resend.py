"""Sends what the spool has kept, one delivery after another: in the background, or when it is asked to.

In the background that is after `configure()`, and when a back end for which something waits takes something
again. There is one thread for all back ends, which lives as long as there is something to do.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dltobs._process.deadline import LONGEST, run_within
from dltobs._spool.files import fingerprint
from dltobs._warnings import logger
from dltobs.sinks.route import Verdict

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from dltobs._spool.spool import Claim, Spool
    from dltobs._warnings import Warner
    from dltobs.sinks.delivery import Delivery
    from dltobs.sinks.route import Route


_MAX_FAILURES = 3
"""Deliveries of one back end, in a turn, that may fail for what is in them."""


@dataclass(frozen=True, slots=True)
class SpoolResult:
    """What became of the items (spans, events) of one back end in the spool.

    Attributes:
        sent: Items that the back end acknowledged, also in the background since `configure()`.
        dropped: Items that it refused for good, and which are gone; likewise.
        left: Items that are still in the spool, also those for another address than that of today.
        last_error: Why the last ones were not taken.
    """

    sent: int = 0
    dropped: int = 0
    left: int = 0
    last_error: str | None = None


class Resending:
    """The way from the spool to the back ends of one set-up.

    Args:
        spool: Where deliveries are.
        deliveries: The back ends, by name; only what is for the very address of one is sent to it.
        warner: Told of failures of our own.
    """

    def __init__(self, spool: Spool, deliveries: Mapping[str, Delivery], warner: Warner) -> None:
        self._spool = spool
        self._deliveries = deliveries
        self._warner = warner
        self._is_stopped = False
        self.forget()
        for name, delivery in deliveries.items():
            delivery.resend = functools.partial(self.wake, name)

    def forget(self) -> None:
        """Begin anew, also in a forked child: what is under way, with the locks held, is its parent's."""
        self._lock = threading.Lock()
        self._results: dict[str, SpoolResult] = {}
        self._thread: threading.Thread | None = None
        self._asking = threading.Lock()
        self._asked: set[str] = set()
        self._is_working = False

    def start(self) -> None:
        """Send in the background, if there is anything."""
        # this `isdir` raises nothing
        if self._routes(self._deliveries) and os.path.isdir(self._spool.folder):  # noqa: PTH112
            self.wake(*self._deliveries)

    def wake(self, *names: str) -> None:
        """Send what is for these back ends in the background, afterwards if that is going on; never wait."""
        with self._asking:
            self._asked.update(names)
            if self._is_working or self._is_stopped:
                return
            self._is_working = True
            thread = threading.Thread(target=self._work, name="dltobs-spool", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # at exit some versions of Python start none
                self._is_working = False
            else:
                self._thread = thread

    def stop(self) -> None:
        """Begin with no more deliveries."""
        self._is_stopped = True

    def wait(self, timeout: float) -> bool:
        """Wait for what goes on in the background. False: it goes on still."""
        if self._thread is not None:
            self._thread.join(timeout)
        return self._thread is None or not self._thread.is_alive()

    def run(self, timeout: float | None) -> dict[str, SpoolResult]:
        """Send now, for at most `timeout` seconds; a delivery that is on its way then is not waited for.

        Returns:
            What became of all since this was called before.
        """
        if timeout is None:
            self._send_all(None, self._deliveries)
        else:
            deadline = time.monotonic() + min(timeout, LONGEST)
            run_within(timeout, lambda: self._send_all(deadline, self._deliveries))
        results, self._results = self._results, {}
        for entry in self._spool.entries():
            before = results.get(entry.kind, SpoolResult())
            results[entry.kind] = replace(before, left=before.left + entry.items)
        return results

    def _routes(self, names: Container[str]) -> dict[tuple[str, str], tuple[Delivery, Route]]:
        return {
            (name, fingerprint(one.route.target)): (one, one.route)
            for name, one in self._deliveries.items()
            if one.route is not None and name in names
        }

    def _work(self) -> None:
        while True:
            with self._asking:
                if not self._asked or self._is_stopped:
                    self._is_working = False
                    return
                names, self._asked = self._asked, set()
            try:
                self._send_all(None, names)
            except Exception as error:  # noqa: BLE001 - a thread of ours must not print its end
                self._warner.internal_error("spool", error)

    def _send_all(self, deadline: float | None, names: Container[str]) -> None:
        """Send all that can be sent to these back ends. One that is down is not asked again in this turn.

        Where the trouble may be with one delivery alone, those behind it are tried, but not without end.
        """
        left = -1 if deadline is None else max(deadline - time.monotonic(), 0.0)
        if not self._lock.acquire(timeout=left):
            return
        try:
            routes = self._routes(names)
            failures: Counter[str] = Counter()
            for entry in self._spool.entries():
                if self._is_stopped or (deadline is not None and time.monotonic() >= deadline):
                    break
                found = routes.get((entry.kind, entry.target))
                claim = None if found is None else self._spool.claim(entry)
                if found is None or claim is None:
                    continue
                delivery, route = found
                verdict = self._send(claim, route, delivery)
                results = self._results
                results[entry.kind] = _added(results.get(entry.kind, SpoolResult()), verdict, entry.items)
                if not (verdict.is_taken or verdict.is_refused):
                    if not verdict.may_be_its_own:
                        delivery.waits()
                    failures[entry.kind] += 1
                    if not verdict.may_be_its_own or failures[entry.kind] >= _MAX_FAILURES:
                        del routes[entry.kind, entry.target]
        finally:
            self._lock.release()

    def _send(self, claim: Claim, route: Route, delivery: Delivery) -> Verdict:
        verdict = Verdict(may_be_its_own=True)
        try:
            verdict = route.resend(claim.payload)
        except Exception as error:  # noqa: BLE001 - it stays where it is
            self._warner.internal_error(f"spool, {delivery.name}", error)
        if verdict.reason is not None:
            verdict = replace(verdict, reason=self._warner.clean(verdict.reason))
        if verdict.is_taken or verdict.is_refused:
            self._spool.done(claim)
            logger.debug("%s: %d items from the spool", delivery.name, claim.entry.items)
        else:
            self._spool.release(claim)
        lost = claim.entry.items if verdict.is_refused else verdict.rejected
        if lost:
            delivery.lost_from_spool(lost, verdict.reason or "rejected")
        return verdict


def _added(before: SpoolResult, verdict: Verdict, items: int) -> SpoolResult:
    lost = items if verdict.is_refused else verdict.rejected
    return SpoolResult(
        sent=before.sent + (items - verdict.rejected if verdict.is_taken else 0),
        dropped=before.dropped + lost,
        last_error=verdict.reason or before.last_error,
    )
