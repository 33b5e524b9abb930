"""Failures that are easily told as others: runs beside an earlier error, groups, workers, odd exceptions."""

from __future__ import annotations

import asyncio
import json
import sys
from concurrent.futures.process import _RemoteTraceback
from itertools import pairwise

import dlt
import pytest
from dlt.common.destination.exceptions import DestinationTerminalException
from dlt.pipeline.exceptions import PipelineStepFailed

import dltobs
from dltobs._describe import causes_of, chain_of, root_cause, stacktrace, type_name
from dltobs._runs.open_run import RAISED_BY_SIGNAL, is_by_signal
from recording import RecordingSink
from servers import attributes_of

EARLIER = "API is down"
needs_groups = pytest.mark.skipif(sys.version_info < (3, 11), reason="there are no groups of exceptions")


@pytest.fixture
def sink():
    sink = RecordingSink()
    dltobs.configure(sinks=[sink], console="off")
    return sink


@pytest.fixture
def told(otlp, sentry, slack):
    """Everybody who is told of failures."""
    sink = RecordingSink()
    dltobs.configure(
        sinks=[sink],
        otlp_endpoint=otlp.url,
        sentry_dsn=sentry.dsn,
        slack_incoming_hook=slack.hook,
        slack_on="failure",
        alert_cooldown=3600,
        console="off",
    )
    return sink


def failing(error, name="orders"):
    """A resource that gives a row and then fails."""

    def rows():
        yield {"id": 1}
        raise error

    return dlt.resource(rows, name=name)


def fail(one, data, **options):
    with pytest.raises(PipelineStepFailed):
        one.run(data, **options)


def frozen():
    """Breaks its contract in normalize, where the column has held a number before."""
    return dlt.resource([{"id": "no number"}], name="orders", schema_contract={"data_type": "freeze"})


def without_cursor():
    return dlt.resource([{"id": 1}], name="orders", incremental=dlt.sources.incremental("updated_at"))


def without_secret():
    def rows(key=dlt.secrets.value):
        yield {"id": key}

    return dlt.resource(rows, name="orders")


@dlt.destination(name="refusing", batch_size=1)
def refusing(items, table):
    message = "table is locked"
    raise DestinationTerminalException(message)


# a run that is called while an earlier error is handled


@pytest.mark.parametrize(
    ("resource", "error_type"),
    [
        (frozen, "DataValidationError"),
        (without_cursor, "IncrementalCursorPathMissing"),
        (without_secret, "ConfigFieldMissingException"),
    ],
)
def test_an_error_of_dlts_is_not_told_as_the_one_that_was_being_handled(
    resource, error_type, told, otlp, sentry, slack, pipeline
):
    """Python chains it to that one implicitly: `try: a.run(…) except Exception: b.run(…)`."""
    shop = pipeline()
    shop.run([{"id": 1}], table_name="orders")
    try:
        shop.run(failing(ConnectionError(EARLIER), name="people"))
    except PipelineStepFailed:
        fail(shop, resource())
    dltobs.shutdown()

    first, second = told.runs[1:]
    assert (first.failure.error_type, first.failure.resource) == ("ConnectionError", "people")
    failure = second.failure
    assert failure.error_type.endswith(f".{error_type}")
    assert failure.resource != "people"
    assert "ConnectionError" not in {info.type for info in failure.chain}
    assert EARLIER not in failure.stacktrace
    event = sentry.events[-1]
    assert event["exception"]["values"][-1]["type"] == error_type
    assert EARLIER not in json.dumps(event["exception"])
    assert event["tags"]["error.type"] == failure.error_type
    post = slack.posts[-1]["text"]
    assert failure.error_type in post
    assert EARLIER not in post
    spans = [span for span in otlp.spans if span.name == "run shop"]
    assert attributes_of(spans[-1])["error.type"] == failure.error_type


def test_the_job_and_the_place_of_an_earlier_failure_are_not_those_of_the_next(told, slack, pipeline):
    try:
        pipeline("first", destination=refusing()).run([{"id": 1}], table_name="people")
    except PipelineStepFailed:
        fail(pipeline("second"), failing(ValueError("other trouble")))
    dltobs.shutdown()

    first, second = (run.failure for run in told.runs)
    assert (first.table, first.job.table) == ("people", "people")
    assert (second.resource, second.table, second.job) == ("orders", None, None)
    assert "people" not in slack.posts[-1]["text"]
    assert "Jobs:" not in slack.posts[-1]["text"]


