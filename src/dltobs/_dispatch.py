"""Hands each event to the sinks: redacted, in order, their failures kept away from the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dltobs._events import Event
    from dltobs._redaction import Redactor
    from dltobs._warnings import Warner


@runtime_checkable
class Sink(Protocol):
    """Receives redacted events, on the pipeline's own thread, in order.

    What `emit` raises becomes one warning; what it waits for, the pipeline waits for. A sink that sends
    something should hand it to a thread of its own and wait for that in `flush`.
    """

    def emit(self, event: Event) -> None:
        """Take an event; its class tells what happened."""

    def flush(self, timeout: float) -> bool:
        """Deliver what is left within `timeout` seconds. True: everything was delivered."""

    def close(self) -> None:
        """Let go of everything; no event follows."""


class Dispatcher:
    """Fans events out.

    Args:
        sinks: In the order in which each event reaches them.
        redactor: What each event passes first.
        warner: Told of failures.
    """

    def __init__(self, sinks: Sequence[Sink], redactor: Redactor, warner: Warner) -> None:
        self._sinks = tuple(sinks)
        self._redactor = redactor
        self._warner = warner

    def retain(self, *sinks: Sink) -> None:
        """Have no other sinks from now on."""
        self._sinks = sinks

    def emit(self, event: Event) -> None:
        """Redact and deliver. Of an event that cannot be redacted, the texts are withheld."""
        if not self._sinks:
            return
        try:
            clean = self._redactor.redact(event)
        except Exception as error:  # noqa: BLE001 - what happened is told all the same
            self._warner.internal_error("redaction", error)
            clean = self._redactor.withhold(event)
        for sink in self._sinks:
            try:
                sink.emit(clean)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - one sink's failure is not another's, nor the run's
                self._warner.internal_error(f"sink {type(sink).__name__}", error)
