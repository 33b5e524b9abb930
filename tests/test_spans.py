"""Runs and steps as spans."""

from __future__ import annotations

import threading

import dlt
import pytest
from dlt.common.destination.exceptions import DestinationTerminalException, DestinationTransientException
from dlt.pipeline.exceptions import PipelineStepFailed
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import dltobs
from conftest import SECRET
from servers import attributes_of

ERROR = 2
"""The status code in OTLP."""


@dlt.destination(batch_size=1)
def refusing(items, table):
    """A destination that will never take anything."""
    raise DestinationTerminalException(f"no room for {table['name']}: password={SECRET}")


@dlt.destination(batch_size=1)
def busy(items, table):
    """A destination that might take it later."""
    raise DestinationTransientException("try again")


@dlt.resource
def broken():
    yield {"id": 1}
    raise ValueError("no such order")


def run(one, *args, **kwargs):
    """Run a pipeline that fails."""
    with pytest.raises(PipelineStepFailed):
        one.run(*args, **kwargs)
    dltobs.shutdown()


def named(spans, name):
    (span,) = [span for span in spans if span.name == name]
    return span


def steps_of(spans):
    """Without the spans below the steps."""
    return [span for span in spans if "dlt.step" in attributes_of(span)]


@pytest.fixture
def collected(otlp):
    dltobs.configure(otlp_endpoint=otlp.url)
    return otlp


def test_a_run_is_a_trace_of_its_steps(collected, pipeline):
    """The root bears the pipeline's name, its trace id is dlt's transaction id."""
    one = pipeline()
    one.run([{"id": 1}, {"id": 2}], table_name="orders")
    dltobs.shutdown()

    root = collected.named("run shop")
    assert root.trace_id.hex() == one.last_trace.transaction_id
    assert root.parent_span_id == b""
    steps = [collected.named(name) for name in ("extract", "normalize", "load")]
    assert {step.parent_span_id for step in steps} == {root.span_id}
    assert {step.trace_id for step in steps} == {root.trace_id}
    times = [moment for step in steps for moment in (step.start_time_unix_nano, step.end_time_unix_nano)]
    assert times == sorted(times)
    assert root.start_time_unix_nano <= times[0]
    assert times[-1] <= root.end_time_unix_nano

    attributes = attributes_of(root)
    assert attributes == {
        "dlt.pipeline.name": "shop",
        "dlt.transaction_id": one.last_trace.transaction_id,
        "dlt.step": "run",
        "dlt.destination.name": "duckdb",
        "dlt.destination.type": "dlt.destinations.duckdb",
        "dlt.dataset.name": "shop_data",
        "dlt.first_run": attributes["dlt.first_run"],
        "dlt.outcome": "ok",
    }
    extract = attributes_of(steps[0])
    assert extract["dlt.rows"] == 2
    assert extract["dlt.bytes"] > 0
    assert extract["dlt.load_id"] == one.last_trace.last_extract_info.loads_ids[0]
    assert attributes_of(steps[2])["dlt.load_id"] == extract["dlt.load_id"]
    assert {span.status.code for span in collected.spans} == {0}


@pytest.mark.parametrize("step", ["extract", "normalize", "load"])
def test_a_step_called_alone_is_the_root(collected, pipeline, step):
    one = pipeline()
    one.extract([{"id": 1}], table_name="orders")
    one.normalize()
    one.load()
    dltobs.shutdown()
    span = collected.named(f"{step} shop")
    assert span.parent_span_id == b""
    assert span.trace_id.hex() == attributes_of(span)["dlt.transaction_id"]
    assert attributes_of(span)["dlt.outcome"] == "ok"
    assert len({span.trace_id for span in collected.spans}) == 3


def test_what_user_code_does_in_a_resource_nests_below_the_step(collected, pipeline):
    """In generators, deferred items and load jobs, in whatever thread they run."""
    names = []

    def inner(name):
        names.append(name)
        with trace.get_tracer("user").start_as_current_span(name):
            pass

    @dlt.resource
    def orders():
        inner("in a resource")
        yield deferred()
        yield from ({"id": number} for number in range(3))

    @dlt.defer
    def deferred():
        inner("in a deferred item")
        return {"id": 9}

    @dlt.resource(parallelized=True)
    def more():
        inner("in a parallel resource")
        yield {"id": 1}

    @dlt.destination(batch_size=100)
    def sink(items, table):
        inner(f"in a job for {table['name']}")

    pipeline(destination=sink).run([orders(), more()])
    dltobs.shutdown()
    parents = {
        "in a resource": "extract",
        "in a deferred item": "extract",
        "in a parallel resource": "extract",
        "in a job for orders": "load",
        "in a job for more": "load",
    }
    assert set(names) == set(parents)
    for name, step in parents.items():
        assert collected.named(name).parent_span_id == collected.named(step).span_id


