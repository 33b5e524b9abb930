"""`save()`: what dlt's documentation loads by hand, without secrets and without a trace of it."""

from __future__ import annotations

import dlt
import duckdb
import pytest

import dltobs
from conftest import SECRET
from recording import RecordingSink
from scripts import run_script


@dlt.source(name="api")
def api(api_key: str = dlt.secrets.value, message: str = ""):
    @dlt.resource
    def orders():
        yield {"id": 1, "items": [{"sku": "a"}]}
        if message:
            raise ValueError(f"{message} for {api_key}")

    return orders


def rows(path, sql):
    with duckdb.connect(str(path)) as connection:
        return connection.execute(sql).fetchall()


def tables(path, schema="shop_data"):
    return {
        name
        for (name,) in rows(
            path, f"select table_name from information_schema.tables where table_schema = '{schema}'"
        )
    }


@pytest.fixture
def database(tmp_path):
    return tmp_path / "shop.duckdb"


@pytest.mark.long
def test_it_makes_the_tables_that_dlts_page_makes(pipeline, tmp_path, monkeypatch):
    """Out of the same trace: the same names, columns and numbers of rows."""
    monkeypatch.setenv("API_KEY", SECRET)
    ours, theirs = pipeline("shop"), pipeline("page")
    ours.run(api())
    dltobs.save(ours)
    trace, info = ours.last_trace, ours.last_trace.last_load_info
    theirs.run([info], table_name="_load_info")
    theirs.run([trace], table_name="_trace")
    theirs.run([package.asdict()["tables"] for package in info.load_packages], table_name="_new_tables")

    def shape(name: str) -> dict[str, tuple[set[str], int]]:
        path, schema = tmp_path / f"{name}.duckdb", f"{name}_data"
        found = {}
        for table in tables(path, schema):
            if table.startswith(("_trace", "_load_info", "_new_tables")):
                columns = rows(
                    path,
                    "select column_name from information_schema.columns "
                    f"where table_schema = '{schema}' and table_name = '{table}'",
                )
                (count,) = rows(path, f"select count(*) from {schema}.{table}")
                found[table] = ({column for (column,) in columns}, count[0])
        return found

    assert {"_trace", "_load_info", "_new_tables", "_trace__steps"} <= shape("shop").keys()
    assert shape("shop") == shape("page")


def test_no_secret_is_in_what_it_saves(pipeline, database, monkeypatch):
    """Neither in messages nor in stack traces."""
    monkeypatch.setenv("API_KEY", SECRET)
    shop = pipeline()
    dltobs.configure()
    with pytest.raises(Exception, match="denied"):
        shop.run(api(message="denied"))
    dltobs.save(shop)
    found = texts(database).values()
    assert any("denied for ***" in text for text in found)
    assert not any(SECRET in text for text in found)


def texts(path):
    """Every table of the dataset as text, by its name."""
    return {name: str(rows(path, f"from shop_data.{name}")) for name in tables(path)}


def test_of_a_run_that_was_not_watched_the_texts_of_errors_are_withheld(pipeline, database, monkeypatch):
    """As nobody knows its secrets, be it before `configure()`; types and steps are there."""
    monkeypatch.setenv("API_KEY", SECRET)
    shop = pipeline()
    source = api(message="denied")
    for _ in range(2):  # the trace of the second names no secret: the source was made before the first
        with pytest.raises(Exception, match="denied"):
            shop.run(source)
        dltobs.save(shop)
    dltobs.configure()
    dltobs.save(shop)
    assert not any(SECRET in text or "denied" in text for text in texts(database).values())
    exceptions = rows(
        database, "select distinct exception_type, message from shop_data._trace__steps__exception_traces"
    )
    assert ("ValueError", "[withheld]") in exceptions
    assert rows(database, "select count(*) from shop_data._trace__steps__exception_traces__stack_trace") > [
        (0,)
    ]


def test_the_run_of_another_process_is_saved_without_the_texts_of_errors(tmp_path, database):
    """A configured process that attaches to a pipeline has not seen what its runs resolved."""
    script = """
        @dlt.resource
        def broken(api_key: str = dlt.secrets.value):
            yield {"id": 1}
            raise ValueError(f"denied for {api_key}")
        try:
            pipeline().run(broken())
        except Exception:
            print("failed")
        """
    assert run_script(script, tmp_path, SOURCES__API_KEY=SECRET).stdout == "failed\n"
    dltobs.configure()
    shop = dlt.attach(
        "shop",
        pipelines_dir=str(tmp_path / "pipelines"),
        destination=dlt.destinations.duckdb(str(database)),
        dataset_name="shop_data",
    )
    dltobs.save(shop)
    assert "ValueError" in texts(database)["_trace__steps__exception_traces"]
    assert not any(SECRET in text or "denied" in text for text in texts(database).values())


def test_a_run_that_was_watched_may_be_saved_after_shutdown(pipeline, database, monkeypatch):
    """What was known then is known still."""
    monkeypatch.setenv("API_KEY", SECRET)
    dltobs.configure()
    shop = pipeline()
    with pytest.raises(Exception, match="denied"):
        shop.run(api(message="denied"))
    dltobs.shutdown()
    dltobs.save(shop)
    assert "denied for ***" in texts(database)["_trace__steps"]
    assert not any(SECRET in text for text in texts(database).values())


