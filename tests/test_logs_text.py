"""The text line is dlt's own, with the ids of the run and without secrets."""

from __future__ import annotations

import logging
import logging.handlers
import pickle
import sys
import threading

import dlt
import pytest

import dltobs
from conftest import SECRET
from dltobs import Redactor
from dltobs._context.current import RunContext, current_run
from dltobs.logs.records import CorrelationFilter, correlation_of, extra_of, redacted_copy
from dltobs.logs.text import TEXT_FORMAT, TextFormatter
from test_logs_json import Bearer, Exploding, Unprintable, record_of

RUN = RunContext("shop", "load", "0123456789abcdef0123456789abcdef")


@pytest.fixture
def in_run():
    token = current_run.set(RUN)
    yield
    current_run.reset(token)


def text_of(record, fmt=TEXT_FORMAT, redactor=None):
    text = TextFormatter(redactor=redactor or Redactor([SECRET]), fmt=fmt).format(record)
    assert SECRET not in text
    return text


def test_a_line_is_dlts_own_followed_by_the_ids_of_the_run(in_run):
    text = text_of(record_of("loaded %s rows", 7))
    head, _, message = text.rpartition("|")
    assert message == f"loaded 7 rows [shop load {RUN.transaction_id}]"
    assert head.split("|")[1:] == [
        "[INFO]", str(record_of().process), str(threading.get_ident()), "dlt", "pipeline.py", "run:42",
    ]  # fmt: skip


def test_outside_of_a_run_the_line_is_dlts_own():
    assert text_of(record_of("loaded")).endswith("|run:42|loaded")


def test_a_format_that_names_an_id_gets_nothing_appended(in_run):
    assert text_of(record_of("loaded"), "{transaction_id} {message}") == f"{RUN.transaction_id} loaded"


def test_an_id_outside_of_a_run_is_a_dash():
    assert text_of(record_of("loaded"), "{pipeline} {span_id} {message}") == "- - loaded"


def test_metrics_of_dlt_are_appended_without_secrets():
    record = record_of("stats", extra={"metrics": {"rows": 7, "url": SECRET, "object": Bearer()}})
    expected = 'stats: {"rows":7,"url":"***","object":"<bearer of ***>"}'
    assert text_of(record).endswith(expected)


def test_a_secret_is_gone_from_message_exception_stack_thread_and_extra_fields():
    try:
        raise ValueError(SECRET)
    except ValueError:
        record = record_of(
            "%s", SECRET, exc_info=sys.exc_info(), sinfo=f"Stack {SECRET}", extra={"o": Bearer()}
        )
    record.threadName = SECRET
    text = text_of(record, "{threadName} {levelname} {o} {lineno:>5} {message}")
    assert text.startswith("*** INFO <bearer of ***>    42 ***\nTraceback")
    assert text.endswith("ValueError: ***\nStack ***")


def test_ids_and_levels_survive_secrets_that_look_like_them(in_run):
    text = text_of(
        record_of("duckdb WARNING"), redactor=Redactor(["shop load", "[INFO]", "WARNING", "duckdb"])
    )
    assert "|[INFO]|" in text
    assert text.endswith(f"|*** *** [shop load {RUN.transaction_id}]")


def test_a_record_whose_redaction_fails_appears_withheld(in_run):
    try:
        raise ValueError(SECRET)
    except ValueError:
        record = record_of(SECRET, exc_info=sys.exc_info(), sinfo=SECRET, extra={"rows": 5, "o": SECRET})
    record.threadName = record.funcName = SECRET
    text = text_of(record, redactor=Exploding())
    assert f"|[withheld]:42|[withheld] [shop load {RUN.transaction_id}]\n[withheld]\n[withheld]" in text
    assert "|[INFO]|" in text
    fits_no_text = text_of(record, "{rows:>5d} {threadName} {message}", Exploding())
    assert fits_no_text.endswith("[withheld]")


@pytest.mark.parametrize("fmt", ["{no_such_field} {message}", "{message:d}"])
def test_a_format_that_does_not_fit_a_record_does_not_lose_it(fmt):
    assert text_of(record_of("loaded %s", SECRET), fmt).endswith("|run:42|loaded ***")


