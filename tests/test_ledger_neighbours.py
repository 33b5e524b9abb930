"""The run ledger beside others in the same destination: the user's connection, other processes, other tables."""

from __future__ import annotations

import copy
import json
import os
import threading

import dlt
import duckdb
import pytest
from dlt.destinations.impl.duckdb.configuration import DuckDbCredentials
from dlt.load import Load

import dltobs
from conftest import SECRET
from dltobs._aside import target_of
from dltobs._redaction.redactor import Redactor
from dltobs._warnings import Warner
from dltobs.sinks import ledger_beginnings
from dltobs.sinks.delivery import Delivery
from dltobs.sinks.ledger_writer import Entry, LedgerWriter

TABLES = ["jobs", "runs", "schema_changes", "steps", "tables"]


@pytest.fixture
def rows(tmp_path):
    """What a query of the database `shop` gives."""

    def query(sql):
        with duckdb.connect(str(tmp_path / "shop.duckdb")) as connection:
            return connection.execute(sql).fetchall()

    return query


def tables_of(rows, dataset):
    sql = f"from information_schema.tables select table_name where table_schema = '{dataset}' order by all"
    return [name for (name,) in rows(sql) if not name.startswith("_dlt")]


def warnings(caplog):
    return [record.message for record in caplog.records if record.name == "dltobs"]


def search_path_after(pipeline, path, name, wrap, *, saves):
    """Where the names of the user's next statement are looked up, after a run over his connection."""
    with duckdb.connect(str(path)) as connection:
        shop = pipeline(name, destination=dlt.destinations.duckdb(wrap(connection)), dataset_name="data")
        for _ in range(2):
            shop.run([{"id": 1}], table_name="orders")
        found = connection.execute("select current_setting('search_path')").fetchall()
        if saves:
            connection.execute("set search_path = 'main'")
            dltobs.save(shop)
            assert connection.execute("select current_setting('search_path')").fetchall() == [("main",)]
        return found


@pytest.mark.parametrize(
    "wrap", [lambda connection: connection, DuckDbCredentials], ids=["itself", "wrapped"]
)
@pytest.mark.closes_databases
def test_the_users_connection_stays_what_it_is(pipeline, tmp_path, wrap):
    """dlt sets the dataset on the connection that it is given; ours is none that he looks at."""
    before = search_path_after(pipeline, tmp_path / "plain.duckdb", "plain", wrap, saves=False)
    dltobs.configure(ledger=True)
    path = tmp_path / "watched.duckdb"
    assert search_path_after(pipeline, path, "watched", wrap, saves=True) == before
    assert dltobs.status()["ledger"].dropped == 0
    # nothing of ours is still open, which would keep it locked
    with duckdb.connect(str(path), read_only=True):
        pass


def test_a_database_in_memory_has_a_ledger(pipeline):
    with duckdb.connect(":memory:") as connection:
        dltobs.configure(ledger=True)
        pipeline(destination=dlt.destinations.duckdb(connection)).run([{"id": 1}], table_name="orders")
        assert connection.execute("from shop_data_dltobs.runs select outcome").fetchall() == [("ok",)]


class Neighbour:
    """Another process, in a thread: its writer has the end of a run to write into the same ledger."""

    def __init__(self, shop, folder):
        self._writer = LedgerWriter(Delivery("ledger", "entries", Warner(Redactor())), folder)
        self._entry = Entry(
            "of the neighbour", is_end=True, target=target_of(shop), dataset="ops", rows=self._rows()
        )
        self.is_done = False

    @staticmethod
    def _rows():
        row = {"transaction_id": "of the neighbour", "pipeline": "shop", "outcome": "failed"}
        return {"runs": [{**row, "started_at": "2026-01-01T00:00:00Z"}]}

    def write(self):
        self.is_done = True
        self._writer.write(self._entry)
        assert self._writer.wait(60)


