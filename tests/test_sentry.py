"""A run that went wrong as one event in Sentry."""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
from datetime import datetime, timezone

import dlt
import pytest
import sentry_sdk
from dlt.common import logger as dlt_logger
from dlt.common.destination.exceptions import DestinationTerminalException, DestinationTransientException
from dlt.pipeline.exceptions import PipelineStepFailed
from dlt.pipeline.helpers import retry_load
from tenacity import Retrying, retry_if_exception, stop_after_attempt

import dltobs
from conftest import SECRET
from dltobs import Redactor, _state
from dltobs._events import (
    Attempt,
    ExceptionInfo,
    FailedJob,
    Failure,
    Job,
    LogLine,
    Package,
    Run,
    RunFinished,
    StepFinished,
)
from scripts import run_script
from servers import SentryServer, attributes_of


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch):
    """Neither on GitHub nor on Kubernetes."""
    for name in list(os.environ):
        if name.startswith(("GITHUB_", "KUBE", "POD_", "NODE_NAME", "COMMIT_SHA", "CI_COMMIT_SHA")):
            monkeypatch.delenv(name)


@dlt.resource
def orders():
    """Fails as user code does: a cause in another function, a secret in a local."""
    yield {"id": 1}
    fetch(SECRET)


def fetch(password):
    try:
        {}["id"]
    except KeyError as error:
        raise RuntimeError(f"401 for https://shop.example/?token={password}") from error


@dlt.destination(batch_size=1)
def refusing(items, table):
    raise DestinationTerminalException(f"no room for {table['name']}: password={SECRET}")


@dlt.destination(batch_size=1)
def busy(items, table):
    raise DestinationTransientException("try again")


def fail(one, data, **options):
    with pytest.raises(PipelineStepFailed) as info:
        one.run(data, **options)
    dltobs.shutdown()
    return info.value


def event_of(server):
    (event,) = server.events
    return event


def test_a_failed_run_reports_once_from_the_deepest_step(sentry, otlp, pipeline):
    """Everything one asks first: where, what, of which trace."""
    dltobs.configure(
        sentry_dsn=sentry.dsn,
        otlp_endpoint=otlp.url,
        sentry_environment="live",
        sentry_release="1.2",
        tags={"team": "data"},
    )
    one = pipeline()
    fail(one, orders())
    event = event_of(sentry)
    trace = one.last_trace
    assert event["level"] == "error"
    assert event["platform"] == "python"
    assert event["environment"] == "live"
    assert event["release"] == "1.2"
    assert event["transaction"] == "shop"
    tags = event["tags"]
    assert tags == {
        "dlt.pipeline.name": "shop",
        "dlt.step": "extract",
        "dlt.transaction_id": trace.transaction_id,
        "dlt.load_id": tags["dlt.load_id"],
        "dlt.destination.name": "duckdb",
        "dlt.destination.type": "dlt.destinations.duckdb",
        "dlt.dataset.name": "shop_data",
        "dlt.resource.name": "orders",
        "dlt.outcome": "failed",
        "dlt.terminal": "false",
        "dlt.failure.kind": "unknown",
        "dlt.attempt": "1",
        "dlt.version": dlt.__version__,
        "dltobs.version": dltobs.__version__,
        "error.type": "KeyError",
        "team": "data",
    }
    assert event["server_name"] == platform.node()
    assert event["fingerprint"] == ["shop", "extract", "orders", "KeyError", "'id'"]
    extract = otlp.named("extract")
    assert event["contexts"]["trace"]["trace_id"] == extract.trace_id.hex() == trace.transaction_id
    assert event["contexts"]["trace"]["span_id"] == extract.span_id.hex()
    assert attributes_of(extract)["dlt.load_id"] == tags["dlt.load_id"]


