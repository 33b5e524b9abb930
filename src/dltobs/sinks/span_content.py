"""What the spans of runs and steps say: attributes, links, events and status."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import SpanContext, TraceFlags

from dltobs._runs.schema_changes import told
from dltobs.sinks.job_spans import nanoseconds
from dltobs.sinks.span_error import tell_error

if TYPE_CHECKING:
    from datetime import datetime

    from opentelemetry.trace import Span

    from dltobs._events import Failure, Run, StepFinished

_MAX_SCHEMA_LINES = 100


def identity_of(run: Run) -> dict[str, Any]:
    """Which run it is, on each of its spans."""
    named = {
        "dlt.pipeline.name": run.pipeline,
        "dlt.transaction_id": run.transaction_id,
        "dlt.destination.name": run.destination_name,
        "dlt.destination.type": run.destination_type,
        "dlt.dataset.name": run.dataset,
        "dlt.first_run": run.first_run,
        "dlt.retry.attempt": run.attempt,
        **run.surroundings,
    }
    return {name: value for name, value in named.items() if value is not None}


def describe_step(span: Span, event: StepFinished) -> None:
    """What became of a step."""
    span.set_attributes(identity_of(event.run))
    load_ids = [package.load_id for package in event.packages]
    if event.failure is not None and event.failure.load_id:
        span.set_attribute("dlt.load_id", event.failure.load_id)
    elif load_ids:
        # a step usually handles one package; the attribute is a string then and now
        span.set_attribute("dlt.load_id", ",".join(load_ids))
    if event.step in {"extract", "normalize"}:
        span.set_attribute("dlt.rows", event.rows)
        span.set_attribute("dlt.bytes", event.bytes)
    for link in event.links:
        flags = TraceFlags(TraceFlags.SAMPLED if link.is_sampled else TraceFlags.DEFAULT)
        earlier = SpanContext(
            int(link.trace_id, 16), int(link.span_id, 16), is_remote=True, trace_flags=flags
        )
        span.add_link(earlier, {"dlt.load_id": link.load_id})
    if event.schema_changes:
        span.add_event("schema_change", _schema_change(event), nanoseconds(event.finished_at))
    if event.failure is not None:
        _describe_failure(span, event.failure, event.finished_at)


def _schema_change(event: StepFinished) -> dict[str, Any]:
    """The attributes of the one event that tells all schema changes of a load."""
    changes = event.schema_changes
    counts = Counter(f"dlt.schema_change.{change.kind}s" for change in changes)
    return {
        **counts,
        "dlt.schema_change.lines": told(changes, first_run=event.run.first_run, limit=_MAX_SCHEMA_LINES),
        "dlt.load_id": ",".join(dict.fromkeys(change.load_id for change in changes)),
    }


def _describe_failure(span: Span, failure: Failure, at: datetime) -> None:
    span.set_attribute("dlt.failure.kind", failure.kind)
    if failure.resource is not None:
        span.set_attribute("dlt.resource.name", failure.resource)
    if failure.table is not None:
        span.set_attribute("dlt.table.name", failure.table)
    tell_error(span, failure.error_type, failure.message, failure.stacktrace, nanoseconds(at))
