"""dltobs' own lines in dlt's log: start, steps and end of each run, lost runs, schema changes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from dltobs._context.current import Correlation
from dltobs._describe import without_frames
from dltobs._event_parts import total
from dltobs._events import RunFinished, RunLost, StepFinished, StepStarted
from dltobs._runs.jobs import is_internal
from dltobs._runs.schema_changes import told
from dltobs.logs.records import CORRELATION_ATTRIBUTE, EXCEPTION_ATTRIBUTE, WITH_IDS_ATTRIBUTE

if TYPE_CHECKING:
    from dltobs._event_parts import Failure, Run
    from dltobs._events import Event, SchemaChange
    from dltobs.logs.attach import LoggerHook

_MAX_LINES = 50
_MAX_CHANGES = 500
"""In the fields of a record."""
_MAX_CAUSE = 300
"""Characters of the root cause in a message."""


class StartSink:
    """Logs `Run of shop started` (INFO).

    It comes after the sink that starts the span of the run, so that the line bears the ids of that span.

    Args:
        hook: Knows dlt's logger, and the level of these lines.
    """

    is_log = True

    def __init__(self, hook: LoggerHook) -> None:
        self._hook = hook

    def emit(self, event: Event) -> None:
        """Write the line when the outermost step starts."""
        if isinstance(event, StepStarted) and event.depth == 0:
            attempt = {} if event.run.attempt is None else {"attempt": event.run.attempt}
            message = f"Run of {event.run.pipeline} started{_attempt_of(event.run)}"
            self._hook.log(logging.INFO, message, {**attempt, WITH_IDS_ATTRIBUTE: True})

    def flush(self, timeout: float) -> bool:  # noqa: ARG002 - the protocol's
        """The handlers write at once."""
        return True

    def close(self) -> None:
        """There is nothing to let go of."""


class LogSink:
    """Logs each run through dlt's logger, so that all handlers on it get the lines.

    - The end of each step that went well: INFO, with what it did, `rows` and `duration` (s).
    - The end of a run, one line: ERROR for `failed` and `terminated`, WARNING for `ok_with_failed_jobs` and
      for a failed attempt of a retry loop that may go on, INFO for `ok` and `no_data`. The message names the
      step, the resource or table, and the root cause. Fields: `outcome`, `duration` (s), `rows` where they
      are known, `failed_jobs` (their number), in a retry loop `attempt`; after a failure `failed_step`,
      `error_type`, `failure_kind`, `resource` and `table` where they are known, and `exception` (JSON and
      loguru: type, message and stack trace of the root cause).
    - An earlier run that was lost: ERROR, with its own ids and `outcome`.
    - The schema changes of a load: INFO, or WARNING where a type did not fit; beside the message
      `schema_changes`, objects with the fields of `SchemaChange` that are set, and `load_ids`.

    Args:
        hook: Knows dlt's logger, and the level of these lines.
    """

    is_log = True

    def __init__(self, hook: LoggerHook) -> None:
        self._hook = hook

    def emit(self, event: Event) -> None:
        """Write the line of an event, if it has one."""
        if isinstance(event, StepFinished):
            self._log_step(event)
            if event.schema_changes:
                self._log_schema_changes(event)
        elif isinstance(event, RunFinished):
            self._hook.log(level_of(event), _end_message(event), _end_fields(event))
        elif isinstance(event, RunLost):
            self._log_lost(event)

    def flush(self, timeout: float) -> bool:  # noqa: ARG002 - the protocol's
        """The handlers write at once."""
        return True

    def close(self) -> None:
        """There is nothing to let go of."""

    def _log_step(self, event: StepFinished) -> None:
        # the failure of a step is told by the line of its run
        if event.failure is not None or event.step not in {"extract", "normalize", "load"}:
            return
        rows: int | None = event.rows
        if event.step == "extract":
            names = {resource.name for resource in event.resources if not is_internal(resource.name)}
            work = _count(len(names), "resource")
        elif event.step == "normalize":
            work = _count(len([table for table in event.tables if not table.internal]), "table")
        else:
            work = _count(len([job for job in event.load_jobs if not job.internal]), "job")
            rows = total(job.rows for job in event.load_jobs if job.has_loaded)
        fields = {"duration": round(event.duration, 3)}
        if rows is not None:
            fields["rows"] = rows
            work = f"{work}, {_count(rows, 'row')}"
        self._hook.log(logging.INFO, f"{event.step}: {work} in {event.duration:,.1f} s", fields)

    def _log_schema_changes(self, event: StepFinished) -> None:
        changes = event.schema_changes
        conflicts = any(change.kind == "variant_column" for change in changes)
        lines = told(changes, first_run=event.run.first_run, limit=_MAX_LINES)
        fields = {
            "schema_changes": [_fields(change) for change in changes[:_MAX_CHANGES]],
            "load_ids": list(dict.fromkeys(change.load_id for change in changes)),
        }
        level = logging.WARNING if conflicts else logging.INFO
        self._hook.log(level, f"Schema changes: {'; '.join(lines)}", fields)

    def _log_lost(self, event: RunLost) -> None:
        step = event.step or event.method
        ids = Correlation(event.run.pipeline, step, event.run.transaction_id, event.trace_id, event.span_id)
        where = f" in {event.step}" if event.step else ""
        self._hook.log(
            logging.ERROR,
            f"Run of {event.run.pipeline} lost{where}: process {event.pid} on {event.host} died without "
            f"reporting its end, last seen at {event.last_seen_at:%Y-%m-%d %H:%M:%S %Z}",
            {"outcome": event.outcome, **ids_of(ids)},
        )


def level_of(event: RunFinished) -> int:
    """Return the level of the line that tells the end of a run."""
    if event.outcome == "failed":
        # whether another attempt follows may not be known yet: then the retry loop logs the error
        return logging.ERROR if event.will_retry is False else logging.WARNING
    if event.outcome in {"terminated", "lost"}:
        return logging.ERROR
    return logging.WARNING if event.outcome == "ok_with_failed_jobs" else logging.INFO


def _end_message(event: RunFinished) -> str:
    """Say in one line how a run ended: `Run of shop failed in extract (resource orders) after 0.5 s: …`."""
    how, details = "finished", []
    if event.outcome in {"failed", "terminated"}:
        how = event.outcome
        if event.failure is not None:
            how = f"{how} in {event.failure.step}{_place_of(event.failure)}"
            details.append(_cause_of(event.failure))
    elif event.outcome == "ok_with_failed_jobs":
        jobs = event.failed_jobs
        how = f"{how} with {_count(len(jobs), 'failed job')}"
        details += [f"table {job.table}: {_one_line(without_frames(job.message))}" for job in jobs[:1]]
        if len(jobs) > 1:
            details.append(f"and {len(jobs) - 1:,} more")
    elif event.outcome == "no_data":
        details.append("no data")
    circumstances = _attempt_of(event.run)
    if event.outcome == "failed" and event.will_retry:
        circumstances += ", another one follows"
    if event.outcome == "ok" and event.rows is not None and any(step.step == "load" for step in event.steps):
        details.append(f"{_count(event.rows, 'row')} loaded")
    elif event.rows:
        circumstances += f", {_count(event.rows, 'row')} loaded"
    message = f"Run of {event.run.pipeline} {how} after {event.duration:,.1f} s{circumstances}"
    return f"{message}: {'; '.join(details)}" if details else message


def _end_fields(event: RunFinished) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "outcome": event.outcome,
        "duration": round(event.duration, 3),
        "failed_jobs": len(event.failed_jobs),
    }
    if event.rows is not None:
        fields["rows"] = event.rows
    if event.run.attempt is not None:
        fields["attempt"] = event.run.attempt
    failure = event.failure
    if failure is not None:
        named = {
            "failed_step": failure.step,
            "error_type": failure.error_type,
            "failure_kind": failure.kind,
            "resource": failure.resource,
            "table": failure.table,
        }
        fields |= {name: value for name, value in named.items() if value is not None}
        if event.outcome in {"failed", "terminated"}:
            fields[EXCEPTION_ATTRIBUTE] = (failure.error_type, failure.message, _stacktrace_of(failure))
    outermost = next((step for step in reversed(event.steps) if step.depth == 0), None)
    if outermost is not None:
        # the span of the run is not the current one any more
        run = event.run
        fields |= ids_of(
            Correlation(
                run.pipeline, outermost.step, run.transaction_id, outermost.trace_id, outermost.span_id
            )
        )
    return fields


def ids_of(ids: Correlation) -> dict[str, Any]:
    """Return the fields that make a record belong to another run or span than the current one."""
    known = {name: value for name, value in ids._asdict().items() if value is not None}
    return {**known, CORRELATION_ATTRIBUTE: tuple(ids), WITH_IDS_ATTRIBUTE: True}


def _attempt_of(run: Run) -> str:
    return "" if run.attempt is None else f", attempt {run.attempt}"


def _place_of(failure: Failure) -> str:
    if failure.resource:
        return f" (resource {failure.resource})"
    return f" (table {failure.table})" if failure.table else ""


def _cause_of(failure: Failure) -> str:
    """Return type and message of the root cause in one line; of a signal its name."""
    message = _one_line(failure.message)
    if failure.error_type == "Signal":
        return message
    more = f" (and {failure.more:,} more)" if failure.more else ""
    return f"{failure.error_type}: {message}{more}" if message else f"{failure.error_type}{more}"


def _one_line(text: str) -> str:
    line = " ".join(text[: 10 * _MAX_CAUSE].split())
    return line if len(line) <= _MAX_CAUSE else f"{line[:_MAX_CAUSE]}…"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _stacktrace_of(failure: Failure) -> str:
    """Return the stack trace of the root cause alone, as Python prints it; else that of the whole chain."""
    cause = (failure.error_type, failure.message)
    root = next((info for info in failure.chain if (info.type, info.message) == cause), None)
    if root is None or not root.frames:
        return failure.stacktrace
    lines = ["Traceback (most recent call last):"]
    for frame in root.frames:
        lines.append(f'  File "{frame.path}", line {frame.line}, in {frame.function}')
        lines += [f"    {frame.source}"] if frame.source else []
    return "\n".join([*lines, f"{root.type}: {root.message}" if root.message else root.type])


def _fields(change: SchemaChange) -> dict[str, Any]:
    fields = {
        "kind": change.kind,
        "table": change.table,
        "column": change.column,
        "data_type": change.data_type,
        "hints": list(change.hints) or None,
        "columns": change.columns or None,
        "base_column": change.base_column,
        "base_type": change.base_type,
    }
    return {name: value for name, value in fields.items() if value is not None}