def test_the_chain_of_exceptions_has_frames_and_no_locals(sentry, pipeline):
    """The root cause first, as Sentry shows it last; in_app is the user's code; dlt's wrapper is left out."""
    dltobs.configure(sentry_dsn=sentry.dsn)
    fail(pipeline(), orders())
    event = event_of(sentry)
    values = event["exception"]["values"]
    assert [value["type"] for value in values] == ["KeyError", "RuntimeError"]
    assert values[1]["value"] == "401 for https://shop.example/?token=***"
    assert values[0]["mechanism"]["parent_id"] == values[1]["mechanism"]["exception_id"]
    frame = values[1]["stacktrace"]["frames"][-1]
    assert frame["function"] == "fetch"
    assert frame["context_line"].strip().startswith("raise RuntimeError")
    assert frame["in_app"] is True
    assert frame["lineno"] > 0
    frames = [frame for value in values for frame in value["stacktrace"]["frames"]]
    assert {frame["in_app"] for frame in frames if frame["module"].startswith("dlt.")} == {False}
    assert all("vars" not in frame for frame in frames)
    text = json.dumps(event)
    assert SECRET not in text
    assert "argv" not in text
    assert sys.argv[0] not in text
    assert "modules" not in event


def test_the_last_fifty_log_records_of_the_run_are_breadcrumbs(monkeypatch, sentry, pipeline):
    """Those of other runs are not."""
    monkeypatch.setenv("RUNTIME__LOG_LEVEL", "WARNING")
    dltobs.configure(sentry_dsn=sentry.dsn)

    @dlt.resource
    def talking(name, times):
        for number in range(times):
            dlt_logger.warning(f"{name} page {number} token={SECRET}")
        yield {"id": 1}

    @dlt.resource
    def failing():
        yield from talking("second", 60)
        raise ValueError("no such order")

    pipeline("first").run(talking("first", 3))
    fail(pipeline(), failing())
    crumbs = event_of(sentry)["breadcrumbs"]["values"]
    assert [crumb["message"] for crumb in crumbs] == [
        f"second page {number} token=***" for number in range(10, 60)
    ]
    assert {(crumb["level"], crumb["category"]) for crumb in crumbs} == {("warning", "dlt")}
    assert crumbs[0]["timestamp"].endswith(("Z", "+00:00"))


@pytest.mark.parametrize(
    ("destination", "terminal", "kind"),
    [(refusing, "true", "DestinationTerminalException"), (busy, "false", "DestinationTransientException")],
)
def test_a_failed_job_is_named_with_its_message(monkeypatch, sentry, pipeline, destination, terminal, kind):
    """Terminal or transient; the package waits or is partly loaded."""
    monkeypatch.setenv("LOAD__RAISE_ON_MAX_RETRIES", "2")
    dltobs.configure(sentry_dsn=sentry.dsn)
    one = pipeline(destination=destination)
    fail(one, [{"id": 1}], table_name="orders")
    event = event_of(sentry)
    assert event["tags"]["dlt.step"] == "load"
    assert event["tags"]["dlt.table.name"] == "orders"
    assert event["tags"]["dlt.terminal"] == terminal
    assert event["tags"]["error.type"].endswith(kind)
    # a transient failure is that of the destination, whichever table it met
    assert event["fingerprint"][:3] == ["shop", "load", "orders" if terminal == "true" else ""]
    context = event["contexts"]["dlt"]
    (job,) = context["failed_jobs"]
    assert job["table"] == "orders"
    assert job["job_id"].startswith("orders.")
    expected = "no room for orders: password=***" if terminal == "true" else "try again"
    assert expected in job["message"]
    assert context["load_id"] == event["tags"]["dlt.load_id"]
    waiting = one.list_normalized_load_packages()
    assert context["pending_packages"] == waiting
    assert SECRET.encode() not in sentry.raw


def test_a_partly_loaded_package_is_named(sentry, pipeline):
    """One job of two is done when the other ends the step."""
    is_first_done = threading.Event()

    @dlt.destination(batch_size=1, max_table_nesting=0)
    def half(items, table):
        if table["name"] == "second":
            is_first_done.wait(30)
            raise DestinationTerminalException("no room")
        is_first_done.set()

    dltobs.configure(sentry_dsn=sentry.dsn)
    first = dlt.resource([{"id": 1}], name="first")
    second = dlt.resource([{"id": 1}], name="second")
    one = pipeline(destination=half)
    one.extract([first, second])
    one.normalize()
    with pytest.raises(PipelineStepFailed) as info:
        one.load(workers=2)
    dltobs.shutdown()
    context = event_of(sentry)["contexts"]["dlt"]
    assert info.value.is_package_partially_loaded
    assert context["partly_loaded_packages"] == [info.value.load_id]
    assert context["step"] == "load"


