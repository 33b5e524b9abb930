"""Each outcome, from a real run, is the same word in events, spans, metrics and log lines."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import dlt
import pytest
from dlt.common.destination.exceptions import DestinationTerminalException, DestinationTransientException
from dlt.pipeline.exceptions import PipelineStepFailed

import dltobs
from dltobs._describe import causes_of
from dltobs._runs.failures import kind_of
from recording import RecordingSink
from servers import attributes_of

KEEPS_PENDING = "LOAD__AUTO_ABORT_ON_TERMINAL_ERROR"
"""dlt 1.30 and newer keep a package with a job that failed for good, and abort it with this; older ones do so always."""


def refusing(error: BaseException | None) -> Any:
    """A destination that takes people, and fails with orders."""

    @dlt.destination(name="refusing", batch_size=0)
    def take(items: Any, table: Any) -> None:
        if error is not None and table["name"] == "orders":
            raise error

    return take()


def data() -> list[Any]:
    return [dlt.resource([{"id": 1}], name="orders"), dlt.resource([{"id": 1}, {"id": 2}], name="people")]


@dlt.resource
def broken():
    yield {"id": 1}
    message = "no more orders"
    raise ValueError(message)


class Case(NamedTuple):
    outcome: str
    error: BaseException | None = None
    resources: Any = data
    variables: tuple[tuple[str, str], ...] = ()
    rows: int = 3
    failed_jobs: int = 0


CASES = {
    "all is loaded": Case("ok"),
    "nothing to load": Case("no_data", resources=lambda: [dlt.resource([], name="orders")], rows=0),
    "a resource fails": Case("failed", resources=lambda: [broken()], rows=0),
    "a job fails for good": Case("failed", DestinationTerminalException("never"), rows=2, failed_jobs=1),
    "a job fails again and again": Case(
        "failed",
        DestinationTransientException("later"),
        variables=(("LOAD__RAISE_ON_MAX_RETRIES", "1"),),
        rows=2,
        failed_jobs=1,
    ),
    "a job fails for good and its package is given up": Case(
        "failed",
        DestinationTerminalException("never"),
        variables=((KEEPS_PENDING, "true"),),
        rows=2,
        failed_jobs=1,
    ),
    "a job fails and may": Case(
        "ok_with_failed_jobs",
        DestinationTerminalException("never"),
        variables=(("LOAD__RAISE_ON_FAILED_JOBS", "false"),),
        rows=2,
        failed_jobs=1,
    ),
}


LINES = {
    "ok": ("INFO", "finished after"),
    "no_data": ("INFO", "finished after"),
    "failed": ("ERROR", "failed in"),
    "ok_with_failed_jobs": ("WARNING", "finished with 1 failed job after"),
}
"""Level and words of the line that tells the end of a run, by outcome."""


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_an_outcome_is_one_word_everywhere(case, otlp, sentry, slack, pipeline, monkeypatch, tmp_path):
    monkeypatch.setenv("RUNTIME__LOG_LEVEL", "INFO")
    for name, value in case.variables:
        monkeypatch.setenv(name, value)
    sink = RecordingSink()
    dltobs.configure(
        sinks=[sink],
        otlp_endpoint=otlp.url,
        console="off",
        log_file=tmp_path / "dlt.jsonl",
        metrics="on",
        sentry_dsn=sentry.dsn,
        slack_incoming_hook=slack.hook,
        slack_on="failure,success",
    )
    shop = pipeline(destination=refusing(case.error))
    if case.outcome == "failed":
        with pytest.raises(PipelineStepFailed):
            shop.run(case.resources())
    else:
        shop.run(case.resources())
    dltobs.shutdown()

    assert sink.run.outcome == case.outcome
    assert (sink.run.rows, len(sink.run.failed_jobs)) == (case.rows, case.failed_jobs)
    assert sink.run.duration > 0
    assert (sink.run.failure is not None) is (case.outcome == "failed")
    root = otlp.named("run shop")
    assert attributes_of(root)["dlt.outcome"] == case.outcome
    counted = [point for point in otlp.points if point.name == "dlt.runs"]
    assert [point.attributes["dlt.outcome"] for point in counted] == [case.outcome]
    lines = [json.loads(line) for line in (tmp_path / "dlt.jsonl").read_text().splitlines()]
    (line,) = [line for line in lines if "outcome" in line]
    assert (line["outcome"], line["rows"], line["failed_jobs"]) == (case.outcome, case.rows, case.failed_jobs)
    level, told = LINES[case.outcome]
    assert line["message"].startswith(f"Run of shop {told} ")
    assert (line["step"], line["span_id"], line["level"]) == ("run", root.span_id.hex(), level)
    assert line.get("error_type") == (sink.run.failure and sink.run.failure.error_type)
    kind = sink.run.failure and sink.run.failure.kind
    assert attributes_of(root).get("dlt.failure.kind") == line.get("failure_kind") == kind
    (post,) = slack.posts
    jobs = {job.job_id for step in sink.run.steps for job in step.load_jobs}
    (counted_jobs,) = re.findall(r"^Jobs: (.*)$", post["text"], re.MULTILINE) or [""]
    assert sum(map(int, re.findall(r"\d+", counted_jobs))) == len(jobs)
    told = json.dumps(post, ensure_ascii=False)
    assert f"Outcome: {case.outcome}" in post["text"].replace("*", "")
    if case.outcome in {"ok", "no_data"}:
        assert sentry.events == []
        return
    (event,) = sentry.events
    assert event["tags"]["dlt.outcome"] == case.outcome
    assert event["level"] == ("error" if case.outcome == "failed" else "warning")
    assert event["contexts"]["trace"]["trace_id"] == root.trace_id.hex()
    assert event["event_id"] in told
    context = event["contexts"]["dlt"]
    assert len(context["failed_jobs"]) == case.failed_jobs
    assert event["tags"].get("dlt.failure.kind") == kind
    for state in ("pending", "partly_loaded", "aborted"):
        packages = getattr(sink.run, f"{state}_packages")
        assert context[f"{state}_packages"] == list(packages)
        assert (f"{state.replace('_', ' ')}: {''.join(packages)}" in told) is bool(packages)


def test_a_package_with_a_job_that_failed_for_good_is_named(pipeline):
    """dlt 1.30 and newer leave it pending, older ones abort it; part of its data is at the destination."""
    sink = RecordingSink()
    dltobs.configure(sinks=[sink], console="off")
    shop = pipeline(destination=refusing(DestinationTerminalException("never")))
    with pytest.raises(PipelineStepFailed):
        shop.run(data())
    (load_id,) = sink.run.load_ids
    assert sink.run.partly_loaded_packages == (load_id,)
    is_pending = load_id in shop.list_normalized_load_packages()
    assert sink.run.pending_packages == ((load_id,) if is_pending else ())
    assert sink.run.aborted_packages == (() if is_pending else (load_id,))
    assert sink.run.failure.kind == "terminal"


def test_a_package_that_dlt_aborts_is_named(pipeline, monkeypatch):
    """And its failure is terminal, which dlt's own `retry_load` does not see in dlt 1.31."""
    monkeypatch.setenv(KEEPS_PENDING, "true")
    sink = RecordingSink()
    dltobs.configure(sinks=[sink], console="off")
    with pytest.raises(PipelineStepFailed):
        pipeline(destination=refusing(DestinationTerminalException("never"))).run(data())
    assert sink.run.aborted_packages == sink.run.partly_loaded_packages == sink.run.load_ids
    assert sink.run.pending_packages == ()
    assert sink.run.failure.kind == "terminal"
    assert [job.table for job in sink.run.failed_jobs] == ["orders"]


