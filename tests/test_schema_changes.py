"""What a load has changed at its destination is told once, classed, by every sink."""

from __future__ import annotations

import json
import logging
import re
import shutil
from json import loads
from pathlib import Path

import dlt
import pytest
from dlt.common.destination.exceptions import DestinationTransientException
from dlt.pipeline.exceptions import PipelineStepFailed

import dltobs
from dltobs._events import SchemaChange
from dltobs._runs.schema_changes import changes_of, told, without_ignored
from dltobs._runs.schema_files import schema_files_of, tables_before
from recording import RecordingSink
from servers import attributes_of

FIRST = [{"id": 1, "amount": 1, "items": [{"sku": "a"}]}]
SECOND = [{"id": 2, "amount": "lots", "note": "n", "items": [{"sku": "a", "price": 1.5}]}]


def keyed_orders():
    """The third load: the same data, other hints."""
    resource = dlt.resource([{"id": 3, "amount": 3}], name="orders", write_disposition="merge")
    resource.apply_hints(primary_key="id", columns={"amount": {"nullable": False}})
    return resource


def summary(changes):
    return [(change.kind, change.table, change.column, change.data_type) for change in changes]


@pytest.fixture
def sink():
    recording = RecordingSink()
    dltobs.configure(sinks=[recording], console="off")
    return recording


@pytest.fixture(params=["duckdb", "filesystem"])
def shop(request, pipeline, tmp_path):
    """Destinations that tell what they made, and that repeat what they were asked for."""
    if request.param == "duckdb":
        return pipeline()
    return pipeline(destination=dlt.destinations.filesystem((tmp_path / "bucket").as_uri()))


def test_three_loads_of_changing_data_give_their_changes(sink, shop):
    """New tables, new columns, a type conflict, changed hints, each once; a load that changes nothing: none."""
    shop.run(FIRST, table_name="orders")
    shop.run(FIRST, table_name="orders")
    shop.run([dlt.resource(SECOND, name="orders"), dlt.resource([{"id": 1, "x": {"y": 2}}], name="people")])
    shop.run(keyed_orders())

    first, same, second, third = (run.schema_changes for run in sink.runs)
    assert summary(first) == [
        ("new_table", "orders", None, None),
        ("new_table", "orders__items", None, None),
    ]
    assert [change.columns for change in first] == [2, 1]
    assert same == ()
    assert summary(second) == [
        ("new_table", "people", None, None),
        ("new_column", "orders", "note", "text"),
        ("new_column", "orders__items", "price", "double"),
        ("variant_column", "orders", "amount__v_text", "text"),
    ]
    assert (second[-1].base_column, second[-1].base_type) == ("amount", "bigint")
    assert [(change.kind, change.column, change.hints) for change in third] == [
        ("changed_hint", None, ("write_disposition: append -> merge",)),
        ("changed_hint", "amount", ("nullable: True -> False",)),
        ("changed_hint", "id", ("nullable: True -> False", "primary_key: None -> True")),
    ]
    load = next(step for step in sink.runs[2].steps if step.step == "load")
    assert load.schema_changes == second
    assert {change.load_id for change in second} == {load.packages[0].load_id}


def test_a_column_that_only_hints_declare_is_new(sink, shop):
    """Files and functions report what normalize has found in the data; the schema knows more."""
    shop.run(FIRST, table_name="orders")
    shop.run(dlt.resource([{"id": 2}], name="orders", columns={"note": {"data_type": "text"}}))
    assert summary(sink.runs[-1].schema_changes) == [("new_column", "orders", "note", "text")]


def test_an_emptied_working_directory_makes_nothing_new(sink, pipeline, tmp_path):
    """As in a container: dlt restores the schema from the destination before extract, and it is no first run."""
    pipeline().run(FIRST, table_name="orders")
    shutil.rmtree(tmp_path / "pipelines")
    pipeline().run([{"id": 2, "late": True}], table_name="orders")
    pipeline().run([{"id": 3, "late": True}], table_name="orders")
    assert [run.run.first_run for run in sink.runs] == [True, False, False]
    assert [summary(run.schema_changes) for run in sink.runs[1:]] == [
        [("new_column", "orders", "late", "bool")],
        [],
    ]


