"""Keeps a ledger of all runs in the destination of each pipeline, in a dataset of its own."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from dltobs._aside import CannotLoadAsideError, target_of
from dltobs._context.current import current_correlation, hooked_pipeline
from dltobs._events import RunFinished, RunLost, RunStarted, StepStarted
from dltobs.sinks.ledger_tables import begun, encodable, finished, lost, tags_text
from dltobs.sinks.ledger_writer import Entry, LedgerWriter

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path
    from typing import Any

    from dltobs._aside import Target
    from dltobs._events import Event, Run
    from dltobs._settings.settings import Settings
    from dltobs._warnings import Warner
    from dltobs.sinks.delivery import Delivery

_PATIENCE = 30.0
"""Seconds for which the end of a run waits for its ledger entry."""
_ONE_WRITER = ("duckdb", "ducklake", "sqlalchemy", "sqlite", "lance")
"""Types of destinations that are, or may be, a file with one writer: while it is ours, the run waits."""
_STOPPED = frozenset({"terminated"})
"""Outcomes that are told when the process ends, which waits in the flush."""


class LedgerSink:
    """Writes a row of `runs` when a run starts, and completes it with all the others when it ends.

    It waits for the end's rows, so that nothing of ours is still at work in the destination when `run()`
    returns: a DuckDB file would be locked for the caller.

    Args:
        settings: The dataset and the tags.
        warner: Its redactor is what the tags pass; told of destinations without datasets.
        delivery: The counters.
        folder: Where the ledger's own pipelines work, and what could not be written waits.
    """

    def __init__(self, settings: Settings, warner: Warner, delivery: Delivery, folder: Path) -> None:
        from dlt.version import __version__ as dlt_version

        self._dataset = settings.ledger_dataset
        self._warner = warner
        self._delivery = delivery
        self._writer = LedgerWriter(delivery, folder)
        self._targets: dict[str, Target | None] = {}
        self._started: dict[str, datetime] = {}
        self._lost: dict[str, list[RunLost]] = {}
        self._tags = settings.tags
        self._dlt_version = dlt_version

    def emit(self, event: Event) -> None:
        """Write what an event tells, if it is the beginning or the end of a run."""
        if isinstance(event, RunLost):
            self._lost.setdefault(event.noticed_by, []).append(event)
        elif isinstance(event, RunStarted):
            self._started[event.run.transaction_id] = event.at
        elif isinstance(event, StepStarted):
            # a run may be given another destination or dataset, which it has once its first step begins
            is_known = event.step == "run" or event.run.transaction_id in self._targets
            target = None if is_known else self._target(event.run)
            if target is not None:
                self._begin(event, target)
        elif isinstance(event, RunFinished):
            self._started.pop(event.run.transaction_id, None)
            known = self._targets.pop(event.run.transaction_id, None)
            target = known or self._target(event.run, is_end=True)
            if target is not None:
                self._tell_lost(event.run, target)
                self._write(target, event.run, finished(event, self._process()), is_end=True)
                if event.outcome not in _STOPPED:
                    self._writer.wait(_PATIENCE)

    def _begin(self, event: StepStarted, target: Target) -> None:
        self._tell_lost(event.run, target)
        correlation = current_correlation()
        trace_id = None if correlation is None else correlation.trace_id
        started_at = self._started.get(event.run.transaction_id, event.at)
        rows = begun(event.run, started_at, trace_id, self._process())
        self._write(target, event.run, rows, is_end=False)
        if any(kind in str(event.run.destination_type) for kind in _ONE_WRITER):
            self._writer.wait(_PATIENCE)

    def _tell_lost(self, run: Run, target: Target) -> None:
        """Write of the runs that this one has noticed to be lost: it knows the way."""
        for told in self._lost.pop(run.transaction_id, ()):
            self._write(target, told.run, lost(told, self._process()), is_end=True)

    def flush(self, timeout: float) -> bool:
        """Wait until everything is written, at most `timeout` seconds. True: it is."""
        return self._writer.flush(timeout) and self._delivery.everything_delivered()

    def close(self) -> None:
        """Write nothing any more; what still waits is counted as lost."""
        self._delivery.abandon("not written before the deadline")
        self._writer.close()

    def _target(self, run: Run, *, is_end: bool = False) -> Target | None:
        """Where the run writes to; None where that is not known (yet), or holds no datasets."""
        pipeline = hooked_pipeline.get()
        if pipeline is None or pipeline.working_dir != run.working_dir:
            return None
        try:
            target = target_of(pipeline)
        except CannotLoadAsideError as error:
            self._warner.warn("ledger", f"ledger: runs of {run.pipeline} are not recorded: {error}")
            target = None
            if not is_end:
                self._targets[run.transaction_id] = None
        if target is not None and not is_end:
            self._targets[run.transaction_id] = target
        return target

    def _write(self, target: Target, run: Run, rows: Any, *, is_end: bool) -> None:
        of_run = run.dataset or target.dataset
        beside = f"{of_run}_dltobs"
        dataset = self._dataset or beside
        if _is_same(dataset, of_run, _naming()):
            # our tables would be among the user's, and his among ours where they have the same names
            self._warner.warn(
                "ledger",
                f"ledger: the dataset {of_run} is that of the pipeline {run.pipeline} itself; "
                f"its ledger is in {beside}",
            )
            dataset = beside
        self._writer.write(Entry(run.transaction_id, is_end, target, dataset, encodable(rows)))

    def _process(self) -> dict[str, Any]:
        """What is the same in all rows of `runs`, with what dlt has resolved by now taken out."""
        clean = self._warner.clean
        return {
            "dlt_version": self._dlt_version,
            "host": clean(platform.node()) or None,
            "tags": tags_text({clean(name): clean(value) for name, value in self._tags.items()}),
        }


def _naming() -> Any:
    """How dlt writes names for the pipeline in whose hook we are, or for one without a schema."""
    from dlt.common.schema import Schema

    try:
        return hooked_pipeline.get().default_schema.naming
    except Exception:  # noqa: BLE001 - no hook, or no schema yet
        return Schema("dltobs").naming


def _is_same(one: str, other: str, naming: Any) -> bool:
    """Whether two names are those of one dataset. Many databases do not tell upper case from lower."""
    written = [naming.normalize_table_identifier(name).casefold() for name in (one, other)]
    return bool(written[0] == written[1])
