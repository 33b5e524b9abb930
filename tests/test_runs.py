"""What dltobs sees of real runs into DuckDB, and that the runs do not notice."""

from __future__ import annotations

import logging
import threading
from typing import Any

import dlt
import pytest
from dlt.common.destination.exceptions import (
    DestinationTerminalException,
    DestinationTransientException,
)
from dlt.pipeline.exceptions import PipelineStepFailed
from opentelemetry import trace

import dltobs
from conftest import SECRET
from dltobs._context.current import current_run
from dltobs._events import RunStarted, StepFinished, StepStarted
from recording import FailingSink, RecordingSink
from servers import attributes_of

ROWS = [{"id": 1, "items": [{"sku": "a"}, {"sku": "b"}]}, {"id": 2, "items": []}]


@pytest.fixture
def sink() -> RecordingSink:
    recording = RecordingSink()
    dltobs.configure(sinks=[recording], console="off")
    return recording


@dlt.resource
def broken_orders():
    yield {"id": 1}
    message = "no more orders"
    raise ValueError(message)


@dlt.destination(name="terminal_sink")
def terminal_sink(items: Any, table: Any) -> None:
    if not table["name"].startswith("_dlt"):
        message = "table is locked for good"
        raise DestinationTerminalException(message)


@dlt.destination(name="transient_sink")
def transient_sink(items: Any, table: Any) -> None:
    if not table["name"].startswith("_dlt"):
        message = "try again later"
        raise DestinationTransientException(message)


def test_a_run_gives_its_events_in_order(sink, pipeline):
    """Start, then each step's start and end, nested in the step `run`, then the end."""
    pipeline().run(ROWS, table_name="orders")

    told = [(type(event).__name__, getattr(event, "step", None)) for event in sink.events]
    assert told == [
        ("RunStarted", "run"),
        ("StepStarted", "run"),
        ("StepStarted", "extract"),
        ("StepFinished", "extract"),
        ("StepStarted", "normalize"),
        ("StepFinished", "normalize"),
        ("StepStarted", "load"),
        ("StepFinished", "load"),
        ("StepFinished", "run"),
        ("RunFinished", None),
    ]
    assert [event.depth for event in sink.of(StepStarted)] == [0, 1, 1, 1]


def test_a_run_that_loads_is_ok_with_its_rows_and_identity(sink, pipeline):
    """Rows are the user's, nested tables counted; dlt's own tables are told apart."""
    shop = pipeline()
    shop.run(ROWS, table_name="orders")

    assert sink.run.outcome == "ok"
    assert sink.run.run.pipeline == "shop"
    assert sink.run.run.transaction_id == shop.last_trace.transaction_id
    assert (sink.run.run.destination_name, sink.run.run.dataset) == ("duckdb", "shop_data")
    assert sink.run.run.destination_type == "dlt.destinations.duckdb"
    assert sink.step("extract").rows == 2
    normalize = sink.step("normalize")
    assert normalize.rows == 4
    assert {table.name: table.rows for table in normalize.tables if not table.internal} == {
        "orders": 2,
        "orders__items": 2,
    }
    assert {table.name for table in normalize.tables if table.internal} == {"_dlt_pipeline_state"}
    load = sink.step("load")
    assert (load.jobs, load.packages[0].state) == (3, "loaded")
    assert load.started_at <= load.finished_at <= sink.run.finished_at


def test_every_part_of_a_first_run_is_called_the_first_run(sink, pipeline):
    """A load that succeeds ends that for dlt, in the middle of the run."""
    shop = pipeline()
    shop.run(ROWS, table_name="orders")
    shop.run(ROWS, table_name="orders")
    assert {step.run.first_run for step in sink.runs[0].steps} == {True}
    assert [run.run.first_run for run in sink.runs] == [True, False]


