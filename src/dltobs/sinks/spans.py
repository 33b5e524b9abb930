"""Runs and steps as OpenTelemetry spans, live, so that what happens in a step nests below it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opentelemetry import context, trace
from opentelemetry.trace import Span, SpanKind, Tracer

from dltobs._context.environment import root_parent
from dltobs._events import RunFinished, RunLost, RunStarted, StepFinished, StepStarted
from dltobs._process.fork_safe import fork_safe
from dltobs._settings.otel import application_has_provider
from dltobs._version import __version__
from dltobs.sinks.job_spans import JobSpans, nanoseconds
from dltobs.sinks.span_content import describe_step, identity_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextvars import Token

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.sampling import Sampler
    from opentelemetry.trace import Link, TracerProvider

    from dltobs._events import Event
    from dltobs._redaction.redactor import Redactor
    from dltobs._settings.settings import Settings
    from dltobs.sinks.delivery import Delivery
    from dltobs.sinks.provider import OwnTracing


_CLOSING_TIMEOUT = 0.3
"""Seconds to export spans that the end of the set-up has ended."""


@dataclass(slots=True)
class _OpenSpan:
    span: Span
    token: Token[Context]


@dataclass(slots=True)
class OpenRun:
    """A run whose spans are open, outermost first; the root stays open until the run's outcome is known."""

    tracer: Tracer
    is_own: bool
    provider: Any
    spans: list[_OpenSpan] = field(default_factory=list)
    root: Span | None = None


