"""Describes the exception that ended a step: root cause, place, and whether another try may help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dltobs._describe import causes_of, chain_of, describe, stacktrace, text_of, type_name
from dltobs._events import FailedJob, Failure, FailureKind

if TYPE_CHECKING:
    from collections.abc import Sequence


def failure_of(step: str, error: BaseException, exception_traces: Any = None) -> Failure:
    """A failure described.

    Args:
        step: The step that reports it; the exception may know better (`sync` inside `run`).
        error: The live exception: dlt's `PipelineStepFailed`, or what escaped from the step plainly.
        exception_traces: dlt's own traces of it, for the name of the resource.
    """
    from dlt.pipeline.exceptions import PipelineStepFailed

    is_wrapped = isinstance(error, PipelineStepFailed)
    outer: Any = error
    causes = list(causes_of(error))
    root = causes[-1]
    kind = kind_of(causes)
    job = _job_of(error)
    resource, table = _place_of(error, job, exception_traces)
    return Failure(
        step=text_of(outer.step) if is_wrapped else step,
        error_type=type_name(type(root)),
        message=text_of(root),
        terminal=kind == "terminal",
        chain=tuple(describe(one) for one in chain_of(error)),
        stacktrace=stacktrace(error),
        resource=resource,
        table=table,
        job=job,
        load_id=outer.load_id if is_wrapped else None,
        has_pending_data=is_wrapped and bool(outer.has_pending_data),
        is_package_partially_loaded=is_wrapped and bool(outer.is_package_partially_loaded),
        transient=kind == "transient",
    )


def kind_of(causes: Sequence[BaseException]) -> FailureKind:
    """Whether another try may help, as dlt's classes say.

    The outermost exception that dlt has classed decides: a load job that failed with an error of the user's
    code may be tried again if dlt says so (`LoadClientJobRetry`). That is dlt's own rule in `retry_load`,
    but that looks one exception deep only: it does not see a missing secret inside a resource, nor that a
    package was aborted (dlt 1.31), and tries those again. What dlt has not classed is unknown.

    Args:
        causes: The exception and what caused it, the root cause last.
    """
    from dlt.common.exceptions import TerminalException, TransientException

    for one in causes:
        if isinstance(one, TerminalException):
            return "terminal"
        if isinstance(one, TransientException):
            return "transient"
    return "unknown"


def _job_of(error: BaseException) -> FailedJob | None:
    """The job that an exception speaks of, as dlt's `WithJobError` does."""
    from dlt.common.storages.load_package import ParsedLoadJobFileName

    for one in chain_of(error):
        job_id = getattr(one, "job_id", None)
        if not isinstance(job_id, str):
            continue
        try:
            table = ParsedLoadJobFileName.parse(job_id).table_name
        except Exception:  # noqa: BLE001 - job ids of other forms begin with the table, too
            table = job_id.split(".", 1)[0]
        return FailedJob(job_id, table, text_of(getattr(one, "failed_message", None) or one))
    return None


def _place_of(
    error: BaseException, job: FailedJob | None, exception_traces: Any
) -> tuple[str | None, str | None]:
    """The resource and the table that an exception speaks of."""
    resource = None
    table = None if job is None else job.table
    for one in chain_of(error):
        resource = resource or getattr(one, "pipe_name", None)
        table = table or getattr(one, "table_name", None)
    for trace in exception_traces or ():
        resource = resource or trace.get("resource_name")
    return (
        None if resource is None else text_of(resource),
        None if table is None else text_of(table),
    )
