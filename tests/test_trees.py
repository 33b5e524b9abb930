"""Each run is one well-formed tree, however its workers start, whichever protocol brings it, however it ends."""

from __future__ import annotations

import contextvars
import signal
import sys
import threading
from collections import Counter

import dlt
import pytest
from dlt.common.destination.exceptions import DestinationTerminalException, DestinationTransientException
from dlt.pipeline.exceptions import PipelineStepFailed
from dlt.pipeline.helpers import retry_load
from opentelemetry import trace
from tenacity import Retrying, retry_if_exception, stop_after_attempt

import dltobs
from conftest import SECRET
from grpc_server import GrpcServer
from scripts import PRELUDE, run_script
from servers import OtlpServer, attributes_of

METHODS = ("fork", "forkserver", "spawn")

RUN = (
    PRELUDE
    + """
import dltobs
import dlt.normalize.normalize as normalize
from opentelemetry import trace

original = normalize.w_normalize_files

def instrumented(*args, **options):
    with trace.get_tracer("library").start_as_current_span("in a worker"):
        return original(*args, **options)

normalize.w_normalize_files = instrumented

@dlt.resource(parallelized=True)
def orders():
    with trace.get_tracer("library").start_as_current_span("in a resource"):
        yield [{"id": 1, "items": [{"sku": "a"}]}]

@dlt.resource
def customers():
    yield [{"id": 1}, {"id": 2}]

if __name__ == "__main__":
    dltobs.configure()
    dlt.secrets["api_key"]
    pipeline().run([orders(), customers()])
    dltobs.shutdown()
    status = dltobs.status()["otlp"]
    print(status.delivered, status.dropped, status.last_error)
"""
)
STEPS = {"run shop": None, "extract": "run shop", "normalize": "run shop", "load": "run shop"}
CHILDREN = {
    "extract": {"extract orders", "extract customers", "in a resource"},
    "normalize": {"normalize orders", "normalize orders__items", "normalize customers", "in a worker"},
    "load": {"load orders", "load orders__items", "load customers"},
}


@pytest.fixture(params=["http/protobuf", "grpc"])
def collector(request):
    server = GrpcServer() if request.param == "grpc" else OtlpServer()
    server.protocol = request.param
    yield server
    server.close()


def trees_of(spans):
    """The roots; every span has ended, once, and has its parent in the same trace, which has one root."""
    by_id = {span.span_id: span for span in spans}
    assert len(by_id) == len(spans), Counter(span.name for span in spans)
    for span in spans:
        assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano, span
        if span.parent_span_id:
            parent = by_id[span.parent_span_id]
            assert parent.trace_id == span.trace_id
            assert parent.start_time_unix_nano <= span.start_time_unix_nano, (parent.name, span.name)
            assert span.end_time_unix_nano <= parent.end_time_unix_nano, (parent.name, span.name)
    roots = [span for span in spans if not span.parent_span_id]
    assert len({root.trace_id for root in roots}) == len(roots)
    return roots


def children_of(spans, parent):
    return {span.name for span in spans if span.parent_span_id == parent.span_id}


@pytest.mark.parametrize("method", METHODS)
def test_a_run_with_workers_is_one_tree(tmp_path, collector, method):
    """With what the user's instrumentation does in them, for both protocols; what they sent is counted."""
    result = run_script(
        RUN,
        tmp_path,
        prelude="",
        API_KEY=SECRET,
        NORMALIZE__WORKERS="2",
        NORMALIZE__START_METHOD=method,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_EXPORTER_OTLP_PROTOCOL=collector.protocol,
    )
    assert result.returncode == 0, result.stderr
    assert "could not be delivered" not in result.stderr
    assert result.stdout.split() == [str(len(collector.spans)), "0", "None"]
    assert [root.name for root in trees_of(collector.spans)] == ["run shop"]
    steps = {span.name: span for span in collector.spans if span.name in STEPS}
    for name, parent in STEPS.items():
        assert steps[name].parent_span_id == (steps[parent].span_id if parent else b"")
    for name, children in CHILDREN.items():
        assert children <= children_of(collector.spans, steps[name]), name


