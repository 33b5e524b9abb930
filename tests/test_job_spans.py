"""The spans below a step: resources, tables, load jobs and their attempts."""

from __future__ import annotations

import gc
import itertools
import threading
import time
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import dlt
import pytest
from dlt.common.destination.client import RunnableLoadJob
from dlt.common.destination.exceptions import DestinationTerminalException, DestinationTransientException
from dlt.pipeline.exceptions import PipelineStepFailed
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import dltobs
from conftest import SECRET
from dltobs import _state
from dltobs._context.current import RunContext, current_run
from dltobs._events import Attempt, Job, Run, RunFinished, RunStarted, StepFinished, StepStarted
from dltobs._redaction.redactor import Redactor
from dltobs._runs.attempts import LoadAttempts
from dltobs._runs.jobs import load_jobs_of, moment
from dltobs._settings.settings import Settings
from dltobs._warnings import Warner
from dltobs.sinks.job_spans import OMITTED_BYTES, OMITTED_COUNT, OMITTED_ROWS
from dltobs.sinks.spans import SpanSink
from recording import RecordingSink
from servers import attributes_of

ERROR = 2
"""The status code in OTLP."""
NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


@dlt.resource
def orders():
    yield {"id": 1, "items": [{"sku": "a"}, {"sku": "b"}]}
    yield {"id": 2, "items": []}


def flaky(failures):
    """A destination that refuses the first calls for each table."""
    calls: dict[str, int] = {}

    @dlt.destination(batch_size=10, name="flaky")
    def sometimes(items, table):
        calls[table["name"]] = calls.get(table["name"], 0) + 1
        if calls[table["name"]] <= failures and not table["name"].startswith("_dlt"):
            raise DestinationTransientException(f"busy: password={SECRET}")

    return sometimes


@dlt.destination(batch_size=10)
def picky(items, table):
    """A destination that takes dlt's own tables alone."""
    if not table["name"].startswith("_dlt"):
        raise DestinationTerminalException(f"no room: password={SECRET}")


@pytest.fixture
def collected(otlp):
    dltobs.configure(otlp_endpoint=otlp.url, console="off")
    return otlp


def below(server, parent):
    return [span for span in server.spans if span.parent_span_id == parent.span_id]


def assert_is_a_tree(spans):
    """One root a trace, no orphan, every child within its parent."""
    by_id = {span.span_id: span for span in spans}
    assert len(by_id) == len(spans)
    for span in spans:
        assert span.start_time_unix_nano <= span.end_time_unix_nano
        if span.parent_span_id:
            parent = by_id[span.parent_span_id]
            assert parent.trace_id == span.trace_id
            assert parent.start_time_unix_nano <= span.start_time_unix_nano
            assert span.end_time_unix_nano <= parent.end_time_unix_nano
    roots = [span for span in spans if not span.parent_span_id]
    assert len({span.trace_id for span in spans}) == len(roots)