def test_packages_that_wait_are_named_and_loaded_by_the_next_run(pipeline, monkeypatch):
    """Also where nothing failed: a step that is called alone leaves its package to the next one."""
    monkeypatch.setenv("LOAD__RAISE_ON_MAX_RETRIES", "1")
    sink = RecordingSink()
    dltobs.configure(sinks=[sink], console="off")
    shop = pipeline(destination=refusing(DestinationTransientException("later")))
    shop.extract(data())
    with pytest.raises(PipelineStepFailed):
        shop.run()
    extracted, failed = sink.runs
    assert (extracted.outcome, extracted.partly_loaded_packages) == ("ok", ())
    assert extracted.pending_packages == failed.pending_packages == failed.partly_loaded_packages
    assert len(failed.pending_packages) == 1
    shop.run(destination=refusing(None))
    loaded = sink.runs[-1]
    assert (loaded.outcome, loaded.load_ids) == ("ok", failed.pending_packages)
    assert loaded.pending_packages == loaded.partly_loaded_packages == loaded.aborted_packages == ()


def test_a_loaded_package_with_failed_jobs_is_partly_loaded(pipeline, monkeypatch):
    monkeypatch.setenv("LOAD__RAISE_ON_FAILED_JOBS", "false")
    sink = RecordingSink()
    dltobs.configure(sinks=[sink], console="off")
    pipeline(destination=refusing(DestinationTerminalException("never"))).run(data())
    assert sink.run.partly_loaded_packages == sink.run.load_ids
    assert (sink.run.pending_packages, sink.run.aborted_packages) == ((), ())


@dlt.resource
def wants_a_secret():
    yield {"id": dlt.secrets["nobody.has.this"]}


@dlt.resource
def needs_a_secret(key: str = dlt.secrets.value):
    yield {"id": key}


@pytest.mark.parametrize(
    ("resource", "error", "kind"),
    [
        (broken, None, "unknown"),
        (needs_a_secret, None, "terminal"),
        (wants_a_secret, None, "terminal"),
        (data, DestinationTransientException("later"), "transient"),
        (data, DestinationTerminalException("never"), "terminal"),
        # dlt tries a job again whatever it raises, and says so
        (data, ValueError("what is this"), "transient"),
    ],
)
def test_a_failure_is_terminal_transient_or_unknown(resource, error, kind, pipeline, monkeypatch):
    """What dlt has classed decides; the exception of a resource is nobody's class."""
    monkeypatch.setenv("LOAD__RAISE_ON_MAX_RETRIES", "1")
    sink = RecordingSink()
    dltobs.configure(sinks=[sink], console="off")
    with pytest.raises(PipelineStepFailed):
        pipeline(destination=refusing(error)).run(resource())
    failure = sink.run.failure
    assert failure.kind == kind
    assert (failure.terminal, failure.transient) == (kind == "terminal", kind == "transient")


def test_what_was_handled_before_the_run_does_not_class_its_failure():
    """An exception that stands beside the failure, because the run was called while it was handled."""
    earlier, error = DestinationTerminalException("an earlier run"), ValueError("no more orders")
    error.__context__ = earlier
    assert kind_of(list(causes_of(error))) == "unknown"
    error.__cause__ = earlier
    assert kind_of(list(causes_of(error))) == "terminal"
