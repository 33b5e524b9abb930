"""Back ends that are down for a while get everything in the end, once, and nobody else gets anything."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path

import dlt
import pytest
from dlt.pipeline.exceptions import PipelineStepFailed
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

import dltobs
from conftest import SECRET
from dltobs import BackendStatus, ConfigurationError, SpoolResult, _state
from dltobs.sinks.delivery import Delivery
from dltobs.sinks.route import Route, Verdict
from grpc_server import GrpcServer
from ports import held_port
from scripts import PRELUDE, WITHOUT_THREADS, run_script, start_python
from servers import OtlpServer, SentryServer, attributes_of
from slack_server import HOOK_PATH, Reply, SlackServer

AT_ONCE = {"DLTOBS__FLUSH_TIMEOUT": "20", "OTEL_EXPORTER_OTLP_TIMEOUT": "0.7"}
"""The exporters give up at their first failure: the next attempt would come after 0.8 seconds or more."""

FAILING_RUN = """
import dltobs
dltobs.configure()
try:
    pipeline().run(broken())
except Exception:
    pass
print("ran")
"""


@dlt.resource
def broken():
    yield {"id": 1}
    raise ValueError("no such order")


@dlt.resource
def unauthorized():
    yield {"id": dlt.secrets["api_key"]}
    raise ValueError(f"401 for https://user:{SECRET}@shop.example")


def fail(one):
    with pytest.raises(PipelineStepFailed):
        one.run(broken())


def failed_run(pipeline, name="shop", **settings):
    """A run that fails, under dltobs; gives its status."""
    dltobs.configure(**{"flush_timeout": 20, "metrics": "off", **settings})
    fail(pipeline(name))
    dltobs.shutdown()
    return dltobs.status()


def discouraging(server):
    """A back end that, where it takes nothing, has the exporter give up at once."""
    server.headers["retry-after"] = "60"
    return server


@pytest.fixture
def otlp(otlp):
    return discouraging(otlp)


@pytest.fixture
def sentry(sentry):
    return discouraging(sentry)


@pytest.fixture
def free_port():
    """Gives ports that refuse connections until a server of the test takes them."""
    with contextlib.ExitStack() as held:
        yield lambda: held.enter_context(held_port(for_a_server=True))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "dlt" / "dltobs" / "spool"


@pytest.fixture
def kept(folder):
    """The names of the files in the spool, without what Slack has been told."""
    return lambda: sorted({path.name for path in folder.glob("*")} - {"alerts.json"})


@pytest.fixture
def warnings(caplog):
    return lambda: [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def spans_of(server):
    """How often each span has come."""
    return Counter((span.trace_id.hex(), span.span_id.hex()) for span in server.spans)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def everything_has_ended():
    """Whether it is known of all that was to be sent what became of it; a slow disk takes a moment."""
    return not any(delivery.pending for delivery in _state.deliveries)


def nothing_is_on_the_wire():
    """Whether no thread of a set-up that has ended waits for an answer."""
    return not [one for one in threading.enumerate() if one.name.startswith(("Otel", "dltobs-flush"))]


def test_what_five_runs_could_not_deliver_comes_with_the_sixth(tmp_path, kept, free_port):
    """In processes of their own; the collector, Sentry and Slack are not there until then."""
    ports = free_port(), free_port(), free_port()
    variables = {
        "DLTOBS__OTLP_ENDPOINT": f"http://127.0.0.1:{ports[0]}",
        "DLTOBS__SENTRY_DSN": f"http://publickey00@127.0.0.1:{ports[1]}/42",
        "DLTOBS__SLACK_INCOMING_HOOK": f"http://127.0.0.1:{ports[2]}{HOOK_PATH}",
        "DLTOBS__ALERT_COOLDOWN": "0",
    }
    once = """
    from dltobs.sinks import slack_sender
    from tenacity import wait_fixed
    slack_sender._BACKOFF, slack_sender._PAUSE_IN_FLUSH = wait_fixed(60), 60
    """
    ended = [time.time_ns()]
    for _ in range(5):
        result = run_script(textwrap.dedent(once) + FAILING_RUN, tmp_path, **AT_ONCE, **variables)
        assert result.stdout == "ran\n", result.stderr
        assert result.stderr.count("kept in the spool (connection refused)") == 4
        assert "pl4nted" not in result.stderr
        ended.append(time.time_ns())
    kinds = Counter(name.split(".")[1] for name in kept())
    assert kinds == {"otlp": 5, "otlp_metrics": 5, "sentry": 5, "slack": 5}
    otlp, sentry, slack = OtlpServer(port=ports[0]), SentryServer(port=ports[1]), SlackServer(port=ports[2])
    result = run_script(FAILING_RUN, tmp_path, DLTOBS__FLUSH_TIMEOUT="20", **variables)
    ended.append(time.time_ns())
    otlp.close()
    sentry.close()
    slack.close()
    assert "spool" not in result.stderr
    assert kept() == []
    counts = spans_of(otlp)
    assert set(counts.values()) == {1}
    assert len({trace for trace, _ in counts}) == 6
    roots = [span for span in otlp.spans if span.name == "run shop"]
    assert len(roots) == 6
    transactions = {attributes_of(span)["dlt.transaction_id"] for span in roots}
    events = Counter(event["event_id"] for event in sentry.events)
    assert (len(events), set(events.values())) == (6, {1})
    assert {event["tags"]["dlt.transaction_id"] for event in sentry.events} == transactions
    assert len(slack.posts) == 6
    for transaction in transactions:
        (told,) = [post for post in slack.posts if transaction in post["text"]]
        assert "no such order" in told["text"]
    runs = [point for point in otlp.points if point.name == "dlt.runs"]
    assert [point.value for point in runs] == [1] * 6
    times = sorted(point.data.time_unix_nano for point in runs)
    for number, counted in enumerate(times):
        assert ended[number] < counted < ended[number + 1], "each has the time at which it was counted"


def test_processes_that_share_a_spool_deliver_each_file_once(tmp_path, kept, free_port):
    """Five runs in the dark, then four processes that flush at the same time."""
    port = free_port()
    variables = {"DLTOBS__OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "DLTOBS__METRICS": "off"}
    script = """
    import dltobs
    dltobs.configure()
    for _ in range(6):
        pipeline().run([{"id": 1}], table_name="orders")
        dltobs.shutdown()
        dltobs.configure()
    """
    run_script(script, tmp_path, **AT_ONCE, **variables)
    before = kept()
    assert len(before) >= 6
    otlp = OtlpServer(port=port)
    otlp.delay = 0.05
    flush = PRELUDE + textwrap.dedent(
        """
        import time, dltobs
        from pathlib import Path
        ready = Path("ready")
        (ready / str(os.getpid())).touch()
        deadline = time.monotonic() + 60
        while ready.exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        dltobs.configure()
        print(json.dumps({name: result.sent for name, result in dltobs.flush_spool().items()}))
        """
    )
    environment = {**os.environ, **variables, "DLT_DATA_DIR": str(tmp_path / "dlt")}
    ready = tmp_path / "ready"
    ready.mkdir()
    others = [start_python(["-c", flush], tmp_path, environment) for _ in range(4)]
    wait_for(lambda: len(list(ready.iterdir())) == len(others))
    ready.rename(tmp_path / "begun")
    for one in others:
        one.communicate(timeout=60)
        assert one.returncode == 0
    otlp.close()
    assert len(otlp.requests) == len(before)
    assert set(spans_of(otlp).values()) == {1}
    assert kept() == []


def test_what_a_process_was_sending_when_it_was_killed_is_sent_by_the_next(otlp, tmp_path, pipeline, kept):
    otlp.status = 503
    failed_run(pipeline, otlp_endpoint=otlp.url)
    ids = set(spans_of(otlp))
    otlp.requests.clear()
    otlp.status, otlp.delay = 200, 30
    process = start_python(
        ["-c", "import dltobs, time; dltobs.configure(); time.sleep(60)"],
        tmp_path,
        {**os.environ, "DLTOBS__OTLP_ENDPOINT": otlp.url, "DLTOBS__METRICS": "off"},
    )
    wait_for(lambda: otlp.requests)
    (name,) = kept()
    assert name.endswith(".sending")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    otlp.requests.clear()
    otlp.delay = 0
    dltobs.configure(otlp_endpoint=otlp.url, metrics="off")
    dltobs.shutdown()
    assert set(spans_of(otlp)) == ids
    assert kept() == []


@pytest.fixture
def short_of_time(monkeypatch):
    """Spans and sums are sent soon, and nothing is tried twice."""
    of_exporters = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_METRIC_EXPORT_INTERVAL": "100"}
    for name, value in (AT_ONCE | of_exporters).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("dltobs.sinks.slack_sender._PATIENCE", 0.0)


def kinds_of(names):
    return {name.split(".")[1] for name in names}


@pytest.mark.usefixtures("short_of_time")
def test_what_was_kept_is_sent_as_soon_as_the_back_end_takes_something_again(
    otlp, sentry, slack, pipeline, kept
):
    """In the same process, which goes on: nobody calls `configure()` or `flush_spool()`."""
    otlp.status = otlp.metric_status = sentry.status = 503
    slack.reply = Reply(503)
    dltobs.configure(
        otlp_endpoint=otlp.url, sentry_dsn=sentry.dsn, slack_incoming_hook=slack.hook, slack_on="failure"
    )
    fail(pipeline("down"))
    wait_for(lambda: kinds_of(kept()) == {"otlp", "otlp_metrics", "sentry", "slack"})
    wait_for(everything_has_ended)
    others = [name for name in kept() if ".otlp_metrics." not in name]
    otlp.requests.clear()
    sentry.requests.clear()
    slack.posts.clear()

    otlp.status = otlp.metric_status = sentry.status = 200
    slack.reply = Reply()
    fail(pipeline("up"))
    wait_for(lambda: kept() == [])
    wait_for(everything_has_ended)
    assert len(others) >= 3
    assert set(spans_of(otlp).values()) == {1}
    assert {span.name for span in otlp.spans} >= {"run down", "run up"}
    assert sorted(event["tags"]["dlt.pipeline.name"] for event in sentry.events) == ["down", "up"]
    assert sorted(post["text"].split("\n")[0] for post in slack.posts) == [
        "🔴 down: extract failed",
        "🔴 up: extract failed",
    ]
    assert {status.dropped for status in dltobs.status().values()} == {0}


@pytest.mark.usefixtures("short_of_time")
def test_a_collector_that_speaks_grpc_gets_what_was_kept_as_soon_as_it_is_there_again(pipeline, kept):
    server = GrpcServer()
    server.failures = 1_000
    dltobs.configure(otlp_endpoint=server.url, otlp_protocol="grpc", metrics="off")
    fail(pipeline("down"))
    wait_for(lambda: kinds_of(kept()) == {"otlp"})
    wait_for(everything_has_ended)
    server.failures = 0
    fail(pipeline("up"))
    wait_for(lambda: kept() == [])
    dltobs.shutdown()
    server.close()
    assert {span.name for span in server.spans} >= {"run down", "run up"}


@pytest.mark.usefixtures("short_of_time")
def test_what_waited_when_the_process_began_is_sent_as_soon_as_the_back_end_takes_something(
    sentry, pipeline, kept
):
    """It was down when the process began, and what was sent then has failed once more."""
    sentry.status = 503
    dltobs.configure(sentry_dsn=sentry.dsn)
    fail(pipeline("one"))
    dltobs.shutdown()
    before = len(sentry.requests)
    dltobs.configure(sentry_dsn=sentry.dsn)
    wait_for(lambda: len(sentry.requests) > before)
    wait_for(lambda: all(name.endswith(".ready") for name in kept()))
    sentry.status = 200
    fail(pipeline("two"))
    wait_for(lambda: kept() == [])
    assert dltobs.status()["sentry"].dropped == 0


@pytest.mark.usefixtures("short_of_time")
def test_a_flush_that_is_a_success_has_what_was_kept_sent_before_the_process_ends(sentry, pipeline, kept):
    sentry.status = 503
    dltobs.configure(sentry_dsn=sentry.dsn)
    fail(pipeline("one"))
    wait_for(lambda: len(kept()) == 1)
    wait_for(everything_has_ended)
    sentry.gate.clear()
    sentry.status = 200
    fail(pipeline("two"))
    threading.Timer(0.1, sentry.gate.set).start()
    dltobs.shutdown()
    assert kept() == []
    assert sorted(event["tags"]["dlt.pipeline.name"] for event in sentry.events) == ["one", "one", "two"]


def test_flush_spool_tells_what_was_sent_and_what_is_left(otlp, sentry, pipeline, kept):
    """Each back end for itself; one that fails is not asked again, and the rest waits."""
    otlp.status = sentry.status = 503
    settings = {"otlp_endpoint": otlp.url, "sentry_dsn": sentry.dsn}
    for _ in range(3):
        failed_run(pipeline, **settings)
    assert len(kept()) == 6
    dltobs.configure(metrics="off", **settings)
    assert _state.runtime.resending.wait(20)
    dltobs.flush_spool()
    for server in (otlp, sentry):
        server.requests.clear()
    otlp.status = 200
    assert dltobs.flush_spool(10) == {
        "otlp": SpoolResult(sent=6),
        "sentry": SpoolResult(left=3, last_error="HTTP 503"),
    }
    assert (len(otlp.requests), len(sentry.requests)) == (3, 1)
    sentry.status = 200
    assert dltobs.flush_spool() == {"sentry": SpoolResult(sent=3)}
    assert dltobs.flush_spool() == {}
    assert kept() == []
    assert dltobs.status() == {"otlp": BackendStatus(), "sentry": BackendStatus()}


def test_flush_spool_without_a_set_up_is_nothing():
    assert dltobs.flush_spool() == {}


def test_flush_spool_ends_in_time_though_the_back_end_hangs(monkeypatch, otlp, pipeline, kept):
    otlp.status = 503
    failed_run(pipeline, otlp_endpoint=otlp.url)
    otlp.status = 200
    otlp.gate.clear()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")  # who waits for the answer is late then
    dltobs.configure(otlp_endpoint=otlp.url, metrics="off", flush_timeout=0.5)
    began = time.monotonic()
    assert dltobs.flush_spool(0.5) == {"otlp": SpoolResult(left=2)}
    assert time.monotonic() - began < 10
    began = time.monotonic()
    dltobs.shutdown()
    assert time.monotonic() - began < 10


def test_the_pipeline_does_not_wait_for_what_is_sent_in_the_background(monkeypatch, otlp, pipeline):
    otlp.status = 503
    failed_run(pipeline, otlp_endpoint=otlp.url)
    otlp.status = 200
    otlp.gate.clear()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")  # as above
    began = time.monotonic()
    dltobs.configure(otlp_endpoint=otlp.url, metrics="off", flush_timeout=0.5)
    configured = time.monotonic() - began
    pipeline().run([{"id": 1}], table_name="orders")
    seconds = time.monotonic() - began
    assert configured < 10
    assert seconds < 30


@pytest.mark.parametrize("status", [400, 404, 413, 301])
def test_what_is_refused_later_is_dropped_and_counted(otlp, sentry, pipeline, kept, warnings, status):
    """To try again would not help."""
    otlp.status = sentry.status = 503
    settings = {"otlp_endpoint": otlp.url, "sentry_dsn": sentry.dsn}
    failed_run(pipeline, **settings)
    otlp.status = sentry.status = status
    dltobs.configure(metrics="off", **settings)
    dltobs.shutdown()
    assert kept() == []
    counters = dltobs.status()
    assert (counters["otlp"].dropped, counters["sentry"].dropped) == (2, 1)
    assert counters["sentry"].last_error == f"HTTP {status}"
    assert [message for message in warnings() if "could not be delivered: HTTP" in message]


def test_spans_that_a_collector_rejects_later_are_counted(otlp, pipeline, kept):
    otlp.status = 503
    failed_run(pipeline, otlp_endpoint=otlp.url)
    otlp.status = 200
    partial = ExportTracePartialSuccess(rejected_spans=1, error_message="no")
    otlp.content = ExportTraceServiceResponse(partial_success=partial).SerializeToString()
    dltobs.configure(otlp_endpoint=otlp.url, metrics="off")
    dltobs.shutdown()
    assert dltobs.status()["otlp"] == BackendStatus(dropped=1, last_error="no")
    assert kept() == []


def test_the_result_of_a_flush_has_no_secret(otlp, pipeline, kept):
    """What a collector says of spans that it rejects is its own text."""
    otlp.status = 503
    failed_run(pipeline, otlp_endpoint=otlp.url)
    assert kept()
    dltobs.configure(otlp_endpoint=otlp.url, metrics="off")
    otlp.status = 200
    partial = ExportTracePartialSuccess(rejected_spans=1, error_message="password=hunter22")
    otlp.content = ExportTraceServiceResponse(partial_success=partial).SerializeToString()
    assert dltobs.flush_spool()["otlp"].last_error == "password=***"


def test_what_was_meant_for_one_back_end_is_not_sent_to_another(otlp, sentry, pipeline, kept):
    """Nor by another kind: it stays until its own address is configured again."""
    otlp.status = sentry.status = 503
    settings = {"otlp_endpoint": otlp.url, "sentry_dsn": sentry.dsn}
    failed_run(pipeline, **settings)
    other, other_sentry = OtlpServer(), SentryServer()
    dltobs.configure(otlp_endpoint=other.url, sentry_dsn=other_sentry.dsn, metrics="off")
    assert dltobs.flush_spool() == {"otlp": SpoolResult(left=2), "sentry": SpoolResult(left=1)}
    dltobs.configure(sentry_dsn=sentry.dsn.replace("/42", "/43"), metrics="off")
    dltobs.flush_spool()
    dltobs.shutdown()
    other.close()
    other_sentry.close()
    assert (other.requests, other_sentry.requests) == ([], [])
    otlp.requests.clear()
    sentry.requests.clear()
    otlp.status = sentry.status = 200
    dltobs.configure(
        metrics="off", **{**settings, "sentry_dsn": sentry.dsn.replace("publickey00", "newkey0000")}
    )
    dltobs.shutdown()
    assert (len(otlp.spans), len(sentry.events)) == (2, 1)
    assert "sentry_key=newkey0000" in sentry.requests[0].headers["x-sentry-auth"]
    assert kept() == []


@pytest.mark.parametrize("compression", ["gzip", "deflate", "none"])
def test_it_is_sent_as_today_with_the_headers_of_today(monkeypatch, otlp, pipeline, compression):
    """Also the metrics, and with the span ids and times of then."""
    otlp.status = otlp.metric_status = 503
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20token-of-then")
    failed_run(pipeline, otlp_endpoint=otlp.url, metrics="auto")
    wait_for(nothing_is_on_the_wire)
    before = {span.span_id: span.SerializeToString() for span in otlp.spans}
    otlp.requests.clear()
    otlp.metric_requests.clear()
    otlp.status = otlp.metric_status = 200
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20token-of-today")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
    dltobs.configure(otlp_endpoint=otlp.url)
    dltobs.shutdown()
    assert {span.span_id: span.SerializeToString() for span in otlp.spans} == before
    assert [point.name for point in otlp.points if point.name == "dlt.runs"] == ["dlt.runs"]
    for request in otlp.all_requests:
        assert request.headers["authorization"] == "Bearer token-of-today"
        assert request.headers.get("content-encoding") == (None if compression == "none" else compression)


def test_a_collector_that_speaks_grpc_gets_it_too(monkeypatch, pipeline, kept, free_port):
    port = free_port()
    settings = {"otlp_protocol": "grpc", "metrics": "auto"}
    with monkeypatch.context() as patched:
        for name, value in AT_ONCE.items():
            patched.setenv(name, value)
        failed_run(pipeline, otlp_endpoint=f"http://127.0.0.1:{port}", **settings)
    assert Counter(name.split(".")[1] for name in kept()) == {"otlp": 1, "otlp_metrics": 1}
    server = GrpcServer(port=port)
    dltobs.configure(otlp_endpoint=f"http://127.0.0.1:{port}", **settings)
    results = dltobs.flush_spool(20)
    assert {name: one.left for name, one in results.items()} == {"otlp": 0, "otlp_metrics": 0}
    assert results["otlp"].sent == 2
    dltobs.shutdown()
    server.close()
    assert len(server.spans) == 2
    assert [point.value for point in server.points if point.name == "dlt.runs"] == [1]
    assert kept() == []


def test_the_spans_for_sentry_are_kept_beside_its_events(pipeline, kept):
    """With the key in the header alone."""
    server = discouraging(OtlpServer())
    server.status = 503
    dsn = f"{server.url.replace('//', '//publickey00@')}/42"
    failed_run(pipeline, sentry_dsn=dsn, sentry_traces=True)
    assert Counter(name.split(".")[1] for name in kept()) == {"sentry": 1, "sentry_traces": 1}
    server.requests.clear()
    server.status = 200
    dltobs.configure(sentry_dsn=dsn, sentry_traces=True)
    dltobs.shutdown()
    server.close()
    assert kept() == []
    (spans,) = [one for one in server.requests if "otlp" in one.path]
    assert spans.headers["x-sentry-auth"] == "sentry sentry_key=publickey00"
    assert len(server.requests) == 2


def test_what_hangs_is_kept_at_the_deadline_and_taken_out_by_a_late_answer(otlp, sentry, pipeline, kept):
    """An acknowledged delivery is never repeated."""
    otlp.gate.clear()
    sentry.gate.clear()
    failed_run(pipeline, otlp_endpoint=otlp.url, sentry_dsn=sentry.dsn, flush_timeout=0.5)
    wait_for(everything_has_ended)
    status = dltobs.status()
    assert (status["otlp"].spooled, status["sentry"].spooled) == (2, 1)
    assert len(kept()) == 2
    otlp.gate.set()
    sentry.gate.set()
    wait_for(lambda: kept() == [])


def test_what_is_queued_behind_what_hangs_is_kept_too(monkeypatch, otlp, pipeline, kept):
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")
    otlp.delay = 30
    dltobs.configure(otlp_endpoint=otlp.url, metrics="off", flush_timeout=0.5)
    one = pipeline()
    one.run([{"id": 1}], table_name="orders")
    fail(one)
    dltobs.shutdown()
    wait_for(everything_has_ended)
    count = dltobs.status()["otlp"].spooled
    assert dltobs.status()["otlp"] == BackendStatus(spooled=count, last_error="not sent before the deadline")
    assert count > 6
    otlp.requests.clear()
    otlp.delay = 0
    dltobs.configure(otlp_endpoint=otlp.url, metrics="off")
    dltobs.shutdown()
    assert len(otlp.spans) == count
    assert set(spans_of(otlp).values()) == {1}


def test_no_secret_stands_in_any_file(monkeypatch, otlp, sentry, pipeline, kept, folder):
    """Neither those of the pipeline, nor what the back ends are reached with."""
    monkeypatch.setenv("API_KEY", SECRET)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20header-t0ken,x-key=header-k3y")
    otlp.status = otlp.metric_status = sentry.status = 503

    endpoint = otlp.url.replace("//", "//collector-user:collector-pw@")
    dltobs.configure(
        otlp_endpoint=f"{endpoint}?sig=query-s3cret",
        sentry_dsn=sentry.dsn,
        sentry_traces=True,
        flush_timeout=20,
    )
    with pytest.raises(PipelineStepFailed):
        pipeline().run(unauthorized())
    dltobs.shutdown()
    kinds = {name.split(".")[1] for name in kept()}
    assert kinds == {"otlp", "otlp_metrics", "sentry", "sentry_traces"}
    planted = (
        SECRET, "header-t0ken", "header-k3y", "collector-user", "collector-pw", "query-s3cret", "publickey00",
        "127.0.0.1", str(otlp.port),
    )  # fmt: skip
    for path in folder.iterdir():
        content = path.name.encode() + path.read_bytes()
        assert b"shop" in content
        for secret in planted:
            assert secret.encode() not in content, (path.name, secret)


def test_a_secret_that_is_known_only_later_does_not_leave_with_an_event(
    monkeypatch, sentry, pipeline, kept, folder
):
    """An event is redacted again when it is sent; its ids stay."""
    monkeypatch.setenv("DLTOBS__METRICS", "off")
    later = "l4ter-known-value"

    @dlt.resource
    def orders():
        yield {"id": 1}
        raise ValueError(f"refused {later}")

    sentry.status = 503
    dltobs.configure(sentry_dsn=sentry.dsn, flush_timeout=20)
    with pytest.raises(PipelineStepFailed):
        pipeline().run(orders())
    dltobs.shutdown()
    event_id = sentry.events[0]["event_id"]
    (path,) = folder.iterdir()
    assert later.encode() in path.read_bytes()
    sentry.requests.clear()
    sentry.status = 200
    dltobs.configure(sentry_dsn=sentry.dsn, redact_patterns=["l4ter-[a-z-]+"])
    dltobs.shutdown()
    (event,) = sentry.events
    assert later.encode() not in sentry.raw
    assert event["event_id"] == event_id
    assert event["tags"]["dlt.step"] == "extract"
    assert kept() == []


def test_an_event_from_the_spool_bears_the_time_at_which_it_is_sent(sentry, pipeline):
    """Sentry takes a difference to its own clock for a wrong one, and would move the event's time."""
    sentry.status = 503
    failed_run(pipeline, sentry_dsn=sentry.dsn)
    first = sentry.events[0]["timestamp"]
    sentry.requests.clear()
    sentry.status = 200
    time.sleep(1.1)
    dltobs.configure(sentry_dsn=sentry.dsn)
    dltobs.shutdown()
    header = json.loads(sentry.requests[0].body.split(b"\n")[0])
    assert header["sent_at"] > first
    assert sentry.events[0]["timestamp"] == first