def test_each_step_has_its_resources_tables_and_jobs(collected, pipeline):
    one = pipeline()
    one.run(orders())
    dltobs.shutdown()

    assert_is_a_tree(collected.spans)
    by_step = {
        step: sorted(span.name for span in below(collected, collected.named(step)))
        for step in ("extract", "normalize", "load")
    }
    tables = ["_dlt_pipeline_state", "orders", "orders__items"]
    assert by_step == {
        "extract": ["extract _dlt_pipeline_state", "extract orders"],
        "normalize": [f"normalize {table}" for table in tables],
        "load": [f"load {table}" for table in tables],
    }
    extract = attributes_of(collected.named("extract orders"))
    assert extract.pop("dlt.bytes") > 0
    assert extract == {
        "dlt.pipeline.name": "shop",
        "dlt.transaction_id": one.last_trace.transaction_id,
        "dlt.resource.name": "orders",
        "dlt.rows": 2,
        "dlt.time.basis": "writes",
    }
    normalize = attributes_of(collected.named("normalize orders__items"))
    assert (normalize["dlt.table.name"], normalize["dlt.rows"]) == ("orders__items", 2)
    assert normalize["dlt.time.basis"] == "writes"
    load = attributes_of(collected.named("load orders"))
    assert load.pop("dlt.bytes") > 0
    job = one.last_trace.last_load_info.load_packages[0].jobs["completed_jobs"]
    (job_id,) = [one.job_file_info.job_id() for one in job if one.job_file_info.table_name == "orders"]
    assert load == {
        "dlt.pipeline.name": "shop",
        "dlt.transaction_id": one.last_trace.transaction_id,
        "dlt.table.name": "orders",
        "dlt.job.id": job_id,
        "dlt.job.state": "completed",
        "dlt.job.retry_count": 0,
        "dlt.job.file_format": job_id.split(".")[2],
        "dlt.rows": 2,
        "dlt.time.basis": "exact",
    }
    internal = {span.name for span in collected.spans if attributes_of(span).get("dlt.internal")}
    assert internal == {f"{step} _dlt_pipeline_state" for step in ("extract", "normalize", "load")}
    # nothing was tried again, and nothing failed
    assert [event.name for span in collected.spans for event in span.events] == ["schema_change"]
    assert {span.status.code for span in collected.spans} == {0}


def test_the_remote_url_of_a_job_is_told(collected, pipeline, tmp_path):
    bucket = dlt.destinations.filesystem(str(tmp_path / "bucket"))
    pipeline(destination=bucket).run(orders())
    dltobs.shutdown()
    assert attributes_of(collected.named("load orders"))["dlt.job.remote_url"].startswith("file://")


def test_every_attempt_of_a_retried_job_is_an_event(collected, pipeline):
    pipeline(destination=flaky(2)).run([{"id": 1}], table_name="orders")
    dltobs.shutdown()

    assert_is_a_tree(collected.spans)
    job = collected.named("load orders")
    attributes = attributes_of(job)
    assert (attributes["dlt.job.state"], attributes["dlt.job.retry_count"]) == ("completed", 2)
    assert job.status.code == 0
    assert [event.name for event in job.events] == ["attempt"] * 3
    tries = [attributes_of(event) for event in job.events]
    assert [one["dlt.attempt.number"] for one in tries] == [1, 2, 3]
    assert [one["dlt.attempt.state"] for one in tries] == ["retry", "retry", "completed"]
    assert tries[0]["error.type"].endswith("DestinationTransientException")
    assert "busy" in tries[1]["exception.message"]
    assert "error.type" not in tries[2]
    moments = [event.time_unix_nano for event in job.events]
    assert moments == sorted(moments)
    assert job.start_time_unix_nano <= moments[0]
    assert moments[-1] == job.end_time_unix_nano
    assert not collected.named("load _dlt_pipeline_state").events
    assert SECRET.encode() not in collected.raw


def test_a_job_that_is_given_up_says_why(collected, pipeline, monkeypatch):
    """The step fails; the job is tried again by the next run, whose attempts go on counting."""
    monkeypatch.setenv("LOAD__RAISE_ON_MAX_RETRIES", "2")
    one = pipeline(destination=flaky(3))
    with pytest.raises(PipelineStepFailed):
        one.run([{"id": 1}], table_name="orders")
    one.run()
    dltobs.shutdown()

    assert_is_a_tree(collected.spans)
    first, second = [span for span in collected.spans if span.name == "load orders"]
    assert attributes_of(first)["dlt.job.state"] == "retry"
    assert attributes_of(first)["error.type"].endswith("DestinationTransientException")
    assert first.status.code == ERROR
    assert [event.name for event in first.events] == ["attempt", "attempt", "exception"]
    assert "Traceback" in attributes_of(first.events[-1])["exception.stacktrace"]
    assert attributes_of(second)["dlt.job.state"] == "completed"
    assert [attributes_of(event)["dlt.attempt.number"] for event in second.events] == [3, 4]
    # the jobs that the first run completed are not told again
    assert [span.name for span in collected.spans].count("load _dlt_pipeline_state") == 1
    assert SECRET.encode() not in collected.raw


