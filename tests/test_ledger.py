"""The run ledger: what it says of runs, and that nobody but itself notices it."""

from __future__ import annotations

import gzip
import json
import logging
import os
import re
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import dlt
import duckdb
import pytest
from dlt.pipeline.helpers import retry_load
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_none

import dltobs
from conftest import SECRET
from dltobs._aside import CannotLoadAsideError, target_of
from dltobs._events import FailedJob, Package, Run, RunFinished, StepFinished
from dltobs.sinks import ledger_columns, ledger_tables
from recording import RecordingSink
from scripts import PRELUDE, run_script, start_python

ROOT = Path(__file__).parents[1]
TABLES = ("jobs", "runs", "schema_changes", "steps", "tables")


@dlt.resource
def broken():
    yield {"id": 1}
    message = f"no such order, password={SECRET}"
    raise ValueError(message)


def query(path: Path, sql: str) -> list[dict[str, Any]]:
    with duckdb.connect(str(path)) as connection:
        result = connection.execute(sql)
        names = [column[0] for column in result.description]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


@pytest.fixture
def ledger(tmp_path):
    """Reads a table of the ledger of the pipeline `shop`."""
    return lambda sql: query(tmp_path / "shop.duckdb", sql)


def warnings(caplog) -> list[str]:
    return [record.message for record in caplog.records if record.name == "dltobs"]


def test_a_run_is_one_row_with_its_steps_tables_jobs_and_schema_changes(pipeline, ledger):
    """What design and documentation promise, with the numbers of the run."""
    dltobs.configure(ledger=True, tags="team=data")
    shop = pipeline()
    shop.run([{"id": 1, "items": [{"sku": "a"}, {"sku": "b"}]}], table_name="orders")
    (run,) = ledger("from shop_data_dltobs.runs")
    assert run["transaction_id"] == run["trace_id"] == shop.last_trace.transaction_id
    assert (run["pipeline"], run["outcome"], run["rows"], run["failed_jobs"]) == ("shop", "ok", 3, 0)
    assert (run["tags"], run["dlt_version"]) == ('{"team": "data"}', dlt.__version__)
    assert run["host"]
    assert run["bytes"] > 0
    assert run["error_type"] is None
    assert run["started_at"] < run["finished_at"]
    steps = ledger("select step, depth, rows from shop_data_dltobs.steps order by finished_at")
    assert [(one["step"], one["depth"]) for one in steps] == [
        ("extract", 1),
        ("normalize", 1),
        ("load", 1),
        ("run", 0),
    ]
    load_id = shop.last_trace.last_load_info.loads_ids[0]
    assert ledger(
        "select table_name, rows, jobs, load_id from shop_data_dltobs.tables where step = 'load' order by 1"
    ) == [
        {"table_name": "orders", "rows": 1, "jobs": 1, "load_id": load_id},
        {"table_name": "orders__items", "rows": 2, "jobs": 1, "load_id": load_id},
    ]
    jobs = ledger("select table_name, state, rows, retry_count from shop_data_dltobs.jobs order by 1")
    assert [tuple(job.values()) for job in jobs] == [
        ("orders", "completed", 1, 0),
        ("orders__items", "completed", 2, 0),
    ]
    changes = ledger("select kind, table_name from shop_data_dltobs.schema_changes order by 2")
    assert [tuple(change.values()) for change in changes] == [
        ("new_table", "orders"),
        ("new_table", "orders__items"),
    ]
    assert {key: run[key] for key in ("attempt", "will_retry")} == {"attempt": None, "will_retry": False}


def test_a_failed_run_is_recorded_without_secrets(pipeline, ledger, monkeypatch):
    """Root cause, outcome, the step that failed; no byte of what dlt resolved as a secret."""
    monkeypatch.setenv("API_KEY", SECRET)
    dltobs.configure(ledger=True)

    @dlt.source(name="api")
    def api(api_key: str = dlt.secrets.value):
        return broken()

    with pytest.raises(Exception, match="no such order"):
        pipeline().run(api())
    (run,) = ledger("from shop_data_dltobs.runs")
    assert (run["outcome"], run["error_type"]) == ("failed", "ValueError")
    assert run["error_message"] == "no such order, password=***"
    failed = ledger("select step from shop_data_dltobs.steps where error_type = 'ValueError' order by 1")
    assert [one["step"] for one in failed] == ["extract", "run"]


