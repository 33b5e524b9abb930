"""Puts the end of a run into Markdown: its outcome, steps, tables, rows, failed jobs and schema changes.

Every text comes from a redacted event.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from dltobs._cut import cut
from dltobs._event_parts import total
from dltobs._runs.schema_changes import told

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dltobs._events import RunFinished

_MAX_TABLES = 100
_MAX_LINES = 20
"""Failed jobs, and schema changes."""
_CELL_LENGTH = 200
_MESSAGE_LENGTH = 4000
_KEY_LENGTH = 100
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~!])")


def key_of(pipeline: str) -> str:
    """The key of an artifact, under which Prefect keeps the versions of one: lower case, digits, dashes."""
    slug = re.sub(r"[^a-z0-9]+", "-", pipeline.lower()).strip("-")
    return f"dlt-{slug}"[:_KEY_LENGTH].rstrip("-")


def report(event: RunFinished) -> str:
    """The Markdown of a run; at most some 60,000 characters."""
    parts = [f"# {_text(event.run.pipeline)}: {event.outcome}", _facts(event), _failure(event)]
    parts += [_steps(event), _tables(event), _failed_jobs(event), _schema_changes(event)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(event: RunFinished) -> str:
    run = event.run
    outermost = next((step for step in reversed(event.steps) if step.depth == 0), None)
    facts = {
        "Rows": _number(event.rows),
        "Bytes": _number(event.bytes),
        "Duration": f"{event.duration:.2f} s",
        "Destination": " / ".join(_text(part) for part in (run.destination_name, run.dataset) if part),
        "Transaction": f"`{run.transaction_id}`",
        "Trace": f"`{outermost.trace_id}`" if outermost is not None and outermost.span_id else "",
        "Loads": ", ".join(f"`{load_id}`" for load_id in event.load_ids[:_MAX_LINES]),
        "Pending packages": ", ".join(f"`{load_id}`" for load_id in event.pending_packages[:_MAX_LINES]),
    }
    return _table(("", ""), ((name, value) for name, value in facts.items() if value))


def _failure(event: RunFinished) -> str:
    failure = event.failure
    if failure is None:
        return ""
    place = failure.resource or failure.table
    where = f"{failure.step}, {place}" if place else failure.step
    # indented, it is code: nothing in it is markup
    lines = cut(failure.summary, _MESSAGE_LENGTH).splitlines() or [""]
    quoted = "\n".join(f"    {line}" for line in lines)
    return f"## Failed in {_text(where)}\n\n{_text(failure.error_type)}\n\n{quoted}"


def _steps(event: RunFinished) -> str:
    rows = [
        (step.step, f"{step.duration:.2f} s", "failed" if step.failure is not None else "ok")
        for step in event.steps
        if step.step != "run"
    ]
    return f"## Steps\n\n{_table(('step', 'time', ''), rows)}" if rows else ""


def _tables(event: RunFinished) -> str:
    """The tables that jobs have loaded, or where it did not come to that, those that were extracted."""
    written: dict[str, list[tuple[int | None, int | None]]] = defaultdict(list)
    loaded = [job for step in event.steps for job in step.load_jobs if not job.internal]
    for job in loaded:
        if job.has_loaded:
            written[job.table].append((job.rows, job.bytes))
    heading = "Loaded"
    if not loaded:
        step = next((one for one in reversed(event.steps) if one.tables), None)
        if step is None:
            return ""
        heading = f"Written by {step.step}"
        for table in step.tables:
            if not table.internal:
                written[table.name].append((table.rows, table.bytes))
    if not written:
        return ""
    sums = (
        (name, total(rows for rows, _ in files), total(size for _, size in files))
        for name, files in written.items()
    )
    largest = sorted(sums, key=lambda one: (-(one[1] or 0), one[0]))
    shown = [(_text(name), _number(rows), _number(size)) for name, rows, size in largest[:_MAX_TABLES]]
    if len(largest) > _MAX_TABLES:
        _, rows, size = zip(*largest[_MAX_TABLES:], strict=True)
        shown.append((f"and {len(rows):,} more", _number(total(rows)), _number(total(size))))
    return f"## {heading}\n\n{_table(('table', 'rows', 'bytes'), shown)}"


def _failed_jobs(event: RunFinished) -> str:
    jobs = event.failed_jobs
    if not jobs:
        return ""
    rows = [(_text(job.table), _text(job.job_id), _text(job.message)) for job in jobs[:_MAX_LINES]]
    more = f"\n\nand {len(jobs) - _MAX_LINES:,} more" if len(jobs) > _MAX_LINES else ""
    return f"## Failed jobs\n\n{_table(('table', 'job', 'message'), rows)}{more}"


def _schema_changes(event: RunFinished) -> str:
    lines = told(event.schema_changes, first_run=event.run.first_run, limit=_MAX_LINES)
    return "## Schema changes\n\n" + "\n".join(f"- {_text(line)}" for line in lines) if lines else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _number(number: int | None) -> str:
    """Nothing for one that is not known."""
    return "" if number is None else f"{number:,}"


def _text(text: str) -> str:
    """A text of the data, of which nothing is markup, in one line."""
    return _MARKUP.sub(r"\\\1", " ".join(cut(text, _CELL_LENGTH).split()))