@pytest.mark.parametrize("method", METHODS)
def test_what_workers_lose_is_counted(tmp_path, method):
    """A collector that is not there: their spans are among those that were dropped."""
    result = run_script(
        RUN,
        tmp_path,
        prelude="",
        API_KEY=SECRET,
        NORMALIZE__WORKERS="2",
        NORMALIZE__START_METHOD=method,
        DLTOBS__OTLP_ENDPOINT="http://127.0.0.1:9",
        DLTOBS__METRICS="off",
        DLTOBS__MAX_JOB_SPANS="0",
        DLTOBS__SPOOL_MAX_BYTES="0",
        OTEL_EXPORTER_OTLP_TIMEOUT="1",
    )
    assert result.returncode == 0, result.stderr
    delivered, dropped, *error = result.stdout.split()
    # four steps, one span of the resource and one at least of a worker
    assert (int(delivered), " ".join(error)) == (0, "connection refused")
    assert int(dropped) >= 6


def test_every_run_of_a_retry_is_a_tree_of_its_own(otlp, pipeline):
    """Tenacity calls the same pipeline again; each call is a run, below the span of the caller."""
    calls = []

    @dlt.resource
    def orders():
        calls.append(None)
        yield {"id": 1}
        if len(calls) < 3:
            message = "try again"
            raise ConnectionError(message)

    dltobs.configure(otlp_endpoint=otlp.url, metrics="off")
    retrying = Retrying(
        stop=stop_after_attempt(3),
        retry=retry_if_exception(retry_load(("extract", "load"))),
        reraise=True,
    )
    for attempt in retrying:
        with attempt:
            pipeline().run(orders())
    assert not trace.get_current_span().get_span_context().is_valid
    dltobs.shutdown()
    roots = trees_of(otlp.spans)
    assert [root.name for root in roots] == ["run shop"] * 3
    outcomes = [
        attribute.value.string_value
        for root in roots
        for attribute in root.attributes
        if attribute.key == "dlt.outcome"
    ]
    assert outcomes == ["failed", "failed", "ok"]


def test_a_run_that_a_resource_of_another_run_starts_is_a_branch_of_its_tree(otlp, pipeline):
    """In a thread, as dlt wants it; where the context goes along, it is below the step in which it happens."""

    def run_inner():
        pipeline("inner").run([{"id": 1}], table_name="inner_orders")

    @dlt.resource
    def orders():
        thread = threading.Thread(target=contextvars.copy_context().run, args=(run_inner,))
        thread.start()
        thread.join()
        yield {"id": 1}

    dltobs.configure(otlp_endpoint=otlp.url, metrics="off")
    outer = pipeline("outer")
    outer.run(orders())
    dltobs.shutdown()
    assert [root.name for root in trees_of(otlp.spans)] == ["run outer"]
    inner = otlp.named("run inner")
    extract = [span for span in otlp.spans if span.span_id == inner.parent_span_id]
    assert [span.name for span in extract] == ["extract"]


