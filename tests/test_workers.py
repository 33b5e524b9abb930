"""Worker processes that dlt normalizes in: their spans and lines are part of the run, however they start."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import sys
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest
from dlt.common.configuration.container import Container
from dlt.common.runners import pool_runner
from dlt.common.runners.configuration import PoolRunnerConfiguration
from loguru import logger as loguru_logger

import dltobs
from conftest import SECRET
from dltobs import Redactor, _state
from dltobs._warnings import Warner
from dltobs._workers.parent import Carrier
from dltobs._workers.worker import Briefing, start
from dltobs.logs.forward import ForwardingHandler, Inbox
from dltobs.sinks import answers
from scripts import PRELUDE, run_script
from servers import OtlpServer, SentryServer, attributes_of

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

METHODS = ("fork", "forkserver", "spawn")
FORKED_OR_FRESH = ("fork", "spawn")
"""Where a worker of forkserver differs in nothing from one of spawn."""

WORKERS = (
    PRELUDE
    + """
import time
import dltobs
import dlt.normalize.normalize as normalize
from dlt.common import logger
from opentelemetry import baggage, trace

original = normalize.w_normalize_files
LINES = int(os.environ.get("LINES_OF_A_WORKER", "1"))

# a worker finds what it is to do by name: this script runs again in those that are not forked
def instrumented(*args, **options):
    with trace.get_tracer("library").start_as_current_span("user work") as span:
        tenant = str(baggage.get_baggage("tenant"))
        span.set_attributes({"process": os.getpid(), "url": os.environ["API_KEY"], "tenant": tenant})
        for number in range(LINES):
            logger.warning("line %s of a worker, key %s", number, os.environ["API_KEY"])
        if "FAIL" in os.environ:
            raise ValueError("worker fails with " + os.environ["API_KEY"])
        return original(*args, **options)

normalize.w_normalize_files = instrumented

def run(pipeline, tables=4):
    dlt.secrets["api_key"]
    pipeline.run([dlt.resource([{"id": 1}], name=f"table{number}") for number in range(tables)])
"""
)


def run_workers(source, folder, method, **variables):
    result = run_script(
        source,
        folder,
        prelude=WORKERS,
        NORMALIZE__WORKERS="2",
        NORMALIZE__START_METHOD=method,
        API_KEY=SECRET,
        DLTOBS__METRICS="off",  # they are of the parent
        **variables,
    )
    assert SECRET not in result.stdout + result.stderr
    return result


def lines_of(path):
    text = path.read_text()
    assert SECRET not in text
    return [json.loads(line) for line in text.splitlines()]


def of_workers(lines):
    return [line for line in lines if "of a worker" in line["message"]]


MAIN = """
if __name__ == "__main__":
    dltobs.configure(log_file="log.jsonl", tags={"team": "data"}, service_name="shop-loader", loguru=True)
    run(pipeline())
    dltobs.shutdown()
    print(os.getpid(), dltobs.status().get("otlp"))
