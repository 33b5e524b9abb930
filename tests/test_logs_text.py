"""The text line is dlt's own, with the ids of the run and without secrets."""

from __future__ import annotations

import logging
import logging.handlers
import os
import pickle
import re
import sys
import threading
from contextlib import suppress

import dlt
import pytest

import dltobs
from conftest import SECRET
from dltobs import Redactor
from dltobs._context.current import RunContext, current_run
from dltobs.logs.records import CorrelationFilter, correlation_of, extra_of, redacted_copy
from dltobs.logs.text import TEXT_FORMAT, TerminalFormatter, TextFormatter
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


# on a terminal


class Terminal:
    """A pseudo terminal."""

    def __init__(self) -> None:
        self._ours, theirs = os.openpty()
        self.stream = os.fdopen(theirs, "w")
        self._read: list[bytes] = []
        self._thread = threading.Thread(target=self._drain)
        self._thread.start()

    def _drain(self) -> None:
        with suppress(OSError):  # nobody has the other end any more
            while data := os.read(self._ours, 65536):
                self._read.append(data)

    @property
    def text(self) -> str:
        """All that was written; it is closed."""
        if not self.stream.closed:
            self.stream.close()
            self._thread.join()
            os.close(self._ours)
        return b"".join(self._read).decode().replace("\r\n", "\n")


@pytest.fixture
def on_terminal(monkeypatch):
    """Make stderr a terminal; called in the test, as pytest has a stderr of its own for each phase."""
    made = []

    def swap(**variables: str) -> Terminal:
        made.append(Terminal())
        for name, value in {"TERM": "xterm", **variables}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "stderr", made[0].stream)
        return made[0]

    yield swap
    for terminal in made:
        _ = terminal.text


TIME = r"\d\d:\d\d:\d\d"


def run_and_fail(pipeline) -> None:
    @dlt.resource
    def orders():
        yield {"id": 1}
        raise ValueError(f"no such order for {SECRET}")

    dltobs.configure(log_level="INFO", dlt_log_level="WARNING")
    assert dlt.secrets["sources.api_key"] == SECRET
    with suppress(Exception):
        pipeline().run(orders())
    dlt.common.logger.warning("by the way")
    pipeline("other").run([{"id": 1}], table_name="orders")
    dltobs.shutdown()


def test_on_a_terminal_lines_are_for_people(on_terminal, pipeline):
    """Colour by level; the ids in the first and the last line of a run alone."""
    terminal = on_terminal(SOURCES__API_KEY=SECRET)
    run_and_fail(pipeline)
    assert SECRET not in terminal.text
    dim, cyan, end = "\x1b[2m", "\x1b[36m", "\x1b[0m"
    first, last, other, *_ = terminal.text.splitlines()
    trace_id = re.search(r"[0-9a-f]{32}", first).group()
    assert re.sub(TIME, "TIME", first) == (
        f"{dim}TIME{end} \x1b[32mINFO    {end} {cyan}shop{end}  Run of shop started  {dim}[trace {trace_id}]{end}"
    )
    assert re.sub(rf"{TIME}|\d+\.\d(?= s)", "N", last) == (
        f"{dim}N{end} \x1b[31mERROR   {end} {cyan}shop{end}  Run of shop failed in extract (resource orders) "
        f"after N s: ValueError: no such order for ***  {dim}[trace {trace_id}]{end}"
    )
    assert re.sub(TIME, "TIME", other) == f"{dim}TIME{end} \x1b[33mWARNING {end} {cyan}dlt{end}  by the way"
    plain = re.sub(r"\x1b\[[0-9;]*m", "", terminal.text)
    assert "|" not in plain
    steps = [line for line in plain.splitlines() if "other/" in line]
    assert [line.split()[2] for line in steps[:3]] == ["other/extract", "other/normalize", "other/load"]
    assert not any(re.search(r"[0-9a-f]{32}", line) for line in steps)
    assert len(re.findall(r"[0-9a-f]{32}", plain)) == 4


@pytest.mark.parametrize(
    ("variables", "has_color"),
    [
        ({}, True),
        ({"NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "0"}, True),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
    ],
)
def test_the_environment_says_whether_there_is_colour(variables, has_color, on_terminal):
    terminal = on_terminal(**variables)
    dltobs.configure()
    dlt.secrets.get("anything")
    dlt.common.logger.warning("by the way")
    assert ("\x1b[33m" in terminal.text) is has_color
    assert re.fullmatch(rf"{TIME} WARNING  dlt  by the way\n", re.sub(r"\x1b\[[0-9;]*m", "", terminal.text))


def test_where_colour_is_forced_a_pipe_is_a_terminal(capfd, monkeypatch):
    """As on platforms whose log viewers show it."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    dltobs.configure()
    dlt.secrets.get("anything")
    dlt.common.logger.warning("by the way")
    assert "\x1b[33mWARNING " in capfd.readouterr().err


@pytest.mark.parametrize(
    ("log_format", "console"),
    [("{levelname}:{message}", "auto"), ("JSON", "text"), ("JSON", "auto"), (None, "json")],
)
def test_a_format_that_somebody_has_chosen_counts_on_a_terminal(log_format, console, on_terminal):
    terminal = on_terminal(**({} if log_format is None else {"RUNTIME__LOG_FORMAT": log_format}))
    dltobs.configure(console=console)
    dlt.secrets.get("anything")
    dlt.common.logger.warning("by the way")
    if "{" in str(log_format):
        assert terminal.text == "WARNING:by the way\n"
    elif console == "text":
        assert terminal.text.endswith("dlt\x1b[0m  by the way\n")
    else:
        assert terminal.text.startswith('{"timestamp"')


def test_a_line_for_people_has_no_secret_and_no_lost_record(in_run):
    formatter = TerminalFormatter(redactor=Redactor([SECRET]), color=True)
    for record in (record_of(f"key {SECRET}", extra={SECRET: SECRET}), record_of("%d", "x")):
        line = formatter.format(record)
        assert SECRET not in line
        assert "shop/load" in line
    try:
        raise ValueError(SECRET)
    except ValueError:
        line = formatter.format(record_of("failed", exc_info=sys.exc_info()))
    assert line.count("\n") > 1
    assert line.endswith("ValueError: ***")