def test_a_sentry_that_limits_the_rate_is_left_alone(sentry, pipeline, kept):
    sentry.status, sentry.headers = 429, {"retry-after": "60"}
    dltobs.configure(sentry_dsn=sentry.dsn, metrics="off")
    for _ in range(3):
        fail(pipeline())
    (sink,) = _state.runtime.sinks[-1:]
    sink.flush(10)
    assert len(sentry.requests) == 1
    assert dltobs.flush_spool()["sentry"] == SpoolResult(left=3, last_error="rate-limited by the server")
    assert len(sentry.requests) == 1
    dltobs.shutdown()
    assert len(kept()) == 3


def test_a_check_in_is_not_kept(sentry, kept):
    """Late, Sentry would take it for one of another run."""
    sentry.status = 503
    dltobs.configure(sentry_dsn=sentry.dsn, metrics="off")
    client = _state.runtime.sinks[-1]._sink._client
    client.capture_event({"type": "check_in", "monitor_slug": "shop", "status": "ok"}, {}, scope=None)
    dltobs.shutdown()
    assert dltobs.status()["sentry"] == BackendStatus(dropped=1, last_error="HTTP 503")
    assert kept() == []


def test_sums_of_one_process_are_kept_once(monkeypatch, otlp, pipeline, kept):
    """The last ones contain those before."""
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "100")
    otlp.metric_status = 500
    dltobs.configure(otlp_endpoint=otlp.url, tracing="off", flush_timeout=20)
    pipeline().run([{"id": 1}], table_name="orders")
    wait_for(lambda: len(otlp.metric_requests) > 3)
    dltobs.shutdown()
    assert len(kept()) == 1
    otlp.metric_status = 200
    otlp.metric_requests.clear()
    dltobs.configure(otlp_endpoint=otlp.url, tracing="off")
    dltobs.shutdown()
    assert [point.value for point in otlp.points if point.name == "dlt.runs"] == [1]
    assert kept() == []


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_what_is_recorded_while_an_export_hangs_is_kept_too(monkeypatch, otlp, pipeline, kept, temporality):
    """The sums of the hanging export are older: they do not take the place of the last ones."""
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "100")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", temporality)
    otlp.delay = 30
    dltobs.configure(otlp_endpoint=otlp.url, tracing="off", flush_timeout=0.5)
    for _ in range(2):
        pipeline().run([{"id": 1}], table_name="orders")
        wait_for(lambda: otlp.metric_requests)
    pipeline().run([{"id": 1}], table_name="orders")
    dltobs.shutdown()
    wait_for(everything_has_ended)
    otlp.delay = 0
    otlp.metric_requests.clear()
    dltobs.configure(otlp_endpoint=otlp.url, tracing="off")
    dltobs.shutdown()
    assert sum(point.value for point in otlp.points if point.name == "dlt.runs") == 3
    assert kept() == []


