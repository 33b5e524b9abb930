"""Each run checks in with Sentry when it starts and when it ends."""

from __future__ import annotations

import contextlib
import threading
import time

import dlt
import pytest
from dlt.common.destination.exceptions import DestinationTerminalException
from dlt.pipeline.exceptions import PipelineStepFailed

import dltobs
from conftest import SECRET
from dltobs import Redactor
from dltobs.sinks.sentry_transport import CountingTransport
from scripts import run_script
from servers import SentryServer


@dlt.resource
def broken():
    yield {"id": 1}
    raise ValueError("no such order")


@dlt.destination(batch_size=1)
def refusing(items, table):
    raise DestinationTerminalException("no room")


def check_ins_of(server):
    return [payload for header, payload in server.items if header["type"] == "check_in"]


def test_a_monitor_without_sentry_is_one_warning(caplog):
    """The setting may stand in a file, and the DSN in the environment of production alone."""
    dltobs.configure(sentry_monitor=True, sentry_monitor_schedule="0 3 * * *")
    (record,) = [record for record in caplog.records if record.name == "dltobs"]
    assert record.getMessage() == (
        "sentry_monitor (argument of configure()), sentry_monitor_schedule (argument of configure()) "
        "do nothing without sentry_dsn or SENTRY_DSN"
    )


def test_a_run_checks_in_at_start_and_end(sentry, otlp, pipeline):
    """Under one id, with all that Sentry needs to make the monitor by itself."""
    dltobs.configure(
        sentry_dsn=sentry.dsn,
        otlp_endpoint=otlp.url,
        environment="live",
        sentry_release="1.2",
        sentry_monitor=True,
        sentry_monitor_schedule="0 3 * * *",
        sentry_monitor_max_runtime=90,
        sentry_monitor_margin=10,
        sentry_monitor_timezone="Europe/Berlin",
    )
    one = pipeline("Shop_Orders")
    one.run([{"id": 1}], table_name="orders")
    dltobs.shutdown()
    start, end = check_ins_of(sentry)
    for check_in in (start, end):
        assert check_in["monitor_slug"] == "shop_orders"
        assert check_in["check_in_id"] == one.last_trace.transaction_id
        assert check_in["environment"] == "live"
        assert check_in["release"] == "1.2"
        assert check_in["contexts"]["trace"]["trace_id"] == otlp.named("extract").trace_id.hex()
        assert check_in["monitor_config"] == {
            "schedule": {"type": "crontab", "value": "0 3 * * *"},
            "checkin_margin": 10,
            "max_runtime": 90,
            "timezone": "Europe/Berlin",
        }
    assert start["status"] == "in_progress"
    assert "duration" not in start
    assert end["status"] == "ok"
    trace = one.last_trace
    assert end["duration"] == pytest.approx((trace.finished_at - trace.started_at).total_seconds(), abs=1)
    assert sentry.events == []
    assert dltobs.status()["sentry"].delivered == 2


def test_a_failed_run_ends_in_an_error(sentry, pipeline):
    dltobs.configure(sentry_dsn=sentry.dsn, sentry_monitor="nightly")
    with pytest.raises(PipelineStepFailed):
        pipeline().run(broken())
    dltobs.shutdown()
    start, end = check_ins_of(sentry)
    assert (start["status"], end["status"]) == ("in_progress", "error")
    assert start["monitor_slug"] == end["monitor_slug"] == "nightly"
    assert "monitor_config" not in start
    (event,) = sentry.events
    assert event["contexts"]["trace"]["trace_id"] == end["contexts"]["trace"]["trace_id"]


def test_a_run_with_failed_jobs_that_are_tolerated_or_without_data_ends_well(monkeypatch, sentry, pipeline):
    monkeypatch.setenv("LOAD__RAISE_ON_FAILED_JOBS", "false")
    dltobs.configure(sentry_dsn=sentry.dsn, sentry_monitor=True)
    pipeline(destination=refusing).run([{"id": 1}], table_name="orders")
    pipeline("idle").run(None)
    dltobs.shutdown()
    assert [(one["monitor_slug"], one["status"]) for one in check_ins_of(sentry)] == [
        ("shop", "in_progress"),
        ("shop", "ok"),
        ("idle", "in_progress"),
        ("idle", "ok"),
    ]