@pytest.mark.parametrize("raises", ["true", "false"])
def test_a_failed_job_has_its_error(collected, pipeline, monkeypatch, raises):
    monkeypatch.setenv("LOAD__RAISE_ON_FAILED_JOBS", raises)
    one = pipeline(destination=picky)
    if raises == "true":
        with pytest.raises(PipelineStepFailed):
            one.run([{"id": 1}], table_name="orders")
    else:
        one.run([{"id": 1}], table_name="orders")
    dltobs.shutdown()

    assert_is_a_tree(collected.spans)
    job = collected.named("load orders")
    attributes = attributes_of(job)
    assert attributes["dlt.job.state"] == "failed"
    assert attributes["error.type"].endswith("DestinationTerminalException")
    assert job.status.code == ERROR
    assert "no room" in job.status.message
    (event,) = job.events
    assert event.name == "exception"
    assert "no room" in attributes_of(event)["exception.message"]
    assert SECRET.encode() not in collected.raw


def test_steps_called_alone_have_their_spans_too(collected, pipeline):
    """The rows of a load job are those that the run of normalize has left."""
    one = pipeline()
    one.extract(orders())
    one.normalize()
    one.load()
    dltobs.shutdown()
    assert_is_a_tree(collected.spans)
    load = attributes_of(collected.named("load orders"))
    assert load["dlt.rows"] == 2
    assert load["dlt.bytes"] > 0


def test_past_the_limit_the_rest_is_summed_up(otlp, pipeline):
    dltobs.configure(otlp_endpoint=otlp.url, max_job_spans=1)
    pipeline().run(orders())
    dltobs.shutdown()
    assert_is_a_tree(otlp.spans)
    step = otlp.named("normalize")
    (kept,) = below(otlp, step)
    sums = attributes_of(step)
    assert sums[OMITTED_COUNT] == 2
    tables = {"normalize orders": 2, "normalize orders__items": 2, "normalize _dlt_pipeline_state": 1}
    assert sums[OMITTED_ROWS] == sum(rows for name, rows in tables.items() if name != kept.name)
    assert sums[OMITTED_BYTES] > 0
    assert OMITTED_COUNT not in attributes_of(otlp.named("run shop"))


def test_no_spans_below_steps_with_a_limit_of_none(otlp, pipeline):
    dltobs.configure(otlp_endpoint=otlp.url, max_job_spans=0)
    pipeline().run(orders())
    dltobs.shutdown()
    assert len(otlp.spans) == 4
    assert attributes_of(otlp.named("load"))[OMITTED_COUNT] == 3


def test_a_resource_that_fails_leaves_a_tree(collected, pipeline):
    @dlt.resource
    def broken():
        yield {"id": 1}
        raise ValueError("no such order")

    with pytest.raises(PipelineStepFailed):
        pipeline().run([orders(), broken()])
    dltobs.shutdown()
    assert_is_a_tree(collected.spans)


def test_nested_and_concurrent_runs_are_trees_of_their_own(collected, pipeline):
    """A pipeline that a resource of another one runs in a thread, many times at once."""
    before = trace.get_current_span()

    def work(number):
        @dlt.resource(name=f"outer_{number}")
        def rows():
            inner = threading.Thread(
                target=lambda: pipeline(f"inner_{number}").run([{"id": 1}], table_name=f"inner_{number}")
            )
            inner.start()
            inner.join()
            yield {"id": number}

        pipeline(f"outer_{number}", destination=flaky(1)).run(rows())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    dltobs.shutdown()

    assert trace.get_current_span() is before
    assert_is_a_tree(collected.spans)
    for number in range(4):
        job = collected.named(f"load outer_{number}")
        assert attributes_of(job)["dlt.pipeline.name"] == f"outer_{number}"
        assert len(job.events) == 2
        assert not collected.named(f"load inner_{number}").events


