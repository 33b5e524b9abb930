"""What becomes of spans and events when a back end does not take them."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from concurrent import futures
from dataclasses import replace
from urllib.parse import quote

import dlt
import grpc
import pytest
from dlt.pipeline.exceptions import PipelineStepFailed
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

import dltobs
from conftest import SECRET
from dltobs import BackendStatus, Redactor, _state
from dltobs._spool.spool import Spool
from dltobs._warnings import Warner
from dltobs.sinks.delivery import Delivery
from dltobs.sinks.reasons import advice, reason_of, without_secrets
from dltobs.sinks.route import Route, Verdict
from grpc_server import GrpcServer
from servers import OtlpServer, Server

pytestmark = pytest.mark.usefixtures("time_to_keep")


@dlt.resource
def broken():
    yield {"id": 1}
    raise ValueError("no such order")


def fail(one):
    with pytest.raises(PipelineStepFailed) as info:
        one.run(broken())
    return info.value


@pytest.fixture(autouse=True)
def _without_metrics(monkeypatch):
    """Their delivery is a matter of tests/test_metrics.py."""
    monkeypatch.setenv("DLTOBS__METRICS", "off")


@pytest.fixture
def warnings(caplog):
    """Everything of level WARNING and above that anybody logs."""
    return lambda: [
        (record.name, record.getMessage())
        for record in caplog.records
        if record.levelname in {"WARNING", "ERROR"}
    ]


AT_OTLP = "; look at the headers in OTEL_EXPORTER_OTLP_HEADERS"
AT_SENTRY = "; look at the DSN in sentry_dsn or SENTRY_DSN"


def envelopes(sentry):
    """What a warning says of the place."""
    return f"address {sentry.url}/api/42/envelope/"


@pytest.fixture
def garbage():
    """A server that is none of HTTP: it answers every connection with bytes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.recv(1024)
                connection.sendall(b"\x00\xff garbage \r\n\r\n")
                connection.close()

    threading.Thread(target=serve, daemon=True).start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    listener.close()


def settle():
    """Wait until what is under way has ended, well or badly."""
    assert _state.runtime is not None
    for sink in _state.runtime.sinks:
        sink.flush(30)


def test_a_refused_connection_is_one_warning_for_each_back_end(dead_port, pipeline, warnings):
    address = f"127.0.0.1:{dead_port}"
    dltobs.configure(
        otlp_endpoint=f"http://{address}", sentry_dsn=f"http://key0000@{address}/1", flush_timeout=1
    )
    error = fail(pipeline())
    assert "no such order" in str(error)
    dltobs.shutdown()
    assert sorted(warnings()) == [
        (
            "dltobs",
            f"otlp: 2 spans kept in the spool (connection refused); address http://{address}/v1/traces",
        ),
        (
            "dltobs",
            f"sentry: 1 event kept in the spool (connection refused); address http://{address}/api/1/envelope/",
        ),
    ]
    assert dltobs.status() == {
        "otlp": BackendStatus(spooled=2, last_error="connection refused"),
        "sentry": BackendStatus(spooled=1, last_error="connection refused"),
    }


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize(
    ("protocol", "reason"), [("http/protobuf", "connection refused"), ("grpc", "gRPC UNAVAILABLE")]
)
def test_a_dead_collector_is_one_warning_for_spans_and_one_for_metrics(
    monkeypatch, dead_port, pipeline, warnings, protocol, reason, runs
):
    """They are two back ends; both name the reason, however often they are tried."""
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "200")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
    dltobs.configure(
        otlp_endpoint=f"http://127.0.0.1:{dead_port}", otlp_protocol=protocol, metrics="on", flush_timeout=1
    )
    for number in range(runs):
        fail(pipeline(f"shop_{number}"))
        time.sleep(0.5)
    dltobs.shutdown()
    assert [name for name, _ in warnings()] == ["dltobs", "dltobs"]
    spans, points = sorted(text for _, text in warnings())
    place = rf"address (http://)?127\.0\.0\.1:{dead_port}"
    paths = ("", "") if protocol == "grpc" else ("/v1/metrics", "/v1/traces")
    assert re.fullmatch(
        rf"otlp_metrics: \d+ points? kept in the spool \({reason}\); {place}{paths[0]}", points
    )
    assert re.fullmatch(rf"otlp: \d+ spans? kept in the spool \({reason}\); {place}{paths[1]}", spans)
    status = dltobs.status()
    assert {name: (one.delivered, one.last_error) for name, one in status.items()} == {
        "otlp": (0, reason),
        "otlp_metrics": (0, reason),
    }
    assert status["otlp"].spooled == 2 * runs
    assert status["otlp_metrics"].spooled >= 3


