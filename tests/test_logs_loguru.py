"""dlt's records in loguru: from where they were logged, with their ids, and without secrets."""

from __future__ import annotations

import io
import json
import logging
import logging.config
import sys
import threading

import dlt
import pytest
from dlt.common import logger as dlt_logger
from loguru import logger as loguru_logger

import dltobs
from conftest import SECRET
from dltobs import InterceptHandler, Redactor
from dltobs._context.current import RunContext, current_run
from dltobs._warnings import Warner
from test_logs_json import Bearer, Exploding, record_of

RUN = RunContext("shop", "load", "0123456789abcdef0123456789abcdef")


@pytest.fixture
def sink():
    """All that a sink with loguru's most talkative options gets: text, then each record."""
    loguru_logger.remove()
    loguru_logger.configure(extra={}, patcher=lambda _: None)
    sink = Sink()
    yield sink
    loguru_logger.remove()


class Sink:
    def __init__(self) -> None:
        self.text = io.StringIO()
        self.serialized = io.StringIO()
        self.records: list = []
        loguru_logger.add(
            self.text,
            level=0,
            diagnose=True,
            backtrace=True,
            colorize=False,
            format="{level}|{name}:{function}:{line}|{extra}|{message}",
        )
        loguru_logger.add(self.serialized, level=0, serialize=True, diagnose=True, backtrace=True)
        loguru_logger.add(
            lambda message: self.records.append(message.record), level=0, format="{message}", diagnose=True
        )

    @property
    def everything(self) -> str:
        return self.text.getvalue() + self.serialized.getvalue() + repr(self.records)

    @property
    def json(self) -> list:
        return [json.loads(line)["record"] for line in self.serialized.getvalue().splitlines()]


def handle(record, redactor=None, warner=None):
    InterceptHandler(redactor=redactor or Redactor([SECRET]), warner=warner).handle(record)


def test_the_record_speaks_of_the_code_that_logged(sink):
    token = current_run.set(RUN)
    record = record_of("loaded %s", SECRET, extra={"rows": 7, "object": Bearer()})
    current_run.reset(token)
    record.created = 1795296100.609114
    record.threadName, record.thread = "worker", 99
    handle(record)
    (seen,) = sink.records
    assert (seen["name"], seen["function"], seen["line"], seen["module"]) == ("dlt", "run", 42, "pipeline")
    assert (seen["file"].name, seen["file"].path) == ("pipeline.py", "/dlt/pipeline/pipeline.py")
    assert (seen["thread"].id, seen["thread"].name) == (99, "worker")
    assert (seen["process"].id, seen["process"].name) == (record.process, "MainProcess")
    assert seen["time"].timestamp() == pytest.approx(record.created, abs=2e-6)
    assert (seen["level"].name, seen["level"].no) == ("INFO", 20)
    assert seen["message"] == "loaded ***"
    assert seen["exception"] is None
    assert seen["extra"] == {
        "rows": 7, "object": "<bearer of ***>", "pipeline": "shop", "step": "load",
        "transaction_id": RUN.transaction_id, "trace_id": RUN.transaction_id,
    }  # fmt: skip
    assert SECRET not in sink.everything


def test_neither_message_nor_locals_of_an_exception_reach_a_talkative_sink(sink):
    def inner(password):
        local = {"deep": [password]}
        raise ValueError(f"refused {password}") from KeyError(local["deep"][0])

    try:
        inner(SECRET)
    except ValueError:
        handle(record_of("failed", exc_info=sys.exc_info(), sinfo=f"Stack {SECRET}"))
    assert SECRET not in sink.everything
    assert "password)" not in sink.text.getvalue().replace("inner(password)", "")
    (seen,) = sink.records
    assert seen["message"].startswith("failed\n")
    assert "Traceback (most recent call last):" in seen["message"]
    assert "ValueError: refused ***" in seen["message"]
    assert seen["message"].endswith("Stack ***")
    assert seen["exception"].type.__name__ == "ValueError"
    assert str(seen["exception"].value) == "refused ***"
    assert seen["exception"].traceback is None
    assert sink.json[0]["exception"] == {"type": "ValueError", "value": "refused ***", "traceback": False}


@pytest.mark.parametrize(
    "text", ["{", "{}", "{0} {secret} {{", "<red>x</red> </>", "%s %d", "<bold", "a\n{b}\\"]
)
def test_braces_tags_and_percent_signs_are_ordinary_text(text, sink):
    handle(record_of(text, extra={"field": text, text: 1}))
    (seen,) = sink.records
    assert seen["message"] == text
    assert seen["extra"]["field"] == text
    assert sink.json[0]["message"] == text


def test_secrets_with_quotes_and_newlines_leave_the_serialized_record_well_formed(sink):
    secret = "a\"b\\c\nd'{e}<f>"
    handle(record_of("x %s", secret, extra={"a": [secret], "nan": float("nan")}), Redactor([secret]))
    assert sink.json[0]["message"] == "x ***"
    assert sink.json[0]["extra"] == {"a": ["***"], "nan": None}