def test_sums_that_were_kept_are_of_no_use_after_the_next_export(otlp, pipeline, kept):
    otlp.metric_status = 500
    dltobs.configure(otlp_endpoint=otlp.url, tracing="off")
    pipeline().run([{"id": 1}], table_name="orders")
    (sink,) = _state.runtime.sinks
    assert not sink.flush(10)
    assert len(kept()) == 1
    otlp.metric_status = 200
    assert sink.flush(10)
    assert kept() == []
    dltobs.shutdown()  # not after the end of the collector


def test_of_delta_temporality_each_export_is_kept(monkeypatch, otlp, pipeline, kept):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
    otlp.metric_status = 500
    dltobs.configure(otlp_endpoint=otlp.url, tracing="off", flush_timeout=20)
    (sink,) = _state.runtime.sinks
    for _ in range(2):
        pipeline().run([{"id": 1}], table_name="orders")
        sink.flush(10)
    assert len(kept()) == 2
    otlp.metric_status = 200
    otlp.metric_requests.clear()
    assert dltobs.flush_spool(10)["otlp_metrics"].left == 0
    dltobs.shutdown()
    assert [point.value for point in otlp.points if point.name == "dlt.runs"] == [1, 1]
    assert kept() == []


def test_a_size_of_zero_switches_it_off(otlp, pipeline, tmp_path, warnings):
    otlp.status = 503
    status = failed_run(pipeline, otlp_endpoint=otlp.url, spool_max_bytes=0)
    assert status["otlp"].dropped == 2
    assert status["otlp"].spooled == 0
    reason = "HTTP 503 Service Unavailable"
    assert f"otlp: 2 spans could not be delivered: {reason}; address {otlp.url}/v1/traces" in warnings()
    assert not (tmp_path / "dlt" / "dltobs").exists()
    dltobs.configure(otlp_endpoint=otlp.url, spool_max_bytes="0")
    assert dltobs.flush_spool() == {}


