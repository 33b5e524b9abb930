"""Lines in dlt's log that dlt does not write itself: schema changes of a load, the outcome of a run."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from dltobs._context.current import Correlation
from dltobs._events import RunFinished, RunLost, StepFinished
from dltobs._runs.schema_changes import told
from dltobs.logs.records import CORRELATION_ATTRIBUTE

if TYPE_CHECKING:
    from dltobs._event_parts import Failure
    from dltobs._events import Event, SchemaChange

_MAX_LINES = 50
_MAX_CHANGES = 500
"""In the fields of a record."""
_MAX_CAUSE = 200
"""Characters."""


class LogSink:
    """Logs through dlt's own logger, so that its level and all its handlers count.

    - The schema changes of a load: INFO, or WARNING where a type did not fit; beside the message
      `schema_changes`, objects with the fields of `SchemaChange` that are set, and `load_ids`.
    - The end of a run: INFO, for dlt itself has logged what failed; ERROR where a signal has ended it;
      with `outcome`, `duration` (s), `rows` where they are known, `failed_jobs` (their number), in a retry
      loop `attempt`, and, after a failure, `failed_step`, `error_type` and `failure_kind`.
    - An earlier run that was lost: ERROR, with its own ids and `outcome`.
    """

    is_log = True

    def emit(self, event: Event) -> None:
        """Write the line of an event, if it has one."""
        if isinstance(event, StepFinished) and event.schema_changes:
            _log_schema_changes(event)
        elif isinstance(event, RunFinished):
            _log_end(event)
        elif isinstance(event, RunLost):
            _log_lost(event)

    def flush(self, timeout: float) -> bool:  # noqa: ARG002 - the protocol's
        """The handlers write at once."""
        return True

    def close(self) -> None:
        """There is nothing to let go of."""


def _log_schema_changes(event: StepFinished) -> None:
    changes = event.schema_changes
    conflicts = any(change.kind == "variant_column" for change in changes)
    lines = told(changes, first_run=event.run.first_run, limit=_MAX_LINES)
    _log(
        logging.WARNING if conflicts else logging.INFO,
        f"Schema changes: {'; '.join(lines)}",
        schema_changes=[_fields(change) for change in changes[:_MAX_CHANGES]],
        load_ids=list(dict.fromkeys(change.load_id for change in changes)),
    )


def _log_end(event: RunFinished) -> None:
    fields: dict[str, Any] = {
        "outcome": event.outcome,
        "duration": round(event.duration, 3),
        "failed_jobs": len(event.failed_jobs),
    }
    rows = ""
    if event.rows is not None:
        fields["rows"] = event.rows
        rows = f", {event.rows:,} row{'' if event.rows == 1 else 's'}"
    if event.run.attempt is not None:
        fields["attempt"] = event.run.attempt
    if event.failure is not None:
        fields |= {
            "failed_step": event.failure.step,
            "error_type": event.failure.error_type,
            "failure_kind": event.failure.kind,
        }
    outermost = next((step for step in reversed(event.steps) if step.depth == 0), None)
    if outermost is not None:
        # the span of the run is the current one no more
        run = event.run
        ids = Correlation(
            run.pipeline, outermost.step, run.transaction_id, outermost.trace_id, outermost.span_id
        )
        fields |= {name: value for name, value in ids._asdict().items() if value is not None}
        fields[CORRELATION_ATTRIBUTE] = tuple(ids)
    failure = event.failure if event.outcome == "terminated" else None
    by = "" if failure is None else f" by {_in_short(failure)} in {failure.step}"
    _log(
        logging.INFO if failure is None else logging.ERROR,
        f"Run of {event.run.pipeline}: {event.outcome}{by}{rows} in {event.duration:.2f} s",
        **fields,
    )


def _in_short(failure: Failure) -> str:
    """What a run was ended by, in one line; a `KeyboardInterrupt` has no text."""
    line = next(iter(failure.summary.strip().splitlines()), failure.error_type)
    return line if len(line) <= _MAX_CAUSE else f"{line[:_MAX_CAUSE]}…"


def _log_lost(event: RunLost) -> None:
    where = f" in {event.step}" if event.step else ""
    ids = Correlation(
        event.run.pipeline,
        event.step or event.method,
        event.run.transaction_id,
        event.trace_id,
        event.span_id,
    )
    _log(
        logging.ERROR,
        f"Run of {event.run.pipeline}: lost, its process died{where} without a word "
        f"(process {event.pid} on {event.host}, last seen at {event.last_seen_at:%Y-%m-%d %H:%M:%S %Z})",
        outcome=event.outcome,
        **{name: value for name, value in ids._asdict().items() if value is not None},
        **{CORRELATION_ATTRIBUTE: tuple(ids)},
    )


def _log(level: int, message: str, **fields: Any) -> None:
    from dlt.common import logger

    # the module answers any attribute; before dlt has made its logger there is none
    dlts: logging.Logger | None = vars(logger).get("LOGGER")
    if dlts is not None:
        dlts.log(level, "%s", message, extra=fields)


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