def test_all_failed_jobs_are_there(sentry):
    """In some parts of an event the SDK cuts lists after ten."""
    now = datetime.now(timezone.utc)
    run = Run("shop", "0" * 32)
    jobs = tuple(FailedJob(f"table{number}.id.0.jsonl", f"table{number}", "no room") for number in range(15))
    failure = Failure("load", "ValueError", "no room", terminal=True, chain=(), stacktrace="")
    step = StepFinished(
        run, "load", 1, now, now, failure=failure, packages=(Package("1", "normalized", "shop", jobs),)
    )
    dltobs.configure(sentry_dsn=sentry.dsn)
    assert _state.runtime is not None
    (*_, sink) = _state.runtime.sinks
    sink.emit(RunFinished(run, "failed", now, now, (step,), step))
    dltobs.shutdown()
    context = event_of(sentry)["contexts"]["dlt"]
    assert [job["table"] for job in context["failed_jobs"]] == [f"table{number}" for number in range(15)]
    assert context["partly_loaded_packages"] == []


def test_an_event_stays_small_however_much_failed(sentry):
    """Sentry refuses one of more than 1 MB as a whole."""
    now = datetime.now(timezone.utc)
    run = Run("shop", "0" * 32)
    long = "no room " * 10_000
    jobs = tuple(
        FailedJob(f"t{number % 5}.{number:010x}.0.jsonl", f"t{number % 5}", long) for number in range(3000)
    )
    failure = Failure(
        "load",
        "ValueError",
        long,
        terminal=True,
        chain=(ExceptionInfo("ValueError", long, ()),),
        stacktrace=long,
    )
    package = Package("1", "normalized", "shop", jobs)
    step = StepFinished(run, "load", 1, now, now, failure=failure, packages=(package,))
    lines = tuple(LogLine(now, "WARNING", "dlt", long) for _ in range(50))
    dltobs.configure(sentry_dsn=sentry.dsn)
    assert _state.runtime is not None
    (*_, sink) = _state.runtime.sinks
    sink.emit(RunFinished(run, "failed", now, now, (step,), step, log_lines=lines))
    dltobs.shutdown()
    event = event_of(sentry)
    assert len(json.dumps(event)) < 600_000
    context = event["contexts"]["dlt"]
    assert len(context["failed_jobs"]) == 100
    assert context["failed_jobs_by_table"] == {f"t{number}": 600 for number in range(5)}
    assert "characters cut" in context["failed_jobs"][0]["message"]


@pytest.mark.parametrize("step", ["normalize", "sync"])
def test_other_steps_report_under_their_own_name(tmp_path, sentry, pipeline, step):
    dltobs.configure(sentry_dsn=sentry.dsn)
    if step == "normalize":
        data = dlt.resource(
            [{"id": 1}, {"id": "no number"}],
            name="orders",
            columns={"id": {"data_type": "bigint"}},
            schema_contract={"data_type": "freeze"},
        )
        fail(pipeline(), data)
    else:
        (tmp_path / "sync.duckdb").write_bytes(b"this is no database" * 100)
        one = pipeline(destination=dlt.destinations.duckdb(str(tmp_path / "sync.duckdb")))
        fail(one, [{"id": 1}], table_name="orders")
    event = event_of(sentry)
    assert event["tags"]["dlt.step"] == step
    assert event["tags"]["error.type"] != "dlt.pipeline.exceptions.PipelineStepFailed"


def test_a_run_that_succeeds_reports_nothing(sentry, pipeline):
    dltobs.configure(sentry_dsn=sentry.dsn)
    pipeline().run([{"id": 1}], table_name="orders")
    pipeline("idle").run(None)
    dltobs.shutdown()
    assert sentry.requests == []


