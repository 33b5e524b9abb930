"""The rows of the run ledger that an event gives; their columns are in `dltobs.sinks.ledger_columns`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from dltobs._alerts.fingerprint import telling_line
from dltobs._cut import cut
from dltobs._event_parts import total
from dltobs._redaction.encodings import without_surrogates

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from dltobs._events import Run, RunFinished, RunLost, StepFinished

Rows = dict[str, list[dict[str, Any]]]
"""By table name."""

_MAX_TEXT = 4000
"""Characters of a message."""
_MAX_JOBS = 10_000
"""Of a run; of more, the ones that did not complete come first."""


def begun(run: Run, started_at: datetime, trace_id: str | None, process: Mapping[str, Any]) -> Rows:
    """The row of a run that has begun; it has no outcome yet."""
    return {"runs": [{**_identity(run, process), "trace_id": trace_id, "started_at": started_at}]}


def lost(event: RunLost, process: Mapping[str, Any]) -> Rows:
    """The row of a run whose process died; its end is when that process last gave a sign of life."""
    row = {
        **_identity(event.run, process),
        "trace_id": event.trace_id or event.run.transaction_id,
        "started_at": event.started_at,
        "finished_at": event.last_seen_at,
        "outcome": event.outcome,
        "error_type": event.outcome,
        "error_message": f"in {event.step or event.method}, process {event.pid}",
        "host": event.host,
    }
    return {"runs": [row]}


def finished(event: RunFinished, process: Mapping[str, Any]) -> Rows:
    """All rows of a run that has ended; that of its beginning gives way to the one in `runs`."""
    error_type, error_message = _error(event)
    outermost = next((step for step in reversed(event.steps) if step.depth == 0), None)
    run = {
        **_identity(event.run, process),
        "trace_id": None if outermost is None else outermost.trace_id,
        "started_at": event.started_at,
        "finished_at": event.finished_at,
        "outcome": event.outcome,
        "error_type": error_type,
        "error_message": error_message,
        "rows": event.rows,
        "bytes": event.bytes,
        "failed_jobs": len(event.failed_jobs),
        "will_retry": event.will_retry,
    }
    key = event.run.transaction_id
    return {
        "runs": [run],
        "steps": [_step(key, step) for step in event.steps],
        "tables": [row for step in event.steps for row in _tables(key, step)],
        "jobs": _jobs(key, event.steps),
        "schema_changes": [row for step in event.steps for row in _schema_changes(key, step)],
    }


def encodable(rows: Rows) -> Rows:
    """The rows without lone surrogates, which no database takes.

    They come from file names and broken input.
    """

    def clean(value: Any) -> Any:
        return without_surrogates(value) if isinstance(value, str) else value

    return {
        table: [{name: clean(value) for name, value in row.items()} for row in several]
        for table, several in rows.items()
    }


def _error(event: RunFinished) -> tuple[str | None, str | None]:
    """Type and message of what went wrong: of failed jobs, those of the first."""
    failure = event.failure
    if failure is not None:
        return failure.error_type, cut(failure.summary, _MAX_TEXT)
    if not event.failed_jobs:
        return None, None
    failed = event.failed_jobs[0]
    jobs = [job for step in event.steps for job in step.load_jobs if job.job_id == failed.job_id]
    last = next((job.attempts[-1] for job in reversed(jobs) if job.attempts), None)
    if last is not None and last.message is not None:
        return last.error_type, cut(last.message, _MAX_TEXT)
    return None, cut(telling_line(failed.message), _MAX_TEXT)


def _identity(run: Run, process: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "transaction_id": run.transaction_id,
        "pipeline": run.pipeline,
        "attempt": run.attempt,
        "retry_id": run.retry_id,
        **process,
    }


def tags_text(tags: Mapping[str, str]) -> str | None:
    """Tags as a JSON object; None where there are none."""
    return json.dumps(dict(tags), ensure_ascii=False, sort_keys=True) if tags else None


def _load_ids(step: StepFinished) -> str | None:
    ids = dict.fromkeys(package.load_id for package in step.packages)
    if not ids and step.failure is not None and step.failure.load_id:
        ids = {step.failure.load_id: None}
    return ",".join(ids) or None


def _step(key: str, step: StepFinished) -> dict[str, Any]:
    failure, loaded = step.failure, [job for job in step.load_jobs if job.has_loaded]
    return {
        "transaction_id": key,
        "load_id": _load_ids(step),
        "step": step.step,
        "depth": step.depth,
        "started_at": step.started_at,
        "finished_at": step.finished_at,
        "duration": step.duration,
        "rows": total(job.rows for job in loaded) if step.load_jobs else step.rows,
        "bytes": total(job.bytes for job in loaded) if step.load_jobs else step.bytes,
        "error_type": None if failure is None else failure.error_type,
        "error_message": None if failure is None else cut(failure.summary, _MAX_TEXT),
        "span_id": step.span_id,
    }


def _tables(key: str, step: StepFinished) -> Iterable[dict[str, Any]]:
    """What extract and normalize wrote, and what load sent, for each table of the user's."""
    common = {"transaction_id": key, "load_id": _load_ids(step), "step": step.step}
    for table in step.tables:
        if not table.internal:
            yield {
                **common,
                "table_name": table.name,
                **_window(table.started_at, table.finished_at),
                "rows": table.rows,
                "bytes": table.bytes,
                "jobs": None,
            }
    by_table: dict[str, list[Any]] = {}
    for job in step.load_jobs:
        if not job.internal:
            by_table.setdefault(job.table, []).append(job)
    for name, jobs in by_table.items():
        starts = [job.started_at for job in jobs if job.started_at is not None]
        ends = [job.finished_at for job in jobs if job.finished_at is not None]
        done = [job for job in jobs if job.has_loaded]
        yield {
            **common,
            "table_name": name,
            **_window(min(starts, default=None), max(ends, default=None)),
            "rows": total(job.rows for job in done),
            "bytes": total(job.bytes for job in done),
            "jobs": len(jobs),
        }


def _jobs(key: str, steps: Iterable[StepFinished]) -> list[dict[str, Any]]:
    found = [(_load_ids(step), job) for step in steps for job in step.load_jobs if not job.internal]
    if len(found) > _MAX_JOBS:
        found.sort(key=lambda pair: pair[1].state == "completed")
    return [
        {
            "transaction_id": key,
            "load_id": load_id,
            "job_id": job.job_id,
            "table_name": job.table,
            "state": job.state,
            "file_format": job.file_format,
            **_window(job.started_at, job.finished_at),
            "rows": job.rows,
            "bytes": job.bytes,
            "retry_count": job.retry_count,
            "error_message": cut(job.failed_message, _MAX_TEXT) if job.failed_message else None,
        }
        for load_id, job in found[:_MAX_JOBS]
    ]


def _schema_changes(key: str, step: StepFinished) -> Iterable[dict[str, Any]]:
    for change in step.schema_changes:
        yield {
            "transaction_id": key,
            "load_id": change.load_id,
            "changed_at": step.finished_at,
            "kind": change.kind,
            "table_name": change.table,
            "column_name": change.column,
            "data_type": change.data_type,
            "base_column": change.base_column,
            "base_type": change.base_type,
            "hints": "; ".join(change.hints) or None,
        }


def _window(started_at: Any, finished_at: Any) -> dict[str, Any]:
    """Times of the work, and seconds between them."""
    is_known = started_at is not None and finished_at is not None
    seconds = max((finished_at - started_at).total_seconds(), 0.0) if is_known else None
    return {"started_at": started_at, "finished_at": finished_at, "duration": seconds}
