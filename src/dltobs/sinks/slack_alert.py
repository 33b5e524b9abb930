"""What a person is told of a run or of schema changes, before it is given Slack's form.

Every text comes from a redacted event, but for the environment, the tags and the address of the trace, which
the one who calls has redacted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import PurePath
from typing import TYPE_CHECKING
from urllib.parse import quote

from dltobs._describe import GROUP_TYPES, shortened, without_frames
from dltobs._events import RunFinished
from dltobs._runs.schema_changes import told

if TYPE_CHECKING:
    from dltobs._events import FailedJob, Failure, Run, RunLost, StepFinished

_SHOWN = 5
"""Failed jobs and packages that are named; the rest is counted."""
_FAILURE = frozenset({"failed", "ok_with_failed_jobs", "terminated"})
_WORTH = {
    "terminal": "no, the error is terminal",
    "transient": "yes, the error is transient",
    "unknown": "perhaps, dlt does not say",
}
_LONGEST = 1000
"""Characters of a message that another one follows."""
_MINUTE, _HOUR = 60, 3600

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Alert:
    """A message in parts, each of them plain text.

    `facts` are labels with values, `footer` as well, but those may be the user's; `cause` is the type and
    message of the error; `details` are lines under a heading; `links` are labels with addresses.
    """

    title: str
    facts: tuple[Pair, ...] = ()
    cause: Pair | None = None
    heading: str = ""
    details: tuple[str, ...] = ()
    note: str = ""
    links: tuple[Pair, ...] = ()
    footer: tuple[Pair, ...] = ()


def kind_of(event: RunFinished) -> str:
    """The word of `slack_on` that covers the end of a run."""
    if event.outcome == "lost":
        return "lost"
    return "failure" if event.outcome in _FAILURE or event.earlier_attempts else "success"


def is_recovered(event: RunFinished) -> bool:
    """Whether it went well after attempts that did not."""
    return bool(event.earlier_attempts) and event.outcome not in {*_FAILURE, "lost"}


def run_alert(event: RunFinished) -> Alert:
    """What is told of the end of a run."""
    told = event.earlier_attempts[-1] if is_recovered(event) else event
    failure, jobs = told.failure, event.failed_jobs
    facts = [
        ("Step", _step(event)),
        ("Where", "" if failure is None else _where(failure)),
        ("Outcome", event.outcome),
        ("Attempts", _attempts(event)),
        ("Duration", _duration((event.finished_at - event.started_at).total_seconds())),
        ("Rows", _rows(event)),
        ("Jobs", _jobs(event)),
        ("Destination", _destination(event.run)),
        ("Packages", _packages(event)),
        ("Worth a retry", _retry(event)),
    ]
    return Alert(
        title=_title(event, len(jobs)),
        facts=tuple((label, value) for label, value in facts if value),
        cause=None if failure is None else (failure.error_type, _message(failure)),
        heading="Failed jobs" if jobs else "",
        details=_first([f"{job.table} ({job.job_id}): {_reason(job, failure)}" for job in jobs]),
    )


def lost_alert(event: RunLost) -> Alert:
    """What is told of an earlier run whose process died."""
    where = f" in {event.step}" if event.step else ""
    facts = (
        ("Step", event.step or event.method),
        ("Outcome", event.outcome),
        ("Began", f"{event.started_at:%Y-%m-%d %H:%M:%S %Z}"),
        ("Last seen", f"{event.last_seen_at:%Y-%m-%d %H:%M:%S %Z}"),
        ("Process", f"{event.pid} on {event.host}"),
        ("Destination", _destination(event.run)),
    )
    return Alert(
        title=f"🔴 {event.run.pipeline}: lost, its process died{where} without a word",
        facts=tuple((label, value) for label, value in facts if value),
    )


def schema_alert(event: StepFinished) -> Alert | None:
    """What is told of the schema changes of a load; None where there is nothing to tell."""
    headline, *lines = told(event.schema_changes, first_run=event.run.first_run) or ("",)
    if not headline:
        return None
    name = event.run.pipeline  # and of its schema, most often
    loads = dict.fromkeys(change.load_id for change in event.schema_changes)
    facts = [("Destination", _destination(event.run)), ("Load", ", ".join(_first(list(loads))))]
    return Alert(
        title=f"🔵 {name}: {headline.removeprefix(f'{name}: ')}",
        facts=tuple((label, value) for label, value in facts if value),
        details=tuple(lines),
    )


def trace_url(template: str | None, event: RunFinished | RunLost | StepFinished) -> str | None:
    """The address of the trace; None without a template, and where it needs a span and there is none."""
    if template is None:
        return None
    step = event.failed_step or _outermost(event) if isinstance(event, RunFinished) else event
    span_id, trace_id = (None, None) if step is None else (step.span_id, step.trace_id)
    if span_id is None and ("{trace_id}" in template or "{span_id}" in template):
        return None  # the trace id would be that of dlt, which no back end knows
    values = {
        "trace_id": trace_id or "",
        "span_id": span_id or "",
        "pipeline": event.run.pipeline,
        "transaction_id": event.run.transaction_id,
    }
    return template.format(**{name: quote(value, safe="") for name, value in values.items()})


def more_since(more: int, since: float | None, now: datetime) -> str:
    """What is said of equal failures that were not told: `…, and 4 more since 12:03 UTC`."""
    if not more or since is None:
        return ""
    at = datetime.fromtimestamp(since, timezone.utc)
    shown = f"{at:%H:%M}" if at.date() == now.astimezone(timezone.utc).date() else f"{at:%Y-%m-%d %H:%M}"
    return f"This failure again, and {more} more since {shown} UTC"


def _title(event: RunFinished, failed_jobs: int) -> str:
    name = event.run.pipeline
    if is_recovered(event):
        return f"🟡 {name}: {event.outcome.replace('_', ' ')} at attempt {event.run.attempt}"
    if event.outcome == "failed":
        tries = f" after {event.run.attempt} attempts" if (event.run.attempt or 0) > 1 else ""
        return f"🔴 {name}: {_step(event)} failed{tries}"
    if event.outcome == "ok_with_failed_jobs":
        return f"🟠 {name}: {failed_jobs} failed {'job' if failed_jobs == 1 else 'jobs'}"
    if event.outcome == "terminated":
        return f"🟠 {name}: terminated in {_step(event)}"
    if event.outcome == "lost":
        return f"🔴 {name}: lost, its end was never seen"
    return f"🟢 {name}: {event.outcome.replace('_', ' ')}"


def _attempts(event: RunFinished) -> str:
    """How often it was tried; nothing for a run that was tried once."""
    number = event.run.attempt
    if number is None or number <= 1:
        return ""
    if is_recovered(event):
        return f"{number}, the last one went well"
    return f"{number}, all failed" if event.outcome == "failed" else str(number)


def _outermost(event: RunFinished) -> StepFinished | None:
    return next((step for step in reversed(event.steps) if step.depth == 0), None)


def _step(event: RunFinished) -> str:
    """The step that failed, else the method that was called."""
    if event.failure is not None:
        return event.failure.step
    if event.outcome == "ok_with_failed_jobs":
        return "load"
    outermost = _outermost(event)
    return outermost.step if outermost is not None else "run"


def _where(failure: Failure) -> str:
    """Resource and table, and the line of the user's code."""
    # a group is raised where its tasks are waited for, long after the line that failed
    chain = sorted(failure.chain, key=lambda info: info.type in GROUP_TYPES)
    of_users = ([frame for frame in info.frames if frame.in_app] for info in chain)
    # not the innermost exception: that may be an earlier one, which was handled when the run was called
    frames = next(filter(None, of_users), [])
    parts = [
        f"resource {failure.resource}" if failure.resource else "",
        f"table {failure.table}" if failure.table else "",
        *(f"{frame.function} ({PurePath(frame.path).name}:{frame.line})" for frame in frames[-1:]),
    ]
    return ", ".join(filter(None, parts))


