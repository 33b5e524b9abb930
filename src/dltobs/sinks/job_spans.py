"""The spans below a step: one for each resource, table or load job, made when the step has ended.

A step with more of them than `max_job_spans` keeps the failed, the retried and the slowest; what is left out
is summed up on the span of the step.
"""

from __future__ import annotations

from heapq import nlargest
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry import trace
from opentelemetry.trace import SpanKind

from dltobs._redaction.encodings import without_surrogates
from dltobs.sinks.handover import Handover
from dltobs.sinks.span_error import tell_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime

    from opentelemetry.trace import Span, Tracer

    from dltobs._events import Attempt, Failure, Job, Resource, StepFinished, Table

OMITTED_COUNT = "dlt.omitted.spans"
OMITTED_ROWS = "dlt.omitted.rows"
OMITTED_BYTES = "dlt.omitted.bytes"
"""On the span of a step: how many spans below it were left out, and the rows and bytes they stand for."""

ATTEMPT = "attempt"
"""The event of one try of a load job that was tried again, at the time at which the try ended."""

_INTERNAL = "_dlt_"
_UNKNOWN_ERROR = "_OTHER"
"""OpenTelemetry's word for an error whose type is not known."""


class _Problem(NamedTuple):
    """Why a child failed."""

    error_type: str
    message: str
    stacktrace: str | None = None


class _Child(NamedTuple):
    """A span to be made."""

    subject: str
    attributes: dict[str, Any]
    started_at: datetime | None
    finished_at: datetime | None
    rows: int
    bytes: int
    is_retried: bool = False
    problem: _Problem | None = None
    attempts: tuple[Attempt, ...] = ()

    def weight(self, step: StepFinished) -> tuple[bool, bool, float]:
        """What is told first where not everything can be."""
        start, end = self.started_at or step.started_at, self.finished_at or step.finished_at
        return self.problem is not None, self.is_retried, (end - start).total_seconds()


class JobSpans:
    """Makes the spans below a step's span.

    Args:
        limit: The most of them for a step.
        flush_timeout: As of `Handover`.
        common: Attributes of all of them.
    """

    def __init__(self, limit: int, flush_timeout: float, common: Mapping[str, Any]) -> None:
        self._limit = limit
        self._common = common
        self._handover = Handover(flush_timeout)

    def emit(self, event: StepFinished, parent: Span, tracer: Tracer, provider: Any) -> None:
        """Make the spans of a step that is about to end."""
        if not parent.is_recording():
            return
        children: Iterable[_Child] = _children(event)
        if len(event.load_jobs) + len(event.resources) + len(event.tables) > self._limit:
            children = self._telling(event, parent)
        context = trace.set_span_in_context(parent)
        common: dict[str, Any] = {
            "dlt.pipeline.name": event.run.pipeline,
            "dlt.transaction_id": event.run.transaction_id,
            **self._common,
        }
        begin, end = nanoseconds(event.started_at), nanoseconds(event.finished_at)

        def make(child: _Child) -> None:
            # dlt's clocks and ours may differ a little
            started_at = begin if child.started_at is None else nanoseconds(child.started_at)
            finished_at = end if child.finished_at is None else nanoseconds(child.finished_at)
            started_at = min(max(started_at, begin), end)
            finished_at = min(max(finished_at, started_at), end)
            span = tracer.start_span(
                f"{event.step} {child.subject}",
                context,
                SpanKind.INTERNAL,
                {**common, **child.attributes},
                start_time=started_at,
            )
            try:
                if span.is_recording():
                    _tell(span, child, started_at, finished_at)
            finally:
                span.end(finished_at)

        self._handover.every(children, make, provider)

    def _telling(self, event: StepFinished, parent: Span) -> list[_Child]:
        """The spans to keep, in their order; the others go into the sums."""
        children = list(_children(event))
        if len(children) <= self._limit:
            return children
        kept = nlargest(self._limit, range(len(children)), key=lambda number: children[number].weight(event))
        omitted = [children[number] for number in sorted(set(range(len(children))) - set(kept))]
        parent.set_attributes(
            {
                OMITTED_COUNT: len(omitted),
                OMITTED_ROWS: sum(child.rows for child in omitted),
                OMITTED_BYTES: sum(child.bytes for child in omitted),
            }
        )
        return [children[number] for number in sorted(kept)]