def test_a_dead_collector_is_told_anew_by_the_next_set_up(dead_port, pipeline, warnings):
    for number in range(2):
        dltobs.configure(
            otlp_endpoint=f"http://127.0.0.1:{dead_port}",
            metrics="on",
            flush_timeout=1,
            environment=str(number),
        )
        fail(pipeline())
    dltobs.shutdown()
    subjects = [text.partition(":")[0] for _, text in warnings()]
    assert sorted(subjects) == ["otlp", "otlp", "otlp_metrics", "otlp_metrics"]


@pytest.mark.parametrize(
    ("status", "headers", "reason", "advice"),
    [
        (
            404,
            {},
            "HTTP 404 Not Found",
            (
                "; is this a collector? Look at DLTOBS__OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT",
                AT_SENTRY,
            ),
        ),
        (401, {}, "HTTP 401 Unauthorized", (AT_OTLP, AT_SENTRY)),
        (403, {}, "HTTP 403 Forbidden", (AT_OTLP, AT_SENTRY)),
        (413, {}, "HTTP 413 Request Entity Too Large", ("", "")),
        (304, {}, "HTTP 304 Not Modified", ("", "")),
    ],
)
def test_an_answer_that_refuses_is_a_loss_with_that_reason(
    otlp, sentry, pipeline, warnings, status, headers, reason, advice
):
    """The warning says where, and what to do."""
    for server in (otlp, sentry):
        server.status, server.headers = status, headers
    dltobs.configure(otlp_endpoint=otlp.url, sentry_dsn=sentry.dsn)
    fail(pipeline())
    dltobs.shutdown()
    short = f"HTTP {status}"
    assert sorted(warnings()) == [
        (
            "dltobs",
            f"otlp: 2 spans could not be delivered: {reason}; address {otlp.url}/v1/traces{advice[0]}",
        ),
        ("dltobs", f"sentry: 1 event could not be delivered: {short}; {envelopes(sentry)}{advice[1]}"),
    ]
    assert dltobs.status() == {"otlp": BackendStatus(0, 2, reason), "sentry": BackendStatus(0, 1, short)}


@pytest.mark.parametrize(
    ("status", "headers", "reason"),
    [
        (500, {}, "HTTP 500 Internal Server Error"),
        (503, {}, "HTTP 503 Service Unavailable"),
        (408, {}, "HTTP 408 Request Timeout"),
        (429, {"retry-after": "60"}, "HTTP 429 Too Many Requests"),
    ],
)
def test_an_answer_that_asks_for_patience_keeps_what_was_sent(
    otlp, sentry, pipeline, warnings, status, headers, reason
):
    for server in (otlp, sentry):
        server.status, server.headers = status, headers
    # of these, OpenTelemetry's exporter tries again after 503 alone, until the deadline
    deadline = {"flush_timeout": 3} if status == 503 else {}
    dltobs.configure(otlp_endpoint=otlp.url, sentry_dsn=sentry.dsn, **deadline)
    fail(pipeline())
    dltobs.shutdown()
    short = f"HTTP {status}"
    assert sorted(warnings()) == [
        ("dltobs", f"otlp: 2 spans kept in the spool ({reason}); address {otlp.url}/v1/traces"),
        ("dltobs", f"sentry: 1 event kept in the spool ({short}); {envelopes(sentry)}"),
    ]
    assert dltobs.status() == {
        "otlp": BackendStatus(spooled=2, last_error=reason),
        "sentry": BackendStatus(spooled=1, last_error=short),
    }


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(otlp, sentry, pipeline, warnings, status):
    """It would carry our events and keys to a server that nobody has configured."""
    elsewhere = Server()
    for server in (otlp, sentry):
        server.status, server.headers = status, {"location": f"{elsewhere.url}/"}
    dltobs.configure(otlp_endpoint=otlp.url, sentry_dsn=sentry.dsn)
    fail(pipeline())
    dltobs.shutdown()
    elsewhere.close()
    assert elsewhere.requests == []
    assert dltobs.status()["otlp"].dropped == 2
    assert dltobs.status()["sentry"] == BackendStatus(0, 1, f"HTTP {status}")
    assert len(warnings()) == 2