def test_it_works_after_a_failed_run(pipeline, database, monkeypatch):
    """Then there was no load, so there is a trace alone."""
    monkeypatch.setenv("API_KEY", SECRET)
    shop = pipeline()
    with pytest.raises(Exception, match="denied"):
        shop.run(api(message="denied"))
    dltobs.save(shop)
    assert "_trace" in tables(database)
    assert "_load_info" not in tables(database)
    steps = rows(database, "select step from shop_data._trace__steps where step_exception is not null")
    assert ("extract",) in steps


def test_nothing_of_the_pipelines_own_is_touched(pipeline, database):
    """Neither trace, schema, state nor the active pipeline, and no sink hears of it."""
    recording = RecordingSink()
    dltobs.configure(sinks=[recording])
    shop = pipeline()
    shop.run([{"id": 1}], table_name="orders")
    other = pipeline("other")
    trace, version = shop.last_trace, shop.default_schema.version_hash
    dltobs.save(shop)
    assert shop.last_trace is trace
    assert shop.default_schema.version_hash == version
    assert shop.schema_names == ["shop"]
    assert dlt.pipeline() is other
    assert len(recording.runs) == 1
    shop.run([{"id": 2}], table_name="orders")
    assert rows(database, "select count(*) from shop_data.orders") == [(2,)]
    assert rows(database, "select count(*) from shop_data._dlt_pipeline_state") == [(1,)]


def listed(destination):
    """What `dlt.dataset()` finds in the destination itself: the name of the schema, and its tables."""
    dataset = dlt.dataset(destination, "shop_data")
    return dataset.schema.name, [name for name in dataset.tables if not name.startswith("_dlt_")]


@pytest.fixture(params=["duckdb", "filesystem"])
def destination(request, tmp_path):
    if request.param == "duckdb":
        return dlt.destinations.duckdb(str(tmp_path / "shop.duckdb"))
    return dlt.destinations.filesystem(bucket_url=(tmp_path / "bucket").as_uri())


def test_readers_of_the_dataset_see_the_tables_of_the_pipeline(pipeline, destination):
    """`dlt.dataset()` goes by the newest schema in the dataset, which stays the pipeline's own."""
    shop = pipeline(destination=destination)
    shop.run([{"id": 1}], table_name="orders")
    dltobs.save(shop)
    assert listed(destination) == ("shop", ["orders"])
    shop.run([{"id": 2}], table_name="orders")
    dltobs.save(shop)
    assert listed(destination) == ("shop", ["orders"])
    shop.run([{"id": 3}], table_name="refunds")
    assert listed(destination) == ("shop", ["orders", "refunds"])
    dltobs.save(shop)
    assert listed(destination) == ("shop", ["orders", "refunds"])


def test_a_pipeline_is_restored_as_it_would_be_without(pipeline, destination, tmp_path):
    """In a working directory that is new, from the destination: its schemas and state, and nothing of ours."""
    shop = pipeline(destination=destination)
    shop.run([{"id": 1}], table_name="orders")
    dltobs.save(shop)
    again = dlt.pipeline(
        "shop", pipelines_dir=str(tmp_path / "elsewhere"), destination=destination, dataset_name="shop_data"
    )
    again.sync_destination()
    assert again.schema_names == ["shop"]
    assert again.default_schema.version_hash == shop.default_schema.version_hash
    assert again.state["_version_hash"] == shop.state["_version_hash"]
    again.run([{"id": 2}], table_name="orders")
    assert again.default_schema.version_hash == shop.default_schema.version_hash
    assert listed(destination) == ("shop", ["orders"])


def test_a_first_run_that_failed_leaves_no_schema_behind(pipeline, destination, monkeypatch):
    """The run that follows finds a dataset without one, and stores its own."""
    monkeypatch.setenv("API_KEY", SECRET)
    shop = pipeline(destination=destination)
    with pytest.raises(Exception, match="denied"):
        shop.run(api(message="denied"))
    dltobs.save(shop)
    assert listed(destination) == ("shop_data", [])
    shop.run(api())
    assert listed(destination) == ("api", ["orders", "orders__items"])


def test_it_may_be_called_after_each_run(pipeline, database):
    shop = pipeline()
    for number in range(2):
        shop.run([{"id": number}], table_name="orders")
        dltobs.save(shop)
    assert rows(database, "select count(*), count(distinct transaction_id) from shop_data._trace") == [(2, 2)]


def test_a_pipeline_that_never_ran_is_refused(pipeline):
    with pytest.raises(dltobs.SaveError, match="pipeline shop has no trace"):
        dltobs.save(pipeline())


def test_a_destination_that_is_no_database_is_refused(pipeline):
    @dlt.destination(name="own")
    def own(items, table):
        pass

    shop = pipeline(destination=own)
    shop.run([{"id": 1}], table_name="orders")
    with pytest.raises(dltobs.SaveError, match="holds no datasets"):
        dltobs.save(shop)


def test_what_the_destination_says_comes_without_secrets(pipeline, monkeypatch):
    """The caller gets an error of ours, and no chain that would tell more."""
    shop = pipeline()
    shop.run([{"id": 1}], table_name="orders")

    def fail(*_):
        message = "no route to postgresql://loader:hunter2hunter2@host/db"
        raise OSError(message)

    monkeypatch.setattr("dltobs._save.load_aside", fail)
    with pytest.raises(dltobs.SaveError, match=r"OSError: no route to postgresql://\*\*\*") as caught:
        dltobs.save(shop)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