def test_a_stack_trace_is_cut_only_when_its_secrets_are_gone(monkeypatch, otlp, pipeline):
    """Else half a secret may remain at the cut."""
    monkeypatch.setenv("API_KEY", SECRET)

    @dlt.resource
    def talkative(api_key: str = dlt.secrets.value):
        yield {"id": 1}
        raise ValueError(f"{api_key} and " * 10_000)

    dltobs.configure(otlp_endpoint=otlp.url, console="off")
    with pytest.raises(PipelineStepFailed):
        pipeline().run(talkative())
    dltobs.shutdown()
    (event,) = otlp.named("extract").events
    stacktrace = attributes_of(event)["exception.stacktrace"]
    assert "characters cut" in stacktrace
    assert len(stacktrace) < 70_000
    assert all(SECRET[:length] not in stacktrace for length in range(6, len(SECRET)))


def test_the_active_pipeline_is_the_user_s_after_a_sink_has_run_another(pipeline):
    class LoadingSink(RecordingSink):
        def emit(self, event: Any) -> None:
            if type(event).__name__ == "RunFinished":
                pipeline("inner").run([{"outcome": event.outcome}], table_name="runs")

    dltobs.configure(sinks=[LoadingSink()], console="off")
    shop = pipeline()
    shop.run(ROWS, table_name="orders")
    assert dlt.pipeline() is shop


def test_a_failure_in_extract_names_resource_and_root_cause(sink, pipeline):
    """The run and its deepest step carry one description of the exception."""
    with pytest.raises(PipelineStepFailed):
        pipeline().run(broken_orders())

    assert sink.run.outcome == "failed"
    failed = sink.run.failed_step
    assert failed is not None
    assert failed.step == "extract"
    failure = failed.failure
    assert failure is not None
    assert (failure.step, failure.error_type, failure.message) == ("extract", "ValueError", "no more orders")
    assert (failure.resource, failure.terminal, failure.has_pending_data) == ("broken_orders", False, False)
    assert [info.type.rpartition(".")[2] for info in failure.chain] == [
        "PipelineStepFailed",
        "ResourceExtractionError",
        "ValueError",
    ]
    frame = failure.chain[-1].frames[-1]
    assert (frame.function, frame.in_app, frame.source) == (
        "broken_orders",
        True,
        "raise ValueError(message)",
    )
    assert not any(frame.in_app for frame in failure.chain[0].frames if "site-packages" in frame.path)
    assert sink.step("run").failure == failure


def test_a_failure_in_normalize_leaves_its_package_pending(sink, pipeline):
    """The package is named, and the job that failed."""
    shop = pipeline()
    shop.run([{"id": 1}], table_name="orders", columns={"id": {"data_type": "bigint"}})
    shop.extract([{"id": "no number"}], table_name="orders", schema_contract={"data_type": "freeze"})
    sink.events.clear()
    with pytest.raises(PipelineStepFailed):
        shop.normalize()

    failed = sink.run.failed_step
    assert failed is not None
    failure = failed.failure
    assert failure is not None
    assert (failure.step, failure.table, failure.has_pending_data) == ("normalize", "orders", True)
    assert failure.error_type.endswith("DataValidationError")
    assert sink.run.pending_packages == (failure.load_id,)


def test_a_terminal_job_fails_the_load_with_its_message(sink, pipeline):
    """The job is named with the destination's message, and the failure is terminal."""
    shop = pipeline(destination=terminal_sink)
    with pytest.raises(PipelineStepFailed):
        shop.run(ROWS, table_name="orders")

    failed = sink.run.failed_step
    assert failed is not None
    assert failed.failure is not None
    assert (failed.step, failed.failure.terminal) == ("load", True)
    assert failed.failure.error_type.endswith("DestinationTerminalException")
    (job,) = failed.failed_jobs
    assert job.table.startswith("orders")
    assert "table is locked for good" in job.message
    # newer versions of dlt keep the package for another try, older ones abort it
    assert sink.run.pending_packages == tuple(shop.list_normalized_load_packages())