def test_steps_that_are_called_one_by_one_tell_of_the_changes_when_they_load(sink, pipeline):
    """Hints, too: they are compared with the package that was loaded last."""
    shop = pipeline()
    shop.run(FIRST, table_name="orders")
    shop.extract(keyed_orders())
    shop.normalize()
    shop.load()
    assert [len(run.schema_changes) for run in sink.runs] == [2, 0, 0, 3]


def test_tables_that_are_dropped_and_made_again_are_not_new(sink, pipeline):
    """`refresh` drops them with each run."""
    shop = pipeline()
    shop.run(FIRST, table_name="orders")
    shop.run([{"id": 1, "amount": 1, "items": [{"sku": "a", "price": 1.5}]}], table_name="orders")
    shop.run(FIRST, table_name="orders", refresh="drop_sources")
    assert sink.runs[-1].outcome == "ok"
    if hasattr(shop.last_trace.last_load_info.load_packages[0], "dropped_tables"):  # newer than dlt 1.23
        assert sink.runs[-1].schema_changes == ()


def test_a_load_that_fails_after_it_has_migrated_tells_the_changes_and_the_next_one_does_not(
    monkeypatch, sink, pipeline
):
    """dlt keeps what it has applied with the pending package, and would report it again."""
    monkeypatch.setenv("LOAD__RAISE_ON_MAX_RETRIES", "1")
    is_down = [True]

    @dlt.destination(name="shaky", batch_size=0)
    def shaky(items, table):
        if is_down[0]:
            message = "later"
            raise DestinationTransientException(message)

    shop = pipeline(destination=shaky())
    with pytest.raises(PipelineStepFailed):
        shop.run([{"id": 1}], table_name="orders")
    is_down[0] = False
    shop.run()
    failed, loaded = sink.runs
    assert (failed.outcome, loaded.outcome) == ("failed", "ok")
    assert summary(failed.schema_changes) == [("new_table", "orders", None, None)]
    assert loaded.schema_changes == ()
    assert loaded.load_ids == failed.load_ids


def test_ignored_changes_reach_nobody(pipeline, monkeypatch):
    """Patterns name tables or columns; what they leave is told."""
    monkeypatch.setenv("RUNTIME__LOG_LEVEL", "INFO")
    sink = RecordingSink()
    dltobs.configure(
        sinks=[sink],
        console="off",
        schema_change_ignore="people, *.note, orders.amount__v_*",
        log_file="dlt.jsonl",
    )
    shop = pipeline()
    shop.run(FIRST, table_name="orders")
    shop.run([dlt.resource(SECOND, name="orders"), dlt.resource([{"id": 1}], name="people")])
    assert summary(sink.runs[-1].schema_changes) == [("new_column", "orders__items", "price", "double")]
    lines = [json.loads(line) for line in Path("dlt.jsonl").read_text().splitlines()]
    (_, logged) = [line for line in lines if "schema_changes" in line]
    assert [change["column"] for change in logged["schema_changes"]] == ["price"]
    assert logged["level"] == "INFO"  # the type conflict is one of those


@pytest.mark.parametrize(
    ("pattern", "table_goes", "column_goes"),
    [
        ("orders", True, True),
        ("orders.*", True, True),
        ("ORD*", True, True),
        ("orders.note", False, True),
        ("*.note", False, True),
        ("*", True, True),
        ("order", False, False),
        ("orders.n", False, False),
    ],
)
def test_a_pattern_names_a_table_or_a_column(pattern, table_goes, column_goes):
    table = SchemaChange("new_table", "1", "shop", "orders", columns=2)
    column = SchemaChange("new_column", "1", "shop", "orders", "note", "text")
    assert (without_ignored([table], [pattern]) == ()) is table_goes
    assert (without_ignored([column], [pattern]) == ()) is column_goes


