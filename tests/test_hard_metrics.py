"""Metrics where it is hard: a signal while an export hangs, numbers and texts that protobuf does not take."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
from opentelemetry.metrics import Observation, get_meter

import dltobs
from dltobs import BackendStatus, _state
from dltobs.sinks.metric_exporters import RedactingMetricExporter
from dltobs.sinks.undelivered import Stored, Undelivered
from grpc_server import GrpcServer
from scripts import PRELUDE, WITHOUT_THREADS, run_script

pytestmark = pytest.mark.usefixtures("time_to_keep")

IMPOSSIBLE = 2**64
"""More than protobuf's integers hold."""


def run_once(pipeline, name="shop"):
    pipeline(name).run([{"id": 1}, {"id": 2}], table_name="orders")


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@pytest.fixture
def warnings(caplog):
    return lambda: [record.getMessage() for record in caplog.records if record.levelno >= 30]


@pytest.fixture
def kept(tmp_path):
    """The names of the files in the spool."""
    return lambda: [path.name for path in (tmp_path / "dlt" / "dltobs" / "spool").glob("*.*")]


def runs_of(server):
    """How often which pipeline ended how."""
    ends: Counter[tuple[str, str]] = Counter()
    for point in server.points:
        if point.name == "dlt.runs":
            ends[point.attributes["dlt.pipeline.name"], point.attributes["dlt.outcome"]] += point.value
    return dict(ends)


def from_the_spool(server):
    """Have a later run send what was kept; nothing else is in the requests then."""
    server.metric_requests.clear()
    server.metric_status = 200
    server.gate.set()
    dltobs.configure(otlp_endpoint=server.url, tracing="off")
    dltobs.flush_spool()
    dltobs.shutdown()


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
@pytest.mark.parametrize("interval", ["100", "600000"], ids=["an export is under way", "idle"])
def test_what_a_signal_ends_is_kept_though_the_collector_hangs(tmp_path, otlp, kept, temporality, interval):
    """The sums of the terminated run wait behind an export that will never end."""
    otlp.gate.clear()
    busy = tmp_path / "busy"

    def watch():
        while not otlp.metric_requests and not busy.exists():
            time.sleep(0.02)
        busy.touch()

    if interval == "600000":
        busy.touch()
    threading.Thread(target=watch, daemon=True).start()
    result = run_script(
        """
        import signal, time
        import dltobs
        from dltobs import _setup
        from dltobs.sinks import meter_provider
        # the flush hangs; what comes after it may take its time, as the machine may be slow
        _setup._CLOSING_SHARE = 0.8
        meter_provider._CLOSING_MILLIS = 20_000
        dltobs.configure(flush_timeout=20)
        load("first")

        @dlt.resource
        def rows():
            while not os.path.exists("busy"):
                time.sleep(0.02)
            yield {"id": 1}
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
            yield {"id": 2}

        dlt.pipeline("second", pipelines_dir="pipelines", destination=nowhere).run(rows(), table_name="x")
        """,
        tmp_path,
        timeout=120,
        prelude=PRELUDE + WITHOUT_THREADS,
        OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url,
        OTEL_METRIC_EXPORT_INTERVAL=interval,
        OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=temporality,
        DLTOBS__TRACING="off",
    )
    assert result.returncode == -15, result.stderr
    assert kept(), result.stderr
    from_the_spool(otlp)
    assert runs_of(otlp) == {("first", "ok"): 1, ("second", "terminated"): 1}
    assert kept() == []


def test_keeping_does_not_wait_for_a_library_that_hangs(otlp, pipeline):
    """Sums are collected from the callbacks of libraries, too."""
    go_on = threading.Event()

    def hangs(_):
        go_on.wait(120)
        return [Observation(1)]

    dltobs.configure(otlp_endpoint=otlp.url, tracing="off", flush_timeout=0.5)
    run_once(pipeline)
    (sink,) = _state.runtime.sinks
    get_meter("library").create_observable_gauge("depth", [hangs])
    sink.keep(1)
    assert not go_on.is_set()
    go_on.set()