def test_levels_keep_their_name_and_number(sink):
    logging.addLevelName(25, "NOTICE")
    for level in (logging.DEBUG, 25, logging.CRITICAL, 7):
        handle(record_of("x", level=level))
    assert [(seen["level"].name, seen["level"].no) for seen in sink.records] == [
        ("DEBUG", 10), ("NOTICE", 25), ("CRITICAL", 50), ("Level 7", 7),
    ]  # fmt: skip
    assert "NOTICE|dlt:run:42|" in sink.text.getvalue()


def test_extra_fields_of_any_name_and_value_arrive(sink):
    loop: dict = {}
    loop["self"] = loop
    token = current_run.set(RUN)
    handle(record_of("x", extra={1: "one", "self": "s", "pipeline": "mine", "loop": loop, "level": "l"}))
    current_run.reset(token)
    extra = sink.records[0]["extra"]
    assert (extra["1"], extra["self"], extra["level"], extra["loop"]) == ("one", "s", "l", {"self": "<dict>"})
    assert (extra["pipeline"], extra["extra.pipeline"]) == ("shop", "mine")


def test_a_record_whose_redaction_fails_appears_withheld(sink):
    try:
        raise ValueError(SECRET)
    except ValueError:
        handle(record_of(SECRET, exc_info=sys.exc_info(), extra={"a": SECRET}), Exploding())
    (seen,) = sink.records
    assert seen["message"] == "[withheld]\n[withheld]"
    assert seen["extra"] == {"a": "[withheld]"}
    assert (seen["level"].name, seen["line"]) == ("INFO", 42)
    assert SECRET not in sink.everything


def test_a_sink_that_is_fed_through_a_queue_gets_the_exception(sink):
    got = []
    number = loguru_logger.add(lambda message: got.append(message.record), enqueue=True, catch=False)

    class RefusedError(Exception):
        pass

    try:
        raise RefusedError(SECRET)
    except RefusedError:
        handle(record_of("failed", exc_info=sys.exc_info()))
    loguru_logger.complete()
    loguru_logger.remove(number)
    (seen,) = got
    assert seen["exception"].type.__name__ == "RefusedError"
    assert str(seen["exception"].value) == "***"


def test_an_error_of_a_sink_is_one_warning_without_secrets(sink, caplog, capfd):
    def refuse(message):
        raise OSError(f"disk full at {SECRET}")

    loguru_logger.add(refuse, catch=False)
    warner = Warner(Redactor([SECRET]))
    for _ in range(3):
        handle(record_of(SECRET), warner=warner)
    (record,) = [record for record in caplog.records if record.name == "dltobs"]
    assert record.getMessage().startswith("loguru: OSError: disk full at ***")
    assert SECRET not in capfd.readouterr().err


def test_a_sink_that_logs_back_does_not_loop(sink, caplog):
    logger = logging.getLogger("dlt")
    logger.propagate = False
    handler = InterceptHandler()
    logger.addHandler(handler)
    loguru_logger.add(lambda message: logging.getLogger(message.record["name"]).error("again"), catch=False)
    logger.error("once")
    logger.removeHandler(handler)
    assert "loguru: RuntimeError" in caplog.text


def test_loguru_takes_the_console_over(sink, pipeline, capfd, monkeypatch):
    monkeypatch.setenv("API_KEY", SECRET)
    dltobs.configure(loguru=True, log_level="INFO")
    assert dlt.secrets["api_key"] == SECRET
    pipeline().run([{"id": 1}], table_name="orders")
    dlt_logger.warning("it is %s", SECRET)
    line = sys._getframe().f_lineno - 1
    assert capfd.readouterr().err == ""
    seen = sink.records[-1]
    assert seen["message"] == "it is ***"
    assert (seen["file"].name, seen["line"], seen["function"]) == (
        "test_logs_loguru.py",
        line,
        sys._getframe().f_code.co_name,
    )
    during = [record for record in sink.records if "transaction_id" in record["extra"]]
    assert {record["extra"]["pipeline"] for record in during} == {"shop"}
    assert all(record["file"].name != "loguru.py" for record in sink.records)


def test_loguru_beside_an_explicit_console_prints_both(sink, pipeline, capfd):
    dltobs.configure(loguru=True, console="json")
    pipeline()
    dlt_logger.warning("both")
    assert json.loads(capfd.readouterr().err)["message"] == "both"
    assert sink.records[-1]["message"] == "both"


def test_a_dict_config_may_name_the_handler(sink):
    logging.config.dictConfig({
        "version": 1, "disable_existing_loggers": False,
        "handlers": {"loguru": {"class": "dltobs.InterceptHandler", "level": "INFO"}},
        "loggers": {"app.loguru": {"handlers": ["loguru"], "level": "DEBUG", "propagate": False}},
    })  # fmt: skip
    logger = logging.getLogger("app.loguru")
    logger.debug("below")
    logger.info("password=hunter22")
    logger.handlers.clear()
    assert [record["message"] for record in sink.records] == ["password=***"]
    assert sink.records[0]["file"].name == "test_logs_loguru.py"


def test_a_record_of_another_thread_keeps_its_thread(sink):
    handler = InterceptHandler(redactor=Redactor())
    record = record_of()
    thread = threading.Thread(target=handler.handle, args=(record,), name="elsewhere")
    thread.start()
    thread.join()
    assert sink.records[0]["thread"].name == "MainThread"
