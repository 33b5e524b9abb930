"""Metrics: what a run records, under whose provider, how often it is sent, and what becomes of it."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime, timedelta, timezone

import dlt
import pytest
from dlt.pipeline.exceptions import PipelineStepFailed
from opentelemetry import metrics
from opentelemetry.metrics import get_meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import dltobs
from conftest import SECRET
from dltobs import BackendStatus, Redactor, _state
from dltobs._events import Job, Run, RunFinished, RunStarted, SchemaChange, StepFinished
from dltobs._settings.resolution import resolve_settings
from dltobs.sinks.metrics import BOUNDARIES, MetricSink
from scripts import SLACK, run_script
from servers import OtlpServer, attributes_of

UNITS = {
    "dlt.run.duration": "s",
    "dlt.step.duration": "s",
    "dlt.runs": "{run}",
    "dlt.rows": "{row}",
    "dlt.bytes": "By",
    "dlt.jobs": "{job}",
    "dlt.schema.changes": "{change}",
}
NOT_ALWAYS = {"dlt.schema.changes"}

pytestmark = pytest.mark.usefixtures("time_to_keep")


@dlt.resource
def broken():
    yield {"id": 1}
    raise ValueError("no such order")


def run_once(pipeline, name="shop"):
    one = pipeline(name)
    one.run([{"id": 1}, {"id": 2}, {"id": 3}], table_name="orders")
    return one


def fail(one):
    with pytest.raises(PipelineStepFailed):
        one.run(broken())


def named(server, name):
    """The points of a metric by what tells them apart."""
    return {
        tuple(
            str(point.attributes[key])
            for key in ("dlt.step", "dlt.outcome", "dlt.job.state", "error.type")
            if key in point.attributes
        ): point
        for point in server.points
        if point.name == name
    }


def values(server, name):
    return {key: point.value for key, point in named(server, name).items()}


def test_a_run_in_numbers(otlp, pipeline):
    dltobs.configure(otlp_endpoint=otlp.url)
    one = run_once(pipeline)
    dltobs.shutdown()
    sent = {point.name: point.unit for point in otlp.points}
    assert sent.items() <= UNITS.items()
    assert UNITS.keys() - sent.keys() <= NOT_ALWAYS
    assert values(otlp, "dlt.runs") == {("run", "ok"): 1}
    rows = values(otlp, "dlt.rows")
    assert (rows["extract",], rows["normalize",]) == (3, 3)
    sizes = values(otlp, "dlt.bytes")
    assert min(sizes["extract",], sizes["normalize",]) > 0
    assert named(otlp, "dlt.step.duration").keys() == {("extract",), ("normalize",), ("load",)}
    for point in otlp.points:
        assert point.attributes["dlt.pipeline.name"] == "shop"
        assert point.attributes["dlt.destination.type"] == one.destination.destination_type
        assert point.scope == "dltobs"
    assert dltobs.status()["otlp_metrics"] == BackendStatus(len(otlp.points))


def test_no_attribute_grows_with_the_data(otlp, pipeline):
    dltobs.configure(otlp_endpoint=otlp.url, tags={"team": "data"})
    run_once(pipeline)
    dltobs.shutdown()
    assert {key for point in otlp.points for key in point.attributes} <= {
        "dlt.pipeline.name", "dlt.destination.type", "dlt.step", "dlt.outcome", "dlt.job.state", "error.type",
        "dlt.schema.change.kind",
    }  # fmt: skip
    assert b"orders" not in b"".join(request.body for request in otlp.metric_requests)


def test_durations_are_seconds_in_buckets_from_seconds_to_hours(otlp, pipeline):
    dltobs.configure(otlp_endpoint=otlp.url)
    began = time.monotonic()
    run_once(pipeline)
    longest = time.monotonic() - began
    dltobs.shutdown()
    for name in ("dlt.run.duration", "dlt.step.duration"):
        for point in named(otlp, name).values():
            assert 0 < point.value <= longest
            assert point.data.count == 1
            assert tuple(point.data.explicit_bounds) == BOUNDARIES
    steps = sum(values(otlp, "dlt.step.duration").values())
    (whole,) = values(otlp, "dlt.run.duration").values()
    assert steps <= whole


def test_a_failure_is_told_by_the_outcome_and_the_root_cause(otlp, pipeline):
    dltobs.configure(otlp_endpoint=otlp.url)
    fail(pipeline())
    run_once(pipeline, "other")
    dltobs.shutdown()
    assert values(otlp, "dlt.runs") == {("run", "failed", "ValueError"): 1, ("run", "ok"): 1}
    assert ("extract", "ValueError") in named(otlp, "dlt.step.duration")


def test_a_step_that_is_called_alone_is_told_apart_from_a_run(otlp, pipeline):
    dltobs.configure(otlp_endpoint=otlp.url)
    one = pipeline()
    one.extract([{"id": 1}], table_name="orders")
    one.normalize()
    one.load()
    dltobs.shutdown()
    assert {key[0] for key in named(otlp, "dlt.runs")} == {"extract", "normalize", "load"}


class Recorder:
    """Emits events of a load by hand, under a provider of the application."""

    def __init__(self):
        self.reader = InMemoryMetricReader()
        metrics.set_meter_provider(MeterProvider([self.reader]))
        self.sink = MetricSink(resolve_settings({}), Redactor(), None, {})

    def load(self, jobs, seconds=1.0, changes=()):
        run = Run("shop", "0" * 32, "duckdb", "dlt.destinations.duckdb")
        start = datetime(2026, 1, 1, tzinfo=timezone.utc)
        end = start + timedelta(seconds=seconds)
        step = StepFinished(run, "load", 0, start, end, load_jobs=tuple(jobs), schema_changes=changes)
        self.sink.emit(RunStarted(run, "load", start))
        self.sink.emit(step)
        self.sink.emit(RunFinished(run, "ok", start, end, (step,)))

    def points(self, name):
        data = self.reader.get_metrics_data()
        return [
            point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


def job(number, state="completed", table="orders", **known):
    return Job(f"{table}.{number}", table, table.startswith("_dlt"), state, **known)


def test_load_jobs_are_counted_by_state(pipeline):
    recorder = Recorder()
    recorder.load([job(1), job(2), job(3, "failed"), job(4, table="_dlt_pipeline_state")])
    found = {point.attributes["dlt.job.state"]: point.value for point in recorder.points("dlt.jobs")}
    assert found == {"completed": 3, "failed": 1}


def test_rows_of_a_load_are_those_of_completed_jobs_of_the_users_tables():
    recorder = Recorder()
    recorder.load(
        [
            job(1, rows=10, bytes=100),
            job(2, rows=5, bytes=50),
            job(3, "failed", rows=7, bytes=70),
            job(4, table="_dlt_version", rows=1, bytes=10),
            job(5),
        ]
    )
    assert [point.value for point in recorder.points("dlt.rows")] == [15]


def test_what_merges_brings_no_bytes_of_its_own(otlp, pipeline):
    """The file of such a job is a script of dlt's: on its span there are no bytes, in the metric neither."""

    @dlt.resource(primary_key="id", write_disposition="merge")
    def orders():
        yield [{"id": number, "items": [{"sku": "a"}]} for number in range(10)]

    dltobs.configure(otlp_endpoint=otlp.url)
    one = pipeline()
    one.run(orders())
    dltobs.shutdown()
    jobs = [attributes_of(span) for span in otlp.spans if span.name.startswith("load ")]
    merges = [job for job in jobs if job["dlt.job.file_format"] == "sql"]
    assert merges
    assert not any("dlt.bytes" in job for job in merges)
    (package,) = one.last_trace.last_load_info.load_packages
    scripts = [job for job in package.jobs["completed_jobs"] if job.job_file_info.file_format == "sql"]
    assert all(script.file_size > 0 for script in scripts)
    loaded = sum(job["dlt.bytes"] for job in jobs if job not in merges and "dlt.internal" not in job)
    sizes = values(otlp, "dlt.bytes")
    assert sizes["load",] == loaded == sizes["normalize",]


