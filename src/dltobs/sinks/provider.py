"""The tracer provider that dltobs builds where the application has none and an exporter is asked for.

OpenTelemetry lets a global provider be set once a process. So it stays, and what changes is the
processors behind it.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from dltobs._deadline import run_within
from dltobs._version import __version__
from dltobs.sinks.exporters import (
    Answer,
    ListeningSession,
    RedactingExporter,
    stop_listening,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter

    from dltobs._redaction import Redactor
    from dltobs._settings import Settings
    from dltobs.sinks.delivery import Delivery

_CLOSING_TIMEOUT = 0.3
"""Seconds for an exporter that has been told to give up."""

next_trace_id: ContextVar[int | None] = ContextVar("dltobs_next_trace_id", default=None)
"""The trace id for the root span that is being started: dlt's transaction id."""


class TransactionIdGenerator(RandomIdGenerator):
    """Random ids, but for the root span of a run, whose trace id is dlt's transaction id (as random)."""

    def generate_trace_id(self) -> int:
        """The id of the trace that begins."""
        return next_trace_id.get() or super().generate_trace_id()


class SwitchableProcessor(SpanProcessor):
    """Passes spans on to processors that can be exchanged while the provider stays."""

    def __init__(self) -> None:
        self.processors: tuple[SpanProcessor, ...] = ()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """A span begins."""
        for processor in self.processors:
            processor.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        """A span ended."""
        for processor in self.processors:
            processor.on_end(span)

    def shutdown(self) -> None:
        """The provider's own end; ours comes earlier, through `OwnTracing`."""
        for processor in self.processors:
            processor.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Export what is queued."""
        return all([processor.force_flush(timeout_millis) for processor in self.processors])


class OwnTracerProvider(TracerProvider):
    """The provider of dltobs, to be known again by its class."""

    def __init__(self, resource: Resource) -> None:
        self.switch = SwitchableProcessor()
        super().__init__(resource=resource, shutdown_on_exit=False, id_generator=TransactionIdGenerator())
        self.add_span_processor(self.switch)


class CountingProcessor(BatchSpanProcessor):
    """OpenTelemetry's batch processor, which drops in silence, with a count of what it was given."""

    def __init__(self, exporter: RedactingExporter, delivery: Delivery) -> None:
        super().__init__(exporter)
        self._redacting = exporter
        self._delivery = delivery

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a sampled span."""
        if span.context is not None and span.context.trace_flags.sampled:
            self._delivery.submitted(1)
        super().on_end(span)

    def flush_within(self, timeout: float) -> bool:
        """Export what is queued; the processor's own flush knows no time-out."""
        return run_within(timeout, self.force_flush) and self._delivery.pending == 0

    def close_within(self, timeout: float) -> None:
        """End the exporter and its retries, then count what is left as lost."""
        self._redacting.shutdown()
        run_within(timeout, self.shutdown)
        self._redacting.abandon()


class OwnTracing:
    """Our processors behind the global provider, from the first run until `close()`.

    Args:
        settings: Say which exporters.
        redactor: For everything that is exported.
        deliveries: The counters by exporter.
    """

    def __init__(self, settings: Settings, redactor: Redactor, deliveries: Mapping[str, Delivery]) -> None:
        provider = trace.get_tracer_provider()
        if not isinstance(provider, OwnTracerProvider):
            provider = OwnTracerProvider(_resource(settings))
            trace.set_tracer_provider(provider)
        self.provider = provider
        self._processors = tuple(
            CountingProcessor(
                RedactingExporter(exporter, redactor, deliveries[name], last_answer), deliveries[name]
            )
            for name in settings.trace_exporters
            for exporter, last_answer in (_exporter(name, settings),)
        )
        provider.switch.processors = self._processors

    def flush(self, timeout: float) -> bool:
        """Export what is queued, within `timeout` seconds. True: everything was delivered."""
        return all([processor.flush_within(timeout) for processor in self._processors])

    def close(self) -> None:
        """Take the processors away; what is still queued is counted as lost."""
        if self.provider.switch.processors is self._processors:
            self.provider.switch.processors = ()
        for processor in self._processors:
            processor.close_within(_CLOSING_TIMEOUT)
        stop_listening()


def _resource(settings: Settings) -> Resource:
    """Resource attributes: those of `OTEL_RESOURCE_ATTRIBUTES`, and ours."""
    attributes: dict[str, str] = {
        "service.name": settings.service_name,
        "telemetry.distro.name": "dltobs",
        "telemetry.distro.version": __version__,
    }
    if settings.environment is not None:
        attributes["deployment.environment.name"] = settings.environment
    return Resource.create(attributes)


def _exporter(name: str, settings: Settings) -> tuple[SpanExporter, Callable[[], Answer]]:
    """An exporter and its ear. Headers, TLS, compression and time-out are read from `OTEL_*` by the exporter."""
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter(out=sys.stdout), Answer
    if settings.otlp_protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
            OTLPSpanExporter as GrpcExporter,
        )

        return GrpcExporter(endpoint=settings.otlp_endpoint), Answer
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    session = ListeningSession()
    exporter = OTLPSpanExporter(endpoint=_traces_url(settings.otlp_endpoint), session=session)
    return exporter, lambda: session.answer


def _traces_url(endpoint: str | None) -> str | None:
    """The URL for spans below a collector's base URL; None leaves it to `OTEL_*`."""
    if endpoint is None or endpoint.endswith("/v1/traces"):
        return endpoint
    return f"{endpoint.rstrip('/')}/v1/traces"
