"""What is on its way into the spool, or has no answer yet, when a set-up ends."""

from __future__ import annotations

import os
import threading
import time

import dlt
import pytest
import requests
from dlt.pipeline.exceptions import PipelineStepFailed

import dltobs
from dltobs import BackendStatus, _state
from dltobs._locks import locked
from dltobs._spool import spool as spool_module
from dltobs.sinks.answers import Answer, Ear, ListeningSession
from servers import OtlpServer
from slack_server import Reply

REASON = "not sent before the deadline"


@dlt.resource
def broken():
    yield {"id": 1}
    raise ValueError("no such order")


def fail(one):
    with pytest.raises(PipelineStepFailed):
        one.run(broken())


@pytest.fixture
def spool(tmp_path, monkeypatch):
    monkeypatch.setenv("DLTOBS__SPOOL_DIR", str(tmp_path / "spool"))
    return lambda: sorted((tmp_path / "spool").glob("*.ready"))


@pytest.fixture
def slow_disk(monkeypatch):
    """Files are written when it is told so; the time for closing is long enough."""
    monkeypatch.setattr("dltobs._setup._KEEPING_TIMEOUT", 20.0)
    disk = SlowDisk()
    keep = spool_module.Spool.keep

    def slowly(*args, **kwargs):
        disk.is_asked.set()
        disk.may_write.wait(20)
        return keep(*args, **kwargs)

    monkeypatch.setattr(spool_module.Spool, "keep", slowly)
    yield disk
    disk.may_write.set()


class SlowDisk:
    def __init__(self):
        self.is_asked = threading.Event()
        self.may_write = threading.Event()


def shutdown_while_writing(disk):
    """Close while a thread of a sender puts something into the spool."""
    closing = threading.Thread(target=dltobs.shutdown)
    closing.start()
    assert disk.is_asked.wait(20)
    # the flush is over by then, and what was still to be told is being closed
    while not any(delivery.is_abandoned for delivery in _state.deliveries):
        assert closing.is_alive()
        time.sleep(0.01)
    time.sleep(0.1)
    disk.may_write.set()
    closing.join(30)
    assert not closing.is_alive()


def test_spans_that_are_being_put_into_the_spool_are_counted_as_kept(
    otlp, pipeline, spool, slow_disk, caplog, monkeypatch
):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")  # less than the pause before a second attempt
    otlp.status = 503
    dltobs.configure(otlp_endpoint=otlp.url, metrics="off", flush_timeout=1)
    pipeline().run([{"id": 1}], table_name="orders")
    shutdown_while_writing(slow_disk)
    status = dltobs.status()["otlp"]
    assert (status.delivered, status.dropped) == (0, 0)
    assert status.spooled > 3
    assert len(spool()) == 1
    assert "could not be delivered" not in caplog.text


def test_an_event_that_is_being_put_into_the_spool_is_counted_as_kept(
    sentry, pipeline, spool, slow_disk, caplog
):
    sentry.status = 503
    dltobs.configure(sentry_dsn=sentry.dsn, flush_timeout=1)
    fail(pipeline())
    shutdown_while_writing(slow_disk)
    assert dltobs.status()["sentry"] == BackendStatus(last_error="HTTP 503", spooled=1)
    assert len(spool()) == 1
    assert "could not be delivered" not in caplog.text


def test_a_message_that_is_being_put_into_the_spool_is_counted_as_kept(
    slack, pipeline, spool, slow_disk, caplog, monkeypatch
):
    monkeypatch.setattr("dltobs.sinks.slack_sender._BACKOFF", lambda _: 60)
    slack.reply = Reply(503)
    dltobs.configure(slack_incoming_hook=slack.hook, flush_timeout=1)
    fail(pipeline())
    shutdown_while_writing(slow_disk)
    status = dltobs.status()["slack"]
    assert (status.delivered, status.dropped, status.spooled) == (0, 0, 1)
    assert len(spool()) == 1
    assert "could not be delivered" not in caplog.text


def test_messages_are_kept_though_somebody_holds_what_has_been_told(
    slack, pipeline, spool, monkeypatch, tmp_path
):
    """The lock of another process, which has been stopped: nobody waits for it at the end."""
    monkeypatch.setattr("dltobs._setup._KEEPING_TIMEOUT", 20.0)
    monkeypatch.setattr("dltobs._alerts.cooldown._LOCK_TIMEOUT", 8.0)
    slack.gate.clear()
    dltobs.configure(slack_incoming_hook=slack.hook, flush_timeout=1)
    for number in range(4):
        fail(pipeline(f"shop{number}"))
    with locked(tmp_path / "dlt" / "dltobs" / "spool", 0):
        began = time.monotonic()
        dltobs.shutdown()
        assert time.monotonic() - began < 8
    assert dltobs.status()["slack"].spooled == 4
    assert len(spool()) == 4


