"""Waits with spans, and with importing OpenTelemetry, until an application that uses it runs a pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dltobs._events import RunStarted
from dltobs._settings.otel import application_has_provider

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Tracer

    from dltobs._events import Event
    from dltobs._redaction.redactor import Redactor
    from dltobs._settings.settings import Settings
    from dltobs.sinks.spans import OpenRun, SpanSink


class LateSpanSink:
    """The span sink of a set-up that exports nothing itself: spans are for the application's provider.

    Args:
        settings: As of `SpanSink`.
        redactor: As of `SpanSink`.
    """

    def __init__(self, settings: Settings, redactor: Redactor) -> None:
        self._settings = settings
        self._redactor = redactor
        self._sink: SpanSink | None = None

    def emit(self, event: Event) -> None:
        """Pass the event on, from the first run on at which there is a provider."""
        if self._sink is None:
            if not isinstance(event, RunStarted) or not application_has_provider():
                return
            from dltobs.sinks.spans import SpanSink

            self._sink = SpanSink(self._settings, self._redactor, {})
        self._sink.emit(event)

    def tracer(self) -> Tracer | None:
        """What makes our spans; None as long as the application has no provider."""
        if self._sink is None and application_has_provider():
            from dltobs.sinks.spans import SpanSink

            self._sink = SpanSink(self._settings, self._redactor, {})
        return None if self._sink is None else self._sink.tracer()

    def parent(self) -> tuple[Context | None, list[Link]]:
        """As of `SpanSink`."""
        return (None, []) if self._sink is None else self._sink.parent()

    def flush(self, timeout: float) -> bool:
        """The application flushes its own provider."""
        return self._sink is None or self._sink.flush(timeout)

    @property
    def open_runs(self) -> dict[str, OpenRun]:
        """The runs that are on, by transaction id."""
        return {} if self._sink is None else self._sink.open_runs

    def take_over(self, runs: dict[str, OpenRun]) -> None:
        """Go on with the runs of another sink."""
        from dltobs.sinks.spans import SpanSink

        self._sink = SpanSink(self._settings, self._redactor, {})
        self._sink.take_over(runs)

    def let_go(self) -> None:
        """Leave the runs that are on to the sink that has taken them over."""
        if self._sink is not None:
            self._sink.let_go()

    def decide(self) -> None:
        """The provider is the application's, whenever it sets one: there is nothing to decide."""

    def close(self) -> None:
        """End the spans that are still open."""
        if self._sink is not None:
            self._sink.close()