def test_failed_jobs_that_end_no_run_have_a_root_cause(pipeline, ledger, tmp_path, monkeypatch):
    """That of the first one: the destination's, in the words of an error of a run."""
    monkeypatch.setenv("LOAD__RAISE_ON_FAILED_JOBS", "false")
    dltobs.configure(ledger=True)
    shop = pipeline()
    shop.run([{"id": 1}], table_name="orders")
    with duckdb.connect(str(tmp_path / "shop.duckdb")) as connection:
        connection.execute("alter table shop_data.orders add column must int")
        connection.execute("update shop_data.orders set must = 1")
        connection.execute("alter table shop_data.orders alter must set not null")
    shop.run([{"id": 2}], table_name="orders")
    (run,) = ledger("from shop_data_dltobs.runs where failed_jobs > 0")
    assert (run["outcome"], run["failed_jobs"]) == ("ok_with_failed_jobs", 1)
    assert run["error_type"].endswith("ConstraintException")
    assert run["error_message"] == "Constraint Error: NOT NULL constraint failed: orders.must"
    (answer,) = ledger(f"use shop_data_dltobs; {statements()['failures by root cause']}")
    assert (answer["root_cause"], answer["failures"]) == (run["error_type"], 1)


def test_without_attempts_the_root_cause_is_the_telling_line_of_the_message():
    """Of a job that failed in a load of which no attempt was heard."""
    message = 'Traceback (most recent call last):\n  File "a.py", line 1, in f\n    g()\ndb.Gone: no table\nhint: x\n'
    package = Package("1.5", "loaded", "shop", (FailedJob("orders.1", "orders", message),))
    at = datetime.now(timezone.utc)
    load = StepFinished(Run("shop", "a" * 32), "load", 0, at, at, packages=(package,))
    event = RunFinished(load.run, "ok_with_failed_jobs", at, at, (load,))
    (run,) = ledger_tables.finished(event, {})["runs"]
    assert (run["error_type"], run["error_message"]) == (None, "db.Gone: no table")