def test_failed_jobs_that_are_tolerated_are_one_warning(monkeypatch, sentry, pipeline):
    """Under `raise_on_failed_jobs=false`: titled by the first table, with every job in the context."""
    monkeypatch.setenv("LOAD__RAISE_ON_FAILED_JOBS", "false")
    dltobs.configure(sentry_dsn=sentry.dsn)
    one = pipeline(destination=refusing)
    names = ("orders", "customers", "items")
    for _ in range(2):
        one.run([dlt.resource([{"id": 1}], name=name) for name in names])
    dltobs.shutdown()
    event, again = sentry.events
    assert event["level"] == "warning"
    (value,) = event["exception"]["values"]
    assert value["type"] == "DestinationTerminalException"
    assert value["value"] == "customers: no room for customers: password=*** (and 2 more tables)"
    assert {job["table"] for job in event["contexts"]["dlt"]["failed_jobs"]} == set(names)
    assert event["tags"]["dlt.outcome"] == "ok_with_failed_jobs"
    assert event["tags"]["dlt.step"] == "load"
    assert event["tags"]["dlt.table.name"] == "customers"
    assert event["tags"]["dlt.terminal"] == "true"
    assert event["tags"]["dlt.load_id"] in one.list_completed_load_packages()
    assert "dlt.attempt" not in event["tags"]
    assert event["fingerprint"] == again["fingerprint"]
    assert event["fingerprint"][:4] == ["shop", "load", "customers,items,orders", "failed_jobs"]
    assert "no room for orders" in event["fingerprint"][4]
    assert SECRET.encode() not in sentry.raw


@pytest.mark.parametrize(
    ("message", "attempted", "kind", "value"),
    [
        ("no room", "duckdb.IOException", "IOException", "orders: no room"),
        ("no room", None, "LoadJobFailed", "orders: no room"),
        ("duckdb.IOException: no room\nmore", None, "IOException", "orders: no room"),
        ("in orders: no room", None, "LoadJobFailed", "orders: in orders: no room"),
        ("", None, "LoadJobFailed", "orders: "),
    ],
)
def test_the_title_of_failed_jobs_is_made_of_what_is_known(sentry, message, attempted, kind, value):
    """The type from the message or the last attempt of the job."""
    now = datetime.now(timezone.utc)
    run = Run("shop", "0" * 32)
    job_id = "orders.0123456789.0.jsonl"
    attempts = (Attempt(job_id, 1, "failed", now, now, attempted),) if attempted else ()
    package = Package("1", "loaded", "shop", (FailedJob(job_id, "orders", message),))
    job = Job(job_id, "orders", internal=False, state="failed", attempts=attempts)
    step = StepFinished(run, "load", 1, now, now, packages=(package,), load_jobs=(job,))
    dltobs.configure(sentry_dsn=sentry.dsn)
    assert _state.runtime is not None
    (*_, sink) = _state.runtime.sinks
    sink.emit(RunFinished(run, "ok_with_failed_jobs", now, now, (step,)))
    dltobs.shutdown()
    (exception,) = event_of(sentry)["exception"]["values"]
    assert (exception["type"], exception["value"]) == (kind, value)


def test_the_fingerprint_of_very_many_failed_jobs_is_short(sentry):
    """And still another one where one table more has failed."""
    now = datetime.now(timezone.utc)
    run = Run("shop", "0" * 32)
    dltobs.configure(sentry_dsn=sentry.dsn)
    assert _state.runtime is not None
    (*_, sink) = _state.runtime.sinks
    for count in (1000, 1000, 1001):
        jobs = tuple(FailedJob(f"t{n}.0123456789.0.jsonl", f"t{n}", "no room") for n in range(count))
        package = Package("1", "loaded", "shop", jobs)
        step = StepFinished(run, "load", 1, now, now, packages=(package,))
        sink.emit(RunFinished(run, "ok_with_failed_jobs", now, now, (step,)))
    dltobs.shutdown()
    first, same, other = (event["fingerprint"] for event in sentry.events)
    assert first == same != other
    assert max(map(len, first)) < 600


@pytest.mark.parametrize(("outcome", "level"), [("terminated", "warning"), ("lost", "fatal")])
def test_a_run_without_an_exception_is_titled_by_its_outcome(sentry, outcome, level):
    now = datetime.now(timezone.utc)
    dltobs.configure(sentry_dsn=sentry.dsn)
    assert _state.runtime is not None
    (*_, sink) = _state.runtime.sinks
    sink.emit(RunFinished(Run("shop", "0" * 32), outcome, now, now))
    dltobs.shutdown()
    event = event_of(sentry)
    assert event["level"] == level
    assert event["logentry"]["formatted"] == f"run shop: {outcome}"
    assert event["fingerprint"] == ["shop", "run", "", outcome, ""]