"""


class Ran(NamedTuple):
    """A run that several tests look at."""

    result: subprocess.CompletedProcess[str]
    folder: Path
    otlp: OtlpServer
    sentry: SentryServer

    @property
    def user_spans(self):
        return [span for span in self.otlp.spans if span.name == "user work"]


@pytest.fixture(scope="module", params=METHODS)
def observed(request, tmp_path_factory):
    """With everything switched on, started by somebody with a trace of his own."""
    folder, otlp, sentry = tmp_path_factory.mktemp("observed"), OtlpServer(), SentryServer()
    result = run_workers(
        """
        if __name__ == "__main__":
            from loguru import logger as loguru_logger
            loguru_logger.remove()
            loguru_logger.add("loguru.jsonl", serialize=True, diagnose=True)
            dltobs.configure(
                log_file="log.jsonl", console="text", tags={"team": "data"}, service_name="shop-loader",
                loguru=True, log_level="INFO", environment="test",
            )
            run(pipeline())
            dltobs.shutdown()
            print(os.getpid())
        """,
        folder,
        request.param,
        DLTOBS__OTLP_ENDPOINT=otlp.url,
        SENTRY_DSN=sentry.dsn,
        DLTOBS__SENTRY_TRACES="true",
        TRACEPARENT="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        TRACESTATE="vendor=1",
        BAGGAGE="tenant=acme",
    )
    otlp.close()
    sentry.close()
    assert result.returncode == 0, result.stderr
    return Ran(result, folder, otlp, sentry)


def test_a_span_made_in_a_worker_is_a_child_of_the_step_and_arrives(observed):
    otlp, users = observed.otlp, observed.user_spans
    assert len(users) == 2
    assert {span.parent_span_id for span in users} == {otlp.named("normalize").span_id}
    assert {span.trace_id for span in users} == {otlp.named("run shop").trace_id}
    parent = int(observed.result.stdout.split()[0])
    assert parent not in {attributes_of(span)["process"] for span in users}
    assert len({span.span_id for span in otlp.spans}) == len(otlp.spans)  # nothing is sent twice
    assert SECRET.encode() not in otlp.raw
    assert {resource["service.name"] for resource in otlp.resources} == {"shop-loader"}
    # the lines were logged within these spans
    lines = of_workers(lines_of(observed.folder / "log.jsonl"))
    assert {line["span_id"] for line in lines} == {span.span_id.hex() for span in users}
    assert {line["trace_id"] for line in lines} == {users[0].trace_id.hex()}


def test_lines_of_workers_reach_every_handler_as_those_of_the_parent_do(observed):
    """File, console and loguru; the same format, ids, level, and no secret."""
    lines = lines_of(observed.folder / "log.jsonl")
    workers = of_workers(lines)
    assert len(workers) == 2
    root = observed.otlp.named("run shop")
    trace_id = root.trace_id.hex()
    (run_id,) = {line["transaction_id"] for line in lines if "transaction_id" in line}
    assert run_id == attributes_of(root)["dlt.transaction_id"]
    for line in workers:
        assert line["message"] == "line 0 of a worker, key ***"
        assert (line["pipeline"], line["step"]) == ("shop", "normalize")
        assert (line["transaction_id"], line["trace_id"]) == (run_id, trace_id)
        assert (line["service"], line["environment"], line["team"]) == ("shop-loader", "test", "data")
        assert (line["file"], line["function"]) == ("script.py", "instrumented")
    # dlt's own lines at INFO from the workers are there, too
    assert len([line for line in lines if line["process"] in {one["process"] for one in workers}]) > 4
    printed = [line for line in observed.result.stderr.splitlines() if "of a worker" in line]
    assert len(printed) == 2
    assert all(line.endswith(f"line 0 of a worker, key *** [shop normalize {trace_id}]") for line in printed)
    records = [one["record"] for one in lines_of(observed.folder / "loguru.jsonl")]
    assert len(records) == len(lines)
    ours = [record for record in records if "of a worker" in record["message"]]
    assert {record["process"]["id"] for record in ours} == {line["process"] for line in workers}
    assert {record["extra"]["trace_id"] for record in ours} == {trace_id}
    assert {record["function"] for record in ours} == {"instrumented"}


def test_what_the_caller_of_the_process_gave_reaches_workers(observed):
    """Trace, tracestate and baggage."""
    users = observed.user_spans
    assert {span.trace_id.hex() for span in users} == {"0af7651916cd43dd8448eb211c80319c"}
    assert {span.trace_state for span in users} == {"vendor=1"}
    assert {attributes_of(span)["tenant"] for span in users} == {"acme"}
    assert {span.parent_span_id for span in users} == {observed.otlp.named("normalize").span_id}


def test_sentry_s_intake_for_spans_gets_those_of_workers(observed):
    """And no event of a worker's."""
    assert b"user work" in observed.sentry.raw
    assert SECRET.encode() not in observed.sentry.raw
    assert not any(b"event_id" in request.body for request in observed.sentry.requests)


@pytest.mark.parametrize("method", METHODS)
def test_a_script_without_a_guarded_configure_is_set_up_once(tmp_path, otlp, sentry, method):
    """Workers run the top of the script again; what it sets up there is replaced, and nothing is doubled."""
    result = run_workers(
        """
        class Sink:
            def emit(self, event): print(type(event).__name__, os.getpid())
            def flush(self, timeout): return True
            def close(self): pass

        dltobs.configure(log_file="log.jsonl", sinks=[Sink()])
        if __name__ == "__main__":
            run(pipeline())
            print("parent", os.getpid())
        """,
        tmp_path,
        method,
        DLTOBS__OTLP_ENDPOINT=otlp.url,
        SENTRY_DSN=sentry.dsn,
    )
    assert result.returncode == 0, result.stderr
    assert len(of_workers(lines_of(tmp_path / "log.jsonl"))) == 2
    assert len([line for line in result.stderr.splitlines() if "of a worker" in line]) == 2
    assert len([span for span in otlp.spans if span.name == "user work"]) == 2
    assert len({line.split()[1] for line in result.stdout.splitlines()}) == 1  # the parent alone has sinks
    assert "dltobs" not in result.stderr
    assert not sentry.events