def test_what_goes_for_the_size_is_counted_as_lost(otlp, pipeline, kept, warnings):
    otlp.status = 503
    for _ in range(3):
        status = failed_run(pipeline, otlp_endpoint=otlp.url, spool_max_bytes=10_000)
    assert 0 < len(kept()) < 3
    assert (status["otlp"].dropped, status["otlp"].spooled) == (2, 2)
    reason = "removed from the spool, which is full"
    assert f"otlp: 2 spans could not be delivered: {reason}; address {otlp.url}/v1/traces" in warnings()


def test_where_nothing_fails_nothing_is_created(otlp, sentry, pipeline, tmp_path):
    """Nor where there is no back end at all."""
    failed_run(pipeline, otlp_endpoint=otlp.url, sentry_dsn=sentry.dsn)
    failed_run(pipeline)
    assert not (tmp_path / "dlt" / "dltobs").exists()


def test_the_folder_may_be_named(monkeypatch, otlp, pipeline, tmp_path):
    """A relative one is meant from where configure() was called."""
    otlp.status = 503
    monkeypatch.setenv("DLTOBS__SPOOL_DIR", "kept/here")
    dltobs.configure(otlp_endpoint=otlp.url, metrics="off", flush_timeout=20)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    fail(pipeline())
    dltobs.shutdown()
    assert len(list((tmp_path / "kept" / "here").iterdir())) == 1