def test_without_tracing_the_trace_is_the_transaction(sentry, pipeline):
    dltobs.configure(sentry_dsn=sentry.dsn)
    one = pipeline()
    fail(one, orders())
    trace = event_of(sentry)["contexts"]["trace"]
    assert trace["trace_id"] == one.last_trace.transaction_id
    assert len(trace["span_id"]) == 16


def test_each_try_of_a_retry_reports_with_its_number(monkeypatch, sentry, pipeline):
    """The same failure in the next run is another event of the same issue; a success begins anew."""
    monkeypatch.setenv("LOAD__RAISE_ON_MAX_RETRIES", "2")
    is_busy = True

    @dlt.destination(batch_size=1)
    def sometimes(items, table):
        if is_busy:
            raise DestinationTransientException(f"busy since {datetime.now(timezone.utc)}")

    dltobs.configure(sentry_dsn=sentry.dsn)
    one = pipeline(destination=sometimes)
    # the first fails in the load of a run, the second in the load of what it has left
    for _ in range(2):
        with pytest.raises(PipelineStepFailed):
            one.run([{"id": 1}], table_name="orders")
    is_busy = False
    one.run([{"id": 1}], table_name="orders")
    is_busy = True
    with pytest.raises(PipelineStepFailed):
        one.run([{"id": 1}], table_name="orders")
    dltobs.shutdown()
    assert [event["tags"]["dlt.attempt"] for event in sentry.events] == ["1", "2", "1"]
    assert [event["contexts"]["dlt"]["attempt"] for event in sentry.events] == [1, 2, 1]
    assert len({tuple(event["fingerprint"]) for event in sentry.events}) == 1
    assert len({event["event_id"] for event in sentry.events}) == 3
    assert len({event["tags"]["dlt.transaction_id"] for event in sentry.events}) == 3


def test_dlts_own_way_to_retry_gives_events_of_one_issue(sentry, pipeline):
    """As its documentation has it: tenacity around `run()`, with `retry_load`."""
    tries = 0

    @dlt.resource
    def flaky():
        nonlocal tries
        tries += 1
        yield {"id": 1}
        if tries < 3:
            raise ConnectionError(f"request {tries} at {datetime.now(timezone.utc)} timed out")

    dltobs.configure(sentry_dsn=sentry.dsn)
    one = pipeline()
    for attempt in Retrying(
        stop=stop_after_attempt(5), retry=retry_if_exception(retry_load(("extract",))), reraise=True
    ):
        with attempt:
            one.run(flaky())
    dltobs.shutdown()
    first, second = sentry.events
    assert (first["tags"]["dlt.attempt"], second["tags"]["dlt.attempt"]) == ("1", "2")
    assert first["fingerprint"] == second["fingerprint"]
    assert first["fingerprint"][4] == "request # at # timed out"


def test_the_failures_of_each_pipeline_are_counted_for_themselves(sentry, pipeline):
    dltobs.configure(sentry_dsn=sentry.dsn)
    for name in ("first", "second", "first"):
        with pytest.raises(PipelineStepFailed):
            pipeline(name).run(orders())
    dltobs.shutdown()
    found = [(event["tags"]["dlt.pipeline.name"], event["tags"]["dlt.attempt"]) for event in sentry.events]
    assert found == [("first", "1"), ("second", "1"), ("first", "2")]
    assert len({tuple(event["fingerprint"]) for event in sentry.events}) == 2


def test_ids_and_our_own_words_are_unaltered_whatever_is_secret(monkeypatch, sentry, pipeline):
    for number, secret in enumerate(("duckdb", "123456", "extract", "failed", "ValueError", "warning")):
        monkeypatch.setenv(f"API_KEY_{number}", secret)
    dltobs.configure(sentry_dsn=sentry.dsn)

    @dlt.resource
    def orders():
        for number in range(6):
            _ = dlt.secrets[f"api_key_{number}"]  # dlt resolves it
        dlt_logger.warning("warning of duckdb")
        yield {"id": 1}
        raise ValueError("123456 of duckdb")

    fail(pipeline(), orders())
    event = event_of(sentry)
    assert event["tags"]["dlt.step"] == "extract"
    assert event["tags"]["dlt.outcome"] == "failed"
    assert event["tags"]["dlt.destination.type"] == "dlt.destinations.duckdb"
    assert event["contexts"]["dlt"]["destination_type"] == "dlt.destinations.duckdb"
    assert event["fingerprint"] == ["shop", "extract", "orders", "ValueError", "*** of ***"]
    assert event["exception"]["values"][0]["value"] == "*** of ***"
    crumb = event["breadcrumbs"]["values"][-1]
    assert (crumb["level"], crumb["message"]) == ("warning", "*** of ***")
    assert event["contexts"]["trace"]["trace_id"] == event["tags"]["dlt.transaction_id"]


