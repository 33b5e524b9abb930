"""Describes the exception that ended a step: root cause, place, and whether another try may help."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from dltobs._describe import (
    causes_of,
    chain_of,
    count_of_leaves,
    describe,
    is_of_dlt,
    members_of,
    read,
    stacktrace,
    text_of,
    type_name,
)
from dltobs._events import ExceptionInfo, FailedJob, Failure, FailureKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")

_UNKNOWN: FailureKind = "unknown"
_MAX_OTHERS = 15
"""Exceptions in groups, beside the first ones; Python prints as many of a group."""
_NOWHERE: tuple[str | None, str | None] = (None, None)


class Attempt(Protocol):
    """Gives what `part` gives, and the default where it raises."""

    def __call__(self, default: T, part: Callable[[], T], /) -> T: ...


def failure_of(  # noqa: PLR0913 - the last three say how to read
    step: str,
    error: BaseException,
    exception_traces: Any = None,
    *,
    until: BaseException | None,
    attempt: Attempt,
    redact: Callable[[str, int], str],
) -> Failure:
    """Describe a failure.

    Args:
        step: The step that reports it; the exception may know better (`sync` inside `run`).
        error: The live exception: dlt's `PipelineStepFailed`, or what escaped from the step plainly.
        exception_traces: dlt's own traces of it, for the name of the resource.
        until: The exception that was being handled when the run was called, which is none of its own.
        attempt: Reads each part: exceptions are foreign code, and one part missing leaves the others.
        redact: Takes the secrets out of a message in the stack trace that is to be cut, and cuts it.
    """
    from dlt.pipeline.exceptions import PipelineStepFailed

    is_wrapped = issubclass(type(error), PipelineStepFailed)
    outer: Any = error
    causes = attempt([error], lambda: list(causes_of(error, until)))
    own = attempt([error], lambda: _of_this_pipeline(causes))
    kind = attempt(_UNKNOWN, lambda: kind_of(causes))
    job = attempt(None, lambda: _job_of(own))
    resource, table = attempt(_NOWHERE, lambda: _place_of(own, job, exception_traces))
    return Failure(
        step=text_of(outer.step) if is_wrapped else step,
        error_type=type_name(type(causes[-1])),
        message=text_of(causes[-1]),
        terminal=kind == "terminal",
        chain=_chain(error, until, attempt, [_MAX_OTHERS]),
        stacktrace=attempt("", lambda: stacktrace(error, until, redact=redact)),
        resource=resource,
        table=table,
        job=job,
        load_id=outer.load_id if is_wrapped else None,
        has_pending_data=is_wrapped and bool(outer.has_pending_data),
        is_package_partially_loaded=is_wrapped and bool(outer.is_package_partially_loaded),
        transient=kind == "transient",
        more=attempt(0, lambda: _more(causes)),
    )


def _chain(
    error: BaseException, until: BaseException | None, attempt: Attempt, room: list[int]
) -> tuple[ExceptionInfo, ...]:
    """Describe an exception and those it came from, with the other exceptions of a group.

    Args:
        error: The outermost exception.
        until: As for `failure_of`.
        attempt: As for `failure_of`.
        room: How many more exceptions of groups may be described.
    """
    chain = []
    for one in chain_of(error, until):
        others = []
        for other in members_of(one)[1:]:
            if room[0] > 0:
                room[0] -= 1
                others.append(_chain(other, until, attempt, room))
        info = _described(one, attempt)
        chain.append(replace(info, others=tuple(others)) if others else info)
    return tuple(chain)


def _more(causes: Sequence[BaseException]) -> int:
    """Count the exceptions in the outermost group beside the one that is the root cause."""
    return next((count_of_leaves(one) - 1 for one in causes if members_of(one)), 0)


def _described(error: BaseException, attempt: Attempt) -> ExceptionInfo:
    plain = ExceptionInfo(type_name(type(error)), text_of(error), ())
    return attempt(plain, lambda: describe(error))


def _of_this_pipeline(causes: Sequence[BaseException]) -> list[BaseException]:
    """The exceptions up to that of another pipeline, which a resource has run: its jobs are not ours."""
    from dlt.pipeline.exceptions import PipelineStepFailed

    outer, *inner = causes
    own = [outer]
    for one in inner:
        if isinstance(one, PipelineStepFailed) and one.pipeline is not read(outer, "pipeline"):
            break
        own.append(one)
    return own


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


def _job_of(causes: Sequence[BaseException]) -> FailedJob | None:
    """The job that dlt says has failed."""
    from dlt.common.destination.exceptions import WithJobError
    from dlt.common.storages.load_package import ParsedLoadJobFileName

    for one in causes:
        job_id = read(one, "job_id") if isinstance(one, WithJobError) else None
        if not isinstance(job_id, str):
            continue
        try:
            table = ParsedLoadJobFileName.parse(job_id).table_name
        except Exception:  # noqa: BLE001 - job ids of other forms begin with the table, too
            table = job_id.split(".", 1)[0]
        return FailedJob(job_id, table, text_of(read(one, "failed_message") or one))
    return None


def _place_of(
    causes: Sequence[BaseException], job: FailedJob | None, exception_traces: Any
) -> tuple[str | None, str | None]:
    """The resource and the table that dlt's exceptions speak of."""
    told = [one for one in causes if is_of_dlt(one)]
    resources = [read(one, name) for name in ("pipe_name", "resource_name") for one in told]
    # dlt has put the name of the resource that it was at into each; those further on may be others' failures
    resources += [trace.get("resource_name") for trace in (exception_traces or ())[:1]]
    tables = [None if job is None else job.table, *(read(one, "table_name") for one in told)]
    resource, table = next(filter(None, resources), None), next(filter(None, tables), None)
    return (
        None if resource is None else text_of(resource),
        None if table is None else text_of(table),
    )