def test_a_transient_job_fails_the_load_as_not_terminal(sink, pipeline, monkeypatch):
    """dlt gives up after its retries; the failure may go away."""
    monkeypatch.setenv("LOAD__RAISE_ON_MAX_RETRIES", "1")
    with pytest.raises(PipelineStepFailed):
        pipeline(destination=transient_sink).run(ROWS, table_name="orders")

    failed = sink.run.failed_step
    assert failed is not None
    assert failed.failure is not None
    assert (failed.step, failed.failure.terminal) == ("load", False)
    assert failed.failure.message == "try again later"


def test_failed_jobs_without_an_exception_are_an_outcome_of_their_own(sink, pipeline, monkeypatch):
    """With raise_on_failed_jobs=false the load looks successful."""
    monkeypatch.setenv("LOAD__RAISE_ON_FAILED_JOBS", "false")
    info = pipeline(destination=terminal_sink).run(ROWS, table_name="orders")

    assert info.has_failed_jobs
    assert sink.run.outcome == "ok_with_failed_jobs"
    assert sink.run.failed_step is None
    (job,) = sink.step("load").failed_jobs
    assert job.table == "orders"
    assert "table is locked for good" in job.message


def test_a_failure_to_reach_the_destination_is_step_sync(sink, pipeline):
    """dlt has no hook for it: the exception knows better than the step `run` that reports it."""
    with pytest.raises(PipelineStepFailed):
        pipeline(destination=dlt.destinations.duckdb("/nonexistent/folder/x.duckdb")).run(
            ROWS, table_name="t"
        )

    failed = sink.run.failed_step
    assert failed is not None
    assert failed.failure is not None
    assert failed.failure.step == "sync"
    assert failed.failure.error_type.endswith("IOException")


def test_steps_called_one_by_one_are_runs_of_their_own(sink, pipeline):
    """Each has its own trace in dlt, too."""
    shop = pipeline()
    shop.extract(ROWS, table_name="orders")
    shop.normalize()
    shop.load()

    assert [(event.step, event.run.transaction_id) for event in sink.of(RunStarted)] == [
        (step.step, step.run.transaction_id) for step in sink.of(StepFinished)
    ]
    assert [run.outcome for run in sink.runs] == ["ok", "ok", "ok"]
    assert len({run.run.transaction_id for run in sink.runs}) == 3


def test_a_run_without_data_says_so(sink, pipeline):
    """`run()` with nothing to do has only the step `run`."""
    pipeline().run()
    assert sink.run.outcome == "no_data"
    assert [step.step for step in sink.run.steps] == ["run"]


def test_pending_data_is_loaded_by_the_next_run(sink, pipeline):
    """dlt ignores the new data then; there is no step `extract`."""
    shop = pipeline()
    shop.run(ROWS, table_name="orders")
    shop.extract(ROWS, table_name="orders")
    sink.events.clear()
    shop.run([{"id": 3}], table_name="orders")

    assert [step.step for step in sink.run.steps] == ["normalize", "load", "run"]
    assert sink.run.outcome == "ok"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_exit_in_a_resource_is_a_failure_and_passes_through(sink, pipeline, error):
    """What is no `Exception` is reported as well, and reaches the caller as dlt has it."""

    @dlt.resource
    def leaving():
        yield {"id": 1}
        raise error

    with pytest.raises((PipelineStepFailed, SystemExit)):
        pipeline().run(leaving())
    failed = sink.run.failed_step
    assert failed is not None
    assert failed.failure is not None
    assert (failed.step, failed.failure.error_type) == ("extract", error.__name__)


def test_a_run_inside_an_except_block_is_not_failed_by_the_outer_exception(sink, pipeline):
    """There, Python's current exception is the outer one in every hook."""
    try:
        message = "outer"
        raise RuntimeError(message)
    except RuntimeError:
        pipeline().run(ROWS, table_name="orders")
    assert sink.run.outcome == "ok"