def test_writers_of_the_same_ledger_do_not_meet(pipeline, tmp_path, rows, monkeypatch):
    """One writes while the other has just loaded its row: both are there, with their outcomes."""
    shop = pipeline()
    shop.run([{"id": 1}], table_name="orders")
    neighbour = Neighbour(shop, tmp_path / "neighbour")
    follow, load_ids = Load.create_followup_jobs, set()

    def write_first(self, load_id, state, starting_job, schema):
        name = starting_job.job_file_info().table_name
        if name == "runs" and state == "completed":
            load_ids.add(load_id)
            if len(load_ids) == 2 and not neighbour.is_done:  # the first one is that of the beginning
                neighbour.write()
        return follow(self, load_id, state, starting_job, schema)

    dltobs.configure(ledger=True, ledger_dataset="ops")
    monkeypatch.setattr(Load, "create_followup_jobs", write_first)
    shop.run([{"id": 1}], table_name="orders")
    assert neighbour.is_done
    assert rows("from ops.runs select outcome order by all") == [("failed",), ("ok",)]


def test_a_ledger_is_one_dataset(pipeline, rows):
    """Nothing is shared with anybody: no dataset in which rows wait to be merged."""
    dltobs.configure(ledger=True)
    pipeline().run([{"id": 1}], table_name="orders")
    found = {name for (name,) in rows("from information_schema.tables select table_schema")}
    assert found == {"shop_data", "shop_data_dltobs"}


def test_a_table_of_the_users_in_a_staging_dataset_of_all_pipelines(pipeline, tmp_path, rows):
    """It may be called as one of ours."""
    dltobs.configure(ledger=True)
    destination = dlt.destinations.duckdb(
        str(tmp_path / "shop.duckdb"), staging_dataset_name_layout="all_staging"
    )
    shop = pipeline(destination=destination)
    for number in (1, 2):
        options = {"table_name": "runs", "write_disposition": "merge", "primary_key": "id"}
        shop.run([{"id": number}], **options)
    assert rows("from shop_data.runs select id order by id") == [(1,), (2,)]
    assert rows("from shop_data_dltobs.runs select outcome") == [("ok",), ("ok",)]


@pytest.fixture
def closed(monkeypatch):
    """No pipeline of ours gets anything loaded."""
    run = Load.run

    def refuse(self, pool):
        if threading.current_thread().name == "dltobs-ledger":
            message = "no route"
            raise OSError(message)
        return run(self, pool)

    def opened():
        monkeypatch.setattr(Load, "run", run)

    monkeypatch.setattr(Load, "run", refuse)
    return opened


def test_what_has_waited_is_one_row_in_the_end(pipeline, rows, closed):
    """Beginnings and ends of two runs are loaded at once."""
    dltobs.configure(ledger=True)
    shop = pipeline()
    for _ in range(2):
        shop.run([{"id": 1}], table_name="orders")
    closed()
    shop.run([{"id": 1}], table_name="orders")
    assert rows("from shop_data_dltobs.runs select outcome") == [("ok",)] * 3


def test_a_beginning_that_could_not_be_deleted_goes_with_the_next_run(pipeline, rows, monkeypatch):
    dltobs.configure(ledger=True)
    shop = pipeline()
    with monkeypatch.context() as patch:

        def fail(*_):
            message = "the connection was lost"
            raise OSError(message)

        patch.setattr(ledger_beginnings, "_delete", fail)
        shop.run([{"id": 1}], table_name="orders")
        assert rows("from shop_data_dltobs.runs select outcome order by all nulls first") == [
            (None,),
            ("ok",),
        ]
    shop.run([{"id": 1}], table_name="orders")
    assert rows("from shop_data_dltobs.runs select outcome") == [("ok",), ("ok",)]