def test_each_pipeline_has_its_monitor_also_inside_of_another(sentry, pipeline):
    """Start and end keep together by their id."""

    @dlt.resource
    def outer():
        yield {"id": 1}
        rows = [{"id": 1}]
        thread = threading.Thread(target=lambda: pipeline("inner").run(rows, table_name="orders"))
        thread.start()
        thread.join()

    dltobs.configure(sentry_dsn=sentry.dsn, sentry_monitor=True)
    pipeline("outer").run(outer())
    dltobs.shutdown()
    found = check_ins_of(sentry)
    assert [(one["monitor_slug"], one["status"]) for one in found] == [
        ("outer", "in_progress"),
        ("inner", "in_progress"),
        ("inner", "ok"),
        ("outer", "ok"),
    ]
    assert found[0]["check_in_id"] == found[3]["check_in_id"]
    assert found[1]["check_in_id"] == found[2]["check_in_id"] != found[0]["check_in_id"]


def test_runs_in_threads_keep_their_check_ins_apart(sentry, pipeline):
    dltobs.configure(sentry_dsn=sentry.dsn, sentry_monitor="nightly")
    barrier = threading.Barrier(2, timeout=30)

    @dlt.resource
    def together(name):
        barrier.wait()
        yield {"id": 1}
        if name == "second":
            raise ValueError("no such order")

    def run(name):
        with contextlib.suppress(PipelineStepFailed):
            pipeline(name).run(together(name))

    threads = [threading.Thread(target=run, args=(name,)) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    dltobs.shutdown()
    statuses = {}
    for one in check_ins_of(sentry):
        statuses.setdefault(one["check_in_id"], []).append(one["status"])
    assert sorted(statuses.values()) == [["in_progress", "error"], ["in_progress", "ok"]]


def test_another_configure_in_between_ends_the_same_check_in(sentry, pipeline):
    settings = {"sentry_dsn": sentry.dsn, "sentry_monitor": True}

    @dlt.resource
    def reconfiguring():
        dltobs.configure(**settings, environment="other")
        yield {"id": 1}

    dltobs.configure(**settings)
    pipeline().run(reconfiguring())
    dltobs.shutdown()
    start, end = check_ins_of(sentry)
    assert start["check_in_id"] == end["check_in_id"]
    assert (start["status"], end["status"]) == ("in_progress", "ok")


def test_a_process_that_is_killed_leaves_its_check_in_in_progress(tmp_path, sentry):
    """The start is on its way while the run is on: that is what Sentry notices the end by."""
    result = run_script(
        """
        import time, dltobs

        @dlt.resource
        def endless():
            deadline = time.monotonic() + 30
            while not dltobs.status()["sentry"].delivered and time.monotonic() < deadline:
                time.sleep(0.02)
            os._exit(137)
            yield {"id": 1}

        dltobs.configure()
        pipeline().run(endless())
        """,
        tmp_path,
        SENTRY_DSN=sentry.dsn,
        DLTOBS__SENTRY_MONITOR="true",
    )
    assert result.returncode == 137
    (check_in,) = check_ins_of(sentry)
    assert check_in["status"] == "in_progress"


def test_without_a_monitor_there_are_no_check_ins(sentry, pipeline):
    dltobs.configure(sentry_dsn=sentry.dsn)
    pipeline().run([{"id": 1}], table_name="orders")
    dltobs.shutdown()
    assert sentry.requests == []


def test_ids_and_words_of_a_check_in_are_unaltered_whatever_is_secret(monkeypatch, sentry, pipeline):
    """And a secret in the environment's name, which is no id of ours, does not hinder it."""
    for number, secret in enumerate(("nightly", "crontab", "in_progress", "check_in")):
        monkeypatch.setenv(f"API_KEY_{number}", secret)
    dltobs.configure(
        sentry_dsn=sentry.dsn, sentry_monitor="nightly", sentry_monitor_schedule="@daily", tags={"t": SECRET}
    )
    for number in range(4):
        _ = dlt.secrets[f"api_key_{number}"]
    pipeline().run([{"id": 1}], table_name="orders")
    dltobs.shutdown()
    start, _ = check_ins_of(sentry)
    assert start["monitor_slug"] == "nightly"
    assert start["status"] == "in_progress"
    assert start["type"] == "check_in"
    assert start["monitor_config"]["schedule"] == {"type": "crontab", "value": "0 0 * * *"}
    assert SECRET.encode() not in sentry.raw


def test_a_redactor_that_fails_lets_check_ins_out(monkeypatch, sentry, pipeline):
    dltobs.configure(sentry_dsn=sentry.dsn, sentry_monitor=True)

    def fails(self, *args):
        raise RuntimeError("broken redactor")

    monkeypatch.setattr(Redactor, "text", fails)
    monkeypatch.setattr(Redactor, "redact", fails)
    one = pipeline()
    one.run([{"id": 1}], table_name="orders")
    dltobs.shutdown()
    start, end = check_ins_of(sentry)
    assert start["check_in_id"] == end["check_in_id"] == one.last_trace.transaction_id
    assert start["contexts"]["trace"]["trace_id"] == one.last_trace.transaction_id


def test_a_report_that_cannot_be_made_does_not_leave_the_run_in_progress(
    monkeypatch, caplog, sentry, pipeline
):
    def fails(*args):
        raise RuntimeError("no report")

    monkeypatch.setattr("dltobs.sinks.sentry.report", fails)
    dltobs.configure(sentry_dsn=sentry.dsn, sentry_monitor=True)
    with pytest.raises(PipelineStepFailed):
        pipeline().run(broken())
    dltobs.shutdown()
    assert [one["status"] for one in check_ins_of(sentry)] == ["in_progress", "error"]
    assert [record.name for record in caplog.records if "no report" in record.getMessage()] == ["dltobs"]


@pytest.mark.parametrize("trouble", ["hangs", "refuses", "503", "rubbish", "429"])
def test_a_server_in_trouble_changes_neither_result_nor_time(caplog, monkeypatch, pipeline, trouble):
    """The run is as it was; shutdown ends in time; what was lost is counted and told once."""
    monkeypatch.setattr(CountingTransport, "TIMEOUT", 60)  # who waits for the answer is late then
    server = SentryServer()
    dsn = server.dsn
    if trouble == "hangs":
        server.gate.clear()
    elif trouble == "refuses":
        server.close()
    elif trouble == "rubbish":
        server.content, server.content_type = b"<html>\xff\x00", "text/html"
        server.headers = {"x-sentry-rate-limits": ":::nonsense,,-1:"}
    else:
        server.status = int(trouble)
    dltobs.configure(sentry_dsn=dsn, sentry_monitor=True, flush_timeout=2)
    started = time.monotonic()
    info = pipeline().run([{"id": 1}], table_name="orders")
    ran = time.monotonic() - started
    started = time.monotonic()
    dltobs.shutdown()
    took = time.monotonic() - started
    assert not info.has_failed_jobs
    assert ran < 20
    assert took < 15
    status = dltobs.status()["sentry"]
    warnings = [record.getMessage() for record in caplog.records if record.name == "dltobs"]
    if trouble == "rubbish":
        assert (status.delivered, status.dropped, warnings) == (2, 0, [])
    else:
        assert (status.delivered, status.dropped) == (0, 2)
        assert warnings
        assert all(warning.startswith("sentry: ") for warning in warnings)
        assert "publickey00" not in "".join(warnings)
    if trouble != "refuses":
        server.close()


def test_a_rate_limit_on_check_ins_alone_is_counted_and_stops_nothing_else(sentry, pipeline):
    """The SDK drops them in silence."""
    sentry.headers = {"x-sentry-rate-limits": "60:monitor:organization"}
    dltobs.configure(sentry_dsn=sentry.dsn, sentry_monitor=True)
    with pytest.raises(PipelineStepFailed):
        pipeline().run(broken())
    started = time.monotonic()
    dltobs.shutdown()
    assert time.monotonic() - started < 3
    status = dltobs.status()["sentry"]
    assert len(sentry.events) == 1
    assert len(check_ins_of(sentry)) == 1
    assert (status.delivered, status.dropped) == (2, 1)
    assert status.last_error == "rate-limited by the server"