def test_after_a_run_the_current_span_is_what_it_was(collected, pipeline):
    before = trace.get_current_span()
    pipeline().run([{"id": 1}], table_name="orders")
    assert trace.get_current_span() is before
    with pytest.raises(PipelineStepFailed):
        pipeline().run(broken())
    assert trace.get_current_span() is before
    dltobs.shutdown()
    assert len(steps_of(collected.spans)) == 6


def test_a_run_below_a_span_of_the_users_belongs_to_its_trace(collected, pipeline):
    """Then the trace id is the parent's."""
    pipeline("first").run([{"id": 1}], table_name="orders")
    with trace.get_tracer("user").start_as_current_span("job") as job:
        pipeline().run([{"id": 1}], table_name="orders")
    dltobs.shutdown()
    root = collected.named("run shop")
    assert root.parent_span_id == collected.named("job").span_id
    assert root.trace_id == job.get_span_context().trace_id.to_bytes(16, "big")
    assert attributes_of(root)["dlt.transaction_id"] != root.trace_id.hex()
    assert collected.named("job").trace_id.hex() not in {
        attributes_of(span).get("dlt.transaction_id") for span in collected.spans
    }


def test_pipelines_in_threads_never_mix(collected, pipeline):
    """Each run is a trace of its own, though the first ones start at the same moment."""
    barrier = threading.Barrier(4)

    def work(name):
        one = pipeline(name)

        @dlt.resource
        def orders():
            barrier.wait(30)
            yield {"id": 1}

        one.run(orders())

    threads = [threading.Thread(target=work, args=(f"p{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    dltobs.shutdown()
    assert len(steps_of(collected.spans)) == 16
    for number in range(4):
        root = collected.named(f"run p{number}")
        own = [span for span in collected.spans if span.trace_id == root.trace_id]
        assert {attributes_of(span)["dlt.pipeline.name"] for span in own} == {f"p{number}"}
        assert len(steps_of(own)) == 4
    assert dltobs.status()["otlp"] == dltobs.BackendStatus(delivered=len(collected.spans))


def test_tags_are_on_every_span(otlp, pipeline):
    dltobs.configure(otlp_endpoint=otlp.url, tags={"team": "data"})
    pipeline().run([{"id": 1}], table_name="orders")
    dltobs.shutdown()
    assert {attributes_of(span).get("dlt.tag.team") for span in otlp.spans} == {"data"}


def test_a_failed_extract_is_an_error_of_its_root_cause(collected, pipeline):
    """On the step and on the run; dlt's own wrappers are not the type."""

    @dlt.resource
    def orders():
        yield {"id": 1}
        try:
            raise KeyError("id")
        except KeyError as error:
            raise RuntimeError(f"https://shop.example/?token={SECRET}") from error

    run(pipeline(), orders())
    for name in ("extract", "run shop"):
        span = collected.named(name)
        attributes = attributes_of(span)
        assert span.status.code == ERROR
        assert span.status.message.startswith("KeyError: 'id'")
        assert attributes["error.type"] == "KeyError"
        assert attributes["dlt.resource.name"] == "orders"
        (event,) = [event for event in span.events if event.name == "exception"]
        exception = attributes_of(event)
        assert exception["exception.type"] == "KeyError"
        assert "RuntimeError: https://shop.example/?token=***" in exception["exception.stacktrace"]
    assert attributes_of(collected.named("run shop"))["dlt.outcome"] == "failed"
    assert SECRET.encode() not in collected.raw


def test_a_failed_normalize_is_an_error_of_that_step(collected, pipeline):
    """A schema contract that forbids the new table."""
    one = pipeline()
    run(one, [{"id": 1}], table_name="orders", schema_contract={"tables": "freeze"})
    assert one.last_trace.steps[-1].step_exception
    failed = [span for span in collected.spans if span.status.code == ERROR]
    inner = [span for span in failed if span.name != "run shop"]
    assert len(inner) == 1
    assert attributes_of(inner[0])["error.type"].endswith("DataValidationError")


def test_a_value_that_cannot_be_normalized_is_an_error_of_normalize(collected, pipeline):
    run(
        pipeline(),
        dlt.resource(
            [{"id": 1}, {"id": "no number"}],
            name="orders",
            columns={"id": {"data_type": "bigint"}},
            schema_contract={"data_type": "freeze"},
        ),
    )
    normalize = collected.named("normalize")
    assert normalize.status.code == ERROR
    assert attributes_of(normalize)["dlt.table.name"] == "orders"
    assert collected.named("extract").status.code == 0


def test_a_terminal_job_is_an_error_of_load(collected, pipeline):
    run(pipeline(destination=refusing), [{"id": 1}], table_name="orders")
    load = collected.named("load")
    attributes = attributes_of(load)
    assert load.status.code == ERROR
    assert attributes["error.type"] == "dlt.common.destination.exceptions.DestinationTerminalException"
    assert attributes["dlt.table.name"] == "orders"
    assert "no room for orders: password=***" in load.status.message
    assert attributes_of(collected.named("run shop"))["dlt.outcome"] == "failed"
    assert SECRET.encode() not in collected.raw


def test_a_transient_job_is_an_error_of_load_after_the_last_try(collected, pipeline, monkeypatch):
    monkeypatch.setenv("LOAD__RAISE_ON_MAX_RETRIES", "2")
    run(pipeline(destination=busy), [{"id": 1}], table_name="orders")
    load = collected.named("load")
    assert load.status.code == ERROR
    assert attributes_of(load)["dlt.table.name"] == "orders"
    assert "DestinationTransientException" in attributes_of(load)["error.type"]


def test_a_run_that_tolerates_failed_jobs_says_so(collected, pipeline, monkeypatch):
    monkeypatch.setenv("LOAD__RAISE_ON_FAILED_JOBS", "false")
    pipeline(destination=refusing).run([{"id": 1}], table_name="orders")
    dltobs.shutdown()
    root = collected.named("run shop")
    assert attributes_of(root)["dlt.outcome"] == "ok_with_failed_jobs"
    assert root.status.code == 0
    assert SECRET.encode() not in collected.raw


def test_a_failed_sync_is_an_error_of_the_run(collected, pipeline, tmp_path):
    """It happens inside `run`, before any other step, and has no hooks of its own."""
    (tmp_path / "sync.duckdb").write_bytes(b"this is no database" * 100)
    one = pipeline(destination=dlt.destinations.duckdb(str(tmp_path / "sync.duckdb")))
    run(one, [{"id": 1}], table_name="orders")
    (root,) = collected.spans
    assert root.name == "run shop"
    assert root.status.code == ERROR
    assert attributes_of(root)["dlt.outcome"] == "failed"
    assert "PipelineStepFailed" not in attributes_of(root)["error.type"]


def test_a_run_without_data_says_so(collected, pipeline):
    pipeline().run(None)
    dltobs.shutdown()
    assert attributes_of(collected.named("run shop"))["dlt.outcome"] == "no_data"


def test_an_application_with_a_provider_gets_the_same_spans_redacted(pipeline):
    """Set after configure(), before the first run; its own ids are used."""
    dltobs.configure(otlp_endpoint="http://127.0.0.1:9")
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)

    @dlt.resource
    def orders():
        yield {"id": 1}
        raise ValueError(f"password={SECRET}")

    run(pipeline(), orders())
    spans = exporter.get_finished_spans()
    assert [span.name for span in spans] == ["extract", "run shop"]
    root = named(spans, "run shop")
    assert root.attributes["error.type"] == "ValueError"
    assert root.status.description == "ValueError: password=***"
    assert SECRET not in "".join(span.to_json() for span in spans)
    assert format(root.context.trace_id, "032x") != root.attributes["dlt.transaction_id"]
    assert dltobs.status()["otlp"] == dltobs.BackendStatus()


def test_spans_that_are_open_at_shutdown_are_ended_and_delivered(collected, pipeline):
    """A run in another thread that is still on."""
    started, go_on = threading.Event(), threading.Event()

    @dlt.resource
    def orders():
        started.set()
        go_on.wait(30)
        yield {"id": 1}

    thread = threading.Thread(target=lambda: pipeline().run(orders()))
    thread.start()
    started.wait(30)
    dltobs.shutdown()
    assert sorted(span.name for span in collected.spans) == ["extract", "run shop"]
    go_on.set()
    thread.join()
    assert len(collected.spans) == 2
    assert dltobs.status()["otlp"] == dltobs.BackendStatus(delivered=2)


def test_tracing_off_makes_no_spans(monkeypatch, otlp, pipeline):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.url)
    dltobs.configure(tracing="off")
    pipeline().run([{"id": 1}], table_name="orders")
    dltobs.shutdown()
    assert otlp.requests == []
    assert dltobs.status().keys() == {"otlp_metrics"}
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