def test_what_a_server_that_hangs_has_not_answered_is_kept_at_the_deadline(otlp, sentry, pipeline, warnings):
    otlp.delay = sentry.delay = 30
    dltobs.configure(otlp_endpoint=otlp.url, sentry_dsn=sentry.dsn, flush_timeout=0.5)
    fail(pipeline())
    dltobs.shutdown()
    reason = "not sent before the deadline"
    assert dltobs.status() == {
        "otlp": BackendStatus(spooled=2, last_error=reason),
        "sentry": BackendStatus(spooled=1, last_error=reason),
    }
    assert len(warnings()) == 2


def test_an_answer_that_is_no_http_is_none(garbage, pipeline, warnings):
    dltobs.configure(
        otlp_endpoint=f"http://{garbage}", sentry_dsn=f"http://key0000@{garbage}/1", flush_timeout=1
    )
    fail(pipeline())
    dltobs.shutdown()
    assert dltobs.status()["otlp"].spooled == 2
    assert dltobs.status()["sentry"].spooled == 1
    assert {name for name, _ in warnings()} == {"dltobs"}
    assert len(warnings()) == 2


def test_a_success_with_garbage_in_it_is_a_success(otlp, sentry, pipeline, warnings):
    """The back end took it; its thanks need not be well-formed."""
    otlp.content = b"\xff\xff\xff"
    sentry.content = b"<html>"
    dltobs.configure(otlp_endpoint=otlp.url, sentry_dsn=sentry.dsn)
    fail(pipeline())
    dltobs.shutdown()
    assert dltobs.status() == {"otlp": BackendStatus(2), "sentry": BackendStatus(1)}
    assert warnings() == []


class Recovering(OtlpServer):
    """A collector that is unavailable for the first request."""

    @property
    def status(self) -> int:
        return 503 if len(self.requests) < 2 else 200

    @status.setter
    def status(self, value: int) -> None:
        pass


def test_what_the_second_try_delivers_is_delivered(pipeline, warnings):
    """OpenTelemetry's exporter tries again after a second, and says nothing of the first time."""
    server = Recovering()
    dltobs.configure(otlp_endpoint=server.url, flush_timeout=10)
    fail(pipeline())
    dltobs.shutdown()
    server.close()
    assert len(server.requests) == 2
    assert dltobs.status()["otlp"] == BackendStatus(2)
    assert warnings() == []


def test_spans_that_a_collector_rejects_are_counted(otlp, pipeline, warnings):
    partial = ExportTracePartialSuccess(rejected_spans=1, error_message=f"password={SECRET}")
    otlp.content = ExportTraceServiceResponse(partial_success=partial).SerializeToString()
    dltobs.configure(otlp_endpoint=otlp.url)
    fail(pipeline())
    dltobs.shutdown()
    assert dltobs.status()["otlp"] == BackendStatus(1, 1, "password=***")
    said = f"otlp: 1 span could not be delivered: password=***; address {otlp.url}/v1/traces"
    assert warnings() == [("dltobs", said)]