def test_wrong_arguments_and_objects_without_text_do_not_lose_a_record():
    assert text_of(record_of("%d rows", "many")).endswith("%d rows ['many']")
    assert text_of(record_of(Unprintable())).endswith("<unprintable Unprintable>")
    assert text_of(record_of("x", exc_info=(None, None, None))).endswith("|x")


def test_the_record_is_left_as_it_was():
    record = record_of("%s", SECRET, extra={"metrics": {"a": SECRET}})
    before = dict(vars(record))
    text_of(record)
    assert vars(record) == before


def test_an_extra_field_whose_name_is_a_secret_leaves_nothing_behind_in_the_copy():
    record = record_of("x", extra={SECRET: SECRET, "rows": 5, "when": [Bearer()]})
    clean = redacted_copy(record, Redactor([SECRET]))
    assert dict(extra_of(clean)) == {"***": "***", "rows": 5, "when": ["<bearer of ***>"]}
    assert SECRET not in str(vars(clean))


def test_a_copy_keeps_the_ids_also_beside_extra_fields_of_their_names(in_run):
    record = record_of("x", extra={"pipeline": "mine"})
    clean = redacted_copy(record, Redactor())
    assert correlation_of(clean) == correlation_of(record)
    assert extra_of(clean) == extra_of(record) == {"pipeline": "mine"}
    assert clean.__dict__["pipeline"] == "mine"
    assert clean.__dict__["step"] == "load"


def test_a_record_can_be_pickled_for_a_process_that_does_not_know_us(in_run):
    handler = logging.handlers.SocketHandler("localhost", None)
    pickled = handler.makePickle(record_of("x"))
    assert b"dltobs._" not in pickled
    received = logging.makeLogRecord(pickle.loads(pickled[4:]))
    assert correlation_of(received) == correlation_of(record_of())
    assert dict(extra_of(received)) == {}


def test_a_filter_marks_a_record_once(in_run):
    record = record_of()
    token = current_run.set(RunContext("other", "run", "f" * 32))
    CorrelationFilter().filter(record)
    current_run.reset(token)
    assert record.__dict__["pipeline"] == "shop"


@pytest.mark.parametrize("method", ["info", "warning", "error", "exception", "critical"])
def test_file_line_and_function_are_those_of_the_code_that_called_dlts_logger(method, pipeline, capfd):
    from dlt.common import logger

    dltobs.configure(log_level="INFO")
    seen = _Collector()
    logging.getLogger("dlt").addHandler(seen)
    try:
        raise ValueError
    except ValueError:
        getattr(logger, method)("here")
    line = sys._getframe().f_lineno - 1
    (record,) = seen.records
    assert (record.filename, record.lineno) == ("test_logs_text.py", line)
    assert record.funcName == "test_file_line_and_function_are_those_of_the_code_that_called_dlts_logger"
    assert record.pathname == __file__
    assert f"|test_logs_text.py|{record.funcName}:{line}|here" in capfd.readouterr().err


def test_dlts_own_helpers_do_not_name_themselves():
    from dlt.common import logger

    dltobs.configure(log_level="INFO")
    seen = _Collector()
    logging.getLogger("dlt").addHandler(seen)
    logger.metrics("stats", {"metrics": {}})
    with logger.suppress_and_warn("ignored"):
        raise ValueError
    assert {record.funcName for record in seen.records} == {"test_dlts_own_helpers_do_not_name_themselves"}


def test_a_record_that_did_not_come_through_dlts_functions_keeps_its_origin():
    dltobs.configure()
    dlt.current.pipeline  # noqa: B018 - dlt's logger is there
    seen = _Collector()
    logger = logging.getLogger("dlt")
    logger.addHandler(seen)
    try:
        raise ValueError
    except ValueError:
        _log_for_the_caller(logger)
    assert (
        seen.records[0].funcName == "test_a_record_that_did_not_come_through_dlts_functions_keeps_its_origin"
    )


def _log_for_the_caller(logger: logging.Logger) -> None:
    logger.warning("x", exc_info=sys.exc_info(), stacklevel=2)


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