def test_a_pipeline_that_a_resource_runs_is_a_run_of_its_own(sink, pipeline, tmp_path):
    """The inner run ends before the outer one, and ids return to the outer one's."""
    seen = []

    @dlt.resource
    def outer():
        yield {"id": 1}
        thread = threading.Thread(target=lambda: pipeline("inner").run(ROWS, table_name="orders"))
        thread.start()
        thread.join()
        seen.append(current_run.get())

    pipeline("outer").run(outer())
    assert [run.run.pipeline for run in sink.runs] == ["inner", "outer"]
    assert {run.outcome for run in sink.runs} == {"ok"}
    assert seen[0] is not None
    assert seen[0].pipeline == "outer"


def test_no_run_is_on_after_the_run(sink, pipeline):
    """Whether it succeeds or fails."""
    pipeline().run(ROWS, table_name="orders")
    assert current_run.get() is None
    with pytest.raises(PipelineStepFailed):
        pipeline("other").run(broken_orders())
    assert current_run.get() is None


def test_a_run_behaves_as_without_dltobs(pipeline):
    """Same result, same exception object, same active pipeline, same steps in dlt's own trace."""
    raised: list[BaseException] = []

    @dlt.resource
    def failing():
        yield {"id": 1}
        raised.append(ValueError("mine"))
        raise raised[-1]

    def behaviour(name: str) -> Any:
        shop = pipeline(name)
        info = shop.run(ROWS, table_name="orders")
        steps = [step.step for step in shop.last_trace.steps]
        values = {value.key for value in shop.last_trace.resolved_config_values}
        with pytest.raises(PipelineStepFailed) as caught:
            shop.run(failing())
        root = caught.value.__cause__
        while root is not None and root.__cause__ is not None:
            root = root.__cause__
        return (
            type(info),
            [package.state for package in info.load_packages],
            steps,
            values,
            root is raised[-1],
            dlt.pipeline().pipeline_name == name,
            [step.step for step in shop.last_trace.steps],
            shop.last_trace.steps[0].step_exception is not None,
        )

    pipeline("earlier").run(ROWS, table_name="orders")  # resolves what dlt resolves once a process
    without = behaviour("without")
    dltobs.configure(sinks=[RecordingSink()], tracing="on", console="off")
    assert behaviour("withit") == without


def test_a_broken_sink_harms_neither_the_run_nor_other_sinks(pipeline, caplog):
    """It is one warning on the logger `dltobs`."""
    good = RecordingSink()
    dltobs.configure(sinks=[FailingSink(), good], console="off")
    with caplog.at_level(logging.WARNING, "dltobs"):
        pipeline().run(ROWS, table_name="orders")
        dltobs.shutdown()

    assert good.run.outcome == "ok"
    assert good.closed == 1
    warnings = [record for record in caplog.records if record.name == "dltobs"]
    assert [record.levelname for record in warnings] == ["WARNING"]
    assert "sink is broken" in warnings[0].getMessage()


@pytest.mark.parametrize(
    "part", ["run_of", "detail_of", "failure_of", "pending_packages_of", "changes_of", "schema_files_of"]
)
def test_a_part_of_dlt_that_cannot_be_read_is_missing_and_nothing_else(
    pipeline, caplog, monkeypatch, otlp, part
):
    """As when dlt changes a shape that we read: one warning, and every span ends in its place."""
    sink = RecordingSink()
    dltobs.configure(sinks=[sink], otlp_endpoint=otlp.url, console="off")
    shop = pipeline()
    shop.run(ROWS, table_name="orders")
    # without an identity there is no run to begin with, so that one fails from its second use on
    intact = [dltobs._runs.tracker.run_of] if part == "run_of" else []

    def unreadable(*args: Any) -> Any:
        return intact.pop()(*args)

    module = "tracker" if part in {"run_of", "pending_packages_of"} else "step_reader"
    monkeypatch.setattr(f"dltobs._runs.{module}.{part}", unreadable)
    shop.run(ROWS, table_name="orders")
    with pytest.raises(PipelineStepFailed) as caught:
        shop.run(broken_orders())
    dltobs.shutdown()

    assert isinstance(caught.value.exception.__cause__, ValueError)
    assert current_run.get() is None
    assert not trace.get_current_span().get_span_context().is_valid
    names = [span.name for span in otlp.spans]
    assert names.count("run shop") == len(sink.runs) == (2 if part == "run_of" else 3)
    steps = [name for name in names if name in {"extract", "normalize", "load", "run shop"}]
    assert steps[:8] == ["extract", "normalize", "load", "run shop"] * 2
    assert part == "run_of" or sink.runs[-1].outcome == "failed"
    warnings = [record for record in caplog.records if record.name == "dltobs"]
    assert len(warnings) == 1