def test_a_warning_is_repeated_only_when_the_reason_changes(sentry, pipeline, warnings):
    dltobs.configure(sentry_dsn=sentry.dsn)
    for status in (500, 500, 404, 200, 404):
        sentry.status = status
        fail(pipeline())
        settle()
        assert _state.runtime.resending.wait(20)  # with 200, Sentry is sent what was kept, too
    assert [message for _, message in warnings()] == [
        f"sentry: 1 event kept in the spool (HTTP 500); {envelopes(sentry)}",
        f"sentry: 1 event could not be delivered: HTTP 404; {envelopes(sentry)}{AT_SENTRY}",
    ]
    assert dltobs.status()["sentry"] == BackendStatus(1, 2, "HTTP 404", spooled=2)


def test_a_sentry_that_limits_the_rate_is_not_asked_again(sentry, pipeline, warnings):
    sentry.headers = {"x-sentry-rate-limits": "60::organization"}
    dltobs.configure(sentry_dsn=sentry.dsn)
    fail(pipeline())
    settle()
    fail(pipeline())
    dltobs.shutdown()
    assert len(sentry.requests) == 1
    assert dltobs.status()["sentry"] == BackendStatus(1, 0, "rate-limited by the server", spooled=1)
    assert len(warnings()) == 1


def test_the_console_line_of_a_loss_is_written_by_our_own_handlers(tmp_path, dead_port, pipeline, capfd):
    """Also that of the last moment, before the handlers go."""
    dltobs.configure(sentry_dsn=f"http://key0000@127.0.0.1:{dead_port}/1", log_file=tmp_path / "dlt.jsonl")
    fail(pipeline())
    dltobs.shutdown()
    sentence = "sentry: 1 event kept in the spool (connection refused)"
    assert capfd.readouterr().err.count(sentence) == 1
    assert (tmp_path / "dlt.jsonl").read_text().count(sentence) == 1


def test_flush_says_whether_everything_was_delivered(otlp, sentry, pipeline):
    """As the protocol of sinks has it; a loss is told once."""
    dltobs.configure(otlp_endpoint=otlp.url, sentry_dsn=sentry.dsn, flush_timeout=0.1)
    assert _state.runtime is not None
    spans, events = _state.runtime.sinks
    fail(pipeline())
    assert spans.flush(30)
    assert events.flush(30)
    otlp.status = sentry.status = 404
    fail(pipeline())
    assert not spans.flush(30)
    assert not events.flush(30)
    assert spans.flush(30)
    assert events.flush(30)
    otlp.delay = sentry.delay = 30
    fail(pipeline())
    assert not spans.flush(0.1)
    assert not events.flush(0.1)


@pytest.fixture
def delivery():
    return Delivery("otlp", "spans", Warner(Redactor(["hunter22"])))


def test_what_is_under_way_is_pending_until_its_end_is_known(delivery):
    delivery.submitted(5)
    delivery.delivered(2)
    delivery.dropped(1, "HTTP 500")
    assert delivery.pending == 2
    assert delivery.status == BackendStatus(2, 1, "HTTP 500")


def test_after_the_end_a_late_answer_changes_nothing(delivery, warnings):
    delivery.submitted(3)
    delivery.abandon("not sent before the deadline")
    delivery.delivered(3)
    delivery.dropped(3, "HTTP 500")
    delivery.abandon("again")
    assert delivery.status == BackendStatus(0, 3, "not sent before the deadline")
    assert delivery.is_abandoned
    assert len(warnings()) == 1


