"""Sends to a collector what the spool has kept: by an exporter of its own, made of the settings of today."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from dltobs.sinks.answers import Answer, Ear, NotTakenError, listening
from dltobs.sinks.reasons import reason_of
from dltobs.sinks.route import Verdict
from dltobs.sinks.untraced import untraced

if TYPE_CHECKING:
    from collections.abc import Callable


class Resender:
    """Has an exporter send a serialized request in the place of an empty one.

    So address, headers, TLS and compression are the exporter's affair. It does not try again. In a forked
    child it makes another one, as the connections are those of the parent.

    Args:
        make: Makes an exporter and the ear for its answers.
        empty: What the exporter takes for nothing to export.
    """

    def __init__(self, make: Callable[[], tuple[Any, Ear]], empty: Any) -> None:
        self._make = make
        self._empty = empty
        self._made: tuple[Any, Ear] | None = None
        self._process = os.getpid()
        self._inherited: list[Any] = []

    def __call__(self, payload: bytes) -> Verdict:
        """Send it, once."""
        if self._process != os.getpid():
            # kept, as a gRPC channel ends the connection when it is freed
            self._inherited.append(self._made)
            self._made, self._process = None, os.getpid()
        if self._made is None:
            self._made = self._make()
        exporter, ear = self._made
        ear.payload, ear.was_sent, ear.answer = payload, False, Answer()
        reason = "export failed"
        with untraced(), listening(ear):
            try:
                exporter.export(self._empty)
            except NotTakenError:
                pass  # the answer says why
            except Exception as error:  # noqa: BLE001 - whatever it is, it was not sent
                reason = reason_of(error)
        ear.complaints.clear()
        answer = ear.answer
        if ear.was_sent:
            return Verdict(is_taken=True, rejected=answer.rejected, reason=answer.error)
        self._made = None  # its connection may be of no use any more
        with listening(Ear()):
            exporter.shutdown()
        return Verdict(
            is_refused=answer.is_refusal, reason=answer.error or reason, may_be_its_own=answer.is_its_error
        )
