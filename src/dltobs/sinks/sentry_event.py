"""What Sentry is told of a run that went wrong: its event, without live objects."""

from __future__ import annotations

import platform
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from dltobs._alerts.fingerprint import fingerprint_of, telling_line
from dltobs._cut import MESSAGE, cut
from dltobs._version import __version__
from dltobs.sinks.sentry_exceptions import exceptions_of
from dltobs.sinks.sentry_tags import tidied

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dltobs._events import FailedJob, Run, RunFinished, StepFinished
    from dltobs._redaction.redactor import Redactor

_LOG_LEVELS = {"WARNING": "warning", "ERROR": "error", "CRITICAL": "fatal", "DEBUG": "debug"}

LEVELS = {
    "failed": "error",
    # all that could be loaded is there, as `raise_on_failed_jobs=false` asks for
    "ok_with_failed_jobs": "warning",
    # somebody ended it from outside
    "terminated": "warning",
    # Sentry's word for a process that went down
    "lost": "fatal",
}
"""Sentry's level for each outcome that is told to it."""

_TYPE = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*")

_TITLE_LENGTH = 400
_LINE_LENGTH = 4000
_ATTEMPTS = 20
_JOB_LENGTH = 2000
_REMOTE_TRACEBACK = re.compile(r'RemoteTraceback: *\n"""\n(.*?)"""', re.DOTALL)
"""What a worker process has left of the traceback of its exception, in the stack trace of the failure."""
_TRACEBACK_LENGTH = 8 * 1024
_JOBS_WITH_MESSAGE, _JOBS_WITH_ID = 100, 1000
"""An event of more than 1 MB is refused as a whole; so that of a load of very many jobs is kept small."""


def report(
    event: RunFinished, redactor: Redactor, tags: Mapping[str, str], attempt: int | None
) -> dict[str, Any] | None:
    """The event for a run, told from the step that went wrong; None where nothing did.

    Args:
        event: The end of a run.
        redactor: For the user's source code, which the event does not have yet.
        tags: Those of the process and the user.
        attempt: Which attempt of a retry loop it was, or how many runs of the pipeline have failed in a row.
    """
    if event.outcome not in LEVELS:
        return _recovered(event, redactor, tags, attempt)
    step = event.failed_step or _step_with_failed_jobs(event)
    failure = None if step is None else step.failure
    jobs = [] if failure is not None else [job for one in event.steps for job in one.failed_jobs]
    body: dict[str, Any]
    if failure is not None:
        body = {"exception": {"values": exceptions_of(failure, redactor)}}
    elif jobs:
        body = {"exception": {"values": [_failed_jobs_exception(jobs, event)]}}
    else:
        body = {"logentry": {"formatted": f"run {event.run.pipeline}: {event.outcome}"}}
    return {
        **body,
        "level": LEVELS[event.outcome],
        "logger": "dltobs",
        "platform": "python",
        "timestamp": event.finished_at.isoformat(),
        "transaction": event.run.pipeline,
        "breadcrumbs": {"values": _breadcrumbs(event)},
        "tags": tidied({**_tags(event, step, attempt), **tags}),
        "contexts": {
            "trace": _trace_context(event, step),
            "dlt": _dlt_context(event, step, attempt),
            "runtime": {"name": "CPython", "version": platform.python_version()},
        },
        "fingerprint": fingerprint_of(event),
        "sdk": {"name": "dltobs", "version": __version__},
    }


def _recovered(
    event: RunFinished, redactor: Redactor, tags: Mapping[str, str], attempt: int | None
) -> dict[str, Any] | None:
    """The event for a run that went well after attempts that did not: the last of these, as a warning."""
    if not event.earlier_attempts:
        return None
    made = report(event.earlier_attempts[-1], redactor, tags, attempt)
    if made is not None:
        made["level"] = "warning"
        made["timestamp"] = event.finished_at.isoformat()
        made["tags"]["dlt.outcome"] = event.outcome
        made["contexts"]["dlt"] |= {"outcome": event.outcome, "earlier_attempts": _attempts(event)}
    return made


def _attempts(event: RunFinished) -> list[dict[str, Any]]:
    return [
        {
            "attempt": one.run.attempt,
            "transaction_id": one.run.transaction_id,
            "outcome": one.outcome,
            "error": None
            if one.failure is None
            else f"{one.failure.error_type}: {cut(one.failure.message, _JOB_LENGTH)}",
        }
        for one in event.earlier_attempts[-_ATTEMPTS:]
    ]


def _step_with_failed_jobs(event: RunFinished) -> StepFinished | None:
    return next((step for step in event.steps if step.failed_jobs), None)


