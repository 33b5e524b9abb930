"""The tracer provider that dltobs builds where the application has none and an exporter is asked for.

OpenTelemetry lets a global provider be set once a process. So it stays, and what changes is the
processors behind it.
"""

from __future__ import annotations

import functools
from contextvars import ContextVar
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.sdk.environment_variables import (
    OTEL_BSP_MAX_EXPORT_BATCH_SIZE,
    OTEL_BSP_MAX_QUEUE_SIZE,
    OTEL_BSP_SCHEDULE_DELAY,
)
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from dltobs._process.deadline import run_within
from dltobs.sinks.clean import SCOPE
from dltobs.sinks.exporters import RedactingExporter
from dltobs.sinks.otlp import number_of, resource_of, span_exporter
from dltobs.sinks.reasons import without_secrets
from dltobs.sinks.resend import Resender
from dltobs.sinks.route import Route

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import Resource

    from dltobs._redaction.redactor import Redactor
    from dltobs._settings.settings import Settings
    from dltobs.sinks.delivery import Delivery

_CLOSING_TIMEOUT = 0.1
"""Seconds for the end of a processor's thread."""

next_trace_id: ContextVar[int | None] = ContextVar("dltobs_next_trace_id", default=None)
"""The trace id for the root span that is being started: dlt's transaction id."""


next_span_id: ContextVar[int | None] = ContextVar("dltobs_next_span_id", default=None)
"""The span id for the root span of a lost run: the one that it had."""


class TransactionIdGenerator(RandomIdGenerator):
    """Random ids, but for the root span of a run, whose trace id is dlt's transaction id (as random)."""

    def generate_trace_id(self) -> int:
        """The id of the trace that begins."""
        return next_trace_id.get() or super().generate_trace_id()

    def generate_span_id(self) -> int:
        """The id of the span that begins."""
        return next_span_id.get() or super().generate_span_id()


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
        # each is flushed, also after one that failed
        done = [processor.force_flush(timeout_millis) for processor in self.processors]
        return all(done)


class OwnTracerProvider(TracerProvider):
    """The provider of dltobs, to be known again by its class."""

    def __init__(self, resource: Resource) -> None:
        self.switch = SwitchableProcessor()
        super().__init__(resource=resource, shutdown_on_exit=False, id_generator=TransactionIdGenerator())
        self.add_span_processor(self.switch)


_beside: OwnTracerProvider | None = None
"""Our provider where the global one is a no-op, which OpenTelemetry does not let anybody replace."""


def own_provider() -> OwnTracerProvider | None:
    """Return the provider of dltobs: the global one, or that beside a global no-op."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, OwnTracerProvider):
        return provider
    return _beside if isinstance(provider, trace.NoOpTracerProvider) else None


class CountingProcessor(BatchSpanProcessor):
    """OpenTelemetry's batch processor, which drops in silence, with a count of what became of each span.

    Where the queue is full, spans of other libraries are refused before our own: the run's root ends last.
    """

    def __init__(self, exporter: RedactingExporter, delivery: Delivery) -> None:
        self._limit = number_of(OTEL_BSP_MAX_QUEUE_SIZE, 2048)
        super().__init__(
            exporter,
            max_queue_size=2 * self._limit,
            schedule_delay_millis=number_of(OTEL_BSP_SCHEDULE_DELAY, 5000),
            max_export_batch_size=min(number_of(OTEL_BSP_MAX_EXPORT_BATCH_SIZE, 512), self._limit),
        )
        self._redacting = exporter
        self._delivery = delivery

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a sampled span, if there is room."""
        if span.context is None or not span.context.trace_flags.sampled:
            return
        scope = span.instrumentation_scope
        is_ours = scope is not None and scope.name == SCOPE
        room = 2 * self._limit if is_ours else self._limit
        # what is on the wire counts too, so the SDK's own queue, which forgets the oldest, is never full
        is_full = self._delivery.pending >= room
        self._delivery.submitted(1)
        if is_full:
            self._delivery.dropped(1, "queue full")
        else:
            self._redacting.undelivered.queued(span)
            super().on_end(span)

    def flush(self) -> bool:
        """Export what is queued. True: everything was delivered. The caller bounds the time."""
        self.force_flush()
        return self._delivery.everything_delivered()

    def close(self) -> None:
        """End the exporter and its retries; what is left is kept or lost."""
        self._redacting.shutdown()
        # the SDK's waits for its thread, which may hang in an export
        run_within(_CLOSING_TIMEOUT, self.shutdown)


class OwnTracing:
    """Our processors behind the global provider: `install()` at the first run, `close()` in the end.

    Args:
        settings: Say which exporters.
        redactor: For everything that is exported.
        deliveries: The counters by exporter.

    Raises:
        ConfigurationError: The exporter refuses its settings, which it reads from `OTEL_*`.
    """

    def __init__(self, settings: Settings, redactor: Redactor, deliveries: Mapping[str, Delivery]) -> None:
        self._resource = resource_of(settings)
        self._processors: tuple[CountingProcessor, ...] = ()
        self._exporters: dict[Delivery, RedactingExporter] = {}
        for name in settings.trace_exporters:
            delivery = deliveries[name]
            make = functools.partial(span_exporter, name, settings, redactor)
            ours = RedactingExporter(make, redactor, delivery, self._resource)
            self._exporters[delivery] = ours
            if name != "console":
                delivery.address = without_secrets(ours.address)
                delivery.route = Route(ours.address, ours.undelivered.rescue, Resender(make, ()))

    def install(self) -> TracerProvider:
        """Set the global provider, if it is not ours already, and put the processors behind it."""
        global _beside  # noqa: PLW0603 - one a process, like OpenTelemetry's
        provider = own_provider()
        if provider is None:
            provider = OwnTracerProvider(self._resource)
            if isinstance(trace.get_tracer_provider(), trace.NoOpTracerProvider):
                _beside = provider
            else:
                trace.set_tracer_provider(provider)
        self._processors = tuple(
            CountingProcessor(exporter, delivery) for delivery, exporter in self._exporters.items()
        )
        provider.switch.processors = self._processors
        return provider

    def flush(self, timeout: float) -> bool:
        """Export what is queued, within `timeout` seconds. True: everything was delivered."""
        return run_within(timeout, *(processor.flush for processor in self._processors))

    def close(self) -> None:
        """Take the processors away; what is still queued is kept in the spool, or lost."""
        provider = own_provider()
        if provider is not None and provider.switch.processors is self._processors:
            provider.switch.processors = ()
        for exporter in self._exporters.values():
            exporter.shutdown()
        for processor in self._processors:
            processor.close()
