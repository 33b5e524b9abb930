"""dltobs speaks of its own trouble once, without secrets, and never makes more of it."""

from __future__ import annotations

import logging

import pytest

from conftest import SECRET
from dltobs import Redactor
from dltobs._warnings import Warner
from test_logs_json import Exploding, Unprintable


@pytest.fixture
def warner():
    return Warner(Redactor([SECRET]))


def test_a_warning_is_given_once_for_a_reason(warner, caplog):
    for _ in range(3):
        warner.warn("otlp", "cannot be reached")
    warner.warn("sentry", "cannot be reached")
    warner.warn("otlp", "answers 503 at 12:00", reason="503")
    warner.warn("otlp", "answers 503 at 12:01", reason="503")
    assert [record.getMessage() for record in caplog.records] == [
        "cannot be reached", "cannot be reached", "answers 503 at 12:00",
    ]  # fmt: skip
    assert {(record.name, record.levelname) for record in caplog.records} == {("dltobs", "WARNING")}


def test_reasons_that_come_in_turns_are_told_once_each(warner, caplog):
    """As of a gRPC back end that is not there: UNAVAILABLE, DEADLINE_EXCEEDED, UNAVAILABLE."""
    for reason in ("refused", "timed out", "refused", "timed out"):
        warner.warn("otlp", reason)
    assert [record.getMessage() for record in caplog.records] == ["refused", "timed out"]


def test_reasons_that_differ_each_time_are_not_remembered_for_ever(warner, caplog):
    for number in [*range(150), 0]:
        warner.warn("otlp", f"request {number} failed")
    assert len(caplog.records) == 151
    assert len(warner._told["otlp"]) == 100


def test_a_warning_is_without_secrets(warner, caplog):
    warner.warn("otlp", f"refused by https://user:{SECRET}@host 100%")
    assert SECRET not in caplog.text
    assert caplog.records[0].getMessage().endswith("100%")


def test_a_warning_that_cannot_be_redacted_is_withheld(caplog):
    Warner(Exploding()).warn("otlp", f"refused {SECRET}")
    assert caplog.records[0].getMessage() == "[withheld]"


def test_an_internal_error_is_named_with_its_place_and_counted_once(warner, caplog):
    for number in range(3):
        try:
            _fail(f"{number} {SECRET}")
        except ValueError as error:
            warner.internal_error("logs", error)
    (record,) = caplog.records
    line = _fail.__code__.co_firstlineno + 1
    assert record.getMessage() == f"logs: ValueError: 0 *** at _fail:{line}; the pipeline is not affected"


def _fail(text: str) -> None:
    raise ValueError(text)


def test_an_error_that_cannot_print_itself_is_still_named(warner, caplog):
    class MuteError(Exception):
        __str__ = Unprintable.__str__

    warner.internal_error("logs", MuteError())
    assert (
        caplog.records[0].getMessage()
        == "logs: MuteError: <unprintable MuteError>; the pipeline is not affected"
    )


def test_a_handler_that_raises_does_not_make_a_warning_an_error(warner):
    seen = []

    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.getMessage())
            raise RuntimeError(record)

    handler = Raising()
    logging.getLogger("dltobs").addHandler(handler)
    warner.warn("otlp", "cannot be reached")
    logging.getLogger("dltobs").removeHandler(handler)
    assert seen == ["cannot be reached"]
