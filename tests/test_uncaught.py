"""An exception that comes out of dlt before any run is told of, as a failed run is."""

from __future__ import annotations

import builtins
import json
import sys
import threading

import dlt
import pytest

import dltobs
from recording import FailingSink, RecordingSink
from scripts import run_script
from slack_server import problem_of

MISSING = """
import dltobs
dltobs.configure()

@dlt.source
def orders(api_key: str = dlt.secrets.value):
    return broken

"""


@dlt.source
def shop(api_key: str = dlt.secrets.value):
    @dlt.resource
    def orders():
        yield {"id": 1}

    return orders


@pytest.fixture
def sink():
    sink = RecordingSink()
    dltobs.configure(sinks=[sink], redact_patterns=[r"pl4nted\S*"])
    return sink


def crash(call) -> None:
    """Let the exception of a call come to the hook, as the interpreter does."""
    try:
        call()
    except BaseException:
        sys.excepthook(*sys.exc_info())


def test_a_missing_secret_is_an_event_with_the_active_pipeline(sink, pipeline):
    made = pipeline()
    crash(shop)
    (event,) = sink.of(dltobs.UncaughtError)
    assert (event.name, event.pipeline, event.dataset) == ("shop", "shop", "shop_data")
    assert event.destination_name == "duckdb"
    assert event.working_dir == made.working_dir
    assert event.failure.error_type == "dlt.common.configuration.exceptions.ConfigFieldMissingException"
    assert "`api_key`" in event.failure.message
    assert event.failure.kind == "terminal"


def test_without_a_pipeline_it_has_the_name_of_the_script(sink, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/app/load_orders.py"])
    crash(shop)
    (event,) = sink.of(dltobs.UncaughtError)
    assert (event.name, event.pipeline, event.script) == ("load_orders.py", None, "load_orders.py")


def test_what_code_raises_that_dlt_has_called_is_told_without_secrets(sink):
    @dlt.source
    def refused():
        raise PermissionError("refused pl4nted-token")

    @dlt.resource
    def broken():
        yield {"id": 1}
        raise KeyError("no such order")

    crash(refused)
    crash(lambda: list(broken()))
    first, second = sink.of(dltobs.UncaughtError)
    assert (first.failure.error_type, first.failure.message) == ("PermissionError", "refused ***")
    assert (second.failure.error_type, second.failure.resource) == ("KeyError", "broken")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_exception_in_a_thread_is_told_too(sink):
    thread = threading.Thread(target=shop)
    thread.start()
    thread.join()
    assert len(sink.of(dltobs.UncaughtError)) == 1


def test_what_has_nothing_to_do_with_dlt_is_not_told(sink):
    crash(lambda: {}["x"])
    crash(lambda: sys.exit("bye"))

    @dlt.source
    def interrupted():
        raise KeyboardInterrupt

    crash(interrupted)
    assert sink.events == []


def test_what_a_run_has_told_is_not_told_again(sink, pipeline):
    @dlt.resource
    def broken():
        yield {"id": 1}
        raise KeyError("no such order")

    def wrapped():
        try:
            pipeline().run(broken())
        except Exception as error:
            raise RuntimeError("the nightly load failed") from error

    def in_a_group():
        try:
            pipeline().run(broken())
        except Exception as error:
            group = getattr(builtins, "ExceptionGroup", None)
            raise ValueError("tasks") if group is None else group("tasks", [KeyError("x"), error]) from None

    crash(lambda: pipeline().run(broken()))
    crash(wrapped)
    crash(in_a_group)
    assert [run.outcome for run in sink.runs] == ["failed", "failed", "failed"]
    assert sink.of(dltobs.UncaughtError) == []


def test_an_exception_of_dlts_while_that_of_a_run_is_handled_is_told(sink, pipeline):
    """The run has told its own; this one says what went wrong in the attempt to do something about it."""

    @dlt.resource
    def broken():
        yield {"id": 1}
        raise KeyError("no such order")

    def fall_back():
        try:
            pipeline().run(broken())
        except Exception:
            shop()

    crash(fall_back)
    (event,) = sink.of(dltobs.UncaughtError)
    assert event.failure.error_type.endswith("ConfigFieldMissingException")
    assert len(sink.runs) == 1


def test_a_failed_run_that_was_caught_does_not_hide_a_later_exception(sink, pipeline):
    @dlt.resource
    def broken():
        yield {"id": 1}
        raise KeyError("no such order")

    with pytest.raises(Exception):  # noqa: B017 - whatever the pipeline raises
        pipeline().run(broken())
    crash(shop)
    assert len(sink.of(dltobs.UncaughtError)) == 1


def test_a_sink_that_fails_leaves_the_exception_printed(capfd):
    dltobs.configure(sinks=[FailingSink()])
    crash(shop)
    text = capfd.readouterr().err
    assert text.count("ConfigFieldMissingException: Missing 1 field(s)") == 1
    assert "[withheld]" not in text


def test_sentry_and_slack_are_told_before_the_process_ends(tmp_path, sentry, slack):
    """Within `flush_timeout`; the second process of the hour tells Sentry alone, which counts by itself."""
    script = MISSING + "pipeline().run(orders())"
    variables = {
        "SENTRY_DSN": sentry.dsn,
        "RUNTIME__SLACK_INCOMING_HOOK": slack.hook,
        "DLTOBS__FLUSH_TIMEOUT": "30",
        "DLTOBS__LOG_FILE": "dlt.jsonl",
        "DLTOBS__TAGS": "team=data",
    }
    for _ in range(2):
        done = run_script(script, tmp_path, **variables)
        assert done.returncode == 1
        assert done.stderr.count("ConfigFieldMissingException: Missing 1 field(s)") == 1
    first, second = sentry.events
    (exception,) = first["exception"]["values"]
    assert exception["type"] == "ConfigFieldMissingException"
    assert exception["value"].startswith(
        "Missing 1 field(s) in configuration `OrdersConfiguration`: `api_key`"
    )
    assert first["transaction"] == "shop"
    assert first["level"] == "error"
    assert first["tags"]["dlt.pipeline.name"] == "shop"
    assert first["tags"]["team"] == "data"
    assert any(frame["filename"] == "script.py" for frame in exception["stacktrace"]["frames"])
    assert first["fingerprint"] == second["fingerprint"]
    (post,) = slack.posts
    assert problem_of(post) is None
    assert post["text"].startswith("🔴 shop: ConfigFieldMissingException outside of a run\n")
    assert "(script.py:" in post["text"]
    assert "Worth a retry: no, the error is terminal" in post["text"]
    (line, _) = [json.loads(line) for line in (tmp_path / "dlt.jsonl").read_text().splitlines()]
    assert line["message"] == "Uncaught dlt.common.configuration.exceptions.ConfigFieldMissingException"
