"""The root span of a lost run, which its own process did not live to export.

With our provider it bears the ids that it would have had: what the process had exported below it finds its
parent, and the trace is complete. An application's provider gives its own ids; there it is a span below the
missing one, in the same trace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags

from dltobs.sinks.job_spans import nanoseconds
from dltobs.sinks.span_error import set_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.trace import Tracer

    from dltobs._events import RunLost

ERROR_TYPE = "lost"


def emit_lost(event: RunLost, tracer: Tracer, attributes: Mapping[str, Any], *, is_own: bool) -> None:
    """Make the span, from the run's start to its last sign of life, if the run was sampled."""
    if not event.is_sampled and event.span_id is not None:
        return
    trace_id = int(event.trace_id or event.run.transaction_id, 16)
    span_id = None if event.span_id is None else int(event.span_id, 16)
    parent = Context()
    if span_id is not None and not is_own:
        missing = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
        parent = trace.set_span_in_context(NonRecordingSpan(missing), parent)
    described = {
        **attributes,
        "dlt.step": event.method,
        "dlt.outcome": event.outcome,
        "dlt.noticed_by": event.noticed_by,
        "error.type": ERROR_TYPE,
        "host.name": event.host,
        "process.pid": event.pid,
    }
    if event.step is not None:
        described["dlt.lost.step"] = event.step
    span = _start(
        tracer, f"{event.method} {event.run.pipeline}", parent, described, event, (trace_id, span_id, is_own)
    )
    where = f" in {event.step}" if event.step else ""
    set_error(span, f"process {event.pid} on {event.host} died{where}")
    span.end(nanoseconds(event.last_seen_at))


def _start(  # noqa: PLR0913, PLR0917 - what start_span takes, and the ids
    tracer: Tracer,
    name: str,
    parent: Context,
    attributes: Mapping[str, Any],
    event: RunLost,
    ids: tuple[int, int | None, bool],
) -> trace.Span:
    trace_id, span_id, is_own = ids
    if not is_own:
        return tracer.start_span(
            name, parent, SpanKind.INTERNAL, attributes, start_time=nanoseconds(event.started_at)
        )
    from dltobs.sinks.provider import next_span_id, next_trace_id

    trace_token, span_token = next_trace_id.set(trace_id), next_span_id.set(span_id)
    try:
        return tracer.start_span(
            name, parent, SpanKind.INTERNAL, attributes, start_time=nanoseconds(event.started_at)
        )
    finally:
        next_trace_id.reset(trace_token)
        next_span_id.reset(span_token)