def test_a_beginning_without_an_end_stays(pipeline, rows, monkeypatch):
    """As when the rows of the end are refused for good, here: lost before they are written."""
    dltobs.configure(ledger=True)
    shop = pipeline()
    note = ledger_beginnings.Beginnings.note

    def lose(self, transaction_id):
        note(self, transaction_id)
        if is_end.is_set():
            message = "no space left on device"
            raise OSError(message)

    is_end = threading.Event()

    @dlt.resource
    def orders():
        is_end.set()
        yield {"id": 1}

    with monkeypatch.context() as patch:
        patch.setattr(ledger_beginnings.Beginnings, "note", lose)
        shop.run(orders())
    shop.run([{"id": 1}], table_name="orders")
    assert rows("from shop_data_dltobs.runs select outcome order by all nulls first") == [(None,), ("ok",)]


def test_a_run_that_is_told_to_be_lost_though_it_ended_has_one_row(pipeline, rows, tmp_path):
    """Its process died when the row of its end was there, and its marker as well."""
    dltobs.configure(ledger=True)
    pipeline().run([{"id": 1}], table_name="orders")
    with duckdb.connect(str(tmp_path / "shop.duckdb")) as connection:
        ((run,),) = connection.execute("from shop_data_dltobs.runs select transaction_id").fetchall()
        connection.execute(
            "insert into shop_data_dltobs.runs select * replace ('lost' as outcome) from shop_data_dltobs.runs"
        )
    (folder,) = (tmp_path / "dlt").rglob("0.lock")
    ledger_beginnings.Beginnings(folder.with_suffix("")).note(run)
    pipeline().run([{"id": 2}], table_name="orders")
    dltobs.shutdown()
    assert rows(f"from shop_data_dltobs.runs select outcome where transaction_id = '{run}'") == [("ok",)]


def test_of_very_many_beginnings_the_first_are_remembered(tmp_path, monkeypatch):
    """Those are the ones whose rows wait; later ones find no room."""
    monkeypatch.setattr(ledger_beginnings, "_MAX_NOTES", 3)
    beginnings = ledger_beginnings.Beginnings(tmp_path / "0")
    for number in range(10):
        beginnings.note(f"run{number}")
    deleted = []
    monkeypatch.setattr(ledger_beginnings, "_delete", lambda _, runs: deleted.extend(runs))
    beginnings.delete(None)
    assert deleted == ["run0", "run1", "run2"]
    beginnings.note("later")
    beginnings.delete(None)
    assert deleted[3:] == ["later"]


def test_names_that_the_pipelines_naming_tells_apart_are_those_of_two_datasets(
    pipeline, rows, caplog, monkeypatch
):
    monkeypatch.setenv("SCHEMA__NAMING", "direct")
    dltobs.configure(ledger=True, ledger_dataset="my_data")
    pipeline(dataset_name="my-data").run([{"id": 1}], table_name="orders")
    dltobs.shutdown()
    assert warnings(caplog) == []
    assert rows("from my_data.runs select outcome") == [("ok",)]


def test_a_ledger_that_was_deleted_is_made_anew(pipeline, rows, caplog):
    """By the next run of the same process: with all its tables, and all that it writes into them."""
    dltobs.configure(ledger=True)
    shop = pipeline()
    shop.run([{"id": 1}], table_name="orders")
    rows("drop schema shop_data_dltobs cascade")
    for _ in range(2):
        shop.run([{"id": 1}], table_name="orders")
    assert tables_of(rows, "shop_data_dltobs") == TABLES
    assert rows("from shop_data_dltobs.runs select outcome") == [("ok",), ("ok",)]
    assert rows("from shop_data_dltobs.steps select count(*)") == [(8,)]
    assert warnings(caplog) == []


def test_a_database_that_was_deleted_is_made_anew(pipeline, rows, tmp_path, caplog):
    dltobs.configure(ledger=True)
    shop = pipeline()
    shop.run([{"id": 1}], table_name="orders")
    (tmp_path / "shop.duckdb").unlink()
    for _ in range(2):
        shop.run([{"id": 1}], table_name="orders")
    assert tables_of(rows, "shop_data_dltobs") == TABLES
    assert rows("from shop_data_dltobs.runs select outcome") == [("ok",), ("ok",)]
    assert warnings(caplog) == []