def test_the_lines_for_people_begin_with_a_headline():
    """Sorted by kind; each kind in the singular or the plural."""
    changes = [
        SchemaChange("variant_column", "1", "shop", "orders", "a__v_text", "text", (), 0, "a", "bigint"),
        SchemaChange("variant_column", "1", "shop", "orders", "shortened_x1y2", "text"),
        SchemaChange("changed_hint", "1", "shop", "orders", "id", "bigint", ("nullable: True -> False",)),
        SchemaChange("new_column", "1", "shop", "orders", "note", "text"),
        SchemaChange("new_table", "1", "shop", "people", columns=1),
    ]
    assert told(changes, first_run=False) == (
        "shop: 1 new table, 1 new column, 2 type conflicts, 1 changed hint",
        "new table people (1 column)",
        "new column orders.note (text)",
        "type conflict orders.a (bigint): values of type text went to a__v_text",
        "type conflict orders.shortened_x1y2 (text)",
        "changed hint orders.id: nullable: True -> False",
    )
    assert told(changes, first_run=False, limit=1)[1:] == ("new table people (1 column)", "… and 4 more")
    assert told([], first_run=False) == told([], first_run=True) == ()


def test_a_first_run_is_one_line(sink, pipeline):
    pipeline().run(FIRST, table_name="orders")
    assert told(sink.run.schema_changes, first_run=True) == ("first run: 2 tables, 3 columns",)


def test_one_span_event_and_one_log_line_tell_the_changes_of_a_load(monkeypatch, otlp, pipeline, tmp_path):
    """The line is a WARNING where a type did not fit, and belongs to the span of the load."""
    monkeypatch.setenv("RUNTIME__LOG_LEVEL", "INFO")
    dltobs.configure(otlp_endpoint=otlp.url, console="off", log_file=tmp_path / "dlt.jsonl")
    shop = pipeline()
    shop.run(FIRST, table_name="orders")
    shop.run(SECOND, table_name="orders")
    shop.run(SECOND, table_name="orders")
    dltobs.shutdown()

    loads = [span for span in otlp.spans if span.name == "load"]
    events = [[event for event in span.events if event.name == "schema_change"] for span in loads]
    assert [len(found) for found in events] == [1, 1, 0]
    told_first, told_second = attributes_of(events[0][0]), attributes_of(events[1][0])
    told_second["dlt.schema_change.lines"] = [
        value.string_value for value in told_second["dlt.schema_change.lines"].values
    ]
    assert told_first["dlt.schema_change.new_tables"] == 2
    assert told_second == {
        "dlt.schema_change.new_columns": 2,
        "dlt.schema_change.variant_columns": 1,
        "dlt.schema_change.lines": [
            "shop: 2 new columns, 1 type conflict",
            "new column orders.note (text)",
            "new column orders__items.price (double)",
            "type conflict orders.amount (bigint): values of type text went to amount__v_text",
        ],
        "dlt.load_id": attributes_of(loads[1])["dlt.load_id"],
    }

    lines = [json.loads(line) for line in (tmp_path / "dlt.jsonl").read_text().splitlines()]
    first, second = [line for line in lines if "schema_changes" in line]
    assert (first["level"], second["level"], second["logger"]) == ("INFO", "WARNING", "dltobs")
    assert first["message"] == "Schema changes: first run: 2 tables, 3 columns"
    assert second["message"].startswith("Schema changes: shop: 2 new columns, 1 type conflict; new column")
    assert second["span_id"] == loads[1].span_id.hex()
    assert (second["step"], second["load_ids"]) == ("load", [attributes_of(loads[1])["dlt.load_id"]])
    assert second["schema_changes"][-1] == {
        "kind": "variant_column",
        "table": "orders",
        "column": "amount__v_text",
        "data_type": "text",
        "base_column": "amount",
        "base_type": "bigint",
    }