def test_a_file_in_the_place_of_the_folder_is_an_error(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("DLTOBS__SPOOL_DIR", str(tmp_path / "file"))
    with pytest.raises(
        ConfigurationError, match=r"spool_dir \(environment variable DLTOBS__SPOOL_DIR\): .* is a file"
    ):
        dltobs.configure()


def test_a_folder_that_cannot_be_written_takes_nothing_from_the_run(otlp, pipeline, tmp_path, warnings):
    """One warning says why, one what is lost, and the data is loaded."""
    (tmp_path / "file").write_text("x")
    otlp.status = 503
    dltobs.configure(
        otlp_endpoint=otlp.url, metrics="off", flush_timeout=20, spool_dir=tmp_path / "file" / "spool"
    )
    one = pipeline()
    assert not one.run([{"id": 1}], table_name="orders").has_failed_jobs
    dltobs.shutdown()
    status = dltobs.status()["otlp"]
    assert (status.spooled, status.last_error) == (0, "HTTP 503 Service Unavailable")
    assert status.dropped >= 4
    assert len(warnings()) == 2
    assert [message for message in warnings() if "not a directory" in message]
    with one.sql_client() as client:
        assert client.execute_sql("SELECT count(*) FROM orders") == [(1,)]


def test_workers_of_normalize_keep_what_they_cannot_deliver(tmp_path, kept, free_port):
    """Forked ones and spawned ones; with the spans of the run, it is one trace again later."""
    port = free_port()
    variables = {"DLTOBS__OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "DLTOBS__METRICS": "off"}
    script = """
    import dltobs
    from opentelemetry import trace

    dltobs.configure()

    if __name__ == "__main__":
        one = pipeline()
        one.extract([{"id": number} for number in range(10)], table_name="orders")
        one.normalize(workers=2)
        dltobs.shutdown()
        print(dltobs.status()["otlp"].spooled)
    """
    result = run_script(script, tmp_path, **AT_ONCE, **variables)
    assert int(result.stdout) > 0, result.stderr
    otlp = OtlpServer(port=port)
    run_script("import dltobs; dltobs.configure(flush_timeout=20)", tmp_path, prelude="", **variables)
    otlp.close()
    assert int(result.stdout) <= len(otlp.spans)
    assert set(spans_of(otlp).values()) == {1}
    assert kept() == []


def test_a_forked_child_keeps_what_it_has_made_and_not_what_its_parent_has(tmp_path, kept, free_port):
    """Each span is kept once, by the process that made it."""
    port = free_port()
    variables = {"DLTOBS__OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "DLTOBS__METRICS": "off"}
    script = """
    import dltobs
    from opentelemetry import trace
    dltobs.configure()
    load("parent")
    child = os.fork()
    if not child:
        load("child")
        sys.exit()
    os.waitpid(child, 0)
    """
    result = run_script(
        script,
        tmp_path,
        prelude=PRELUDE + WITHOUT_THREADS,
        OTEL_BSP_SCHEDULE_DELAY="60000",
        **AT_ONCE,
        **variables,
    )
    assert result.returncode == 0, result.stderr
    otlp = OtlpServer(port=port)
    run_script("import dltobs; dltobs.configure(flush_timeout=20)", tmp_path, prelude="", **variables)
    otlp.close()
    names = Counter(span.name for span in otlp.spans)
    assert (names["run parent"], names["run child"]) == (1, 1)
    assert set(spans_of(otlp).values()) == {1}
    assert kept() == []


def test_a_sink_that_has_a_way_from_the_spool_gets_what_it_could_not_deliver(pipeline, kept):
    """The interface for other back ends: keep a payload, and send it when the next set-up asks for it."""
    sent = []

    def connect(verdict):
        def resend(payload):
            sent.append(payload)
            return verdict

        setup = _state.runtime
        delivery = Delivery("slack", "messages", setup.warner, setup.spool)
        delivery.route = Route("https://hooks.example/services/T0/B0/x", lambda: 0, resend)
        setup.deliveries["slack"] = delivery
        return delivery

    dltobs.configure(sinks=[])
    delivery = connect(Verdict())
    delivery.submitted(1)
    assert delivery.keep(b'{"text": "failed"}', 1)
    delivery.kept(1, "HTTP 503")
    dltobs.configure(service_name="other")
    connect(Verdict(reason="HTTP 503"))
    assert dltobs.flush_spool() == {"slack": SpoolResult(left=1, last_error="HTTP 503")}
    connect(Verdict(is_taken=True))
    assert dltobs.flush_spool() == {"slack": SpoolResult(sent=1)}
    assert sent == [b'{"text": "failed"}'] * 2
    assert kept() == []


def test_messages_that_slack_does_not_answer_are_kept(slack, pipeline, folder, kept):
    """The one on its way and those behind it; no part of the webhook's address stands in the files."""
    slack.gate.clear()
    dltobs.configure(slack_incoming_hook=slack.hook, alert_cooldown=0, metrics="off", flush_timeout=0.5)
    fail(pipeline("one"))
    fail(pipeline("two"))
    dltobs.shutdown()
    wait_for(everything_has_ended)
    assert dltobs.status()["slack"] == BackendStatus(last_error="not sent before the deadline", spooled=2)
    content = b"".join((folder / name).read_bytes() for name in kept())
    assert b"no such order" in content
    assert b"pl4nted" not in content
    before = len(slack.posts)
    slack.gate.set()
    dltobs.configure(slack_incoming_hook=slack.hook, alert_cooldown=0, metrics="off")
    assert dltobs.flush_spool(10)["slack"].left == 0
    titles = sorted(post["text"].split("\n")[0] for post in slack.posts[before:])
    assert titles == ["🔴 one: extract failed", "🔴 two: extract failed"]
    assert kept() == []


def test_a_message_that_slack_refuses_is_not_kept(slack, pipeline, kept):
    """A channel that has been archived will not come back by itself."""
    slack.reply = Reply(410, "channel_is_archived")
    dltobs.configure(slack_incoming_hook=slack.hook, metrics="off")
    fail(pipeline("one"))
    dltobs.shutdown()
    assert dltobs.status()["slack"].dropped == 1
    assert kept() == []


class Picky(OtlpServer):
    """A collector in which something breaks over the spans of one pipeline."""

    def status_for(self, path):
        return 500 if b"poison" in self.requests[-1].body else super().status_for(path)


def test_a_delivery_over_which_a_back_end_breaks_does_not_hold_up_those_behind_it(pipeline, kept):
    collector = discouraging(Picky())
    collector.status = 503
    for name in ("poison", "shop", "market"):
        failed_run(pipeline, name, otlp_endpoint=collector.url)
    assert len(kept()) == 3
    collector.status = 200
    dltobs.configure(otlp_endpoint=collector.url, metrics="off", flush_timeout=20)
    dltobs.flush_spool()
    dltobs.shutdown()
    assert [name for name in kept() if ".otlp." in name] == kept()
    assert len(kept()) == 1
    taken = {attributes_of(span).get("dlt.pipeline.name") for span in collector.spans}
    assert {"shop", "market"} <= taken
    collector.close()


def test_a_back_end_that_breaks_over_everything_is_not_asked_without_end(pipeline, otlp, kept):
    otlp.status = 500
    for number in range(5):
        failed_run(pipeline, f"shop{number}", otlp_endpoint=otlp.url)
    assert len(kept()) == 5
    dltobs.configure(otlp_endpoint=otlp.url, metrics="off", spool_dir="elsewhere")
    _state.runtime.resending._spool.folder = Path("dlt/dltobs/spool").absolute()
    otlp.requests.clear()
    result = dltobs.flush_spool()["otlp"]
    assert len(otlp.requests) == 3
    assert (result.sent, result.last_error) == (0, "HTTP 500 Internal Server Error")
    assert len(kept()) == 5


def test_a_span_that_cannot_be_encoded_does_not_take_the_others_with_it(pipeline, otlp, caplog):
    """One of another library: the rest of the batch is kept, and sent by the next run."""
    dltobs.configure(otlp_endpoint=otlp.url, metrics="off")

    @dlt.resource
    def orders():
        trace.get_tracer("other").start_span("impossible", start_time=2**70).end()
        yield {"id": 1}

    pipeline().run(orders())
    dltobs.shutdown()
    status = dltobs.status()["otlp"]
    assert status.dropped == 1
    assert status.delivered + status.spooled > 5
    dltobs.configure(otlp_endpoint=otlp.url, metrics="off")
    dltobs.flush_spool()
    dltobs.shutdown()
    names = Counter(span.name for span in otlp.spans)
    assert names["run shop"] == names["extract"] == names["load"] == 1
    assert "Traceback" not in caplog.text


def test_a_spool_that_cannot_be_looked_into_is_refused_and_one_by_default_takes_nothing_from_the_run(
    pipeline, otlp, tmp_path
):
    """A folder below one that may not be entered, or a name that no disk takes."""
    impossible = tmp_path / ("x" * 300) / "spool"
    with pytest.raises(
        ConfigurationError, match=r"spool_dir \(argument.*cannot be used \(file name too long\)"
    ):
        dltobs.configure(spool_dir=impossible)
    assert dltobs.status() == {}
    dltobs.configure(otlp_endpoint=otlp.url, metrics="off")
    _state.runtime.spool.folder = impossible
    _state.runtime.resending.start()
    pipeline().run([{"id": 1}], table_name="orders")
    dltobs.shutdown()
    assert dltobs.status()["otlp"].delivered == len(otlp.spans) > 0


@pytest.mark.parametrize("timeout", [float("inf"), 1e12])
def test_a_spool_may_be_flushed_with_all_the_time_in_the_world(pipeline, otlp, kept, timeout):
    otlp.status = 503
    failed_run(pipeline, otlp_endpoint=otlp.url)
    assert kept()
    otlp.status = 200
    dltobs.configure(otlp_endpoint=otlp.url, metrics="off", spool_dir="elsewhere")
    _state.runtime.resending._spool.folder = Path("dlt/dltobs/spool").absolute()
    assert dltobs.flush_spool(timeout)["otlp"].sent > 0
    assert kept() == []


def test_a_way_that_fails_leaves_the_delivery_where_it_is(pipeline, kept, warnings):
    dltobs.configure(sinks=[])
    setup = _state.runtime
    delivery = setup.deliveries["slack"] = Delivery("slack", "messages", setup.warner, setup.spool)

    def fails(payload):
        raise RuntimeError("broken")

    delivery.route = Route("https://hooks.example", lambda: 0, fails)
    delivery.keep(b"1", 1)
    assert dltobs.flush_spool() == {"slack": SpoolResult(left=1)}
    assert len(kept()) == 1
    assert len(warnings()) == 1


def test_the_default_folder_is_below_dlts_data_directory(monkeypatch, otlp, pipeline, tmp_path):
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "volume"))
    otlp.status = 503
    failed_run(pipeline, otlp_endpoint=otlp.url)
    assert len(list(Path(tmp_path / "volume" / "dltobs" / "spool").glob("*.otlp.*.ready"))) == 1