def test_the_attempt_at_a_job_on_the_callers_thread_has_its_own_error(sink, pipeline, monkeypatch):
    """With one worker dlt loads there."""
    monkeypatch.setenv("LOAD__WORKERS", "1")

    @dlt.destination(name="locked")
    def locked(items, table):
        raise DestinationTerminalException("table is locked")

    one = pipeline(destination=locked())
    try:
        raise ConnectionError(EARLIER)
    except ConnectionError:
        fail(one, [{"id": 1}], table_name="orders")
    attempts = [attempt for step in sink.run.steps for job in step.load_jobs for attempt in job.attempts]
    assert attempts
    assert {attempt.message for attempt in attempts if attempt.error_type} == {"table is locked"}


def test_a_clean_up_after_ctrl_c_that_fails_was_not_terminated(sink, pipeline):
    shop = pipeline()
    shop.run([{"id": 1}], table_name="orders")
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        fail(shop, frozen())
    assert sink.runs[-1].outcome == "failed"


def test_ctrl_c_ends_a_clean_up_as_any_other_run(sink, pipeline):
    try:
        raise ConnectionError(EARLIER)
    except ConnectionError:
        with pytest.raises((KeyboardInterrupt, PipelineStepFailed)):
            pipeline().run(failing(KeyboardInterrupt()))
    assert sink.run.outcome == "terminated"


@pytest.mark.parametrize("named", [True, False], ids=["named the cause", "raised again"])
def test_an_earlier_error_that_the_run_speaks_of_belongs_to_it(named, sink, pipeline):
    def orders(earlier):
        yield {"id": 1}
        if named:
            raise KeyError("customer") from earlier
        raise earlier

    try:
        raise ConnectionError(EARLIER)
    except ConnectionError as error:
        fail(pipeline(), dlt.resource(orders, name="orders")(error))
    failure = sink.run.failure
    assert (failure.error_type, failure.message) == ("ConnectionError", EARLIER)
    assert EARLIER in failure.stacktrace


def test_the_job_of_a_pipeline_that_a_resource_runs_is_not_the_outer_ones(told, slack, pipeline):
    """The cause is: it is what ended both."""
    inner = pipeline("inner", destination=refusing())

    @dlt.resource
    def orders():
        yield {"id": 1}
        inner.run([{"id": 1}], table_name="people")

    fail(pipeline("outer"), orders())
    dltobs.shutdown()

    by_name = {run.run.pipeline: run.failure for run in told.runs}
    assert by_name["inner"].job.table == by_name["inner"].table == "people"
    outer = by_name["outer"]
    assert (outer.step, outer.job, outer.table) == ("extract", None, None)
    assert outer.message == "table is locked"
    assert "Jobs:" not in slack.posts[-1]["text"]


# groups of exceptions


@needs_groups
def test_failures_in_a_task_group_are_told_apart(told, sentry, slack, pipeline):
    """All of them have the same message, that of the group."""

    async def fetch(error):
        raise error

    async def fetch_all(error):
        async with asyncio.TaskGroup() as group:
            group.create_task(fetch(error))

    def orders(error):
        yield {"id": 1}
        yield asyncio.run(fetch_all(error))

    shop = pipeline()
    for error in (ConnectionError(EARLIER), KeyError("customer_id")):
        fail(shop, dlt.resource(orders, name="orders")(error))
    dltobs.shutdown()

    assert [(run.failure.error_type, run.failure.message) for run in told.runs] == [
        ("ConnectionError", EARLIER),
        ("KeyError", "'customer_id'"),
    ]
    first, second = sentry.events
    assert first["fingerprint"] != second["fingerprint"]
    title = second["exception"]["values"][-1]
    assert (title["type"], title["value"]) == ("KeyError", "'customer_id'")
    functions = [frame["function"] for frame in title["stacktrace"]["frames"]]
    assert functions.index("extract") < functions.index("fetch_all") < functions.index("fetch")
    first, second = (post["text"] for post in slack.posts)
    assert f"ConnectionError: {EARLIER}" in first
    assert "KeyError: 'customer_id'" in second
    assert "raised as ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)" in second
    assert ", fetch (test_odd_failures.py:" in second