def _message(failure: Failure) -> str:
    """The message of the root cause, and what the user's code raised because of it, if it did."""
    raised = next((info for info in failure.chain if not info.type.startswith("dlt.")), None)
    if raised is None or (raised.type, raised.message) == (failure.error_type, failure.message):
        return failure.message
    return (
        f"{shortened(failure.message, _LONGEST)}\n"
        f"raised as {raised.type}: {shortened(raised.message, _LONGEST)}"
    )


def _reason(job: FailedJob, failure: Failure | None) -> str:
    """Why a job failed, unless the root cause has said so."""
    reason = without_frames(job.message)
    above = "" if failure is None else failure.message.strip()
    return "as above" if above and (reason == above or reason.endswith(f": {above}")) else reason


def _rows(event: RunFinished) -> str:
    """The rows of the last step that wrote some."""
    steps = {step.step: step for step in event.steps}
    if "load" in steps:
        loaded = [job for job in steps["load"].load_jobs if job.state == "completed" and not job.internal]
        rows = sum(job.rows or 0 for job in loaded)
        # an earlier run has normalized them; what follows a merge has no rows of its own
        if any(job.rows is None and not job.is_follow_up for job in loaded):
            return f"at least {rows:,} loaded" if rows else ""
        return f"{rows:,} loaded"
    for name in ("normalize", "extract"):
        # a step that failed has often no metrics, so nothing is known
        if name in steps and (steps[name].rows or steps[name].failure is None):
            return f"{steps[name].rows:,} {name.rstrip('e')}ed"
    return ""


def _jobs(event: RunFinished) -> str:
    states = {job.job_id: str(job.state) for step in event.steps for job in step.load_jobs}
    # the one that ended the step may have been queued again
    states |= {job.job_id: "failed" for job in event.failed_jobs}
    return ", ".join(f"{count:,} {state}" for state, count in sorted(Counter(states.values()).items()))


def _destination(run: Run) -> str:
    return " / ".join(part for part in (run.destination_name, run.dataset) if part)


def _packages(event: RunFinished) -> str:
    named = {
        "pending": event.pending_packages,
        "partly loaded": event.partly_loaded_packages,
        "aborted": event.aborted_packages,
    }
    return "; ".join(f"{state}: {', '.join(_first(list(ids)))}" for state, ids in named.items() if ids)


def _retry(event: RunFinished) -> str:
    if event.outcome in {"terminated", "lost"}:
        return "yes, it was stopped from outside"
    if event.failure is not None:
        return _WORTH[event.failure.kind]
    return "no, the jobs failed for good" if event.outcome == "ok_with_failed_jobs" else ""


def _first(items: list[str]) -> tuple[str, ...]:
    rest = len(items) - _SHOWN
    return (*items[:_SHOWN], *([f"and {rest:,} more"] if rest > 0 else []))


def _duration(seconds: float) -> str:
    seconds = max(seconds, 0.0)
    if seconds < _MINUTE:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