def test_every_span_lies_within_its_parent_whatever_the_outcome(otlp, pipeline, monkeypatch):
    """A run that goes well, fails in each step, tolerates failed jobs, tries a job or the whole run again."""
    tries = []

    @dlt.destination(name="flaky", batch_size=1)
    def flaky(items, table):
        tries.append(table["name"])
        if table["name"] == "refused":
            raise DestinationTerminalException("no place")
        if tries.count(table["name"]) == 1:
            raise DestinationTransientException("not yet")

    @dlt.resource
    def orders(error=None):
        with trace.get_tracer("library").start_as_current_span("in a resource"):
            yield {"id": 1}
            if error is not None:
                raise error

    dltobs.configure(otlp_endpoint=otlp.url, metrics="off")
    pipeline("ok").run(orders())
    runs = [
        (pipeline("extracted"), orders(ValueError("no such order"))),
        (pipeline("normalized"), dlt.resource([{"id": 1}], name="t", schema_contract="freeze")),
        (pipeline("loaded", destination=flaky()), dlt.resource([{"id": 1}], name="refused")),
    ]
    for failing, data in runs:
        with pytest.raises(PipelineStepFailed):
            failing.run(data)
    pipeline("retried", destination=flaky()).run([{"id": 1}], table_name="orders")
    monkeypatch.setenv("LOAD__RAISE_ON_FAILED_JOBS", "false")
    pipeline("tolerant", destination=flaky()).run([{"id": 1}], table_name="refused")
    retrying = Retrying(stop=stop_after_attempt(2), reraise=True, **dltobs.tenacity_callbacks(name="loop"))
    with pytest.raises(PipelineStepFailed):
        retrying(lambda: pipeline("again").run(orders(ConnectionError("down"))))
    dltobs.shutdown()
    ok, *others = trees_of(otlp.spans)
    assert ok.name == "run ok"
    assert len(others) == 6
    failed_in = {
        attributes_of(span)["dlt.pipeline.name"]: span.name
        for span in otlp.spans
        if span.status.code == 2 and span.name in STEPS and span.name != "run shop"
    }
    assert failed_in["extracted"] == "extract"
    assert failed_in["normalized"] in {"extract", "normalize"}
    assert failed_in["loaded"] == "load"


ENDED_BY_SIGNAL = (
    PRELUDE
    + """
import signal
import dltobs
import dlt.normalize.normalize as normalize
from opentelemetry import trace
from tenacity import Retrying, stop_after_attempt

original = normalize.w_normalize_files

def run(where, number):
    def at(place):
        if place == where:
            with trace.get_tracer("library").start_as_current_span("interrupted"):
                os.kill(os.getpid(), number)

    def normalizing(*args, **options):
        at("normalize")
        return original(*args, **options)

    normalize.w_normalize_files = normalizing

    @dlt.resource
    def orders():
        yield [{"id": 1}]
        at("extract")

    @dlt.destination(name="posting", batch_size=1)
    def posting(items, table):
        at("load")

    dltobs.configure(metrics="off")
    name = f"{where}_{number}"
    one = dlt.pipeline(name, pipelines_dir="pipelines", destination=posting, dataset_name="d")
    Retrying(stop=stop_after_attempt(1), **dltobs.tenacity_callbacks(name=name))(lambda: one.run(orders()))

children = {}
for where in ("extract", "normalize", "load"):
    for number in (signal.SIGTERM, signal.SIGINT):
        pid = os.fork()
        if not pid:
            try:
                run(where, int(number))
            except BaseException:
                pass
            finally:
                dltobs.shutdown()
                os._exit(0)
        children[pid] = where, number
for pid in children:
    os.waitpid(pid, 0)
"""
)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_every_span_lies_within_its_parent_where_a_signal_ends_the_run(tmp_path, otlp):
    result = run_script(ENDED_BY_SIGNAL, tmp_path, prelude="", OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url)
    assert result.returncode == 0, result.stderr
    assert {root.name.partition(" ")[0] for root in trees_of(otlp.spans)} == {"retry"}
    described = [attributes_of(span) for span in otlp.spans if span.name.startswith("run ")]
    outcomes = {attributes["dlt.pipeline.name"]: attributes["dlt.outcome"] for attributes in described}
    steps = ("extract", "normalize", "load")
    assert sorted(outcomes) == sorted(
        f"{step}_{int(number)}" for step in steps for number in (signal.SIGTERM, signal.SIGINT)
    )
    # dlt lets a load end whose last job has begun
    assert {outcomes[name] for name in outcomes if not name.startswith("load")} == {"terminated"}


def test_a_run_that_fails_leaves_no_span_open(otlp, pipeline):
    """Nor anything attached."""

    @dlt.resource
    def orders():
        yield {"id": 1}
        message = "no more"
        raise ValueError(message)

    dltobs.configure(otlp_endpoint=otlp.url, metrics="off")
    with pytest.raises(PipelineStepFailed):
        pipeline().run(orders())
    assert not trace.get_current_span().get_span_context().is_valid
    dltobs.shutdown()
    (root,) = trees_of(otlp.spans)
    assert root.name == "run shop"
    assert root.status.code == 2
