"""`docs/telemetry.md` is what is sent: every name, type and unit in it, and nothing that is not in it."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from scripts import run_script
from servers import OtlpServer

DOCUMENT = Path(__file__).parents[1] / "docs" / "telemetry.md"
SCOPE = "dltobs"
_TYPES = {
    "string_value": "string",
    "bool_value": "boolean",
    "int_value": "int",
    "double_value": "double",
    "array_value": "string[]",
}

PIPELINES = """
import os
import dlt
import dltobs
from dlt.common.destination.exceptions import DestinationTerminalException, DestinationTransientException

dltobs.configure(tags={"team": "sales"}, tracing="on", metrics="on", environment="test")
folder = os.getcwd()

def pipeline(name, **options):
    options.setdefault("destination", dlt.destinations.duckdb(f"{name}.duckdb"))
    return dlt.pipeline(name, pipelines_dir=f"{folder}/pipelines", dataset_name=f"{name}_data", **options)

@dlt.resource
def orders():
    yield [{"id": 1, "items": [{"sku": "a"}]}, {"id": 2, "items": []}]

def attempt(work):
    try:
        work()
    except Exception:
        pass

# a run whose process is killed, which the next one reports; forked before DuckDB has threads
@dlt.resource
def dying():
    yield {"id": 1}
    os.kill(os.getpid(), 9)

child = os.fork()
if child == 0:
    pipeline("killed").run(dying())
os.waitpid(child, 0)
pipeline("killed").run(orders())

# a run that is fine, and two that change the schema in every way
shop = pipeline("shop")
shop.run(orders())
shop.run([{"id": 3, "note": "new"}], table_name="orders")
shop.run([{"id": "four"}], table_name="orders", write_disposition="replace")

shop.sync_destination()

# nothing to do
pipeline("idle").run([], table_name="orders")

# steps one by one
alone = pipeline("alone")
alone.extract(orders())
alone.normalize()
alone.load()

# a resource that fails
@dlt.resource
def broken():
    yield {"id": 1}
    raise ValueError("no such order")

attempt(lambda: pipeline("broken").run(broken()))

# a run that is tried again
from tenacity import Retrying, stop_after_attempt

def tries():
    for one in Retrying(stop=stop_after_attempt(2), **dltobs.tenacity_callbacks()):
        with one:
            pipeline("tried").run(broken())

attempt(tries)

# files, which have a URL
bucket = dlt.destinations.filesystem(f"file://{folder}/bucket")
pipeline("files", destination=bucket).run(orders())

# a job that is retried, one that fails for good, and one that keeps failing
attempts = []

@dlt.destination(name="flaky", batch_size=0)
def flaky(items, table):
    attempts.append(table["name"])
    if len(attempts) < 2:
        raise DestinationTransientException("try again")

attempt(lambda: pipeline("flaky", destination=flaky()).run([{"id": 1}], table_name="orders"))

@dlt.destination(name="refusing", batch_size=0)
def refusing(items, table):
    raise DestinationTerminalException("never")

attempt(lambda: pipeline("refusing", destination=refusing()).run([{"id": 1}], table_name="orders"))
os.environ["LOAD__RAISE_ON_FAILED_JOBS"] = "false"
attempt(lambda: pipeline("tolerant", destination=refusing()).run([{"id": 1}], table_name="orders"))

# more jobs than may have a span
dltobs.configure(tags={"team": "sales"}, tracing="on", metrics="on", environment="test", max_job_spans=1)
pipeline("many").run([dlt.resource([{"id": 1}], name=f"table_{number}") for number in range(5)])

# a load that changed the schema, of every kind
from datetime import datetime, timezone
from typing import get_args
from dltobs import _state
from dltobs._events import Run, RunStarted, SchemaChange, SchemaChangeKind, StepFinished
from dltobs.sinks.metrics import MetricSink