@pytest.mark.parametrize("signal", ["tracing", "metrics"])
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_the_port_of_the_other_protocol_is_recognized(otlp, pipeline, warnings, protocol, signal):
    """HTTP to a gRPC server, and gRPC to an HTTP server."""
    collector = GrpcServer()
    url = collector.url if protocol == "http/protobuf" else otlp.url
    switches = {"tracing": "off", "metrics": "off"} | {signal: "auto"}
    dltobs.configure(otlp_endpoint=url, otlp_protocol=protocol, flush_timeout=2, **switches)
    fail(pipeline())
    dltobs.shutdown()
    collector.close()
    if protocol == "grpc":
        expected = "is this an HTTP port? Set DLTOBS__OTLP_PROTOCOL=http/protobuf, or use port 4317"
    else:
        expected = "is this a gRPC port? Set DLTOBS__OTLP_PROTOCOL=grpc, or use port 4318"
    assert [text for _, text in warnings() if text.endswith(f"; {expected}")]
    assert all(url.removeprefix("http://") in text for _, text in warnings())


def test_a_back_end_that_takes_no_metrics_is_told_how_to_switch_them_off(otlp, pipeline, warnings):
    otlp.metric_status = 404
    dltobs.configure(otlp_endpoint=otlp.url, metrics="auto")
    fail(pipeline())
    dltobs.shutdown()
    ((_, message),) = warnings()
    assert re.fullmatch(
        rf"otlp_metrics: \d+ points could not be delivered: HTTP 404 Not Found; address {otlp.url}/v1/metrics; "
        "set DLTOBS__METRICS=off if this back end takes no metrics",
        message,
    )