def _failed_jobs_exception(jobs: list[FailedJob], event: RunFinished) -> dict[str, Any]:
    """The title: the first table that failed and why; all of the jobs are in the context."""
    first = min(jobs, key=lambda job: (job.table, job.job_id))
    kind, _, reason = telling_line(first.message).partition(": ")
    is_type = bool(reason) and bool(_TYPE.fullmatch(kind))
    module, _, name = kind.rpartition(".") if is_type else ("", "", _attempted_type(first, event))
    text = reason if is_type else telling_line(first.message)
    others = len({job.table for job in jobs} - {first.table})
    more = f" (and {others} more {'table' if others == 1 else 'tables'})" if others else ""
    return {
        "type": name,
        "module": module or None,
        "value": f"{first.table}: {text[:_TITLE_LENGTH]}{more}",
        "mechanism": {"type": "dlt", "handled": True},
    }


def _attempted_type(job: FailedJob, event: RunFinished) -> str:
    """The type of the exception that ended a job, as its attempts have it."""
    for step in event.steps:
        for one in step.load_jobs:
            if one.job_id == job.job_id and one.attempts and one.attempts[-1].error_type:
                return one.attempts[-1].error_type.rpartition(".")[2]
    return "LoadJobFailed"


def _breadcrumbs(event: RunFinished) -> list[dict[str, Any]]:
    return [
        {
            "timestamp": line.at.isoformat(),
            "level": _LOG_LEVELS.get(line.level, "info"),
            "category": line.logger,
            "message": cut(line.message, _LINE_LENGTH),
            "type": "default",
        }
        for line in event.log_lines
    ]


def _trace_context(event: RunFinished, step: StepFinished | None) -> dict[str, Any]:
    trace_id = (step is not None and step.trace_id) or event.run.transaction_id
    return {
        "trace_id": trace_id,
        # Sentry drops a trace context without a span: the run has none if it is not traced
        "span_id": (step is not None and step.span_id) or trace_id[:16],
        "op": "dlt",
        "status": "ok" if event.outcome == "ok_with_failed_jobs" else "internal_error",
    }


def _tags(event: RunFinished, step: StepFinished | None, attempt: int | None) -> dict[str, str]:
    run = event.run
    failure = None if step is None else step.failure
    tags = {
        "dlt.pipeline.name": run.pipeline,
        "dlt.transaction_id": run.transaction_id,
        "dlt.destination.name": run.destination_name,
        "dlt.destination.type": run.destination_type,
        "dlt.dataset.name": run.dataset,
        "dlt.outcome": event.outcome,
        "dlt.attempt": None if attempt is None else str(attempt),
        **run.surroundings,
    }
    if failure is not None:
        tags |= {
            "dlt.step": failure.step,
            "dlt.load_id": failure.load_id,
            "dlt.resource.name": failure.resource,
            "dlt.table.name": failure.table,
            "dlt.terminal": str(failure.terminal).lower(),
            "dlt.failure.kind": failure.kind,
            "error.type": failure.error_type,
        }
    elif step is not None:
        tables = sorted({job.table for job in step.failed_jobs})
        failed = (package.load_id for package in step.packages if package.failed_jobs)
        tags |= {
            "dlt.step": step.step,
            "dlt.load_id": next(failed, None),
            "dlt.table.name": tables[0] if tables else None,
            # dlt gives a job up for good where its failure is terminal
            "dlt.terminal": "true" if tables else None,
        }
    return {name: value for name, value in tags.items() if value}


def _dlt_context(event: RunFinished, step: StepFinished | None, attempt: int | None) -> dict[str, Any]:
    run: Run = event.run
    failure = None if step is None else step.failure
    jobs = () if step is None else step.failed_jobs
    context: dict[str, Any] = {
        "pipeline": run.pipeline,
        "outcome": event.outcome,
        "transaction_id": run.transaction_id,
        "destination": run.destination_name,
        "destination_type": run.destination_type,
        "dataset": run.dataset,
        "first_run": run.first_run,
        "pending_packages": list(event.pending_packages),
        "partly_loaded_packages": list(event.partly_loaded_packages),
        "aborted_packages": list(event.aborted_packages),
        "failed_jobs": [
            {"job_id": job.job_id, "table": job.table, "message": cut(job.message, _JOB_LENGTH)}
            for job in jobs[:_JOBS_WITH_MESSAGE]
        ],
        "steps": [
            {"step": one.step, "seconds": (one.finished_at - one.started_at).total_seconds()}
            for one in event.steps
        ],
    }
    if len(jobs) > _JOBS_WITH_MESSAGE:
        context["failed_jobs_by_table"] = dict(Counter(job.table for job in jobs))
        context["more_failed_jobs"] = [job.job_id for job in jobs[_JOBS_WITH_MESSAGE:_JOBS_WITH_ID]]
    if attempt is not None:
        context["attempt"] = attempt
    if event.earlier_attempts:
        context["earlier_attempts"] = _attempts(event)
    if step is not None:
        context["step"] = step.step
    if failure is not None:
        context |= {
            "step": failure.step,
            "load_id": failure.load_id,
            # the outermost exception: dlt's words for where it happened
            "raised": cut(failure.chain[0].message, MESSAGE) if failure.chain else None,
        }
        if (told := _REMOTE_TRACEBACK.search(failure.stacktrace)) is not None:
            context["worker_traceback"] = cut(told[1].strip(), _TRACEBACK_LENGTH)
    return context