def test_what_was_flushed_is_not_kept_beside(otlp, pipeline, kept):
    dltobs.configure(otlp_endpoint=otlp.url, tracing="off")
    run_once(pipeline)
    (sink,) = _state.runtime.sinks
    assert sink.flush(60)
    sink.keep(60)
    assert kept() == []
    dltobs.shutdown()
    assert dltobs.status()["otlp_metrics"].spooled == 0


@pytest.mark.parametrize("instrument", ["counter", "gauge"])
def test_a_number_that_protobuf_does_not_take_costs_its_point_alone(
    otlp, pipeline, caplog, warnings, instrument
):
    """Also the other points of the same metric are sent."""
    dltobs.configure(otlp_endpoint=otlp.url, tracing="off")
    run_once(pipeline)
    meter = get_meter("application")
    if instrument == "counter":
        record = meter.create_counter("things").add
    else:
        record = meter.create_gauge("things").set
    record(IMPOSSIBLE, {"size": "big"})
    record(7, {"size": "small"})
    dltobs.shutdown()
    assert [(one.value, one.attributes["size"]) for one in otlp.points if one.name == "things"] == [
        (7, "small")
    ]
    assert runs_of(otlp) == {("shop", "ok"): 1}
    assert dltobs.status()["otlp_metrics"] == BackendStatus(
        len(otlp.points), dropped=1, last_error="cannot be encoded"
    )
    assert warnings() == [
        f"otlp_metrics: 1 point could not be delivered: cannot be encoded; address {otlp.url}/v1/metrics"
    ]
    assert "Traceback" not in caplog.text


def test_what_is_lost_of_sums_again_and_again_is_counted_once(monkeypatch, otlp, pipeline, warnings):
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "100")
    dltobs.configure(otlp_endpoint=otlp.url, tracing="off", flush_timeout=60)
    run_once(pipeline)
    get_meter("application").create_counter("big").add(IMPOSSIBLE)
    before = len(otlp.metric_requests)
    wait_for(lambda: len(otlp.metric_requests) > before + 3)
    dltobs.shutdown()
    assert dltobs.status()["otlp_metrics"].dropped == 1
    assert len(warnings()) == 1


def test_what_a_collector_rejects_is_counted_beside(pipeline, warnings):
    server = GrpcServer()
    server.rejected = 2
    dltobs.configure(otlp_endpoint=server.url, otlp_protocol="grpc", tracing="off", flush_timeout=60)
    run_once(pipeline)
    get_meter("application").create_counter("big").add(IMPOSSIBLE)
    dltobs.shutdown()
    server.close()
    status = dltobs.status()["otlp_metrics"]
    assert status.dropped == 3
    assert status.delivered == len(server.points) - 2 > 0
    assert len(warnings()) == 1


def test_where_nothing_else_was_recorded_nothing_is_sent(monkeypatch, otlp, pipeline):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
    dltobs.configure(otlp_endpoint=otlp.url, tracing="off")
    run_once(pipeline)
    (sink,) = _state.runtime.sinks
    assert sink.flush(60)
    count = len(otlp.points)
    get_meter("application").create_counter("big").add(IMPOSSIBLE)
    assert not sink.flush(60)
    dltobs.shutdown()
    assert len(otlp.metric_requests) == 1
    assert dltobs.status()["otlp_metrics"] == BackendStatus(count, 1, "cannot be encoded")