def test_a_grpc_back_end_that_takes_no_metrics_is_told_how_to_switch_them_off(pipeline, warnings):
    """It answers UNIMPLEMENTED."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    dltobs.configure(
        otlp_endpoint=f"http://127.0.0.1:{port}", otlp_protocol="grpc", tracing="off", metrics="on"
    )
    fail(pipeline())
    dltobs.shutdown()
    server.stop(0).wait()
    ((_, message),) = warnings()
    assert message.endswith("; set DLTOBS__METRICS=off if this back end takes no metrics")


def test_the_headers_of_one_signal_are_named_where_it_has_its_own(monkeypatch, otlp, pipeline, warnings):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "authorization=pl4nted-s3cret")
    otlp.status = 401
    dltobs.configure(otlp_endpoint=otlp.url)
    fail(pipeline())
    dltobs.shutdown()
    ((_, message),) = warnings()
    assert message.endswith("; look at the headers in OTEL_EXPORTER_OTLP_TRACES_HEADERS")


def test_the_address_in_a_warning_has_no_secret_in_it(otlp, pipeline, warnings):
    """Neither a password before the host, nor the query, nor what is known as a secret."""
    otlp.status = 404
    dltobs.configure(otlp_endpoint=otlp.url.replace("://", f"://user:{quote(SECRET, safe='')}@"))
    fail(pipeline())
    dltobs.shutdown()
    ((_, message),) = warnings()
    assert f"; address {otlp.url}/v1/traces; " in message
    assert "user" not in message
    assert without_secrets("https://a:b@host:1/path?key=c#d") == "https://host:1/path"
    assert without_secrets("a:b@host:1") == "host:1"


@pytest.mark.parametrize(
    ("backend", "reason", "address", "named"),
    [
        (
            "otlp",
            "Remote end closed connection without response",
            "http://c:4317/v1/traces",
            "OTLP_PROTOCOL=grpc",
        ),
        ("otlp", "Remote end closed connection without response", "http://c:4318/v1/traces", ""),
        ("otlp", "connection refused", "http://c:4317/v1/traces", ""),
        ("otlp", "gRPC PERMISSION_DENIED", "c:4317", "OTEL_EXPORTER_OTLP_HEADERS"),
        ("otlp", "gRPC UNAVAILABLE", "c:4318", ""),
        ("sentry_traces", "HTTP 403 Forbidden", "https://s/api/1/integration/otlp/v1/traces", "SENTRY_DSN"),
        ("slack", "HTTP 404 no_service", "https://hooks.slack.com", "RUNTIME__SLACK_INCOMING_HOOK"),
        ("slack", "HTTP 500 rollup_error", "https://hooks.slack.com", ""),
        ("ledger", "HTTP 404", "", ""),
    ],
)
def test_advice_is_given_where_the_reason_tells_what_to_do(backend, reason, address, named):
    found = advice(backend, reason, address)
    assert named in found
    assert bool(found) is bool(named)


def test_a_port_without_tls_is_recognized(otlp, pipeline, warnings):
    dltobs.configure(otlp_endpoint=otlp.url.replace("http:", "https:"), flush_timeout=1)
    fail(pipeline())
    dltobs.shutdown()
    ((_, message),) = warnings()
    assert message.endswith("; does this port speak http:// and not https://?")


def test_a_reason_has_no_secret_in_it(delivery, warnings):
    delivery.submitted(1)
    delivery.dropped(1, "proxy refused hunter22")
    assert delivery.status.last_error == "proxy refused ***"
    assert warnings() == [("dltobs", "otlp: 1 span could not be delivered: proxy refused ***")]


@pytest.fixture
def spooling(tmp_path):
    """The counters of a back end that has a spool, as a sink sets them up."""
    warner = Warner(Redactor(["hunter22"]))
    spool = Spool(tmp_path / "spool", 10_000, warner, lambda kind, items: None)
    delivery = Delivery("slack", "messages", warner, spool)
    delivery.route = Route("https://hooks.example/services/hunter22", lambda: 0, lambda payload: Verdict())
    return delivery


def test_what_is_in_the_spool_is_neither_delivered_nor_lost(spooling, warnings, tmp_path):
    spooling.submitted(2)
    assert spooling.keep(b"text", 2)
    spooling.kept(2, "proxy refused hunter22")
    assert spooling.pending == 0
    assert spooling.status == BackendStatus(spooled=2, last_error="proxy refused ***")
    assert not spooling.everything_delivered()
    assert warnings() == [("dltobs", "slack: 2 messages kept in the spool (proxy refused ***)")]
    (path,) = (tmp_path / "spool").iterdir()
    assert b"hunter22" not in path.name.encode() + path.read_bytes()


def test_what_is_pending_in_the_end_is_rescued_as_far_as_it_can_be(spooling, warnings):
    spooling.route = replace(spooling.route, rescue=lambda: 2)
    spooling.submitted(3)
    spooling.abandon("not sent before the deadline")
    spooling.kept(1, "late")
    assert spooling.status == BackendStatus(0, 1, "not sent before the deadline", spooled=2)
    assert [message for _, message in warnings()] == [
        "slack: 2 messages kept in the spool (not sent before the deadline)",
        "slack: 1 message could not be delivered: not sent before the deadline",
    ]


def test_a_rescue_that_fails_is_a_loss(spooling):
    def fails():
        raise RuntimeError("broken")

    spooling.route = replace(spooling.route, rescue=fails)
    spooling.submitted(3)
    spooling.abandon("not sent before the deadline")
    assert spooling.status == BackendStatus(0, 3, "not sent before the deadline")


def test_without_a_spool_or_a_way_from_it_nothing_is_kept(delivery, spooling):
    spooling.route = None
    assert not spooling.keep(b"text", 1)
    delivery.route = Route("https://hooks.example", lambda: 5, lambda payload: Verdict())
    assert not delivery.keep(b"text", 1)
    delivery.submitted(1)
    delivery.abandon("over")
    assert delivery.status == BackendStatus(0, 1, "over")


def test_sums_that_fail_again_take_the_place_of_those_before(delivery, spooling):
    """An export of events adds to what is lost; one of sums contains what was."""
    for count in (3, 5):
        turn = delivery.replacing(count)
        assert delivery.pending == count
        delivery.dropped(count, "HTTP 500", turn)
        turn = spooling.replacing(count)
        spooling.kept(count, "HTTP 500", turn)
    assert delivery.status == BackendStatus(dropped=5, last_error="HTTP 500")
    assert spooling.status == BackendStatus(spooled=5, last_error="HTTP 500")
    assert not delivery.everything_delivered()
    spooling.delivered(6, spooling.replacing(6))
    delivery.delivered(6, delivery.replacing(6))
    assert spooling.status == delivery.status == BackendStatus(6)
    assert delivery.everything_delivered()


def test_sums_in_the_spool_stay_there_while_later_ones_are_lost(spooling):
    spooling.kept(3, "HTTP 500", spooling.replacing(3))
    for count in (4, 5):
        spooling.dropped(count, "HTTP 404", spooling.replacing(count))
    assert spooling.status == BackendStatus(0, 5, "HTTP 404", spooled=3)
    assert spooling.pending == 0
    spooling.kept(6, "HTTP 500", spooling.replacing(6))
    assert spooling.status == BackendStatus(0, 0, "HTTP 500", spooled=6)


def test_sums_that_later_ones_contain_count_only_if_they_are_delivered(delivery):
    first, second = delivery.replacing(3), delivery.replacing(5)
    assert delivery.pending == 5
    delivery.kept(3, "late", first)
    delivery.dropped(3, "late", first)
    assert delivery.status == BackendStatus()
    delivery.delivered(3, first)
    assert (delivery.status, delivery.pending) == (BackendStatus(3), 5)
    delivery.dropped(5, "HTTP 500", second)
    assert (delivery.status, delivery.pending) == (BackendStatus(3, 5, "HTTP 500"), 0)


def test_sums_that_are_pending_in_the_end_take_the_place_of_those_before(spooling):
    spooling.route = replace(spooling.route, rescue=lambda: 5)
    spooling.kept(3, "HTTP 500", spooling.replacing(3))
    spooling.replacing(5)
    spooling.abandon("over")
    assert spooling.status == BackendStatus(last_error="over", spooled=5)


def test_what_other_processes_and_earlier_runs_have_lost_is_in_no_sum(delivery):
    delivery.absorb(1, 2, 3, "HTTP 500")
    delivery.lost_from_spool(4, "removed")
    delivery.dropped(5, "HTTP 500", delivery.replacing(5))
    delivery.delivered(6, delivery.replacing(6))
    assert delivery.status == BackendStatus(7, 6, "HTTP 500", spooled=3)
    assert delivery.pending == 0


def test_the_counters_are_exact_under_threads(delivery):
    """What is delivered and lost adds up to what was submitted."""

    def work():
        for _ in range(1000):
            delivery.submitted(2)
            delivery.delivered(1)
            delivery.dropped(1, "HTTP 500")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert delivery.status == BackendStatus(8000, 8000, "HTTP 500")
    assert delivery.pending == 0


def test_the_reason_is_the_innermost_error_of_the_operating_system():
    """The texts of HTTP libraries hold URLs and addresses of objects."""
    error = RuntimeError(f"http://u:{SECRET}@host <object at 0x7f>")
    error.__cause__ = ConnectionRefusedError(111, "Connection refused")
    assert reason_of(error) == "connection refused"
    assert reason_of(OSError(5, f"denied for {SECRET}")) == f"denied for {SECRET}"  # as it is known
    assert reason_of(TimeoutError()) == "timed out"
    assert reason_of(RuntimeError(SECRET)) == "RuntimeError"


def test_a_reason_is_cut_after_its_secrets_are_gone(warnings):
    """Half a secret would not be found."""
    delivery = Delivery("slack", "messages", Warner(Redactor([SECRET])))
    for length in range(90, 215):
        delivery.submitted(1)
        delivery.dropped(1, reason_of(OSError("x" * length + SECRET + "y" * 300)))
        assert SECRET[:4] not in str(delivery.status)
        assert len(delivery.status.last_error) <= 200
    assert SECRET[:4] not in str(warnings())


def test_a_loop_in_the_chain_of_an_exception_ends():
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert reason_of(first) in {"ValueError", "KeyError"}
