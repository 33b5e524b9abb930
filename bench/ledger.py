"""What the run ledger adds to a run: no more than the loads of its own rows."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from measure import Figure, prepared, side_by_side

_TABLES = 10
_FEW_ROUNDS, _FEW_TABLES = 2, 1
"""So that a quick look is quick."""
_ROWS = 100


def cost_of_ledger(rounds: int) -> Figure:
    """A run with the ledger, against the run without it and the same rows loaded by hand."""
    tables = _TABLES if rounds > _FEW_ROUNDS else _FEW_TABLES
    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
    import dlt

    import dltobs
    from dltobs._aside import load_aside
    from dltobs.sinks import ledger_writer

    folder = Path(tempfile.mkdtemp(prefix="dltobs-bench-"))
    os.environ["DLT_DATA_DIR"] = str(folder / "dlt")
    loads: list[tuple[Any, ...]] = []

    def recorded(*arguments: Any) -> Any:
        loads.append(arguments)
        return load_aside(*arguments)

    pipeline = dlt.pipeline(
        "ledger",
        destination=dlt.destinations.duckdb(str(folder / "ledger.duckdb")),
        dataset_name="data",
        pipelines_dir=str(folder / "pipelines"),
    )

    def run() -> None:
        pipeline.run(
            [dlt.resource([{"id": row} for row in range(_ROWS)], name=f"t{table}") for table in range(tables)]
        )

    def run_and_load(_: Any) -> None:
        run()
        for arguments in loads:
            load_aside(*arguments)

    # the rows of the first run, which makes the tables, and of one that finds them
    vars(ledger_writer)["load_aside"] = recorded
    dltobs.configure(ledger=True)
    run()
    loads.clear()
    run()
    vars(ledger_writer)["load_aside"] = load_aside
    seconds = side_by_side(
        {
            "with the ledger": prepared(lambda: dltobs.configure(ledger=True), lambda _: run(), 1),
            "without, and its rows loaded": prepared(lambda: dltobs.configure(ledger=False), run_and_load, 1),
            "without": prepared(lambda: dltobs.configure(ledger=False), lambda _: run(), 1),
        },
        rounds,
    )
    dltobs.shutdown()
    return Figure(
        title=f"CPU time of a run of {tables} tables into DuckDB with the run ledger",
        subject="with the ledger",
        peer="without, and its rows loaded",
        goal=1.1,
        unit="a run",
        seconds=seconds,
        details={"tables": tables, "rows": _ROWS, "loads": len(loads)},
    )