@pytest.mark.parametrize("trouble", ["down", "hangs"])
def test_the_others_are_kept_where_the_collector_does_not_take_them(otlp, pipeline, caplog, kept, trouble):
    if trouble == "hangs":
        otlp.gate.clear()
    otlp.metric_status = 503
    dltobs.configure(otlp_endpoint=otlp.url, tracing="off", flush_timeout=3)
    run_once(pipeline)
    get_meter("application").create_counter("big").add(IMPOSSIBLE)
    dltobs.shutdown()
    wait_for(lambda: _pending() == 0)
    status = dltobs.status()["otlp_metrics"]
    assert (status.delivered, status.dropped) == (0, 1)
    assert len(kept()) == 1
    from_the_spool(otlp)
    assert len(otlp.points) == status.spooled
    assert runs_of(otlp) == {("shop", "ok"): 1}
    assert "Traceback" not in caplog.text


def _pending():
    return sum(one.pending for one in _state.deliveries)


def test_a_text_that_is_no_unicode_costs_nothing(monkeypatch, otlp, pipeline, caplog, warnings):
    """Lone surrogates come from file names; in the environment, from what is no UTF-8."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "host=h\udcff")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "s\udcff")
    dltobs.configure(otlp_endpoint=otlp.url, tracing="off")
    run_once(pipeline)
    meter = get_meter("library\udcff", "1\udcff", None, "https://schema/\udcff", {"of": "scope\udcff"})
    counter = meter.create_counter("files", description="Files\udcff")
    counter.add(7, {"name": "a\udcff", "all\udcff": ["b\udcff"]})
    dltobs.shutdown()
    (point,) = [one for one in otlp.points if one.name == "files"]
    assert (point.value, point.scope) == (7, "library\ufffd")
    assert point.attributes["name"] == "a\ufffd"
    assert [one.string_value for one in point.attributes["all\ufffd"].values] == ["b\ufffd"]
    assert (point.resource["host"], point.resource["service.name"]) == ("h\ufffd", "s\ufffd")
    assert runs_of(otlp) == {("shop", "ok"): 1}
    assert dltobs.status()["otlp_metrics"] == BackendStatus(len(otlp.points))
    assert warnings() == []
    assert "Traceback" not in caplog.text


def test_the_console_shows_what_protobuf_does_not_take(tmp_path):
    result = run_script(
        """
        import dltobs
        from opentelemetry.metrics import get_meter
        dltobs.configure()
        load("shop")
        get_meter("application").create_counter("big").add(2**64, {"name": "a\\udcff"})
        dltobs.shutdown()
        print(dltobs.status()["console_metrics"].dropped, file=sys.stderr)
        """,
        tmp_path,
        prelude=PRELUDE + WITHOUT_THREADS,
        OTEL_METRICS_EXPORTER="console",
        DLTOBS__TRACING="off",
    )
    assert result.stderr.split()[-1] == "0"
    assert str(IMPOSSIBLE) in result.stdout


@pytest.mark.parametrize("status", [503, 200], ids=["down", "hangs"])
def test_what_cannot_be_kept_is_lost_and_counted(monkeypatch, otlp, pipeline, caplog, warnings, status):
    def fails(*_):
        raise RuntimeError("no way to keep it")

    monkeypatch.setattr(RedactingMetricExporter, "_stored", fails)
    otlp.metric_status = status
    if status == 200:
        otlp.gate.clear()
    dltobs.configure(otlp_endpoint=otlp.url, tracing="off", flush_timeout=3)
    run_once(pipeline)
    dltobs.shutdown()
    wait_for(lambda: _pending() == 0)
    end = dltobs.status()["otlp_metrics"]
    assert end.dropped > 5
    assert (end.delivered, end.spooled) == (0, 0)
    assert len(warnings()) == 1
    assert "Traceback" not in caplog.text


def test_one_batch_that_cannot_be_kept_does_not_take_the_others_with_it():
    def store(batch):
        if "bad" in batch:
            raise ValueError
        return Stored(len(batch), "0")

    undelivered = Undelivered(store, lambda _: None)
    bad, good, late = ["bad"], ["good"], ["bad"]
    for batch in (bad, good, late):
        undelivered.sending(batch)
    undelivered.queued("waits")
    assert undelivered.keep(late) == 0
    assert undelivered.rescue() == 2