@needs_groups
def test_the_first_exception_in_groups_of_groups_is_the_cause():
    cause = OSError("no route")
    leaf = ValueError("leaf")
    leaf.__cause__ = cause
    group = ExceptionGroup("outer", [ExceptionGroup("inner", [leaf, KeyError()]), KeyError()])  # noqa: F821
    assert list(causes_of(group)) == [group, group.exceptions[0], leaf, cause]
    assert list(chain_of(group)) == list(causes_of(group))


@needs_groups
def test_a_stack_trace_tells_no_earlier_error_of_the_exceptions_in_a_group(sink, pipeline):
    async def fetch():
        message = "no such order"
        raise ValueError(message)

    async def fetch_all():
        async with asyncio.TaskGroup() as group:
            group.create_task(fetch())
            group.create_task(fetch())

    def orders():
        yield asyncio.run(fetch_all())

    try:
        raise ConnectionError(EARLIER)
    except ConnectionError:
        fail(pipeline(), dlt.resource(orders, name="orders"))
    failure = sink.run.failure
    assert (failure.error_type, failure.resource) == ("ValueError", "orders")
    assert failure.stacktrace.count("ValueError: no such order") == 2
    assert EARLIER not in failure.stacktrace


# worker processes


def test_a_failure_in_a_worker_process_has_its_own_name(told, sentry, slack, pipeline, monkeypatch):
    """Its traceback comes as the text of an exception that nobody raised."""
    monkeypatch.setenv("NORMALIZE__WORKERS", "2")
    monkeypatch.setenv("NORMALIZE__START_METHOD", "spawn")
    shop = pipeline()
    shop.run([{"id": 1}], table_name="orders")
    # dlt starts workers for two jobs or more
    fail(shop, [frozen(), dlt.resource([{"id": 1}], name="people")])
    dltobs.shutdown()

    failure = told.runs[-1].failure
    assert failure.error_type.endswith(".NormalizeJobFailed")
    assert (failure.table, failure.job.table) == ("orders", "orders")
    assert "_RemoteTraceback" in failure.stacktrace
    (event,) = sentry.events
    assert [value["type"] for value in event["exception"]["values"]] == ["NormalizeJobFailed"]
    assert event["exception"]["values"][0]["stacktrace"]["frames"]
    told_there = event["contexts"]["dlt"]["worker_traceback"]
    assert told_there.startswith("Traceback (most recent call last)")
    assert "DataValidationError" in told_there
    (post,) = slack.posts
    assert "RemoteTraceback" not in post["text"]
    assert "raised as" not in post["text"]


def test_a_traceback_of_another_process_is_no_exception_of_the_chain():
    error = ValueError("no such order")
    error.__cause__ = _RemoteTraceback("Traceback …")
    assert list(chain_of(error)) == list(causes_of(error)) == [error]
    assert root_cause(error.__cause__) is error.__cause__


# exceptions of the user's that look like dlt's, and such as cannot be read


class ApiJobError(Exception):
    """Its attributes are those of another system."""

    job_id = "7f0d-4711-job"
    table_name = "their_table"
    pipe_name = resource_name = "their_pipe"
    failed_message = "their message"
    client_exception = KeyError("theirs")


def test_attributes_of_the_users_exceptions_are_not_taken_for_dlts(told, sentry, slack, pipeline):
    fail(pipeline(), failing(ApiJobError("export timed out")))
    dltobs.shutdown()

    failure = told.run.failure
    assert (failure.resource, failure.table, failure.job) == ("orders", None, None)
    assert (failure.error_type.rpartition(".")[2], failure.message) == ("ApiJobError", "export timed out")
    assert told.run.failed_jobs == ()
    (event,) = sentry.events
    assert "dlt.table.name" not in event["tags"]
    (post,) = slack.posts
    for theirs in ("7f0d", "their_table", "their_pipe", "Jobs:"):
        assert theirs not in post["text"]


class AnswersByKeyError(Exception):
    """As clients of APIs have it, whose errors are documents."""

    def __getattr__(self, name):
        return self.args[0][name]


class AnswersAllError(Exception):
    def __getattr__(self, name):
        return name


class BrokenPropertiesError(Exception):
    @property
    def job_id(self):
        raise RuntimeError

    pipe_name = table_name = failed_message = client_exception = __notes__ = job_id


class BrokenCauseError(Exception):
    @property
    def __cause__(self):
        raise RuntimeError