def test_sums_that_are_being_put_into_the_spool_are_counted_with_the_export_that_hangs(
    monkeypatch, otlp, pipeline, spool, caplog
):
    """Each of them takes a disk longer than the readers are waited for."""
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "100")
    monkeypatch.setattr("dltobs._setup._KEEPING_TIMEOUT", 20.0)
    fsync = os.fsync
    monkeypatch.setattr("os.fsync", lambda file: (time.sleep(0.3), fsync(file)))
    otlp.delay = 30
    dltobs.configure(otlp_endpoint=otlp.url, tracing="off", flush_timeout=0.5)
    pipeline().run([{"id": 1}], table_name="orders")
    end = time.monotonic() + 20
    while not otlp.metric_requests:
        assert time.monotonic() < end
        time.sleep(0.02)
    dltobs.shutdown()
    status = dltobs.status()["otlp_metrics"]
    assert (status.delivered, status.dropped, status.last_error) == (0, 0, REASON)
    assert status.spooled > 5
    assert len(spool()) == 1
    assert "could not be delivered" not in caplog.text


def test_an_export_that_a_reader_began_after_the_flush_is_waited_for(monkeypatch, otlp, pipeline, caplog):
    """It has until the deadline, as the flush had."""
    dltobs.configure(otlp_endpoint=otlp.url, tracing="off", flush_timeout=20)
    pipeline().run([{"id": 1}], table_name="orders")
    (sink,) = _state.runtime.sinks
    flush = sink.flush
    ticks = []

    def flush_and_tick(timeout):
        is_done = flush(timeout)
        otlp.delay = 0.5
        before = len(otlp.metric_requests)
        (reader,) = sink._own._readers
        ticks.append(threading.Thread(target=reader.collect))
        ticks[0].start()
        while len(otlp.metric_requests) == before:
            time.sleep(0.01)
        return is_done

    monkeypatch.setattr(sink, "flush", flush_and_tick)
    dltobs.shutdown()
    ticks[0].join(20)
    status = dltobs.status()["otlp_metrics"]
    assert status == BackendStatus(delivered=len(otlp.points))
    assert "kept" not in caplog.text


def test_a_spool_that_takes_too_long_is_one_warning(otlp, pipeline, slow_disk, caplog, monkeypatch):
    """What it may have lost is said before the process ends."""
    monkeypatch.setattr("dltobs._setup._KEEPING_TIMEOUT", 0.2)
    otlp.status = 503
    dltobs.configure(otlp_endpoint=otlp.url, metrics="off", flush_timeout=0.5)
    pipeline().run([{"id": 1}], table_name="orders")
    dltobs.shutdown()
    assert slow_disk.is_asked.is_set()
    said = [record.getMessage() for record in caplog.records if record.name == "dltobs"]
    assert len(said) == 1
    assert "had neither been sent nor put into the spool when the time for closing was over" in said[0]


def test_what_an_exporter_complains_of_is_not_kept_for_ever(otlp, pipeline, monkeypatch):
    """A back end that is down for days must not cost memory."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")  # less than the pause before a second attempt
    otlp.status = 503
    dltobs.configure(otlp_endpoint=otlp.url, metrics="off")
    (sink,) = _state.runtime.sinks
    found = []
    for _ in range(3):
        pipeline().run([{"id": 1}], table_name="orders")
        sink.flush(20)
        (exporter,) = sink.own._exporters.values()
        found.append(len(exporter._ear.complaints))
    assert found[0] > 0
    assert found[2] <= found[0]


def test_a_request_for_which_no_time_is_left_does_not_hide_why_the_last_one_failed():
    """The exporter asks for it when its pause ends just at its deadline."""
    server = OtlpServer()
    server.status = 503
    ear = Ear()
    session = ListeningSession(ear)
    with pytest.raises(requests.Timeout):
        session.request("POST", f"{server.url}/v1/traces", data=b"", timeout=0.0)
    assert ear.answer == Answer("timed out")
    session.request("POST", f"{server.url}/v1/traces", data=b"", timeout=10.0)
    assert ear.answer == Answer("HTTP 503 Service Unavailable")
    with pytest.raises(requests.Timeout):
        session.request("POST", f"{server.url}/v1/traces", data=b"", timeout=0.0)
    assert ear.answer == Answer("HTTP 503 Service Unavailable")
    assert len(server.requests) == 1
    session.close()
    server.close()