def test_a_pipeline_that_a_sink_runs_is_not_observed(pipeline):
    """A sink that loads something itself does not observe itself."""

    class LoadingSink(RecordingSink):
        def emit(self, event: Any) -> None:
            super().emit(event)
            if type(event).__name__ == "RunFinished":
                pipeline("inner").run([{"outcome": event.outcome}], table_name="runs")

    sink = LoadingSink()
    dltobs.configure(sinks=[sink], console="off")
    pipeline().run(ROWS, table_name="orders")
    assert sink.run.run.pipeline == "shop"


def test_events_carry_the_last_log_lines_of_their_run(pipeline, monkeypatch):
    """At most 50, oldest first, of this run only."""
    monkeypatch.setenv("RUNTIME__LOG_LEVEL", "INFO")
    sink = RecordingSink()
    dltobs.configure(sinks=[sink], console="off")
    pipeline().run(ROWS, table_name="orders")

    lines = sink.run.log_lines
    assert 10 < len(lines) <= 50
    assert [line.at for line in lines] == sorted(line.at for line in lines)
    assert lines[-3].message == "Processing pool closed"
    assert lines[-2].message.startswith("load: 2 jobs, 4 rows in ")
    assert lines[-1].message == "Schema changes: first run: 2 tables, 2 columns"
    pipeline().run()
    assert all(line.at > lines[-1].at for line in sink.runs[-1].log_lines)


def test_load_threads_work_in_the_context_of_their_run(pipeline, monkeypatch, otlp):
    """A span that a destination makes is a child of the step `load`."""
    monkeypatch.setenv("LOAD__WORKERS", "4")
    seen = []

    @dlt.destination(name="tracing_sink", batch_size=1)
    def tracing_sink(items: Any, table: Any) -> None:
        seen.append((threading.current_thread().name, current_run.get()))
        with trace.get_tracer("user").start_as_current_span("insert"):
            pass

    dltobs.configure(otlp_endpoint=otlp.url, console="off")
    pipeline(destination=tracing_sink).run(ROWS, table_name="orders")
    dltobs.shutdown()

    load = otlp.named("load")
    inserts = [span for span in otlp.spans if span.name == "insert"]
    assert len(inserts) == len(seen) > 1
    assert {span.parent_span_id for span in inserts} == {load.span_id}
    assert all("MainThread" not in thread for thread, _ in seen)
    assert {run.step for _, run in seen if run} == {"load"}


@pytest.mark.parametrize("kind", ["sync", "parallelized", "deferred", "async"])
def test_resources_of_every_kind_work_in_the_context_of_extract(pipeline, otlp, kind):
    """What user code does inside a resource nests under the step."""

    def work(number: int) -> dict[str, int]:
        with trace.get_tracer("user").start_as_current_span("fetch"):
            return {"id": number}

    @dlt.resource(name="numbers", parallelized=kind == "parallelized")
    def numbers():
        for number in range(3):
            if kind == "deferred":
                yield dlt.defer(work)(number)
            elif kind == "async":

                async def fetch(number: int = number) -> dict[str, int]:
                    return work(number)

                yield fetch
            else:
                yield work(number)

    dltobs.configure(otlp_endpoint=otlp.url, console="off")
    pipeline().run(numbers())
    dltobs.shutdown()

    extract = otlp.named("extract")
    fetches = [span for span in otlp.spans if span.name == "fetch"]
    assert len(fetches) == 3
    assert {span.parent_span_id for span in fetches} == {extract.span_id}


