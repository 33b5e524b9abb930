"""Load what is installed in this Python into DuckDB, and watch the run with dltobs.

The input is on every machine and needs no network: the installed distributions with their metadata,
requirements and files, some ten thousand nested rows.

    python examples/quickstart.py
"""

from __future__ import annotations

import os
import tempfile
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dltobs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dltobs import Event, RunFinished

# a container would set these; nothing leaves this machine
os.environ.setdefault("RUNTIME__LOG_LEVEL", "INFO")
os.environ.setdefault("RUNTIME__DLTHUB_TELEMETRY", "false")


class LastRun:
    """A sink of your own: it remembers how the last run went."""

    finished: RunFinished | None = None

    def emit(self, event: Event) -> None:
        """Keep the end of a run."""
        if isinstance(event, dltobs.RunFinished):
            self.finished = event

    def flush(self, timeout: float) -> bool:  # noqa: ARG002 - the signature of every sink
        """Nothing is sent anywhere."""
        return True

    def close(self) -> None:
        """Nothing is open."""


def describe(distribution: Distribution) -> dict[str, Any]:
    """One installed package as a nested row."""
    metadata = distribution.metadata
    return {
        "name": metadata["Name"],
        "version": distribution.version,
        "summary": metadata["Summary"],
        "requires_python": metadata["Requires-Python"],
        "classifiers": metadata.get_all("Classifier") or [],
        "requirements": list(distribution.requires or []),
        "files": [
            {"path": str(file), "bytes": file.size, "hash": file.hash.value if file.hash else None}
            for file in distribution.files or []
        ],
    }


def print_tree(run: RunFinished) -> None:
    """The finished run: its steps with times and rows, the biggest tables below them."""
    seconds = (run.finished_at - run.started_at).total_seconds()
    print(f"\nrun {run.run.pipeline}: {run.outcome} in {seconds:.2f} s, trace {run.run.transaction_id}")
    inner = [step for step in run.steps if step.depth == 1]
    for step in inner:
        is_last = step is inner[-1]
        seconds = (step.finished_at - step.started_at).total_seconds()
        amount = f"{step.jobs:,} jobs" if step.step == "load" else f"{step.rows:,} rows"
        print(f"{'└' if is_last else '├'}── {step.step:<10}{seconds:7.2f} s {amount:>15}")
        tables = sorted((table for table in step.tables if not table.internal), key=lambda table: -table.rows)
        for table in tables:
            print(f"{' ' if is_last else '│'}   {table.name:<31}{table.rows:>9,} rows")


def main() -> None:
    """Configure dltobs, then use dlt as ever."""
    folder = Path(tempfile.mkdtemp(prefix="dltobs-quickstart-"))
    log_file, last_run = folder / "dlt.jsonl", LastRun()
    dltobs.configure(log_file=log_file, sinks=[last_run])

    import dlt

    @dlt.resource(name="distributions", primary_key="name", write_disposition="replace")
    def installed() -> Iterator[dict[str, Any]]:
        yield from map(describe, distributions())

    pipeline = dlt.pipeline(
        "quickstart",
        destination=dlt.destinations.duckdb(str(folder / "quickstart.duckdb")),
        dataset_name="python",
        pipelines_dir=str(folder / "pipelines"),
    )
    pipeline.run(installed())
    dltobs.shutdown()

    if last_run.finished is not None:
        print_tree(last_run.finished)
    print(f"\nThe log as JSON lines: {log_file}")


if __name__ == "__main__":
    main()