def test_a_redactor_that_fails_lets_the_event_out_without_its_texts(monkeypatch, sentry, pipeline):
    dltobs.configure(sentry_dsn=sentry.dsn)

    def fails(self, *args):
        raise RuntimeError("broken redactor")

    monkeypatch.setattr(Redactor, "text", fails)
    monkeypatch.setattr(Redactor, "redact", fails)
    fail(pipeline(), orders())
    event = event_of(sentry)
    assert SECRET not in json.dumps(event)
    assert event["event_id"]
    assert event["tags"]["dlt.pipeline.name"] == "shop"
    assert event["tags"]["error.type"] == "KeyError"
    assert event["contexts"]["trace"]["trace_id"] == event["tags"]["dlt.transaction_id"]
    assert event["exception"]["values"][0]["value"] == "[withheld]"
    assert isinstance(event["exception"]["values"][1]["stacktrace"]["frames"][-1]["lineno"], int)


def test_the_application_keeps_its_sentry_and_gets_its_own_report(tmp_path, sentry):
    """Its client, scopes, integrations and global processors; both servers get their event."""
    application = SentryServer()
    result = run_script(
        """
        import sentry_sdk, dltobs
        from sentry_sdk.scope import add_global_event_processor

        def processor(event, hint):
            event.setdefault("extra", {})["from"] = "the application"
            return event

        add_global_event_processor(processor)
        sentry_sdk.init(dsn=os.environ["APPLICATION_DSN"], environment="application", shutdown_timeout=20)
        sentry_sdk.set_tag("owner", "application")
        client = sentry_sdk.get_client()
        dltobs.configure()
        try:
            pipeline().run(broken())
        except Exception as error:
            sentry_sdk.capture_exception(error)
        dltobs.shutdown()
        assert sentry_sdk.get_client() is client and client.is_active()
        sentry_sdk.capture_message("after")
        """,
        tmp_path,
        APPLICATION_DSN=application.dsn,
        DLTOBS__SENTRY_DSN=sentry.dsn,
    )
    assert result.returncode == 0, result.stderr
    ours = event_of(sentry)
    assert ours["tags"]["dlt.pipeline.name"] == "shop"
    assert "owner" not in ours["tags"]
    assert "extra" not in ours
    assert "the application" not in json.dumps(ours)
    assert ours.get("environment") != "application"
    theirs = [event for event in application.events if event.get("exception")]
    assert len(theirs) == 1
    assert theirs[0]["environment"] == "application"
    assert theirs[0]["tags"]["owner"] == "application"
    assert theirs[0]["extra"]["from"] == "the application"
    assert "dlt.pipeline.name" not in theirs[0]["tags"]
    assert [event.get("message") for event in application.events][-1] == "after"
    assert all(header["type"] == "event" for header, _ in sentry.items)
    application.close()


def test_our_client_is_nobodys_current_client(sentry):
    dltobs.configure(sentry_dsn=sentry.dsn)
    assert not sentry_sdk.is_initialized()
    assert sentry_sdk.capture_message("of the application") is None
    dltobs.shutdown()
    assert sentry.requests == []


def test_dlts_own_sentry_beside_ours_is_one_warning(monkeypatch, sentry, pipeline, caplog):
    """It replaces the application's client and sends what ours withholds."""
    monkeypatch.setenv("RUNTIME__SENTRY_DSN", sentry.dsn)
    monkeypatch.setattr(sentry_sdk, "init", lambda *args, **kwargs: None)
    dltobs.configure(sentry_dsn=sentry.dsn)
    warnings = [record.getMessage() for record in caplog.records if record.name == "dltobs"]
    assert len(warnings) == 1
    assert "RUNTIME__SENTRY_DSN" in warnings[0]