def refuse_loads(shop: Any, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Have the next loads of a pipeline fail before their first job."""
    from dlt.load.load import Load

    original, left = Load.load_single_package, iter(range(times))

    def load_single_package(self: Any, load_id: str, schema: Any) -> Any:
        if schema.name == shop.default_schema_name and next(left, None) is not None:
            message = "destination away"
            raise ConnectionError(message)
        return original(self, load_id, schema)

    monkeypatch.setattr(Load, "load_single_package", load_single_package)


def test_rows_of_a_package_that_the_second_attempt_loads_are_those_of_the_first(
    pipeline, ledger, monkeypatch, tmp_path
):
    """dlt tells how many they are when they are normalized, and not again."""
    dltobs.configure(ledger=True, log_level="INFO", log_file=tmp_path / "dlt.log", log_file_format="text")
    shop = pipeline()
    refuse_loads(shop, monkeypatch, 1)
    for attempt in Retrying(
        stop=stop_after_attempt(3),
        wait=wait_none(),
        retry=retry_if_exception(retry_load()),
        reraise=True,
        **dltobs.tenacity_callbacks(),
    ):
        with attempt:
            shop.run([{"id": number} for number in range(7)], table_name="orders")
    runs = ledger("select outcome, attempt, rows, bytes > 0 from shop_data_dltobs.runs order by started_at")
    assert [tuple(row.values()) for row in runs] == [("failed", 1, 0, False), ("ok", 2, 7, True)]
    tables = ledger("select rows, jobs from shop_data_dltobs.tables where step = 'load'")
    assert tables == [{"rows": 7, "jobs": 1}]
    (loaded,) = ledger("select rows from shop_data_dltobs.steps where step = 'load' and rows > 0")
    assert loaded == {"rows": 7}
    assert ledger("select rows from shop_data_dltobs.jobs") == [{"rows": 7}]
    assert re.search(
        r"Run of shop finished after .* s, attempt 2: 7 rows", (tmp_path / "dlt.log").read_text()
    )


def test_rows_that_are_not_known_are_null(pipeline, ledger, tmp_path):
    """Of a package that was normalized before dltobs was there; nobody claims that it had none."""
    shop = pipeline()
    shop.extract([{"id": 1}], table_name="orders")
    shop.normalize()
    dltobs.configure(ledger=True, log_level="INFO", log_file=tmp_path / "dlt.log", log_file_format="text")
    shop.load()
    (run,) = ledger("from shop_data_dltobs.runs")
    assert (run["outcome"], run["rows"]) == ("ok", None)
    assert run["bytes"] > 0
    assert ledger("select rows from shop_data_dltobs.steps") == [{"rows": None}]
    assert ledger("select rows, jobs from shop_data_dltobs.tables") == [{"rows": None, "jobs": 1}]
    (line,) = [
        line for line in (tmp_path / "dlt.log").read_text().splitlines() if "Run of shop finished" in line
    ]
    assert re.search(r"Run of shop finished after \d+\.\d s \[", line)


def test_the_row_is_there_while_the_run_is_on(pipeline, tmp_path):
    """Without an outcome, which comes with the end."""
    dltobs.configure(ledger=True)
    seen = []

    @dlt.resource
    def orders():
        seen.extend(query(tmp_path / "shop.duckdb", "from shop_data_dltobs.runs"))
        yield {"id": 1}

    shop = pipeline()
    shop.run(orders())
    (row,) = seen
    assert (row["transaction_id"], row["outcome"]) == (shop.last_trace.transaction_id, None)
    assert (row["finished_at"], row["trace_id"]) == (None, shop.last_trace.transaction_id)


def layout(tmp_path: Path, name: str) -> dict[str, Any]:
    """All that a user can see of his own data: tables, columns, types, schemas and loads."""
    mine = f"table_schema not like '{name}_data_dltobs%'"
    file = tmp_path / f"{name}.duckdb"
    return {
        "columns": query(
            file,
            "select table_schema, table_name, column_name, data_type from information_schema.columns "
            f"where {mine} order by all",
        ),
        "schemas": query(file, f"select schema_name, version from {name}_data._dlt_version order by all"),
        "loads": query(file, f"select schema_name, status from {name}_data._dlt_loads"),
        "states": query(file, f"select version, pipeline_name from {name}_data._dlt_pipeline_state"),
    }


def test_the_dataset_schema_state_and_trace_are_the_same_with_and_without(pipeline, tmp_path):
    """Nothing of the user's has more, fewer or other parts."""

    def go() -> tuple[Any, ...]:
        shop = pipeline("shop", destination=dlt.destinations.duckdb(str(tmp_path / "shop.duckdb")))
        for _ in range(2):
            shop.run([{"id": 1, "items": [{"sku": "a"}]}], table_name="orders")
        found = layout(tmp_path, "shop")
        trace = [(step.step, step.step_exception) for step in shop.last_trace.steps]
        state = {key: value for key, value in shop.state.items() if not key.startswith(("_", "version"))}
        is_active = dlt.pipeline() is shop
        assert shop.last_trace.last_load_info.loads_ids[0] in {
            one["load_id"]
            for one in query(tmp_path / "shop.duckdb", "select load_id from shop_data._dlt_loads")
        }
        for path in (tmp_path / "pipelines", tmp_path / "shop.duckdb"):
            path.rename(path.with_name(f"{path.name}.{time.time()}"))
        return found, trace, state, is_active, shop.default_schema.stored_version_hash, shop.schema_names

    without = go()
    dltobs.configure(ledger=True)
    assert go() == without


def test_nobody_hears_of_the_ledgers_own_pipeline(pipeline, caplog):
    """No events, no lines in dlt's log, no trace: it is not the user's."""
    recording = RecordingSink()
    dltobs.configure(ledger=True, sinks=[recording], log_level="DEBUG")
    shop = pipeline()
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("dlt").addHandler(handler)
    shop.run([{"id": 1}], table_name="orders")
    assert len(recording.runs) == 1
    assert lines
    assert [line for line in lines if "ledger" in line or "schema_changes" in line] == []
    assert warnings(caplog) == []


def test_the_dataset_can_be_chosen(pipeline, ledger):
    dltobs.configure(ledger=True, ledger_dataset="operations")
    pipeline().run([{"id": 1}], table_name="orders")
    assert len(ledger("from operations.runs")) == 1


def test_all_tables_are_there_from_the_first_run(pipeline, ledger):
    """A query on failed jobs finds none, rather than no table."""
    dltobs.configure(ledger=True)
    with pytest.raises(Exception, match="no such order"):
        pipeline().run(broken())
    found = ledger(
        "select table_name from information_schema.tables where table_schema = 'shop_data_dltobs' "
        "and table_name not like '\\_dlt%' escape '\\' order by 1"
    )
    assert [one["table_name"] for one in found] == list(TABLES)
    assert ledger("from shop_data_dltobs.jobs") == []


def tables_of(path: Path, dataset: str) -> list[str]:
    found = query(path, f"select table_name from duckdb_tables where schema_name = '{dataset}'")
    return sorted(one["table_name"] for one in found if not one["table_name"].startswith("_dlt"))


def test_a_ledger_that_was_deleted_is_made_anew(pipeline, tmp_path):
    """With its file, while the folder of our own pipeline still knows the tables."""
    dltobs.configure(ledger=True)
    for _ in range(2):
        pipeline().run([{"id": 1}], table_name="orders")
        assert tables_of(tmp_path / "shop.duckdb", "shop_data_dltobs") == list(TABLES)
        (tmp_path / "shop.duckdb").unlink()
    assert dltobs.status()["ledger"].dropped == 0


@pytest.mark.long
@pytest.mark.parametrize("options", [{}, {"dev_mode": True}])
def test_each_dataset_has_all_tables(pipeline, tmp_path, options):
    """Those that `run()` is given, and those of `dev_mode`, which has a new one each time."""
    dltobs.configure(ledger=True)
    datasets = []
    for name in ("one", "two", "one"):
        shop = pipeline(**options)
        shop.run([{"id": 1}], table_name="orders", **({} if options else {"dataset_name": name}))
        datasets.append(shop.dataset_name)
        time.sleep(1 if options else 0)  # dlt tells the datasets of dev_mode apart by seconds
    for name in datasets:
        assert tables_of(tmp_path / "shop.duckdb", f"{name}_dltobs") == list(TABLES)
        assert query(tmp_path / "shop.duckdb", f"select distinct outcome from {name}_dltobs.runs") == [
            {"outcome": "ok"}
        ]
    assert len(set(datasets)) == (3 if options else 2)
    assert dltobs.status()["ledger"].dropped == 0


def test_a_default_duckdb_file_is_that_of_the_pipeline(tmp_path, ledger):
    """dlt names it after the pipeline, or puts it into the working directory: the ledger is in the same one."""
    dltobs.configure(ledger=True)
    dlt.pipeline("shop", destination="duckdb", dataset_name="shop_data").run([{"id": 1}], table_name="o")
    assert len(ledger("from shop_data_dltobs.runs")) == 1
    inside = dlt.pipeline(
        "inner", destination=dlt.destinations.duckdb(":pipeline:"), dataset_name="inner_data"
    )
    inside.run([{"id": 1}], table_name="o")
    (file,) = Path(inside.working_dir).glob("*.duckdb")
    assert len(query(file, "from inner_data_dltobs.runs")) == 1


def test_credentials_under_the_pipelines_name_are_found(tmp_path, monkeypatch):
    """`SHOP__DESTINATION__…` is for this pipeline, and for what we write beside it."""
    monkeypatch.setenv("SHOP__DESTINATION__DUCKDB__CREDENTIALS", f"duckdb:///{tmp_path}/own.duckdb")
    dltobs.configure(ledger=True)
    dlt.pipeline("shop", destination="duckdb", dataset_name="shop_data").run([{"id": 1}], table_name="o")
    assert len(query(tmp_path / "own.duckdb", "from shop_data_dltobs.runs")) == 1


def test_an_open_connection_of_the_users_is_written_to(pipeline):
    """Also one in memory, which exists in this process only."""
    dltobs.configure(ledger=True)
    connection = duckdb.connect(":memory:")
    pipeline(destination=dlt.destinations.duckdb(connection)).run([{"id": 1}], table_name="orders")
    assert connection.execute("select outcome from shop_data_dltobs.runs").fetchall() == [("ok",)]


@pytest.mark.closes_databases
def test_the_file_is_free_when_run_returns(pipeline, tmp_path):
    """Another mode of opening would be refused while we hold it."""
    dltobs.configure(ledger=True)
    shop = pipeline()
    for number in (1, 2, 3):
        shop.run([{"id": 1}], table_name="orders")
        with duckdb.connect(str(tmp_path / "shop.duckdb"), read_only=True) as connection:
            assert len(connection.execute("from shop_data.orders").fetchall()) == number


def test_the_destination_may_be_given_to_run(tmp_path, ledger):
    """The ledger is beside the data, whatever the pipeline would have taken."""
    dltobs.configure(ledger=True)
    shop = dlt.pipeline("shop", pipelines_dir=str(tmp_path / "pipelines"))
    destination = dlt.destinations.duckdb(str(tmp_path / "shop.duckdb"))
    shop.run([{"id": 1}], table_name="orders", destination=destination, dataset_name="given")
    (run,) = ledger("from given_dltobs.runs")
    assert run["started_at"] == shop.last_trace.started_at
    shop.run([{"id": 1}], table_name="orders", dataset_name="another")
    assert len(ledger("from another_dltobs.runs")) == 1


def test_an_interrupt_in_our_thread_leaves_the_writer_alive(pipeline, monkeypatch, ledger):
    """dlt raises one in every thread in which it finds that a signal has come."""
    dltobs.configure(ledger=True)
    shop = pipeline()
    with monkeypatch.context() as patch:
        patch.setattr(
            "dltobs.sinks.ledger_writer.hints", lambda **_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        shop.run([{"id": 1}], table_name="orders")
    shop.run([{"id": 1}], table_name="orders")
    assert [row["outcome"] for row in ledger("from shop_data_dltobs.runs")] == ["ok"]


def test_steps_that_are_called_alone_are_runs(pipeline, ledger):
    dltobs.configure(ledger=True)
    shop = pipeline()
    shop.extract([{"id": 1}], table_name="orders")
    shop.normalize()
    shop.load()
    rows = ledger("select outcome from shop_data_dltobs.runs order by started_at")
    assert [row["outcome"] for row in rows] == ["ok", "ok", "ok"]


def test_pipelines_in_threads_have_their_own_rows(tmp_path, pipeline):
    """Each in its own destination."""
    dltobs.configure(ledger=True)

    def go(name: str) -> None:
        pipeline(name).run([{"id": 1}], table_name="orders")

    threads = [threading.Thread(target=go, args=(f"shop{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(3):
        rows = query(tmp_path / f"shop{number}.duckdb", f"from shop{number}_data_dltobs.runs")
        assert [(row["pipeline"], row["outcome"]) for row in rows] == [(f"shop{number}", "ok")]
    assert dltobs.status()["ledger"].dropped == 0


def test_workers_of_normalize_are_not_for_the_ledger(tmp_path):
    """A script without a main guard, which a spawned process would run again."""
    script = """
    import dltobs
    dltobs.configure(ledger=True)
    print("started", flush=True)
    pipeline().run([{"id": 1}], table_name="orders")
    """
    done = run_script(script, tmp_path, NORMALIZE__WORKERS="2")
    assert (done.returncode, done.stdout) == (0, "started\n"), done.stderr
    assert len(query(tmp_path / "shop.duckdb", "from shop_data_dltobs.runs")) == 1


def test_files_are_a_destination_too(pipeline, tmp_path, caplog):
    """It cannot merge: the end of a run is a second row."""
    dltobs.configure(ledger=True)
    bucket = dlt.destinations.filesystem((tmp_path / "bucket").as_uri())
    shop = pipeline(destination=bucket)
    shop.run([{"id": 1}], table_name="orders")
    assert warnings(caplog) == []
    files = sorted((tmp_path / "bucket" / "shop_data_dltobs" / "runs").iterdir())
    written = [json.loads(gzip.decompress(file.read_bytes())) for file in files]
    assert [row.get("outcome") for row in written] == [None, "ok"]
    assert len({row["transaction_id"] for row in written}) == 1


def test_a_destination_without_datasets_is_one_warning(pipeline, caplog):
    """A function of the user's own is not called with rows of ours."""
    got: list[str] = []

    @dlt.destination(name="own")
    def own(items, table):
        got.append(table["name"])

    dltobs.configure(ledger=True)
    shop = pipeline(destination=own)
    for _ in range(2):
        shop.run([{"id": 1}], table_name="orders")
    assert got == ["orders", "orders"]
    (warning,) = warnings(caplog)
    assert warning.startswith("ledger: runs of shop are not recorded: a destination of type ")
    with pytest.raises(CannotLoadAsideError):
        target_of(shop)


LOCK = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1])
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.mark.closes_databases
def test_a_ledger_that_cannot_be_written_is_one_warning_and_is_caught_up(tmp_path, pipeline, caplog):
    """A file that another process has locked; afterwards the ledger has all of it."""
    dltobs.configure(ledger=True)
    file = tmp_path / "shop.duckdb"
    duckdb.connect(str(file)).close()
    with subprocess.Popen(
        [sys.executable, "-c", LOCK, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "locked\n"
        shop = pipeline()
        with pytest.raises(Exception, match="Could not set lock"):
            shop.run([{"id": 1}], table_name="orders")
        other.stdin.close()
    (warning,) = [one for one in warnings(caplog) if "ledger" in one]
    assert warning.startswith("ledger: 1 entry kept in the spool (")
    assert "Could not set lock" in warning
    # it failed before its first step, so it has no beginning
    assert dltobs.status()["ledger"].spooled == 1
    shop.run([{"id": 1}], table_name="orders")
    rows = query(file, "select outcome from shop_data_dltobs.runs order by started_at")
    assert [row["outcome"] for row in rows] == ["failed", "ok"]
    assert dltobs.status()["ledger"].delivered == 3


REFUSING = """
from dlt.load.load import Load
import dltobs

def refuse(*_):
    raise ConnectionError("destination away")

dltobs.configure(ledger=True)
Load.load_single_package = refuse
try:
    pipeline().run([{"id": 1}], table_name="orders")
except Exception:
    print(dltobs.status()["ledger"].spooled)
"""


@pytest.mark.long
def test_what_waits_outlives_the_working_directory(tmp_path, pipeline, ledger):
    """dlt empties it at the next run, as the dataset is not there yet."""
    for _ in range(2):
        done = run_script(REFUSING, tmp_path)
        assert done.stdout == "2\n", done.stderr
    spool = tmp_path / "dlt" / "dltobs" / "spool"
    assert {stat.S_IMODE(path.stat().st_mode) for path in (spool, *spool.glob("ledger/*"))} == {0o700}
    dltobs.configure(ledger=True)
    pipeline().run([{"id": 1}], table_name="orders")
    rows = ledger("select outcome, error_type from shop_data_dltobs.runs order by started_at")
    assert [tuple(row.values()) for row in rows] == [
        ("failed", "ConnectionError"),
        ("failed", "ConnectionError"),
        ("ok", None),
    ]
    assert dltobs.status()["ledger"].dropped == 0


def test_what_waits_is_not_for_a_pipeline_of_the_same_name_elsewhere(tmp_path):
    """They have their own destinations, schemas and packages."""
    done = run_script(REFUSING, tmp_path)
    assert done.stdout == "2\n", done.stderr
    dltobs.configure(ledger=True)
    elsewhere = dlt.pipeline(
        "shop",
        pipelines_dir=str(tmp_path / "elsewhere"),
        destination=dlt.destinations.duckdb(str(tmp_path / "elsewhere.duckdb")),
        dataset_name="shop_data",
    )
    elsewhere.run([{"id": 1}], table_name="orders")
    rows = query(tmp_path / "elsewhere.duckdb", "select outcome from shop_data_dltobs.runs")
    assert rows == [{"outcome": "ok"}]


@pytest.mark.parametrize("settings", [{"spool_max_bytes": 0}, {"spool_dir": "file/spool"}])
def test_without_a_spool_there_is_a_ledger_all_the_same(tmp_path, pipeline, ledger, caplog, settings):
    """It works in `spool_dir`; where that cannot be written (also by root), in the user's working directory."""
    (tmp_path / "file").touch()
    dltobs.configure(ledger=True, **settings)
    shop = pipeline()
    shop.run([{"id": 1}], table_name="orders")
    assert ledger("select outcome from shop_data_dltobs.runs") == [{"outcome": "ok"}]
    assert warnings(caplog) == []
    spool, fallback = tmp_path / "dlt" / "dltobs" / "spool" / "ledger", Path(shop.working_dir) / "dltobs"
    used, unused = (fallback / "ledger", spool) if "spool_dir" in settings else (spool, fallback)
    (folder,) = used.iterdir()
    assert (folder / "0" / "dltobs_ledger").is_dir()
    assert not unused.exists()


def test_a_destination_that_hangs_holds_nobody_up_for_ever(pipeline, monkeypatch, caplog):
    """The run waits for a moment, once; what was not written is counted at the end."""
    monkeypatch.setattr("dltobs.sinks.ledger._PATIENCE", 0.2)
    release = threading.Event()
    monkeypatch.setattr("dltobs.sinks.ledger_writer.load_aside", lambda *_: release.wait(60))
    dltobs.configure(ledger=True, flush_timeout=0.5)
    shop = pipeline()
    started = time.monotonic()
    for _ in range(3):
        shop.run([{"id": 1}], table_name="orders")
    dltobs.shutdown()
    elapsed = time.monotonic() - started
    release.set()
    assert elapsed < 15
    assert dltobs.status()["ledger"].delivered == 0
    assert dltobs.status()["ledger"].dropped == 4  # the beginnings of runs that had ended tell nothing more
    assert any("ledger" in one for one in warnings(caplog))


def test_a_failure_of_our_own_does_not_reach_the_run(pipeline, monkeypatch, caplog):
    def fail(*_: Any) -> None:
        message = "inside of dlt"
        raise AttributeError(message)

    monkeypatch.setattr("dltobs.sinks.ledger_writer.load_aside", fail)
    dltobs.configure(ledger=True)
    shop = pipeline()
    assert shop.run([{"id": 1}], table_name="orders").has_failed_jobs is False
    (warning,) = warnings(caplog)
    assert warning == "ledger: 1 entry could not be delivered: AttributeError: inside of dlt"


def statements() -> dict[str, str]:
    text = (ROOT / "examples" / "ledger_queries.sql").read_text("utf-8")
    return dict(re.findall(r"^-- name: (.*?)\n(.*?);$", text, re.MULTILINE | re.DOTALL))


KILLED = (
    PRELUDE
    + """
import time, dltobs
dltobs.configure(ledger=True, flush_timeout=30)

@dlt.resource
def endless():
    print("on", flush=True)
    time.sleep(100)
    yield {"id": 1}

pipeline().run(endless())
"""
)


DIES_IN_A_PAUSE = (
    PRELUDE
    + """
import time, dltobs
from tenacity import Retrying, stop_after_attempt
dltobs.configure(ledger=True)

@dlt.resource
def away():
    raise TimeoutError("no answer")
    yield

def pause(seconds):
    print("on", flush=True)
    time.sleep(100)

for attempt in Retrying(stop=stop_after_attempt(3), sleep=pause, **dltobs.tenacity_callbacks()):
    with attempt:
        pipeline().run(away())
"""
)


def kill_a_run(
    folder: Path, by: signal.Signals = signal.SIGKILL, source: str = KILLED
) -> subprocess.Popen[str]:
    script = folder / "killed.py"
    script.write_text(textwrap.dedent(source))
    with start_python([str(script)], folder, dict(os.environ)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "on\n"
        process.send_signal(by)
    return process


def test_a_run_that_sigterm_ends_is_recorded_as_terminated(tmp_path, ledger):
    """Before the process dies of it."""
    ended = kill_a_run(tmp_path, signal.SIGTERM)
    assert ended.returncode == -signal.SIGTERM
    (run,) = ledger("from shop_data_dltobs.runs")
    assert run["outcome"] == "terminated"
    assert run["finished_at"] is not None


@pytest.mark.long
@pytest.mark.closes_databases
def test_the_example_queries_answer_after_ok_failed_retried_and_killed_runs(tmp_path, pipeline, monkeypatch):
    """Of two killed runs, the first is noticed by the next run, the second never ended.

    Of a process that died in the pause between two attempts, the failed attempt is the last word.
    """
    noticed = kill_a_run(tmp_path)
    kill_a_run(tmp_path, source=DIES_IN_A_PAUSE)
    dltobs.configure(ledger=True)
    shop = pipeline()
    shop.run([{"id": 1, "items": [{"sku": "a"}]}], table_name="orders")
    shop.run([{"id": 2}], table_name="orders")
    for _ in range(2):
        with pytest.raises(Exception, match="no such order"):
            shop.run(broken())

    def attempts(name: str, *, succeed_at: int) -> None:
        tries = iter(range(1, 10))

        @dlt.resource(name=name)
        def flaky():
            if next(tries) < succeed_at:
                message = "reset by peer"
                raise ConnectionError(message)
            yield {"id": 1}

        for attempt in Retrying(
            stop=stop_after_attempt(3),
            wait=wait_none(),
            retry=retry_if_exception(retry_load(("extract",))),
            reraise=True,
            **dltobs.tenacity_callbacks(),
        ):
            with attempt:
                shop.run(flaky())

    attempts("flaky", succeed_at=3)
    with pytest.raises(Exception, match="reset by peer"):
        attempts("hopeless", succeed_at=9)

    refuse_loads(shop, monkeypatch, 1)
    for attempt in Retrying(
        stop=stop_after_attempt(3),
        wait=wait_none(),
        retry=retry_if_exception(retry_load()),
        reraise=True,
        **dltobs.tenacity_callbacks(),
    ):
        with attempt:
            shop.run([{"id": number} for number in range(7)], table_name="late")

    shop.run([], table_name="orders")
    kill_a_run(tmp_path)
    answers = {
        name: query(tmp_path / "shop.duckdb", f"use shop_data_dltobs; {sql}")
        for name, sql in statements().items()
    }
    assert list(answers) == [
        "slowest tables this week",
        "rows a day",
        "failures by root cause",
        "runs that never ended",
    ]
    slowest = answers["slowest tables this week"]
    assert sorted((one["table_name"], one["loads"], one["rows"]) for one in slowest) == [
        ("flaky", 1, 1),
        ("late", 1, 7),
        ("orders", 2, 2),
        ("orders__items", 1, 1),
    ]
    assert [one["longest_seconds"] for one in slowest] == sorted(
        (one["longest_seconds"] for one in slowest), reverse=True
    )
    days = answers["rows a day"]
    assert len(days) in (1, 2)  # two at midnight
    assert {day["pipeline"] for day in days} == {"shop"}
    assert (sum(day["runs"] for day in days), sum(day["rows"] for day in days)) == (5, 11)
    assert [
        (one["root_cause"], one["outcome"], one["failures"], one["attempts"], one["message"])
        for one in answers["failures by root cause"]
    ] == [
        ("ValueError", "failed", 2, None, "no such order, password=***"),
        ("ConnectionError", "failed", 1, 3, "reset by peer"),
        ("TimeoutError", "failed", 1, 1, "no answer"),
        ("lost", "lost", 1, None, f"in extract, process {noticed.pid}"),
    ]
    (killed,) = answers["runs that never ended"]
    assert killed["pipeline"] == "shop"
    assert killed["host"]


def test_a_ledger_that_an_older_version_began_gets_the_columns_that_are_new(pipeline, ledger, monkeypatch):
    """Runs in it have no value there."""
    dltobs.configure(ledger=True)
    shop = pipeline()
    with monkeypatch.context() as patch:
        patch.delitem(ledger_columns.COLUMNS["runs"], "retry_id")
        shop.run([{"id": 1}], table_name="orders")
    assert "retry_id" not in ledger("from shop_data_dltobs.runs")[0]
    for attempt in Retrying(**dltobs.tenacity_callbacks()):
        with attempt:
            shop.run([{"id": 1}], table_name="orders")
    rows = ledger("select retry_id from shop_data_dltobs.runs order by started_at")
    assert [row["retry_id"] is None for row in rows] == [True, False]
