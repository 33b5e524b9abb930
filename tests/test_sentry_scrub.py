"""`dltobs.before_send` gives the application's own Sentry client the redactor of dltobs."""

from __future__ import annotations

import sys

import dlt
import pytest
import sentry_sdk

import dltobs
from conftest import SECRET
from dltobs import Redactor
from scripts import run_script

TOKEN = "ghp_" + "Ab1" * 12
"""Looks like a token of GitHub's."""


def test_an_event_is_redacted_with_what_dlt_has_resolved(monkeypatch):
    monkeypatch.setenv("API_KEY", SECRET)
    dltobs.configure()
    _ = dlt.secrets["api_key"]
    event = {
        "event_id": "0" * 32,
        "level": "error",
        "message": f"401 for {SECRET}",
        "extra": {"rows": 3, "note": [f"key {SECRET}"]},
        "request": {"headers": {"Authorization": "Bearer anything-at-all"}, "url": f"https://x/?q={SECRET}"},
        "exception": {
            "values": [
                {
                    "type": "ValueError",
                    "value": SECRET,
                    "stacktrace": {"frames": [{"lineno": 3, "vars": {"password": "'whatever'", "n": "3"}}]},
                }
            ]
        },
    }
    clean = dltobs.before_send(event, {})
    assert SECRET not in repr(clean)
    assert "anything-at-all" not in repr(clean)
    assert "whatever" not in repr(clean)
    assert clean["event_id"] == "0" * 32
    assert clean["extra"] == {"rows": 3, "note": ["key ***"]}
    frame = clean["exception"]["values"][0]["stacktrace"]["frames"][0]
    assert frame == {"lineno": 3, "vars": {"password": "***", "n": "3"}}


def test_before_configure_names_and_patterns_are_known():
    clean = dltobs.before_send({"message": f"token {TOKEN}", "extra": {"password": "hunter2"}}, None)
    assert clean == {"message": "token ***", "extra": {"password": "***"}}


def test_after_shutdown_what_was_known_stays_known(monkeypatch):
    """The application may still send."""
    monkeypatch.setenv("API_KEY", SECRET)
    dltobs.configure()
    _ = dlt.secrets["api_key"]
    dltobs.shutdown()
    assert dltobs.before_send({"message": f"401 for {SECRET}"}) == {"message": "401 for ***"}


def test_ids_times_levels_and_types_stay_whatever_is_secret(monkeypatch):
    """A secret may look like one of them."""
    words = ("0123456789abcdef", "warning", "production", "ValueError", "transaction", "2026-11-21T21:00:00Z")
    for number, word in enumerate(words):
        monkeypatch.setenv(f"API_KEY_{number}", word)
    dltobs.configure()
    for number in range(len(words)):
        _ = dlt.secrets[f"api_key_{number}"]
    event = {
        "event_id": "0123456789abcdef" * 2,
        "timestamp": "2026-11-21T21:00:00Z",
        "type": "transaction",
        "level": "warning",
        "environment": "production",
        "contexts": {"trace": {"trace_id": "0123456789abcdef" * 2, "span_id": "0123456789abcdef"}},
        "spans": [{"span_id": "0123456789abcdef", "description": "GET production"}],
        "exception": {"values": [{"type": "ValueError", "value": "ValueError"}]},
        "breadcrumbs": [{"level": "warning", "message": "warning"}],
    }
    clean = dltobs.before_send(event)
    assert clean["spans"] == [{"span_id": "0123456789abcdef", "description": "GET ***"}]
    assert clean["exception"]["values"] == [{"type": "ValueError", "value": "***"}]
    assert clean["breadcrumbs"] == [{"level": "warning", "message": "***"}]
    same = ("event_id", "timestamp", "type", "level", "environment", "contexts")
    assert {name: clean[name] for name in same} == {name: event[name] for name in same}


def test_the_arguments_of_the_command_line_are_withheld():
    event = {"extra": {"sys.argv": ["load.py", "--password", "hunter2"], "rows": 3}}
    clean = dltobs.before_send(event, {})
    assert clean == {"extra": {"sys.argv": ["load.py", "[withheld]"], "rows": 3}}
    assert event["extra"]["sys.argv"][2] == "hunter2"


def test_what_cannot_be_redacted_is_withheld(monkeypatch):
    def fails(self, *args):
        raise RuntimeError("broken redactor")

    monkeypatch.setattr(Redactor, "redact", fails)
    circle = {}
    circle["self"] = circle
    event = {"event_id": "0" * 32, "level": "error", "message": SECRET, "extra": {"n": 3, "o": object()}}
    clean = dltobs.before_send({**event, "circle": circle, "list": [SECRET, b"x", None, True]}, {})
    assert (clean["event_id"], clean["level"]) == ("0" * 32, "error")
    assert clean["message"] == "[withheld]"
    assert clean["extra"] == {"n": 3, "o": "[withheld]"}
    assert clean["list"] == ["[withheld]", "[withheld]", None, True]
    assert SECRET not in repr(clean)


@pytest.mark.parametrize(
    "event", [None, {}, "text", {"exception": None, "tags": [["a", "b"]], "contexts": 3}]
)
def test_an_event_of_any_shape_is_taken(event):
    assert dltobs.before_send(event, {}) == event


def test_it_does_not_import_sentry(tmp_path):
    result = run_script(
        """
        import dltobs
        dltobs.before_send({"message": "x"}, {})
        assert "sentry_sdk" not in sys.modules
        """,
        tmp_path,
        prelude="import sys\n",
    )
    assert result.returncode == 0, result.stderr


def test_events_and_transactions_of_a_real_client_pass_it(monkeypatch, sentry, pipeline):
    """Together with dltobs, whose own client is another one."""
    monkeypatch.setenv("API_KEY", SECRET)
    monkeypatch.setattr(sys, "argv", ["load.py", "--token", SECRET])
    dltobs.configure()
    names = ("before_send", "before_send_transaction", "before_send_log")
    hooks = dict.fromkeys(names, dltobs.before_send)
    sentry_sdk.init(dsn=sentry.dsn, traces_sample_rate=1.0, enable_logs=True, **hooks)
    try:

        @dlt.resource
        def broken():
            yield {"id": 1}
            raise ValueError(f"401 for {dlt.secrets['api_key']}")

        with sentry_sdk.start_transaction(name="load", op="task") as transaction:
            with sentry_sdk.start_span(op="http", name=f"GET /?q={SECRET}"):
                pass
            trace_id = transaction.trace_id
            try:
                pipeline().run(broken())
            except Exception as error:
                sentry_sdk.logger.warning(f"with {SECRET}")
                sentry_sdk.capture_exception(error)
        sentry_sdk.flush(5)
    finally:
        sentry_sdk.get_client().close()
        sentry_sdk.get_global_scope().set_client(None)
    (event,) = sentry.events
    assert event["exception"]["values"][-1]["type"] == "PipelineStepFailed"
    assert "401 for ***" in event["exception"]["values"][-1]["value"]
    (made,) = [payload for header, payload in sentry.items if header["type"] == "transaction"]
    assert made["contexts"]["trace"]["trace_id"] == trace_id
    assert made["spans"][0]["description"] == "GET /?q=***"
    (logs,) = [payload for header, payload in sentry.items if header["type"] == "log"]
    assert "with ***" in [item["body"] for item in logs["items"]]
    assert SECRET.encode() not in sentry.raw