class SpanSink:
    """Starts and ends a span for each step; the outermost one is the root and bears the pipeline's name.

    The provider is decided when a run starts: the application's, if it has set one by then; else ours,
    where an exporter is configured or tracing is `on`; else there are no spans.

    Args:
        settings: Say whether and where to.
        redactor: For what our provider exports, whoever made it.
        deliveries: The counters by exporter.

    Raises:
        ConfigurationError: An exporter refuses its settings.
    """

    def __init__(self, settings: Settings, redactor: Redactor, deliveries: Mapping[str, Delivery]) -> None:
        self._tags = {f"dlt.tag.{name}": value for name, value in settings.tags.items()}
        self._runs: dict[str, OpenRun] = {}
        self._children = JobSpans(settings.max_job_spans, settings.flush_timeout, self._tags)
        self._lock = fork_safe(threading.Lock())
        self._is_closed = False
        self._provider: TracerProvider | None = None
        self._own: OwnTracing | None = None
        if settings.builds_provider and not application_has_provider():
            from dltobs.sinks.provider import OwnTracing

            self._own = OwnTracing(settings, redactor, deliveries)

    def emit(self, event: Event) -> None:
        """Start or end a span."""
        if isinstance(event, RunStarted):
            self._start_run(event)
        elif isinstance(event, StepStarted):
            self._start_step(event)
        elif isinstance(event, StepFinished):
            self._end_step(event)
        elif isinstance(event, RunFinished):
            self._end_run(event)
        elif isinstance(event, RunLost):
            self._tell_lost(event)

    def flush(self, timeout: float) -> bool:
        """Export what our own provider has queued. The application flushes its own."""
        return self._own is None or self._own.flush(timeout)

    def close(self) -> None:
        """End the spans that are still open, and take our processors away.

        The threads of runs that are on still have their spans as current ones; the events that end those
        runs put that right.
        """
        self._is_closed = True
        runs = list(self._runs.values())
        for run in runs:
            for item in reversed(run.spans):
                item.span.end()
            if run.root is not None:
                run.root.end()
        if self._own is not None:
            if runs:
                self._own.flush(_CLOSING_TIMEOUT)
            self._own.close()

    @property
    def own(self) -> OwnTracing | None:
        """What exports the spans, where it is not the application that does."""
        return self._own

    @property
    def open_runs(self) -> dict[str, OpenRun]:
        """The runs that are on, by transaction id."""
        return self._runs

    def decide(self) -> None:
        """Decide the provider now, for spans of somebody else that a run is going to be below."""
        if not self._is_closed:
            self._tracer()

    def take_over(self, runs: dict[str, OpenRun]) -> None:
        """Go on with the runs of another sink: their spans end here, and are exported from here."""
        self._runs = runs
        self._tracer()

    def let_go(self) -> None:
        """Leave the runs that are on to the sink that has taken them over."""
        self._runs = {}

    def _start_run(self, event: RunStarted) -> None:
        found = self._tracer()
        if found is not None:
            self._runs[event.run.transaction_id] = OpenRun(*found)

    def tracer(self) -> Tracer | None:
        """What makes our spans; None where there are none."""
        found = self._tracer()
        return None if found is None or self._is_closed else found[0]

    def parent(self) -> tuple[Context | None, list[Link]]:
        """Where a root span of ours starts now, and what it is linked to; see `root_parent`."""
        found = self._tracer()
        return (None, []) if found is None else root_parent(_sampler(found[2], is_own=found[1]))

    def _tracer(self) -> tuple[Tracer, bool, TracerProvider] | None:
        if application_has_provider():
            provider = trace.get_tracer_provider()
            return provider.get_tracer("dltobs", __version__), False, provider
        if self._own is None:
            return None
        with self._lock:  # runs may start in several threads
            if self._provider is None:
                self._provider = self._own.install()
        return self._provider.get_tracer("dltobs", __version__), True, self._provider

    def _start_step(self, event: StepStarted) -> None:
        run = self._runs.get(event.run.transaction_id)
        if run is None or self._is_closed:
            return
        is_root = event.depth == 0
        # None: the current context
        parent, links = root_parent(_sampler(run.provider, is_own=run.is_own)) if is_root else (None, [])
        attributes: dict[str, Any] = {**identity_of(event.run), "dlt.step": event.step, **self._tags}
        name = f"{event.step} {event.run.pipeline}" if is_root else event.step
        token = None
        if is_root and run.is_own:
            token = _propose_trace_id(event.run.transaction_id)
        try:
            span = run.tracer.start_span(
                name,
                context=parent,
                kind=SpanKind.INTERNAL,
                attributes=attributes,
                links=links,
                start_time=nanoseconds(event.at),
            )
        finally:
            if token is not None:
                _withdraw_trace_id(token)
        run.spans.append(_OpenSpan(span, context.attach(trace.set_span_in_context(span, parent))))

    def _end_step(self, event: StepFinished) -> None:
        run = self._runs.get(event.run.transaction_id)
        if run is None or not run.spans:
            return
        item = run.spans.pop()
        if self._is_closed:  # the span has been ended
            context.detach(item.token)
            return
        try:
            describe_step(item.span, event)
            self._children.emit(event, item.span, run.tracer, run.provider)
        finally:
            context.detach(item.token)
            if event.depth == 0:
                run.root = item.span  # its outcome comes with the end of the run
            else:
                item.span.end(nanoseconds(event.finished_at))

    def _end_run(self, event: RunFinished) -> None:
        run = self._runs.pop(event.run.transaction_id, None)
        if run is None or self._is_closed:
            return
        for depth, item in reversed(list(enumerate(run.spans))):  # of steps for which no event came
            step = next((one for one in reversed(event.steps) if one.depth == depth), None)
            if step is not None:
                describe_step(item.span, step)
            if depth:
                # not now: the spans around it end when the run did
                item.span.end(nanoseconds((event if step is None else step).finished_at))
            else:
                run.root = item.span
        if run.root is None:
            return
        run.root.set_attributes({**identity_of(event.run), "dlt.outcome": event.outcome})
        last = event.steps[-1].finished_at if event.steps else event.finished_at
        run.root.end(nanoseconds(last))

    def _tell_lost(self, event: RunLost) -> None:
        run = self._runs.get(event.noticed_by)
        if run is not None and not self._is_closed:
            from dltobs.sinks.lost_span import emit_lost

            emit_lost(event, run.tracer, {**identity_of(event.run), **self._tags}, is_own=run.is_own)


def _sampler(provider: Any, *, is_own: bool) -> Sampler | None:
    return provider.sampler if is_own else None


def _propose_trace_id(transaction_id: str) -> Token[int | None]:
    from dltobs.sinks.provider import next_trace_id

    return next_trace_id.set(int(transaction_id, 16))


def _withdraw_trace_id(token: Token[int | None]) -> None:
    from dltobs.sinks.provider import next_trace_id

    next_trace_id.reset(token)
