"""How what a back end did not take reaches it later, and how it answers then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a back end answered to a delivery from the spool.

    Attributes:
        is_taken: It was acknowledged.
        is_refused: It will never be taken; neither: it may be tried again.
        rejected: Items in what was taken that the back end did not want.
        reason: What went wrong.
        may_be_its_own: What went wrong may be the fault of this delivery: the back end is there.
    """

    is_taken: bool = False
    is_refused: bool = False
    rejected: int = 0
    reason: str | None = None
    may_be_its_own: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """How a back end is reached for what goes through the spool.

    Attributes:
        target: Its address, from which the spool makes a fingerprint.
        rescue: Keeps what has no answer yet, when the set-up ends; gives the number of items that were kept.
        resend: Sends a delivery that was kept, once, with the settings of today. It must not be called by two
            threads at once.
    """

    target: str
    rescue: Callable[[], int]
    resend: Callable[[bytes], Verdict]