def test_the_wrapper_is_taken_away(pipeline):
    original = RunnableLoadJob.run_managed
    dltobs.configure()
    assert RunnableLoadJob.run_managed is not original
    dltobs.configure(log_level="ERROR")
    dltobs.shutdown()
    assert RunnableLoadJob.run_managed is original


def test_the_wrapper_of_somebody_else_stays(pipeline, monkeypatch):
    """Ours does nothing below it then."""
    original = RunnableLoadJob.run_managed
    dltobs.configure()
    ours = RunnableLoadJob.run_managed
    calls = []

    def foreign(job, *args):
        calls.append(job.job_id())
        return ours(job, *args)

    monkeypatch.setattr(RunnableLoadJob, "run_managed", foreign)
    dltobs.shutdown()
    assert RunnableLoadJob.run_managed is foreign
    pipeline().run([{"id": 1}], table_name="orders")
    assert len(calls) == 2
    monkeypatch.setattr(RunnableLoadJob, "run_managed", original)


class OddJob:
    """A job that a broken destination made."""

    def run_managed(self):
        raise KeyboardInterrupt

    def state(self):
        raise RuntimeError("no state")


def test_what_fails_in_hearing_an_attempt_is_one_warning(monkeypatch, caplog):
    """And what the job raises passes, an interrupt too."""
    monkeypatch.setattr(RunnableLoadJob, "run_managed", lambda job: job.run_managed())
    attempts = LoadAttempts(Warner(Redactor()))
    attempts.attach()
    attempts.begin("ab" * 16)
    token = current_run.set(RunContext("shop", "load", "ab" * 16))
    try:
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                RunnableLoadJob.run_managed(OddJob())
    finally:
        current_run.reset(token)
        attempts.detach()
    assert len([record for record in caplog.records if record.name == "dltobs"]) == 1
    assert attempts.take("ab" * 16) == {}


class LongJob:
    """Its error holds a secret where the memory of messages ends."""

    def __init__(self, length: int) -> None:
        self._error = ValueError("x" * length + SECRET + "y" * 10_000)

    def run_managed(self) -> None:
        """Nothing to do."""

    def state(self) -> str:
        return "retry"

    def exception(self) -> ValueError:
        return self._error

    def job_id(self) -> str:
        return "orders.1.jsonl"

    def job_file_info(self) -> SimpleNamespace:
        return SimpleNamespace(retry_count=0)


@pytest.mark.parametrize("length", [8192 - 20, 8192 - 10, 8192 - 4])
def test_the_message_of_an_attempt_is_cut_after_its_secrets_are_gone(monkeypatch, length):
    monkeypatch.setattr(RunnableLoadJob, "run_managed", lambda job: job.run_managed())
    attempts = LoadAttempts(Warner(Redactor([SECRET])))
    attempts.attach()
    attempts.begin("ab" * 16)
    token = current_run.set(RunContext("shop", "load", "ab" * 16))
    try:
        RunnableLoadJob.run_managed(LongJob(length))
    finally:
        current_run.reset(token)
        attempts.detach()
    ((attempt,),) = attempts.take("ab" * 16).values()
    assert 8000 < len(attempt.message) <= 8192
    assert SECRET[:4] not in attempt.message


def events_alive():
    gc.collect()
    return [item for item in gc.get_objects() if isinstance(item, (Job, Attempt, StepFinished))]


def test_nothing_grows_with_the_number_of_runs(otlp, pipeline):
    """What a run leaves in memory is gone, or in the place of what the one before has left."""
    earlier = events_alive()  # held, so that no other test's objects come and go among ours
    known = {id(item) for item in earlier}
    dltobs.configure(otlp_endpoint=otlp.url)
    setup = _state.runtime
    one = pipeline(destination=flaky(0))
    kept = []
    for number in range(6):
        one.run([{"id": number}], table_name="orders")
        kept.append(sum(id(item) not in known for item in events_alive()))
    tracker = setup.tracker
    assert not tracker._runs
    assert not tracker._reader.load_attempts._runs
    assert not setup.sinks[0]._runs
    assert not setup.sinks[0]._children._handover._under_way
    assert kept[-1] == kept[1]
    dltobs.shutdown()


