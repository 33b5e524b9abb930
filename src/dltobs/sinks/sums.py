"""What has not been delivered of cumulative sums, of which each export contains those before it."""

from __future__ import annotations

from typing import NamedTuple


class Sums(NamedTuple):
    """How many items are lost and in the spool after an export; of events all have the same turn."""

    turn: int = 0
    dropped: int = 0
    spooled: int = 0

    def followed_by(self, turn: int, dropped: int, spooled: int) -> Sums:
        """Those after an export of that turn, of which so many items were lost or kept, and others delivered.

        What was lost is contained in it. What is in the spool stays there if nothing takes its place.
        """
        before = self if turn == self.turn else Sums(turn, 0, self.spooled if dropped and not spooled else 0)
        return Sums(turn, before.dropped + dropped, before.spooled + spooled)