def test_schema_changes_of_a_load_are_counted_by_kind():
    """Without the names of tables and columns, which would grow with the data."""
    recorder = Recorder()
    kinds = ["new_table", "new_column", "new_column", "variant_column"]
    changes = tuple(
        SchemaChange(kind, "1.0", "shop", "orders", f"column_{number}") for number, kind in enumerate(kinds)
    )
    recorder.load([], changes=changes)
    recorder.load([], changes=changes[:1])
    recorder.load([])
    identity = {"dlt.pipeline.name": "shop", "dlt.destination.type": "dlt.destinations.duckdb"}
    found = [(dict(point.attributes), point.value) for point in recorder.points("dlt.schema.changes")]
    assert sorted(found, key=str) == [
        ({**identity, "dlt.schema.change.kind": "new_column"}, 2),
        ({**identity, "dlt.schema.change.kind": "new_table"}, 2),
        ({**identity, "dlt.schema.change.kind": "variant_column"}, 1),
    ]


def test_a_clock_that_was_set_back_makes_no_negative_duration():
    recorder = Recorder()
    recorder.load([], seconds=-5)
    assert [point.sum for point in recorder.points("dlt.run.duration")] == [0]


@pytest.mark.parametrize("order", ["before configure", "after configure"])
def test_the_provider_of_the_application_is_used_if_it_is_set_before_the_first_run(otlp, pipeline, order):
    """Nothing of ours goes to our own endpoint then, and its points are not flushed by us."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    if order.startswith("before"):
        metrics.set_meter_provider(provider)
    dltobs.configure(otlp_endpoint=otlp.url)
    if order.startswith("after"):
        metrics.set_meter_provider(provider)
    run_once(pipeline)
    dltobs.shutdown()
    data = reader.get_metrics_data()
    (scope,) = data.resource_metrics[0].scope_metrics
    assert {metric.name for metric in scope.metrics} | NOT_ALWAYS == UNITS.keys()
    assert otlp.metric_requests == []
    assert dltobs.status().get("otlp_metrics") in {None, BackendStatus()}


@pytest.mark.parametrize(
    ("variables", "settings"),
    [
        ({}, {}),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "{url}/v1/traces"}, {}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "{url}", "OTEL_METRICS_EXPORTER": "none"}, {}),
        ({"OTEL_METRICS_EXPORTER": "none"}, {"otlp_endpoint": "{url}"}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "{url}"}, {"metrics": "off"}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "{url}", "OTEL_SDK_DISABLED": "true"}, {"metrics": "on"}),
    ],
)
def test_without_a_wish_for_metrics_there_is_no_provider(monkeypatch, otlp, pipeline, variables, settings):
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(url=otlp.url))
    dltobs.configure(**{name: value.format(url=otlp.url) for name, value in settings.items()})
    run_once(pipeline)
    assert type(metrics.get_meter_provider()).__name__ == "_ProxyMeterProvider"
    dltobs.shutdown()
    assert otlp.metric_requests == []
    assert "otlp_metrics" not in dltobs.status()


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "{url}"},
        {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "{url}/v1/metrics"},
        {"OTEL_METRICS_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": "{url}"},
        {"OTEL_METRICS_EXPORTER": "otlp", "DLTOBS__OTLP_ENDPOINT": "{url}"},
    ],
)
def test_what_asks_for_metrics(monkeypatch, otlp, pipeline, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(url=otlp.url))
    dltobs.configure()
    run_once(pipeline)
    dltobs.shutdown()
    assert dltobs.status()["otlp_metrics"] == BackendStatus(len(otlp.points))
    assert otlp.points


def test_metrics_on_without_an_exporter_sends_nothing(pipeline):
    dltobs.configure(metrics="on")
    run_once(pipeline)
    dltobs.shutdown()
    assert dltobs.status() == {}


def test_the_console_exporter_prints_metrics_to_stdout(tmp_path):
    result = run_script(
        """
        import dltobs
        dltobs.configure()
        pipeline().run([{"id": 1}], table_name="orders")
        dltobs.shutdown()
        print(dltobs.status()["console_metrics"].delivered, file=sys.stderr)
        """,
        tmp_path,
        OTEL_METRICS_EXPORTER="console",
    )
    printed = json.loads(result.stdout)
    (scope,) = printed["resource_metrics"][0]["scope_metrics"]
    assert {metric["name"] for metric in scope["metrics"]} | NOT_ALWAYS == UNITS.keys()
    assert int(result.stderr) > 5


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
@pytest.mark.parametrize("end", ["dltobs.shutdown()", ""])
def test_a_short_job_sends_each_point_once(tmp_path, otlp, end, temporality):
    """Whether it says that it ends or not: a reader of the SDK exports once more when it is shut down."""
    result = run_script(
        f"""
        import dltobs
        dltobs.configure()
        pipeline().run([{{"id": 1}}], table_name="orders")
        {end}
        """,
        tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url,
        OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=temporality,
    )
    assert result.returncode == 0, result.stderr
    assert len(otlp.metric_requests) == 1
    assert values(otlp, "dlt.runs") == {("run", "ok"): 1}
    keys = [(point.name, json.dumps(point.attributes, sort_keys=True)) for point in otlp.points]
    assert len(keys) == len(set(keys))


def test_a_long_job_sends_at_the_interval(monkeypatch, otlp, pipeline):
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "100")
    dltobs.configure(otlp_endpoint=otlp.url)
    run_once(pipeline)
    deadline = time.monotonic() + 10
    while len(otlp.metric_requests) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    dltobs.shutdown()
    assert len(otlp.metric_requests) >= 2


@pytest.mark.parametrize("interval", ["0", "-5", "soon"])
def test_an_interval_that_is_none_is_that_of_the_specification(monkeypatch, otlp, pipeline, interval):
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", interval)
    dltobs.configure(otlp_endpoint=otlp.url)
    run_once(pipeline)
    dltobs.shutdown()
    assert len(otlp.metric_requests) == 1


def test_a_second_set_up_counts_from_zero_to_its_own_endpoint(otlp, pipeline):
    """Though the global provider cannot be exchanged; the counter of a library goes along."""
    other = OtlpServer()
    dltobs.configure(otlp_endpoint=otlp.url, service_name="old")
    run_once(pipeline)
    library = get_meter("library")
    counter = library.create_counter("requests", "{request}")
    library.create_observable_gauge("temperature", [lambda _: [metrics.Observation(20)]])
    counter.add(1)
    dltobs.shutdown()
    counter.add(10)
    dltobs.configure(otlp_endpoint=other.url, service_name="new")
    run_once(pipeline, "second")
    counter.add(100)
    dltobs.shutdown()
    other.close()
    assert values(otlp, "dlt.runs") == values(other, "dlt.runs") == {("run", "ok"): 1}
    assert values(otlp, "requests") == {(): 1}
    assert values(other, "requests") == {(): 100}
    assert values(other, "temperature") == {(): 20}
    assert {point.resource["service.name"] for point in otlp.points} == {"old"}
    assert {point.resource["service.name"] for point in other.points} == {"new"}
    assert dltobs.status()["otlp_metrics"] == BackendStatus(len(other.points))


def test_after_shutdown_nothing_is_collected(monkeypatch, otlp, pipeline):
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "50")
    dltobs.configure(otlp_endpoint=otlp.url)
    run_once(pipeline)
    dltobs.shutdown()
    asked = []
    get_meter("late").create_observable_gauge("late", [lambda _: asked.append(1) or []])
    before = len(otlp.metric_requests)
    run_once(pipeline, "second")
    time.sleep(0.3)
    assert len(otlp.metric_requests) == before
    assert asked == []


def test_every_kind_of_instrument_of_a_library_is_forwarded(otlp, pipeline):
    dltobs.configure(otlp_endpoint=otlp.url)
    run_once(pipeline)
    meter = get_meter("library", "1")
    assert meter.create_counter("c") is meter.create_counter("c")
    meter.create_counter("c").add(1, {"a": "b"})
    meter.create_up_down_counter("u").add(-2)
    meter.create_histogram("h", unit="s").record(3)
    meter.create_gauge("g").set(4)
    meter.create_observable_counter("oc", [lambda _: [metrics.Observation(5)]])
    meter.create_observable_up_down_counter("ou", [lambda _: [metrics.Observation(-6)]])
    meter.create_observable_gauge("og", [lambda _: [metrics.Observation(7)]])
    dltobs.shutdown()
    found = {point.name: point.value for point in otlp.points if point.scope == "library"}
    assert found == {"c": 1, "u": -2, "h": 3, "g": 4, "oc": 5, "ou": -6, "og": 7}


def test_what_libraries_record_is_sent_without_secrets(monkeypatch, otlp, pipeline):
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "note=token is hunter22")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=hunter22")
    monkeypatch.setenv("MY_PASSWORD", SECRET)
    dltobs.configure(otlp_endpoint=otlp.url)
    run_once(pipeline)
    counter = get_meter("library").create_counter("requests")
    counter.add(1, {"url.full": "https://user:hunter22@host/", "password": "whatever", "count": 3})
    dltobs.shutdown()
    bodies = b"".join(request.body for request in otlp.metric_requests)
    assert b"hunter22" not in bodies
    assert b"whatever" not in bodies
    (point,) = [point for point in otlp.points if point.name == "requests"]
    assert point.attributes["count"] == 3
    assert point.resource["note"] == "token is ***"


def test_names_of_ours_stay_what_they_are(otlp, pipeline):
    """A secret that is the name of a pipeline renames no pipeline."""
    dltobs.configure(otlp_endpoint=otlp.url)
    assert _state.runtime is not None
    _state.runtime.redactor.add("shop", "completed", "extract")
    run_once(pipeline)
    dltobs.shutdown()
    assert {point.attributes["dlt.pipeline.name"] for point in otlp.points} == {"shop"}
    assert ("extract",) in named(otlp, "dlt.rows")


def test_a_redactor_that_fails_costs_the_texts_and_not_the_numbers(monkeypatch, otlp, pipeline):
    dltobs.configure(otlp_endpoint=otlp.url, tracing="off")
    run_once(pipeline)
    get_meter("library").create_counter("requests").add(7, {"url": "https://host", "port": 80})

    def fails(*_):
        raise RuntimeError

    monkeypatch.setattr(_state.runtime.redactor, "redact", fails, raising=False)
    dltobs.shutdown()
    (point,) = [point for point in otlp.points if point.name == "requests"]
    assert (point.value, point.attributes["port"]) == (7, 80)
    assert "host" not in point.attributes["url"]


@pytest.fixture
def warnings(caplog):
    return lambda: [record.getMessage() for record in caplog.records if record.levelno >= 30]


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_back_end_that_is_not_there_is_one_warning_for_each_reason(
    monkeypatch, dead_port, pipeline, warnings, protocol
):
    """Also where it is tried again and again."""
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "100")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    dltobs.configure(
        otlp_endpoint=f"http://127.0.0.1:{dead_port}",
        otlp_protocol=protocol,
        tracing="off",
        flush_timeout=1,
    )
    run_once(pipeline)
    time.sleep(2)
    began = time.monotonic()
    dltobs.shutdown()
    assert time.monotonic() - began < 1 + SLACK
    status = dltobs.status()["otlp_metrics"]
    assert status.delivered == 0
    assert status.spooled > 0
    said = [
        re.fullmatch(r"otlp_metrics: \d+ points kept in the spool \((.+)\); address .+", one)
        for one in warnings()
    ]
    reasons = [match[1] for match in said if match]
    assert len(reasons) == len(said)
    assert len(reasons) == len(set(reasons))
    # what gRPC says depends on where it is between two tries to connect
    expected = (
        {"gRPC DEADLINE_EXCEEDED", "gRPC UNAVAILABLE"} if protocol == "grpc" else {"connection refused"}
    )
    assert expected >= set(reasons) > set()


def test_what_a_back_end_that_hangs_has_not_answered_is_kept_at_the_deadline(otlp, pipeline, warnings):
    otlp.delay = 30
    dltobs.configure(otlp_endpoint=otlp.url, tracing="off", flush_timeout=0.5)
    run_once(pipeline)
    began = time.monotonic()
    dltobs.shutdown()
    assert time.monotonic() - began < 0.5 + SLACK
    status = dltobs.status()["otlp_metrics"]
    assert (status.delivered, status.last_error) == (0, "not sent before the deadline")
    assert status.spooled > 5
    assert len(warnings()) == 1


@pytest.fixture
def points_of_a_run(pipeline):
    """How many points one run makes, as a back end has counted that takes them."""
    server = OtlpServer()
    dltobs.configure(otlp_endpoint=server.url, tracing="off")
    run_once(pipeline, "counted")
    dltobs.shutdown()
    server.close()
    return len(server.points)


@pytest.mark.parametrize("interval", ["60000", "300"])
@pytest.mark.parametrize(
    ("settings", "end"), [({}, "spooled"), ({"spool_max_bytes": 0}, "dropped")], ids=["spool", "no spool"]
)
def test_sums_that_are_exported_in_vain_again_and_again_are_counted_once(
    monkeypatch, dead_port, pipeline, points_of_a_run, interval, settings, end
):
    """By the reader, by the flush, at the end: each export contains the one before."""
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", interval)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    dltobs.configure(
        otlp_endpoint=f"http://127.0.0.1:{dead_port}", tracing="off", flush_timeout=0.5, **settings
    )
    run_once(pipeline)
    if interval == "300":
        time.sleep(2)
    dltobs.shutdown()
    expected = BackendStatus(last_error="connection refused", **{end: points_of_a_run})
    assert dltobs.status()["otlp_metrics"] == expected


@pytest.mark.parametrize(
    ("settings", "end"), [({}, "spooled"), ({"spool_max_bytes": 0}, "dropped")], ids=["spool", "no spool"]
)
def test_the_points_of_an_export_that_hangs_are_counted_with_those_that_came_since(
    monkeypatch, otlp, pipeline, points_of_a_run, settings, end
):
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "100")
    otlp.delay = 30
    dltobs.configure(otlp_endpoint=otlp.url, tracing="off", flush_timeout=0.5, **settings)
    run_once(pipeline)
    wait_for(lambda: otlp.metric_requests)
    run_once(pipeline, "second")
    dltobs.shutdown()
    assert len(otlp.metric_requests) == 1
    expected = BackendStatus(last_error="not sent before the deadline", **{end: 2 * points_of_a_run})
    assert dltobs.status()["otlp_metrics"] == expected


@pytest.mark.parametrize("settings", [{}, {"spool_max_bytes": 0}], ids=["spool", "no spool"])
def test_sums_that_come_in_the_end_are_neither_kept_nor_lost(otlp, pipeline, points_of_a_run, settings):
    otlp.metric_status = 500
    dltobs.configure(otlp_endpoint=otlp.url, tracing="off", **settings)
    run_once(pipeline)
    (sink,) = _state.runtime.sinks
    assert not sink.flush(5)
    before = dltobs.status()["otlp_metrics"]
    assert before.spooled + before.dropped == points_of_a_run
    otlp.metric_status = 200
    otlp.metric_requests.clear()
    assert sink.flush(5)
    assert dltobs.status()["otlp_metrics"] == BackendStatus(points_of_a_run)
    dltobs.shutdown()
    assert dltobs.status()["otlp_metrics"] == BackendStatus(len(otlp.points))


def test_of_delta_temporality_every_export_counts(monkeypatch, otlp, pipeline, points_of_a_run):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
    otlp.metric_status = 500
    dltobs.configure(otlp_endpoint=otlp.url, tracing="off", flush_timeout=1)
    (sink,) = _state.runtime.sinks
    for name in ("first", "second"):
        run_once(pipeline, name)
        sink.flush(5)
    dltobs.shutdown()
    assert dltobs.status()["otlp_metrics"].spooled == 2 * points_of_a_run


@pytest.mark.parametrize(
    ("settings", "end"), [({}, "spooled"), ({"spool_max_bytes": 0}, "dropped")], ids=["spool", "no spool"]
)
def test_of_delta_temporality_what_waits_behind_an_export_that_hangs_counts_too(
    monkeypatch, otlp, pipeline, points_of_a_run, time_to_keep, settings, end
):
    """The export of the first flush hangs, so that of the second waits, and the end finds nothing to collect."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
    otlp.gate.clear()
    dltobs.configure(otlp_endpoint=otlp.url, tracing="off", flush_timeout=0.5, **settings)
    (sink,) = _state.runtime.sinks
    for name in ("first", "second"):
        run_once(pipeline, name)
        assert not sink.flush(0.1)
    dltobs.shutdown()
    expected = BackendStatus(last_error="not sent before the deadline", **{end: 2 * points_of_a_run})
    assert dltobs.status()["otlp_metrics"] == expected