def test_the_numbers_of_dlts_metrics_may_be_missing():
    """Times of other types are no times; jobs of earlier runs are left out."""
    assert moment(None) is None
    assert moment("yesterday") is None
    assert moment(float("nan")) is None
    assert moment(datetime(2026, 1, 1)).tzinfo is timezone.utc  # noqa: DTZ001 - what dlt may give
    assert load_jobs_of(None, NOW, {}, {}) == ()
    attempt = Attempt("orders.f00.jsonl.gz", 1, "failed", NOW, NOW, "KeyboardInterrupt", "")
    (job,) = load_jobs_of(None, NOW, {}, {attempt.job_id: (attempt,)})
    assert (job.table, job.file_format, job.state, job.rows) == ("orders", "jsonl", "failed", None)


# --- many jobs ---


def job(number, state="completed", seconds=1.0, **parts):
    start = NOW + timedelta(milliseconds=number)
    return Job(
        f"orders.{number:010x}.jsonl",
        "orders",
        internal=False,
        state=state,
        file_format="jsonl",
        rows=10,
        bytes=100,
        started_at=start,
        finished_at=start + timedelta(seconds=seconds),
        **parts,
    )


def load_of(jobs, pipeline="shop", transaction_id="ab" * 16):
    """The events of a run that is one load."""
    run = Run(pipeline, transaction_id)
    end = NOW + timedelta(seconds=60)
    step = StepFinished(run, "load", 0, NOW, end, load_jobs=tuple(jobs), jobs=len(jobs))
    return [
        RunStarted(run, "load", NOW),
        StepStarted(run, "load", 0, NOW),
        step,
        RunFinished(run, "ok", NOW, end, steps=(step,)),
    ]


def own_sink():
    return _state.runtime.sinks[0]


def test_ten_thousand_jobs_arrive_at_our_own_provider(otlp):
    dltobs.configure(otlp_endpoint=otlp.url, max_job_spans=20_000, flush_timeout=60)
    for event in load_of([job(number) for number in range(10_000)]):
        own_sink().emit(event)
    dltobs.shutdown()
    assert_is_a_tree(otlp.spans)
    assert len(otlp.spans) == 10_001
    assert dltobs.status()["otlp"] == dltobs.BackendStatus(delivered=10_001)


class SlowExporter(InMemorySpanExporter):
    def export(self, spans):
        time.sleep(0.005)
        return super().export(spans)


def test_ten_thousand_jobs_arrive_at_the_applications_provider():
    """Its plain batch processor holds 2,048 spans; four runs at once share it."""
    exporter = SlowExporter()
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    sink = SpanSink(Settings(max_job_spans=20_000, flush_timeout=60.0), Redactor(), {})

    def work(number):
        for event in load_of([job(number) for number in range(2_500)], f"p{number}", f"{number + 1:032x}"):
            sink.emit(event)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    provider.shutdown()
    assert len(exporter.get_finished_spans()) == 10_004


def test_a_back_end_that_hangs_costs_a_small_share():
    """Of flush_timeout, once a step; afterwards the run goes on."""
    released = threading.Event()

    class Hanging(SpanExporter):
        def export(self, spans):
            released.wait(30)
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Hanging()))
    trace.set_tracer_provider(provider)
    sink = SpanSink(Settings(max_job_spans=20_000, flush_timeout=1.0), Redactor(), {})
    events = [load_of([job(number) for number in range(1_000)], "shop", f"{run:032x}") for run in (1, 2, 3)]
    before = set(threading.enumerate())  # those of an earlier test may still wait for its back end
    began = time.monotonic()
    for event in itertools.chain(*events):
        sink.emit(event)
    took = time.monotonic() - began
    threads = sum(thread.name == "dltobs-flush" for thread in set(threading.enumerate()) - before)
    released.set()
    provider.shutdown()
    assert took < 3 * 0.2 + 3
    assert threads == 1