def test_no_secret_is_in_a_change(monkeypatch, otlp, pipeline, tmp_path):
    """Not as the name of a column."""
    secret = "pl4nted_c0lumn_s3cret"
    monkeypatch.setenv("API_KEY", secret)
    monkeypatch.setenv("RUNTIME__LOG_LEVEL", "INFO")
    sink = RecordingSink()
    dltobs.configure(sinks=[sink], otlp_endpoint=otlp.url, console="off", log_file=tmp_path / "dlt.jsonl")

    @dlt.resource(name="orders")
    def orders(number: int, api_key: str = dlt.secrets.value):
        yield {"id": 1, **({api_key: 1} if number else {})}

    shop = pipeline()
    shop.run(orders(0))
    shop.run(orders(1))
    hinted = orders(1)
    hinted.apply_hints(columns={secret: {"nullable": False}})
    shop.run(hinted)
    dltobs.shutdown()

    second, third = sink.runs[1].schema_changes, sink.runs[2].schema_changes
    assert [(change.kind, change.column) for change in second] == [("new_column", "***")]
    assert [(change.column, change.hints) for change in third] == [("***", ("nullable: True -> False",))]
    assert secret not in repr(sink.events)
    for leak in (otlp.raw, (tmp_path / "dlt.jsonl").read_bytes()):
        assert b"new column orders.***" in leak
        assert secret.encode() not in leak


def test_a_load_is_logged_by_the_set_up_that_took_over_in_its_run(monkeypatch, otlp, pipeline, tmp_path):
    """Also if that one has no spans, and keeps the sink of the old one for those that are open."""
    monkeypatch.setenv("RUNTIME__LOG_LEVEL", "INFO")
    dltobs.configure(otlp_endpoint=otlp.url, console="off")

    @dlt.resource
    def orders():
        dltobs.configure(tracing="off", console="off", log_file=tmp_path / "dlt.jsonl")
        yield {"id": 1}

    pipeline().run(orders())
    messages = [json.loads(line)["message"] for line in (tmp_path / "dlt.jsonl").read_text().splitlines()]
    assert "Schema changes: first run: 1 table, 1 column" in messages
    assert re.fullmatch(r"Run of shop finished after \d+\.\d s: 1 row loaded", messages[-1])


def test_an_unchanged_schema_is_not_parsed(monkeypatch, sink, pipeline):
    """A big one has megabytes, and most loads change nothing."""
    shop = pipeline()
    shop.run(FIRST, table_name="orders")
    parsed = []
    monkeypatch.setattr(
        "dltobs._runs.schema_files.json.loads", lambda text: parsed.append(text) or loads(text)
    )
    shop.run(FIRST, table_name="orders")
    assert not [text for text in parsed if isinstance(text, bytes) and b"version_hash" in text]
    shop.run(SECOND, table_name="orders")
    assert [text for text in parsed if isinstance(text, bytes) and b"version_hash" in text]
    assert [len(run.schema_changes) for run in sink.runs] == [2, 0, 3]


def test_a_schema_that_another_version_of_dlt_has_stored_is_not_compared(sink, pipeline):
    """Its hints may be spelled differently; what was made at the destination counts all the same."""
    shop = pipeline()
    shop.run(FIRST, table_name="orders")
    (stored,) = Path(shop.working_dir).glob("schemas/*.json")
    before = schema_files_of(shop)
    older = {
        name: re.sub(rb'"engine_version": \d+', b'"engine_version": 5', text) for name, text in before.items()
    }
    assert older != before
    shop.run([dlt.resource(SECOND, name="orders", write_disposition="replace")])
    package = shop.last_trace.last_load_info.load_packages[0]
    assert tables_before(shop, package, older) is None
    assert "changed_hint" in {
        change.kind for change in changes_of(package, tables_before(shop, package, before))
    }
    kinds = {change.kind for change in changes_of(package, None)}
    assert kinds == {"new_column", "variant_column"}
    assert stored.name == "shop.schema.json"


def test_nothing_is_logged_where_the_level_forbids_it(monkeypatch, pipeline, tmp_path):
    """dlt's default level is WARNING: only a type conflict is told."""
    dltobs.configure(console="off", log_file=tmp_path / "dlt.jsonl")
    shop = pipeline()
    shop.run(FIRST, table_name="orders")
    shop.run(SECOND, table_name="orders")
    (line,) = [json.loads(line) for line in (tmp_path / "dlt.jsonl").read_text().splitlines()]
    assert (line["level"], logging.getLevelName(line["level"])) == ("WARNING", logging.WARNING)
