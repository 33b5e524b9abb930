"""What every exporter of ours needs to know its success."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dltobs.sinks.answers import Answer, Ear, listening
from dltobs.sinks.reasons import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dltobs.sinks.delivery import Delivery
    from dltobs.sinks.undelivered import Undelivered


class Counted:
    """Sends batches through one exporter, and counts what became of their items.

    Args:
        delivery: The counters.
        ear: Hears what the back end says to an export.
        undelivered: Keeps what could not be sent.
    """

    def __init__(self, delivery: Delivery, ear: Ear, undelivered: Undelivered) -> None:
        self._delivery = delivery
        self._ear = ear
        self._undelivered = undelivered
        self._is_closed = False
        self._last_error: str | None = None

    @property
    def is_closed(self) -> bool:
        """Whether nothing is to be sent any more; what was on its way has been counted."""
        return self._is_closed

    @property
    def reason(self) -> str:
        """Why what has no answer has none: it waits in most cases for what the batch before has failed of."""
        return self._ear.answer.error or self._last_error or "not sent before the deadline"

    def send(self, count: int, batch: Sequence[Any], export: Callable[[], bool], turn: int = 0) -> bool:
        """Send `batch`, of `count` items, by `export`, which says if it succeeded. True: they were taken.

        `turn` is that of `Delivery.replacing()`.
        """
        self._ear.answer = Answer()
        self._ear.complaints.clear()  # they are of use where an exporter is made
        self._undelivered.sending(batch)
        try:
            with listening(self._ear):
                succeeded = export()
        except Exception as error:  # noqa: BLE001 - the SDK would log it with its stack trace
            return self._failed(count, batch, reason_of(error), turn)
        answer = self._ear.answer
        if not succeeded or (answer.error and not answer.rejected):
            # the HTTP exporter takes a redirect, which it does not follow, for success
            return self._failed(
                count, batch, answer.error or "export failed", turn, is_refusal=answer.is_refusal
            )
        self._last_error = None
        with self._delivery.ending():
            self._undelivered.answered(batch, is_taken=True)
            self._delivery.delivered(count - answer.rejected, turn)
            self._delivery.dropped(answer.rejected, answer.error or "rejected", turn)
        return True

    def keep(self, count: int, batch: Sequence[Any], turn: int = 0) -> None:
        """Put `batch` into the spool without trying to send it."""
        self._undelivered.sending(batch)
        self._failed(count, batch, self.reason, turn)

    def _failed(
        self, count: int, batch: Sequence[Any], reason: str, turn: int, *, is_refusal: bool = False
    ) -> bool:
        self._last_error = reason
        with self._delivery.ending() as is_counted:
            kept = 0
            if is_refusal:  # it would be refused again
                self._undelivered.answered(batch, is_taken=False)
            elif is_counted:
                kept = self._undelivered.keep(batch)
            self._delivery.kept(kept, reason, turn)
            self._delivery.dropped(count - kept, reason, turn)
        return False

    def close(self, shutdown: Callable[[], object]) -> None:
        """Shut the exporter down, so that a retry that waits gives up; what is on its way is kept or lost."""
        if not self._is_closed:
            self._is_closed = True
            self._delivery.abandon(self.reason)
            with listening(Ear()):
                shutdown()