(sink,) = [sink for sink in _state.runtime.sinks if isinstance(sink, MetricSink)]
changed, now = Run("changed", "0" * 32, "duckdb", "dlt.destinations.duckdb"), datetime.now(timezone.utc)
changes = tuple(SchemaChange(kind, "1.0", "changed", "orders") for kind in get_args(SchemaChangeKind))
sink.emit(RunStarted(changed, "load", now))
sink.emit(StepFinished(changed, "load", 0, now, now, schema_changes=changes))
"""
"""Every way in which a run can go that shows in a span or a metric."""


class Sent:
    """What the scope `dltobs` has sent, by the columns of the document's tables."""

    def __init__(self, server: OtlpServer) -> None:
        self.spans: list[Any] = []
        self.metrics: list[Any] = []
        self.resources: list[Any] = []
        for request in server.all_requests:
            if request.path.endswith("/v1/traces"):
                for one in ExportTraceServiceRequest.FromString(request.body).resource_spans:
                    self.resources.append(one.resource)
                    self.spans += [
                        s for part in one.scope_spans if part.scope.name == SCOPE for s in part.spans
                    ]
            elif request.path.endswith("/v1/metrics"):
                for more in ExportMetricsServiceRequest.FromString(request.body).resource_metrics:
                    self.resources.append(more.resource)
                    self.metrics += [
                        m for part in more.scope_metrics if part.scope.name == SCOPE for m in part.metrics
                    ]

    def points(self, metric: Any) -> list[Any]:
        return list(getattr(metric, metric.WhichOneof("data")).data_points)


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Sent:
    server = OtlpServer()
    run = run_script(
        PIPELINES,
        tmp_path_factory.mktemp("runs"),
        prelude="",
        timeout=110,
        OTEL_EXPORTER_OTLP_ENDPOINT=server.url,
        RUNTIME__LOG_LEVEL="CRITICAL",
        LOAD__RAISE_ON_MAX_RETRIES="3",
    )
    server.close()
    assert run.returncode == 0, run.stderr
    return Sent(server)


def rows(heading: str) -> list[dict[str, str]]:
    """The rows of the table below a heading of the document, by the names of its columns."""
    text = DOCUMENT.read_text("utf-8")
    match = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert match is not None, heading
    lines = [line for line in match[1].splitlines() if line.startswith("|")]
    header, _, *body = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    assert all(len(row) == len(header) for row in body), body
    return [dict(zip(header, row, strict=True)) for row in body]


def table(heading: str) -> dict[str, dict[str, str]]:
    """Each of these rows by its first cell, without the code quotes."""
    return {next(iter(row.values())).strip("`"): row for row in rows(heading)}


def types_of(items: list[Any]) -> dict[str, set[str]]:
    """The types with which each attribute of the spans, events, links or points has been sent."""
    found = defaultdict(set)
    for item in items:
        for pair in item.attributes:
            found[pair.key].add(_TYPES[pair.value.WhichOneof("value")])
    return {_pattern_of(key): types for key, types in found.items()}


def _pattern_of(key: str) -> str:
    return "dlt.tag.<name>" if key.startswith("dlt.tag.") else key


def is_optional(row: dict[str, str]) -> bool:
    """Whether the row says that a run as those above does not send it."""
    return "(not in every set-up)" in " ".join(row.values())


def compare(written: dict[str, dict[str, str]], sent: dict[str, set[str]]) -> None:
    assert sent.keys() <= written.keys(), f"sent, not in the table: {sorted(sent.keys() - written.keys())}"
    for name, types in sent.items():
        assert types == {written[name]["type"]}, name
    unseen = [name for name, row in written.items() if name not in sent and not is_optional(row)]
    assert not unseen, f"in the table, not sent: {unseen}"


def _span_pattern(name: str) -> str:
    return " ".join([name.partition(" ")[0], *(["<…>"] if " " in name else [])])


def test_every_span_is_in_the_table(sent: Sent) -> None:
    """By the first word of its name; kind and parent are as the table says."""
    allowed: dict[str, set[str]] = defaultdict(set)
    for name, row in table("Spans").items():
        assert row["kind"] == "INTERNAL"
        parents = {_span_pattern(parent) for parent in re.findall(r"`(.+?)`", row["parent"])}
        allowed[_span_pattern(name)] |= parents
        if not parents or row["parent"].startswith("none"):
            allowed[_span_pattern(name)].add("none")
    by_id = {span.span_id: span for span in sent.spans}
    seen = defaultdict(set)
    for span in sent.spans:
        parent = by_id.get(span.parent_span_id)
        assert bool(parent) == bool(span.parent_span_id), f"{span.name} is an orphan"
        seen[_span_pattern(span.name)].add("none" if parent is None else _span_pattern(parent.name))
        assert span.kind == span.SPAN_KIND_INTERNAL, span.name
        assert span.start_time_unix_nano <= span.end_time_unix_nano
    assert dict(seen) == dict(allowed)


def test_every_attribute_of_a_span_is_in_the_table(sent: Sent) -> None:
    compare(table("Attributes of spans"), types_of(sent.spans))