def test_a_ledger_without_some_of_its_tables_heals(pipeline, rows, caplog):
    """dlt goes by its list of schemas, which says that they are there."""
    dltobs.configure(ledger=True)
    shop = pipeline()
    shop.run([{"id": 1}], table_name="orders")
    rows("drop table shop_data_dltobs.steps; drop table shop_data_dltobs.tables")
    shop.run([{"id": 1}], table_name="orders")
    assert tables_of(rows, "shop_data_dltobs") == TABLES
    assert rows("from shop_data_dltobs.steps select count(*)") == [(4,)]
    assert warnings(caplog) == []


def test_dlt_reads_the_ledger_as_a_dataset(pipeline, rows, tmp_path):
    """Its schema is listed there, each version once."""
    dltobs.configure(ledger=True)
    shop = pipeline()
    for _ in range(3):
        shop.run([{"id": 1}], table_name="orders")
    dataset = dlt.dataset(dlt.destinations.duckdb(str(tmp_path / "shop.duckdb")), "shop_data_dltobs")
    assert set(TABLES) <= set(dataset.tables)
    sql = "from shop_data_dltobs._dlt_version select count(*), count(distinct version_hash)"
    (counts,) = rows(sql)
    assert counts[0] == counts[1] >= 1


@dlt.resource
def broken():
    yield {"id": 1}
    message = f"cannot parse {os.fsdecode(b'caf' + bytes([0xE9]) + b'.csv')}"
    raise ValueError(message)


def test_a_text_that_is_no_unicode_is_written_with_a_stand_in(pipeline, rows):
    """File names that are no UTF-8 come as lone surrogates, which no database takes."""
    dltobs.configure(ledger=True, tags={"file": "a\udce9"})
    shop = pipeline()
    with pytest.raises(Exception, match="cannot parse"):
        shop.run(broken())
    assert rows("from shop_data_dltobs.runs select outcome, error_message, tags") == [
        ("failed", "cannot parse caf\ufffd.csv", '{"file": "a\ufffd"}')
    ]
    assert dltobs.status()["ledger"].dropped == 0
    dltobs.save(shop)
    assert rows("from shop_data._trace select count(*)") == [(1,)]


def test_a_secret_in_the_tags_that_dlt_resolves_later_is_hidden(pipeline, rows, monkeypatch):
    """When `configure()` was called, nobody knew it."""
    monkeypatch.setenv("API_KEY", SECRET)
    dltobs.configure(ledger=True, tags={"at": SECRET, "team": "data"})

    @dlt.source(name="api")
    def api(api_key: str = dlt.secrets.value):
        return dlt.resource([{"id": 1}], name="orders")

    pipeline().run(api())
    ((tags,),) = rows("from shop_data_dltobs.runs select tags")
    assert json.loads(tags) == {"at": "***", "team": "data"}


@pytest.mark.parametrize("name", ["shop_data", "Shop-Data"], ids=["as it is", "as dlt writes it"])
def test_a_ledger_never_goes_into_the_dataset_of_the_run(pipeline, rows, caplog, name):
    """A table of the user's called `jobs` would get our columns, or his run fail."""
    dltobs.configure(ledger=True, ledger_dataset=name)
    shop = pipeline()
    for _ in range(2):
        shop.run([{"id": 1, "name": "x"}], table_name="jobs")
    assert tables_of(rows, "shop_data") == ["jobs"]
    assert rows("from shop_data_dltobs.runs select outcome") == [("ok",), ("ok",)]
    assert warnings(caplog) == [
        "ledger: the dataset shop_data is that of the pipeline shop itself; its ledger is in shop_data_dltobs"
    ]


def test_the_users_destination_is_not_changed(pipeline, tmp_path):
    destination = dlt.destinations.duckdb(str(tmp_path / "shop.duckdb"))
    shop = pipeline(destination=destination)
    shop.run([{"id": 1}], table_name="orders")
    before = copy.copy(vars(destination)), dict(destination.config_params)
    dltobs.configure(ledger=True)
    shop.run([{"id": 1}], table_name="orders")
    dltobs.save(shop)
    assert (vars(destination), destination.config_params) == before