def test_the_failed_the_retried_and_the_slowest_are_kept(otlp):
    dltobs.configure(otlp_endpoint=otlp.url, max_job_spans=4)
    jobs = [job(number) for number in range(100)]
    jobs[10] = job(10, "failed", 0.1, failed_message="no room")
    jobs[20] = job(20, seconds=0.1, retry_count=1)
    jobs[30] = job(30, seconds=9)
    jobs[40] = job(40, seconds=8)
    for event in load_of(jobs):
        own_sink().emit(event)
    dltobs.shutdown()
    kept = [attributes_of(span).get("dlt.job.id") for span in otlp.spans if span.parent_span_id]
    assert kept == [jobs[number].job_id for number in (10, 20, 30, 40)]
    failed = otlp.spans[0]
    assert attributes_of(failed)["error.type"] == "_OTHER"
    assert attributes_of(failed.events[0])["exception.message"] == "no room"
    root = attributes_of(otlp.named("load shop"))
    assert (root[OMITTED_COUNT], root[OMITTED_ROWS], root[OMITTED_BYTES]) == (96, 960, 9_600)


def test_times_outside_of_the_step_are_moved_into_it(otlp):
    """dlt's clock and ours may differ; a time that is not known is that of the step."""
    dltobs.configure(otlp_endpoint=otlp.url)
    early, late = job(-5_000), job(70_000)
    unknown = Job("orders.x.jsonl", "orders", internal=False, state="retry")
    for event in load_of([early, late, unknown]):
        own_sink().emit(event)
    dltobs.shutdown()
    assert_is_a_tree(otlp.spans)
    assert len(otlp.spans) == 4


def test_a_real_load_of_many_jobs_is_complete(otlp, pipeline, monkeypatch):
    """Each row a file: more jobs than the queue would hold of a smaller processor."""
    monkeypatch.setenv("NORMALIZE__DATA_WRITER__FILE_MAX_ITEMS", "1")
    monkeypatch.setenv("NORMALIZE__DATA_WRITER__BUFFER_MAX_ITEMS", "1")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "200")
    # dlt's jobs of such a destination change one state that others write as JSON, which may end the process
    monkeypatch.setenv("LOAD__WORKERS", "1")
    sink = RecordingSink()
    dltobs.configure(otlp_endpoint=otlp.url, sinks=[sink], console="off", flush_timeout=60)
    pipeline(destination=flaky(0)).run([{"id": number} for number in range(300)], table_name="orders")
    dltobs.shutdown()
    jobs = [span for span in otlp.spans if span.name == "load orders"]
    assert len(jobs) == 300
    assert sum(attributes_of(span)["dlt.rows"] for span in jobs) == 300
    assert sink.step("load").jobs == len(sink.step("load").load_jobs) == 301
    # dlt's own job is none that runs here
    assert sum(len(one.attempts) for one in sink.step("load").load_jobs) == 300
    assert dltobs.status()["otlp"].dropped == 0


def test_a_smaller_queue_gets_smaller_chunks(monkeypatch):
    """What the application's processor is told by the environment, we are told as well."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "64")
    exporter = SlowExporter()
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    sink = SpanSink(Settings(flush_timeout=60.0), Redactor(), {})
    for event in load_of([job(number) for number in range(1_000)]):
        sink.emit(event)
    provider.shutdown()
    assert len(exporter.get_finished_spans()) == 1_001


def test_a_span_that_nobody_records_has_none_below_it():
    """An application without a sampler for us."""
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=ALWAYS_OFF)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    sink = SpanSink(Settings(), Redactor(), {})
    for event in load_of([job(1)]):
        sink.emit(event)
    provider.shutdown()
    assert exporter.get_finished_spans() == ()