@pytest.mark.parametrize("code", [404, 301])
def test_an_answer_that_is_no_success_is_a_loss(otlp, pipeline, warnings, code):
    otlp.metric_status = code
    dltobs.configure(otlp_endpoint=otlp.url)
    run_once(pipeline)
    dltobs.shutdown()
    status = dltobs.status()["otlp_metrics"]
    assert status.delivered == 0
    assert status.last_error.startswith(f"HTTP {code}")
    assert dltobs.status()["otlp"].dropped == 0
    assert len(warnings()) == 1


def test_a_back_end_that_is_down_for_a_moment_gets_the_whole_sum_later(otlp, pipeline):
    assert _state.runtime is None
    dltobs.configure(otlp_endpoint=otlp.url, tracing="off")
    otlp.metric_status = 404
    run_once(pipeline)
    (sink,) = _state.runtime.sinks
    assert not sink.flush(5)
    otlp.metric_status = 200
    otlp.metric_requests.clear()
    run_once(pipeline, "second")
    assert sink.flush(5)
    dltobs.shutdown()
    assert max(point.value for point in otlp.points if point.name == "dlt.runs") == 1
    assert len({point.attributes["dlt.pipeline.name"] for point in otlp.points}) == 2


def test_a_forked_child_does_not_send_the_points_of_its_parent(tmp_path, otlp):
    """The SDK starts the reader's thread again there."""
    result = run_script(
        """
        import time
        import dltobs
        dltobs.configure()
        pipeline().run([{"id": 1}], table_name="orders")
        child = os.fork()
        if not child:
            time.sleep(1)
            os._exit(0)
        os.waitpid(child, 0)
        dltobs.shutdown()
        print(dltobs.status()["otlp_metrics"].delivered)
        """,
        tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url,
        OTEL_METRIC_EXPORT_INTERVAL="300",
        DLTOBS__TRACING="off",
    )
    assert int(result.stdout) == len(otlp.points) > 0, result.stderr


def test_a_run_in_a_forked_child_counts_from_zero(tmp_path, otlp):
    result = run_script(
        """
        import time
        import dltobs
        dltobs.configure()
        pipeline().run([{"id": 1}], table_name="orders")
        dltobs.shutdown()
        child = os.fork()
        if not child:
            dltobs.configure(service_name="child")
            pipeline("child").run([{"id": 1}], table_name="orders")
            dltobs.shutdown()
            os._exit(0)
        os.waitpid(child, 0)
        """,
        tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url,
        DLTOBS__TRACING="off",
    )
    assert result.returncode == 0, result.stderr
    runs = [point for point in otlp.points if point.name == "dlt.runs"]
    assert [(one.resource["service.name"], one.value) for one in runs] == [("dlt", 1), ("child", 1)]


def test_nothing_of_opentelemetry_is_imported_where_nobody_uses_it(tmp_path):
    result = run_script(
        """
        import dltobs
        dltobs.configure(log_file="x.jsonl")
        pipeline().run([{"id": 1}], table_name="orders")
        print([name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.metrics"))])
        """,
        tmp_path,
    )
    assert result.stdout == "[]\n", result.stderr