def test_a_run_in_a_thread_starts_its_workers_by_spawn(tmp_path, otlp):
    result = run_workers(
        """
        if __name__ == "__main__":
            import threading
            dltobs.configure(log_file="log.jsonl")
            pipelines = [pipeline("one"), pipeline("two")]
            threads = [threading.Thread(target=run, args=(each,)) for each in pipelines]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
        """,
        tmp_path,
        "",
        DLTOBS__OTLP_ENDPOINT=otlp.url,
    )
    assert result.returncode == 0, result.stderr
    lines = of_workers(lines_of(tmp_path / "log.jsonl"))
    assert sorted(line["pipeline"] for line in lines) == ["one", "one", "two", "two"]
    steps = {span.span_id: span.trace_id for span in otlp.spans if span.name == "normalize"}
    users = [span for span in otlp.spans if span.name == "user work"]
    assert len(users) == 4
    assert {span.parent_span_id for span in users} == steps.keys()
    assert all(steps[span.parent_span_id] == span.trace_id for span in users)


@pytest.fixture(scope="module", params=METHODS)
def rotated(request, tmp_path_factory):
    """The lines of workers in all files that three processes have written, without tracing."""
    folder = tmp_path_factory.mktemp("rotated")
    result = run_workers(
        """
        if __name__ == "__main__":
            dltobs.configure(
                log_file="log.jsonl", console="off", log_file_max_bytes=50_000, log_file_backup_count=99,
                tracing="off",
            )
            run(pipeline())
        """,
        folder,
        request.param,
        LINES_OF_A_WORKER="500",
    )
    assert result.returncode == 0, result.stderr
    files = [path for path in folder.glob("log.jsonl*") if path.suffix != ".lock"]
    assert len(files) > 4
    return of_workers([line for path in files for line in lines_of(path)])


def test_processes_that_write_one_file_lose_and_tear_no_line(rotated):
    """Through rotation: three processes, some files, every line once."""
    counted = sorted((line["process"], int(line["message"].split()[1])) for line in rotated)
    processes = {process for process, _ in counted}
    # the two tasks may have been done by the same worker
    assert len(counted) == 1000
    expected = sorted((process, number) for process in processes for number in range(500))
    assert counted == (expected if len(processes) == 2 else sorted(expected * 2))


def test_without_tracing_a_worker_has_the_ids_of_the_run(rotated):
    assert len({line["transaction_id"] for line in rotated}) == 1
    for line in rotated:
        assert line["trace_id"] == line["transaction_id"]
        assert "span_id" not in line