@pytest.mark.long
def test_twenty_pipelines_in_twenty_threads_do_not_mix(pipeline, monkeypatch, otlp, sentry, tmp_path):
    """Every span's parent is in its own trace; no record or event carries another run's ids."""
    import json

    monkeypatch.setenv("RUNTIME__LOG_LEVEL", "INFO")
    sink = RecordingSink()
    dltobs.configure(
        sinks=[sink],
        otlp_endpoint=otlp.url,
        sentry_dsn=sentry.dsn,
        log_file=tmp_path / "all.jsonl",
        console="off",
        flush_timeout=30,
    )
    count = 20
    barrier = threading.Barrier(count)
    errors: list[BaseException] = []

    def work(number: int) -> None:
        @dlt.resource(name=f"resource_{number}")
        def rows():
            yield [{"id": number, "name": f"row of {number}"}] * 5
            if number % 5 == 0:
                message = f"failure of {number}"
                raise ValueError(message)

        shop = pipeline(f"p{number:02}")
        barrier.wait()
        try:
            shop.run(rows())
        except PipelineStepFailed as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    dltobs.shutdown()

    assert len(errors) == 4
    assert len(sink.runs) == count
    ids = {run.run.pipeline: run.run.transaction_id for run in sink.runs}
    assert len(set(ids.values())) == count
    by_id = {span.span_id: span for span in otlp.spans}
    traces: dict[bytes, set[str]] = {}
    for span in otlp.spans:
        attributes = attributes_of(span)
        assert attributes["dlt.transaction_id"] == span.trace_id.hex() == ids[attributes["dlt.pipeline.name"]]
        traces.setdefault(span.trace_id, set()).add(span.name.split()[0])
        if span.parent_span_id:
            assert by_id[span.parent_span_id].trace_id == span.trace_id
    assert len(traces) == count
    assert sorted(map(len, traces.values())) == [2] * 4 + [4] * 16
    for event in sentry.events:
        number = int(event["tags"]["dlt.pipeline.name"][1:])
        assert event["contexts"]["trace"]["trace_id"] == ids[f"p{number:02}"]
        assert f"failure of {number}" in json.dumps(event["exception"])
    assert len(sentry.events) == 4
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    marked = [line for line in lines if "pipeline" in line]
    assert {line["pipeline"] for line in marked} == set(ids)
    for line in marked:
        assert line["transaction_id"] == line["trace_id"] == ids[line["pipeline"]]
        assert bytes.fromhex(line["span_id"]) in by_id
        assert by_id[bytes.fromhex(line["span_id"])].trace_id.hex() == line["trace_id"]


def test_texts_of_an_event_are_withheld_if_redaction_fails(pipeline, monkeypatch):
    """The run is told all the same, its ids with it."""
    sink = RecordingSink()
    dltobs.configure(sinks=[sink], console="off")
    monkeypatch.setattr("dltobs._redaction.redactor.Redactor._known", lambda *_: 1 / 0)
    with pytest.raises(PipelineStepFailed):
        pipeline().run(broken_orders())

    failed = sink.run.failed_step
    assert failed is not None
    assert failed.failure is not None
    assert (failed.failure.message, failed.failure.error_type) == ("[withheld]", "ValueError")
    assert sink.run.run.pipeline == "shop"


def test_sinks_see_no_secret(pipeline, monkeypatch):
    """A sink of the user's gets redacted events, too."""
    monkeypatch.setenv("API_KEY", SECRET)

    @dlt.resource
    def orders(api_key: str = dlt.secrets.value):
        yield {"id": 1}
        message = f"no access with {api_key!r}"
        raise ValueError(message)

    sink = RecordingSink()
    dltobs.configure(sinks=[sink], console="off")
    with pytest.raises(PipelineStepFailed):
        pipeline().run(orders())
    assert "no access with '***'" in repr(sink.events)
    assert SECRET not in repr(sink.events)