NoModule = type("NoModule", (Exception,), {"__module__": None})


@pytest.mark.parametrize(
    "error",
    [
        AnswersByKeyError({"code": 1}),
        AnswersAllError("no such order"),
        BrokenPropertiesError("no such order"),
        NoModule("no such order"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_that_cannot_be_read_is_told_with_all_that_can(
    error, told, sentry, slack, pipeline, caplog
):
    fail(pipeline(), failing(error))
    dltobs.shutdown()

    assert told.run.outcome == "failed"
    failure = told.run.failure
    name = type(error).__name__
    assert failure.error_type.rpartition(".")[2] == name
    assert failure.message == str(error)
    assert (failure.step, failure.resource, failure.table, failure.job) == ("extract", "orders", None, None)
    assert [info.type.rpartition(".")[2] for info in failure.chain][-1] == name
    assert failure.chain[-1].frames[-1].function == "rows"
    assert "in rows" in failure.stacktrace
    assert failure.stacktrace.index(f"{name}: {error}") < failure.stacktrace.index("PipelineStepFailed: ")
    (event,) = sentry.events
    assert event["exception"]["values"][-1]["type"] == name
    assert len(slack.posts) == 1
    assert "tracker" not in caplog.text


@pytest.mark.parametrize("part", ["causes_of", "kind_of", "_job_of", "_place_of", "describe", "stacktrace"])
def test_a_part_of_a_failure_that_cannot_be_read_leaves_the_others(part, sink, pipeline, monkeypatch, caplog):
    def unreadable(*args):
        raise RuntimeError

    shop = pipeline(destination=refusing())
    monkeypatch.setattr(f"dltobs._runs.failures.{part}", unreadable)
    fail(shop, [{"id": 1}], table_name="orders")

    assert sink.run.outcome == "failed"
    failure = sink.run.failure
    missing = {
        "kind_of": failure.kind == "unknown",
        "_job_of": failure.job is None,
        "_place_of": failure.table is None,
        "describe": not any(info.frames for info in failure.chain),
        "stacktrace": not failure.stacktrace,
    }
    # without its causes the exception stands alone, which has neither job nor place
    gone = {"kind_of", "_job_of", "_place_of"} if part == "causes_of" else {part}
    if part == "_job_of":
        gone.add("_place_of")  # the table is the job's
    assert {name for name, is_missing in missing.items() if is_missing} == gone
    root = "PipelineStepFailed" if part == "causes_of" else "DestinationTerminalException"
    assert failure.error_type.rpartition(".")[2] == root
    assert failure.chain
    own = {record.getMessage() for record in caplog.records if record.name == "dltobs"}
    assert len([message for message in own if not message.startswith("Run of shop failed in ")]) == 1


@pytest.mark.parametrize("module", [None, ["no", "name"], "builtins", "__main__"])
def test_a_type_without_the_name_of_a_module_has_its_own_alone(module):
    assert type_name(type("Odd", (Exception,), {"__module__": module})) == "Odd"


def test_a_run_ends_as_failed_where_its_cause_cannot_be_read(sink, pipeline, monkeypatch):
    def unreadable(*args):
        raise RuntimeError

    monkeypatch.setattr("dltobs._runs.open_run.root_cause", unreadable)
    fail(pipeline(), failing(ValueError("no such order")))
    assert sink.run.outcome == "failed"


def test_what_was_raised_by_a_signal_is_known_by_its_mark_alone():
    assert not is_by_signal(AnswersAllError())
    marked = SystemExit()
    setattr(marked, RAISED_BY_SIGNAL, "SIGTERM")
    assert is_by_signal(marked)


def test_a_chain_goes_on_where_a_cause_cannot_be_read():
    broken = BrokenCauseError("no such order")
    broken.__context__ = KeyError("customer")
    assert list(chain_of(broken)) == [broken, broken.__context__]
    text = stacktrace(broken)
    assert text.index("KeyError: 'customer'") < text.index("BrokenCauseError: no such order")


def test_a_stack_trace_ends_where_the_chain_does():
    errors = [ValueError(f"number {number}") for number in range(4)]
    for outer, inner in pairwise(errors):
        outer.__context__ = inner
    assert list(chain_of(errors[0], errors[2])) == errors[:2]
    text = stacktrace(errors[0], errors[2])
    assert "number 1" in text
    assert "number 2" not in text