def test_every_attribute_stands_on_the_spans_that_the_table_says(sent: Sent) -> None:
    found = defaultdict(set)
    for span in sent.spans:
        keys = {_pattern_of(pair.key) for pair in span.attributes}
        kind = span.name.partition(" ")[0]
        if kind in {"retry", "attempt"}:
            place = kind
        elif "dlt.step" not in keys:
            place = "part"
        else:
            place = "step" if span.parent_span_id and kind != "run" else "run"
        for key in keys:
            found[key].add(place)
    for name, row in table("Attributes of spans").items():
        places = set(row["on"].replace("failed step", "step").split(", "))
        assert found[name] <= places | ({"run"} if "step" in places else set()), name
        assert places <= found[name] | ({"step"} if "run" in found[name] else set()), name


def test_every_event_is_in_the_table(sent: Sent) -> None:
    """With the attributes of that very event: some have the same name."""
    events = [event for span in sent.spans for event in span.events]
    written = rows("Events")
    names = {event.name for event in events}
    assert names == {row["event"].strip("`") for row in written}
    for name in names:
        own = {row["attribute"].strip("`"): row for row in written if row["event"] == f"`{name}`"}
        compare(own, types_of([event for event in events if event.name == name]))


def test_every_attribute_of_a_link_is_in_the_table(sent: Sent) -> None:
    compare(table("Links"), types_of([link for span in sent.spans for link in span.links]))


def test_every_attribute_of_the_resource_is_in_the_table(sent: Sent) -> None:
    compare(table("Resource"), types_of(sent.resources))


def test_every_metric_is_in_the_table(sent: Sent) -> None:
    """With its instrument, its type and its unit."""
    written = table("Metrics")
    found = {}
    for metric in sent.metrics:
        kind = metric.WhichOneof("data")
        if kind == "sum":
            assert metric.sum.aggregation_temporality != 0
            kind = "counter" if metric.sum.is_monotonic else "up-down counter"
        value = {"as_int": "int", "as_double": "double"}
        numbers = {
            "double" if kind == "histogram" else value[point.WhichOneof("value")]
            for point in sent.points(metric)
        }
        found[metric.name] = (kind, metric.unit, numbers)
    assert found.keys() <= written.keys(), sorted(found.keys() - written.keys())
    for name, (kind, unit, numbers) in found.items():
        row = written[name]
        assert (row["instrument"], row["unit"].strip("`"), {row["type"]}) == (kind, unit, numbers), name
    assert not [name for name, row in written.items() if name not in found and not is_optional(row)]


def test_every_attribute_of_a_metric_is_in_the_table(sent: Sent) -> None:
    points = [point for metric in sent.metrics for point in sent.points(metric)]
    compare(table("Attributes of metrics"), types_of(points))


def test_every_kind_of_schema_change_is_in_the_table(sent: Sent) -> None:
    row = table("Attributes of metrics")["dlt.schema.change.kind"]
    points = [
        p for metric in sent.metrics if metric.name == "dlt.schema.changes" for p in sent.points(metric)
    ]
    kinds = {a.value.string_value for p in points for a in p.attributes if a.key == "dlt.schema.change.kind"}
    assert kinds == set(re.findall(r"`(\w+)`", row["value"]))


def test_no_metric_bears_what_is_different_in_each_run(sent: Sent) -> None:
    """Names of tables and resources, ids of runs, loads and jobs would make a series each."""
    points = [point for metric in sent.metrics for point in sent.points(metric)]
    unbounded = {"dlt.transaction_id", "dlt.load_id", "dlt.table.name", "dlt.resource.name", "dlt.job.id"}
    assert not unbounded & types_of(points).keys()


def test_names_and_units_are_as_the_specification_wants_them(sent: Sent) -> None:
    """Names: lower case, words with dots and underscores. Units: UCUM, and annotations for what is counted."""
    names = {metric.name for metric in sent.metrics}
    for items in (sent.spans, [e for span in sent.spans for e in span.events], sent.resources):
        names |= types_of(items).keys()
    tags = {"dlt.tag.<name>"}
    assert not [
        name for name in names - tags if not re.fullmatch(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*", name)
    ]
    assert not [m.name for m in sent.metrics if not re.fullmatch(r"s|By|\{[a-z_]+\}", m.unit)]


def test_a_span_is_failed_or_says_nothing(sent: Sent) -> None:
    """Instrumentation leaves OK to the application; a description is for errors, which name their type."""
    for span in sent.spans:
        assert span.status.code in {0, 2}, span.name
        assert bool(span.status.message) <= (span.status.code == 2), span.name
        assert ("error.type" in {pair.key for pair in span.attributes}) == (span.status.code == 2), span.name
    assert {span.status.code for span in sent.spans} == {0, 2}


def test_the_document_says_of_every_value_where_it_comes_from() -> None:
    for heading in ("Attributes of spans", "Events", "Metrics", "Attributes of metrics", "Resource"):
        for name, row in table(heading).items():
            assert all(row.values()), name
            assert row.get("unit") != "", name