def _children(event: StepFinished) -> Iterator[_Child]:
    yield from (_resource(resource, event) for resource in event.resources)
    if event.step == "normalize":
        yield from (_table(table, event) for table in event.tables)
    yield from (_job(job, event) for job in event.load_jobs)


def _resource(resource: Resource, event: StepFinished) -> _Child:
    attributes = _attributes(
        {"dlt.resource.name": resource.name}, resource, is_internal=resource.name.startswith(_INTERNAL)
    )
    return _Child(
        resource.name,
        attributes,
        resource.started_at,
        resource.finished_at,
        resource.rows,
        resource.bytes,
        problem=_own_problem(event.failure, resource=resource.name),
    )


def _table(table: Table, event: StepFinished) -> _Child:
    attributes = _attributes({"dlt.table.name": table.name}, table, is_internal=table.internal)
    return _Child(
        table.name,
        attributes,
        table.started_at,
        table.finished_at,
        table.rows,
        table.bytes,
        problem=_own_problem(event.failure, table=table.name),
    )


def _own_problem(
    failure: Failure | None, *, resource: str | None = None, table: str | None = None
) -> _Problem | None:
    """The failure of the step, if this is where it happened."""
    if failure is None or (resource or table) != (failure.resource if resource else failure.table):
        return None
    return _Problem(failure.error_type, failure.message)


def _attributes(names: dict[str, Any], written: Resource | Table, *, is_internal: bool) -> dict[str, Any]:
    attributes = {
        **names,
        "dlt.rows": written.rows,
        "dlt.bytes": written.bytes,
        "dlt.time.basis": "writes",
    }
    if is_internal:
        attributes["dlt.internal"] = True
    return attributes


def _job(job: Job, event: StepFinished) -> _Child:
    attributes: dict[str, Any] = {
        "dlt.table.name": job.table,
        "dlt.job.id": job.job_id,
        "dlt.job.state": job.state,
        "dlt.job.retry_count": job.retry_count,
        "dlt.time.basis": "exact",
    }
    if job.internal:
        attributes["dlt.internal"] = True
    if job.rows is not None:
        attributes["dlt.rows"] = job.rows
    if job.bytes is not None:
        attributes["dlt.bytes"] = job.bytes
    if job.file_format is not None:
        attributes["dlt.job.file_format"] = job.file_format
    if job.remote_url is not None:
        attributes["dlt.job.remote_url"] = without_surrogates(job.remote_url)
    return _Child(
        job.table,
        attributes,
        job.started_at,
        job.finished_at,
        job.rows or 0,
        job.bytes or 0,
        job.retry_count > 0 or len(job.attempts) > 1,
        None if job.state == "completed" else _problem(job, event),
        job.attempts,
    )


def _problem(job: Job, event: StepFinished) -> _Problem:
    """Why a job did not complete: a job that waits for another try has failed in this run, too."""
    last = job.attempts[-1] if job.attempts else None
    failure = event.failure
    ended = failure is not None and failure.job is not None and failure.job.job_id == job.job_id
    error_type = (last and last.error_type) or (failure.error_type if failure and ended else _UNKNOWN_ERROR)
    text = job.failed_message or ""
    # dlt's message is a stack trace; what it ends with is the error
    message = (last and last.message) or text.strip().rpartition("\n")[2]
    return _Problem(error_type, message, text if text not in {"", message} else None)


def _tell(span: Span, child: _Child, started_at: int, finished_at: int) -> None:
    """What is more than attributes: the tries and the error."""
    if child.is_retried:
        for attempt in child.attempts:
            at = min(max(nanoseconds(attempt.finished_at), started_at), finished_at)
            span.add_event(ATTEMPT, _attempt(attempt), at)
    if child.problem is None:
        return
    tell_error(span, *child.problem, finished_at)


def _attempt(attempt: Attempt) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "dlt.attempt.number": attempt.number,
        "dlt.attempt.state": attempt.state,
        "dlt.attempt.duration": (attempt.finished_at - attempt.started_at).total_seconds(),
    }
    if attempt.error_type is not None:
        attributes["error.type"] = attempt.error_type
    if attempt.message is not None:
        attributes["exception.message"] = without_surrogates(attempt.message)
    return attributes


def nanoseconds(at: datetime) -> int:
    """Since the epoch, exact to the microsecond (a float of seconds is not)."""
    return int(at.timestamp()) * 1_000_000_000 + at.microsecond * 1000