@pytest.mark.parametrize("method", FORKED_OR_FRESH)
def test_a_dead_collector_costs_a_bounded_time_and_fails_nothing(tmp_path, otlp, method):
    otlp.delay = 60
    started = time.monotonic()
    result = run_workers(
        """
        if __name__ == "__main__":
            started = time.monotonic()
            dltobs.configure(flush_timeout=0.5)
            run(pipeline())
            print(time.monotonic() - started)
        """,
        tmp_path,
        method,
        DLTOBS__OTLP_ENDPOINT=otlp.url,
        OTEL_EXPORTER_OTLP_TIMEOUT="60",  # so that whoever waits for the exporter is late on any machine
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 40
    assert time.monotonic() - started < 55


@pytest.mark.parametrize("method", FORKED_OR_FRESH)
def test_a_failure_in_a_worker_is_that_of_the_run(tmp_path, otlp, method):
    """Its cause is what the worker raised, not the stand-in for its traceback; its span arrives all the same."""
    result = run_workers(MAIN, tmp_path, method, DLTOBS__OTLP_ENDPOINT=otlp.url, FAIL="1")
    assert result.returncode == 1
    assert "worker fails with ***" in result.stderr
    users = [span for span in otlp.spans if span.name == "user work"]
    assert users
    assert {span.trace_id for span in users} == {otlp.named("run shop").trace_id}
    for name in ("run shop", "normalize"):
        span = otlp.named(name)
        assert attributes_of(span)["error.type"] == "ValueError"
        assert span.status.message == "ValueError: worker fails with ***"
        (event,) = [event for event in span.events if event.name == "exception"]
        assert "in instrumented" in attributes_of(event)["exception.stacktrace"]


@pytest.mark.parametrize("method", FORKED_OR_FRESH)
def test_the_span_of_an_application_s_own_provider_arrives(tmp_path, otlp, method):
    """Where the script sets it in every process; nobody else would flush it in a worker."""
    result = run_workers(
        """
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(os.environ["URL"] + "/v1/traces")))
        trace.set_tracer_provider(provider)
        os.environ["API_KEY"] = "not_a_secret"
        if __name__ == "__main__":
            dltobs.configure()
            run(pipeline())
        """,
        tmp_path,
        method,
        URL=otlp.url,
    )
    assert result.returncode == 0, result.stderr
    users = [span for span in otlp.spans if span.name == "user work"]
    assert len(users) == 2
    assert {span.parent_span_id for span in users} == {otlp.named("normalize").span_id}


@pytest.mark.parametrize("method", FORKED_OR_FRESH)
def test_what_goes_wrong_in_a_worker_is_a_warning(tmp_path, method):
    """Here a log file that the parent alone can open; the other handlers work."""
    result = run_workers(
        """
        if __name__ == "__main__":
            dltobs.configure(log_file="logs/log.jsonl", console="text")
            import shutil
            shutil.rmtree("logs")
            open("logs", "w").close()
            run(pipeline())
        """,
        tmp_path,
        method,
    )
    assert result.returncode == 0, result.stderr
    # by the handlers that are left: one for each process at most
    assert 1 <= result.stderr.count("the pipeline is not affected") <= 3


def test_the_level_that_the_application_has_set_counts_in_workers(tmp_path):
    result = run_workers(
        """
        if __name__ == "__main__":
            import logging
            dltobs.configure(log_file="log.jsonl")
            logging.getLogger("dlt").setLevel("ERROR")
            run(pipeline())
        """,
        tmp_path,
        "spawn",
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "log.jsonl").read_text() == ""


def test_a_setting_that_cannot_be_pickled_is_left_to_its_default(tmp_path):
    """One warning; the pool works."""
    result = run_workers(
        """
        if __name__ == "__main__":
            class Local(str):
                def __reduce__(self):
                    raise TypeError("not me")
                def __str__(self):
                    return self
            dltobs.configure(log_file="log.jsonl", tags={"team": Local("data")})
            run(pipeline())
        """,
        tmp_path,
        "spawn",
    )
    assert result.returncode == 0, result.stderr
    lines = lines_of(tmp_path / "log.jsonl")
    assert len([line for line in lines if "setting tags cannot be sent" in line["message"]]) == 1
    assert all("team" not in line for line in of_workers(lines))
    assert len(of_workers(lines)) == 2


def create_pool():
    return pool_runner.create_pool(
        PoolRunnerConfiguration(pool_type="process", workers=2, start_method="spawn")
    )


def test_nothing_stays_in_dlt():
    """Not in the container while a pool exists, and no wrapper after the end."""
    original = pool_runner.create_pool
    dltobs.configure()
    assert pool_runner.create_pool is not original
    kept = pool_runner.create_pool
    pool = create_pool()
    assert Carrier in pool._initargs[1]
    assert Carrier not in Container()
    pool.shutdown()
    dltobs.shutdown()
    assert pool_runner.create_pool is original
    assert Carrier not in kept(PoolRunnerConfiguration(pool_type="process", workers=2, start_method="spawn"))._initargs[1]  # fmt: skip


def test_a_pool_comes_into_being_whatever_fails(monkeypatch, capfd):
    dltobs.configure()

    def fail(*_):
        message = "container is broken"
        raise RuntimeError(message)

    monkeypatch.setattr("dltobs._workers.parent.Sender", fail)
    pool = create_pool()
    assert Carrier not in pool._initargs[1]
    pool.shutdown()
    assert capfd.readouterr().err.count("container is broken") == 1


def test_an_error_of_dlt_s_own_is_dlt_s(monkeypatch):
    dltobs.configure()
    with pytest.raises(ValueError, match="cannot find context"):
        pool_runner.create_pool(PoolRunnerConfiguration(pool_type="process", start_method="bogus"))
    assert Carrier not in Container()


def test_threads_are_no_business_of_this(pipeline):
    dltobs.configure()
    pool = pool_runner.create_pool(PoolRunnerConfiguration(pool_type="thread", workers=2))
    assert pool.submit(os.getpid).result() == os.getpid()
    pool.shutdown()
    assert "shutdown" not in vars(pool)


def test_a_letter_that_cannot_be_read_leaves_the_worker_alone(caplog):
    """It may not break the pool."""
    with caplog.at_level(logging.WARNING, "dltobs"):
        start(b"", None, None)
        start(b"no pickle", None, None)
        start(pickle.dumps(Briefing({"tags": b"no pickle", "log_file": pickle.dumps(3)}, frozenset(), None, None, {}, exports=False)), None, None)  # fmt: skip
    assert _state.runtime is None
    messages = [record.message for record in caplog.records]
    assert len(messages) == 3
    assert not any(type(handler) is logging.StreamHandler for handler in logging.getLogger("dlt").handlers)
    assert all("the pipeline is not affected" in message for message in messages)


def test_a_letter_without_a_sender_is_empty():
    """Whoever else pickles the context gets one that does nothing."""
    carrier = pickle.loads(pickle.dumps(Carrier()))
    carrier.after_add()
    assert _state.runtime is None


def record_of(text="hello"):
    return logging.makeLogRecord({"msg": text, "levelname": "INFO", "levelno": 20, "name": "dlt"})


@pytest.fixture
def received():
    """What loguru got."""
    records = []
    loguru_logger.remove()
    loguru_logger.add(lambda message: records.append(message.record), level=0)
    yield records
    loguru_logger.remove()


def test_a_forwarded_record_keeps_its_exception_and_extra(received):
    warner = Warner(Redactor())
    inbox = Inbox(warner)
    handler = ForwardingHandler(inbox.outlet, redactor=Redactor([SECRET]), warner=warner)
    record = record_of(f"failed with {SECRET}")
    record.rows = 7
    try:
        raise LookupError(SECRET)
    except LookupError:
        record.exc_info = sys.exc_info()
    handler.handle(record)
    inbox.close()
    (got,) = received
    assert got["message"].startswith("failed with ***\nTraceback")
    assert got["extra"]["rows"] == 7
    assert (got["exception"].type.__name__, str(got["exception"].value)) == ("LookupError", "***")
    assert SECRET not in repr(got)


def test_a_parent_that_does_not_read_costs_a_worker_a_second_once(caplog):
    reader, writer = multiprocessing.Pipe(duplex=False)
    lock = multiprocessing.get_context("spawn").Lock()
    handler = ForwardingHandler((writer, lock), redactor=Redactor(), warner=Warner(Redactor()))
    started = time.monotonic()
    for _ in range(500):
        handler.handle(record_of("x" * 500))
    assert time.monotonic() - started < 4
    assert [one.name for one in caplog.records] == ["dltobs"]
    reader.close()
    writer.close()


def test_a_worker_that_was_killed_while_it_wrote_costs_the_others_a_second_once(caplog):
    reader, writer = multiprocessing.Pipe(duplex=False)
    lock = multiprocessing.get_context("spawn").Lock()
    lock.acquire()
    handler = ForwardingHandler((writer, lock), redactor=Redactor(), warner=Warner(Redactor()))
    started = time.monotonic()
    for _ in range(10):
        handler.handle(record_of())
    assert time.monotonic() - started < 4
    assert [one.name for one in caplog.records] == ["dltobs"]
    reader.close()
    writer.close()


def test_a_sink_of_loguru_that_fails_costs_no_other_record(received, caplog):
    def fail(message):
        if "first" in message:
            raise RuntimeError("sink is broken")

    loguru_logger.add(fail, level=0, catch=False)
    warner = Warner(Redactor())
    inbox = Inbox(warner)
    handler = ForwardingHandler(inbox.outlet, redactor=Redactor(), warner=warner)
    handler.handle(record_of("first"))
    handler.handle(record_of("second"))
    inbox.close()
    assert [record["message"] for record in received] == ["first", "second"]
    assert [one.name for one in caplog.records] == ["dltobs"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_waits_for_no_thread_of_its_parent(otlp):
    """Whatever lock is held at that moment."""
    dltobs.configure(otlp_endpoint=otlp.url, metrics="off")
    setup = _state.runtime
    assert setup is not None
    locks = lambda: (_state.lock, setup.logger_hook._lock, setup.deliveries["otlp"]._lock, answers._lock)  # noqa: E731
    held, release = threading.Event(), threading.Event()

    def hold():
        for lock in locks():
            lock.acquire()
        held.set()
        release.wait(30)
        for lock in reversed(locks()):
            lock.release()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    child = os.fork()
    if not child:
        free = all(lock.acquire(timeout=5) for lock in locks())
        os._exit(0 if free else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    release.set()
    thread.join()
