"""Handlers on dlt's logger: whatever its name, in every order, and nobody else's things are touched."""

from __future__ import annotations

import json
import logging
import logging.config
import os
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest
from dlt.common import logger as dlt_logger
from dlt.common.runtime.run_context import switch_context

import dltobs
from conftest import SECRET
from dltobs import ConfigurationError
from dltobs.logs import attach
from dltobs.logs.handlers import ConsoleHandler
from scripts import run_python

if TYPE_CHECKING:
    import subprocess

PRELUDE = f"""
import json, logging, os, sys
os.environ.setdefault("RUNTIME__DLTHUB_TELEMETRY", "false")
import dlt, dltobs
SECRET = {SECRET!r}
os.environ["API_KEY"] = SECRET
def own(): return [type(h).__name__ for h in logging.getLogger("dlt").handlers]
def learn(): assert dlt.secrets["api_key"] == SECRET
class Theirs(logging.Formatter): pass
def put(name, stream):
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Theirs("%(name)s theirs %(message)s"))
    logging.getLogger(name).addHandler(handler)
    return handler
def pipeline(): return dlt.pipeline("shop", destination="dummy", pipelines_dir="pipelines")
"""


def run(script: str, tmp_path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process of its own; the lines of its stderr are the console."""
    env = {**os.environ, "DLT_DATA_DIR": str(tmp_path / "dlt"), **environment}
    done = run_python(["-c", PRELUDE + textwrap.dedent(script)], tmp_path, env)
    assert SECRET not in done.stderr
    return done


def theirs(name: str = "dlt"):
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("theirs %(message)s"))
    logging.getLogger(name).addHandler(handler)
    return handler, handler.formatter


ORDERS = {
    "configure, pipeline": "dltobs.configure(); pipeline()",
    "pipeline, configure": "pipeline(); dltobs.configure()",
    "secrets, configure, pipeline": "learn(); dltobs.configure(); pipeline()",
    "configure twice": "dltobs.configure(); dltobs.configure(console='off'); dltobs.configure(); pipeline()",
    "configure, shutdown, configure": "dltobs.configure(); pipeline(); dltobs.shutdown(); dltobs.configure()",
    "pipelines around": "pipeline(); dltobs.configure(); pipeline(); pipeline()",
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("log_format", ["", "JSON"])
def test_every_order_of_configure_and_pipeline_gives_the_same_console(order, log_format, tmp_path):
    done = run(
        f"""
        {ORDERS[order]}
        learn()
        print(own(), logging.getLogger("dlt").level)
        from dlt.common import logger
        logger.warning("it is %s", SECRET)
        dltobs.shutdown()
        print(own(), type(logging.getLogger("dlt").handlers[0].formatter).__name__)
        """,
        tmp_path,
        **({"RUNTIME__LOG_FORMAT": log_format} if log_format else {}),
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    if log_format:
        assert json.loads(line)["message"] == "it is ***"
    else:
        assert line.endswith("|it is ***")
    formatter = "_CustomJsonFormatter" if log_format else "_MetricsFormatter"
    assert done.stdout.splitlines() == [
        f"['ConsoleHandler'] {logging.WARNING}",
        f"['StreamHandler'] {formatter}",
    ]


@pytest.mark.parametrize("log_format", ["", "JSON"])
@pytest.mark.parametrize("order", [
    "h = put('dlt', sys.stdout); dltobs.configure(); pipeline()",
    "dltobs.configure(); h = put('dlt', sys.stdout); pipeline()",
    "dltobs.configure(); pipeline(); h = put('dlt', sys.stdout)",
    "pipeline(); h = put('dlt', sys.stdout); dltobs.configure()",
    "pipeline(); dltobs.configure(); h = put('dlt', sys.stdout)",
    "h = put('dlt', sys.stderr); dltobs.configure(); pipeline(); h.setStream(sys.stdout)",
])  # fmt: skip
def test_a_handler_of_the_application_on_dlts_logger_keeps_its_formatter(order, log_format, tmp_path):
    done = run(
        f"""
        if {order.startswith("pipeline")}: pipeline()  # what dlt has done before is done
        other = put("unrelated.library", sys.stdout)
        bare = logging.StreamHandler(sys.stdout)
        logging.getLogger("bare.library").addHandler(bare)
        before = vars(logging)["_defaultFormatter"]
        {order}
        before_of = h.formatter, other.formatter
        from dlt.common.runtime.run_context import switch_context
        switch_context(".")
        logging.getLogger("dlt").warning("hello")
        logging.getLogger("unrelated.library").warning("hello")
        logging.getLogger("bare.library").warning("hello")
        assert "ConsoleHandler" in own(), own()
        dltobs.shutdown()
        assert (h.formatter, other.formatter) == before_of
        assert type(h.formatter) is type(other.formatter) is Theirs
        assert h in logging.getLogger("dlt").handlers
        assert bare.formatter is None
        assert vars(logging)["_defaultFormatter"] is before
        """,
        tmp_path,
        **({"RUNTIME__LOG_FORMAT": log_format} if log_format else {}),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["dlt theirs hello", "unrelated.library theirs hello"]


def test_a_level_that_the_application_set_before_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNTIME__LOG_LEVEL", "ERROR")
    logger = logging.getLogger("dlt")
    logger.setLevel(logging.DEBUG)
    dltobs.configure()
    assert logger.level == logging.DEBUG
    switch_context(str(tmp_path))
    assert logger.level == logging.DEBUG
    dltobs.shutdown()
    assert logger.level == logging.DEBUG


def test_a_level_that_the_application_sets_afterwards_stays(tmp_path):
    dltobs.configure(log_level="INFO")
    logger = logging.getLogger("dlt")
    logger.setLevel(logging.DEBUG)
    switch_context(str(tmp_path))
    assert logger.level == logging.DEBUG
    dltobs.shutdown()
    assert logger.level == logging.DEBUG


@pytest.mark.parametrize("first", ["pipeline", "configure"])
def test_our_own_log_level_wins_until_shutdown(first, tmp_path, monkeypatch, pipeline):
    monkeypatch.setenv("RUNTIME__LOG_LEVEL", "ERROR")
    logger = logging.getLogger("dlt")
    logger.setLevel(logging.DEBUG)
    if first == "pipeline":
        pipeline()
    dltobs.configure(log_level="INFO")
    assert logger.level == logging.INFO
    switch_context(str(tmp_path))
    assert logger.level == logging.INFO
    dltobs.configure(log_level="WARNING")
    assert logger.level == logging.WARNING
    dltobs.shutdown()
    assert logger.level == (logging.ERROR if first == "pipeline" else logging.DEBUG)


def test_without_a_level_of_ours_dlts_own_counts(monkeypatch, tmp_path, pipeline):
    monkeypatch.setenv("RUNTIME__LOG_LEVEL", "INFO")
    pipeline()
    dltobs.configure()
    logger = logging.getLogger("dlt")
    assert logger.level == logging.INFO
    monkeypatch.setenv("RUNTIME__LOG_LEVEL", "ERROR")
    switch_context(str(tmp_path))
    assert logger.level == logging.ERROR


def test_critical_silences_dlt(pipeline, capfd):
    dltobs.configure(log_level="CRITICAL")
    pipeline()
    dlt_logger.error("not to be seen")
    assert "not to be seen" not in capfd.readouterr().err


def test_off_prints_nothing_not_even_by_the_last_resort(pipeline, capfd):
    dltobs.configure(console="off")
    pipeline()
    dlt_logger.error("not to be seen")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("console", "log_format", "is_json"), [
    ("auto", "JSON", True), ("auto", None, False), ("json", None, True), ("text", "JSON", False),
])  # fmt: skip
def test_the_console_setting_decides_over_the_format(console, log_format, is_json, monkeypatch, capfd):
    if log_format:
        monkeypatch.setenv("RUNTIME__LOG_FORMAT", log_format)
    dltobs.configure(console=console)
    dlt_logger.error("seen")
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("{") == is_json
    assert line.endswith("|seen") != is_json


def test_dlts_own_format_string_is_ours_too(monkeypatch, pipeline, capfd):
    monkeypatch.setenv("RUNTIME__LOG_FORMAT", "{levelname} :: {message}")
    dltobs.configure()
    pipeline()
    dlt_logger.error("seen")
    assert capfd.readouterr().err == "ERROR :: seen\n"


def test_every_record_of_a_run_bears_its_ids_and_none_after_it(tmp_path, pipeline):
    dltobs.configure(log_file=tmp_path / "a.jsonl", log_level="INFO", console="off")
    made = pipeline()
    info = made.run([{"id": 1}], table_name="orders")
    dlt_logger.warning("after")
    dltobs.shutdown()
    *during, after = map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines())
    in_run = [line for line in during if "transaction_id" in line]
    assert {line["pipeline"] for line in in_run} == {"shop"}
    assert {line["step"] for line in in_run} >= {"normalize", "load"}
    assert {line["transaction_id"] for line in in_run} == {made.last_trace.transaction_id}
    assert info.loads_ids
    assert after["message"] == "after"
    assert "transaction_id" not in after


def test_a_logger_named_after_a_workspace_is_followed(pipeline, capfd):
    dltobs.configure(console="json")
    logger = dlt_logger._create_logger("my_workspace", "INFO", "{message}", "dlt", {})
    dlt_logger.LOGGER = logger
    dlt_logger.info("seen")
    assert json.loads(capfd.readouterr().err)["logger"] == "my_workspace"
    assert [type(handler) for handler in logging.getLogger("dlt").handlers] == [logging.StreamHandler]
    dltobs.shutdown()
    assert [type(handler) for handler in logger.handlers] == [logging.StreamHandler]
    logger.handlers.clear()


def test_the_root_logger_may_be_dlts(tmp_path):
    done = run(
        """
        from dlt.common import logger
        dltobs.configure(console="json")
        logger.LOGGER = logger._create_logger("root", "INFO", "JSON", "dlt", {})
        logger.info("one")
        logging.getLogger("unrelated").warning("two")
        logging.getLogger("dltobs").warning("three")
        dltobs.shutdown()
        root = logging.getLogger()
        print([type(h).__name__ for h in root.handlers], root.filters)
        """,
        tmp_path,
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["message"] for line in lines] == ["one", "two", "three"]
    assert done.stdout.strip() == "['StreamHandler'] []"


def test_a_logger_put_in_the_place_of_dlts_is_picked_up_when_a_run_starts(pipeline, tmp_path):
    dltobs.configure(log_file=tmp_path / "a.jsonl", console="off", log_level="INFO")
    made = pipeline()
    task = logging.getLogger("airflow.task.test")
    handler, formatter = theirs("airflow.task.test")
    task.setLevel(logging.ERROR)
    dlt_logger.LOGGER = task
    made.run([{"id": 1}], table_name="orders")
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    mine = [line for line in lines if line["logger"] == "airflow.task.test"]
    assert mine
    assert all(line["pipeline"] == "shop" for line in mine)
    assert task.level == logging.INFO
    dltobs.shutdown()
    assert (task.handlers, handler.formatter, task.filters, task.level) == (
        [handler],
        formatter,
        [],
        logging.ERROR,
    )
    task.handlers.clear()


def test_a_dict_config_that_takes_our_handlers_away_holds_until_the_next_run(pipeline, capfd):
    dltobs.configure(console="json", log_level="INFO")
    logging.config.dictConfig({
        "version": 1, "disable_existing_loggers": False,
        "handlers": {"theirs": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout"}},
        "loggers": {"dlt": {"handlers": ["theirs"], "level": "WARNING", "propagate": False}},
    })  # fmt: skip
    assert len(logging.getLogger("dlt").handlers) == 1
    pipeline().run([{"id": 1}], table_name="orders")
    dlt_logger.warning("both")
    captured = capfd.readouterr()
    assert json.loads(captured.err.splitlines()[-1])["message"] == "both"
    assert captured.out.splitlines()[-1] == "both"
    assert logging.getLogger("dlt").level == logging.WARNING


def test_a_stderr_that_leads_back_to_the_logger_does_not_loop(pipeline, monkeypatch):
    class StreamLogWriter:
        """Airflow's stderr in a task, in short."""

        encoding = None

        def write(self, text: str) -> None:
            written.append(text)
            task.warning(text.rstrip())

        def flush(self) -> None:
            pass

    written: list[str] = []
    task = logging.getLogger("airflow.loop.test")
    task.propagate = False
    dltobs.configure(console="text")
    dlt_logger.LOGGER = task
    pipeline().run([{"id": 1}], table_name="orders")
    monkeypatch.setattr(sys, "stderr", StreamLogWriter())
    task.error("first")
    task.error("second")
    assert [line.rpartition("|")[2].strip() for line in written] == ["first"]
    monkeypatch.undo()


def test_shutdown_gives_dlts_own_handler_back_in_its_place(pipeline, tmp_path):
    pipeline()
    logger = logging.getLogger("dlt")
    (own,) = logger.handlers
    second, _ = theirs()
    before = own.formatter, logger.level, logger.propagate
    dltobs.configure(log_level="DEBUG", log_file=tmp_path / "x.log")
    assert own not in logger.handlers
    dltobs.shutdown()
    assert logger.handlers == [own, second]
    assert logger.filters == []
    assert (own.formatter, logger.level, logger.propagate) == before
    assert vars(dlt_logger)["_create_logger"].__module__ == "dlt.common.logger"


def test_dlts_own_handler_is_still_known_after_the_logger_was_created_again(pipeline, tmp_path):
    pipeline()
    logger = logging.getLogger("dlt")
    (own,) = logger.handlers
    dltobs.configure()
    second, formatter = theirs()
    switch_context(str(tmp_path))
    dltobs.shutdown()
    assert logger.handlers == [own, second]
    assert second.formatter is formatter


def test_what_is_not_dlts_own_stays_where_dlt_had_taken_it(pipeline):
    mine = logging.StreamHandler(sys.stdout)
    logging.getLogger("dlt").addHandler(mine)
    pipeline()
    dltobs.configure()
    assert mine in logging.getLogger("dlt").handlers


def test_unrelated_loggers_keep_handlers_levels_and_filters(pipeline, monkeypatch):
    monkeypatch.setenv("RUNTIME__LOG_FORMAT", "JSON")
    handler, formatter = theirs("unrelated.one")
    logger = logging.getLogger("unrelated.one")
    before = logger.level, logger.propagate, logger.filters[:]
    root = logging.root.handlers[:], logging.root.level
    dltobs.configure(log_level="DEBUG")
    pipeline().run([{"id": 1}], table_name="orders")
    dltobs.shutdown()
    assert (logger.level, logger.propagate, logger.filters) == before
    assert (logging.root.handlers, logging.root.level) == root
    assert logger.handlers == [handler]
    assert handler.formatter is formatter
    logger.handlers.clear()


@pytest.mark.parametrize("log_format", ["", "JSON"])
def test_a_failed_configure_leaves_dlts_logging_as_dlt_alone_would_have_it(log_format, tmp_path):
    script = """
        h = put("dlt", sys.stdout)
        other = put("unrelated.library", sys.stdout)
        logging.getLogger("dlt").setLevel(logging.DEBUG)
        if "FAIL" in os.environ:
            try:
                dltobs.configure(log_file="/nonexistent\\0/x", log_level="no such level")
            except dltobs.ConfigurationError as error:
                pass
            else:
                raise SystemExit("no error")
        pipeline()
        from dlt.common import logger
        logger.warning("hello")
        logging.getLogger("unrelated.library").warning("hello")
        log = logging.getLogger("dlt")
        print(own(), log.level, log.propagate, log.filters, type(h.formatter).__name__)
        print(type(other.formatter).__name__, type(vars(logging)["_defaultFormatter"]).__name__)
        print(vars(logger)["_create_logger"].__module__)
        """
    environment = {"RUNTIME__LOG_FORMAT": log_format} if log_format else {}
    alone = run(script, tmp_path, **environment)
    failed = run(script, tmp_path, FAIL="1", **environment)
    assert failed.returncode == 0, failed.stderr
    drop = ("written_at", "written_ts", "process", "thread")

    def comparable(text: str) -> list[object]:
        found: list[object] = []
        for line in text.splitlines():
            if line.startswith("{"):
                found.append({key: value for key, value in json.loads(line).items() if key not in drop})
            elif "|[WARNING]|" in line:
                found.append(line.partition("|dlt|")[2])
            else:
                found.append(line)
        return found

    assert comparable(failed.stdout) == comparable(alone.stdout)
    assert comparable(failed.stderr) == comparable(alone.stderr)


def test_a_failed_second_configure_changes_nothing(tmp_path, capfd, pipeline):
    dltobs.configure(console="json")
    pipeline()
    handlers = logging.getLogger("dlt").handlers[:]
    with pytest.raises(ConfigurationError):
        dltobs.configure(console="green")
    assert logging.getLogger("dlt").handlers == handlers
    dlt_logger.warning("still there")
    assert json.loads(capfd.readouterr().err)["message"] == "still there"


def test_disabled_attaches_nothing(pipeline):
    dltobs.configure(enabled=False, log_level="DEBUG")
    pipeline()
    assert [type(h) for h in logging.getLogger("dlt").handlers] == [logging.StreamHandler]
    assert logging.getLogger("dlt").level == logging.WARNING


def test_configuring_again_leaves_one_of_each(tmp_path, pipeline, capfd):
    for _ in range(3):
        dltobs.configure(log_file=tmp_path / "a.jsonl", console="json")
        dltobs.configure(log_file=tmp_path / "a.jsonl", console="text")
    pipeline()
    dlt_logger.warning("once")
    assert len(logging.getLogger("dlt").handlers) == 2
    assert len(logging.getLogger("dlt").filters) == 1
    assert len(capfd.readouterr().err.splitlines()) == 1
    dltobs.shutdown()
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 1


def test_dlt_gets_its_logger_even_if_ours_fails(monkeypatch, caplog, tmp_path):
    dltobs.configure()

    def broken(*_: object, **__: object) -> None:
        message = f"broken by {SECRET}"
        raise RuntimeError(message)

    monkeypatch.setattr(attach.LoggerHook, "_adopt", broken)
    switch_context(str(tmp_path))
    assert isinstance(vars(dlt_logger)["LOGGER"], logging.Logger)
    (record,) = [record for record in caplog.records if record.name == "dltobs"]
    assert record.levelname == "WARNING"


def test_a_wrapper_that_somebody_has_put_around_ours_survives_shutdown(pipeline, tmp_path):
    dltobs.configure()
    ours = vars(dlt_logger)["_create_logger"]
    calls = []

    def around(*args):
        calls.append(args)
        return ours(*args)

    dlt_logger._create_logger = around
    try:
        dltobs.shutdown()
        switch_context(str(tmp_path))
        assert calls
        assert [type(h) for h in logging.getLogger("dlt").handlers] == [logging.StreamHandler]
    finally:
        import importlib

        importlib.reload(dlt_logger)


def test_the_console_follows_sys_stderr(pipeline, monkeypatch):
    import io

    dltobs.configure(console="text")
    pipeline()
    buffer = io.StringIO()
    monkeypatch.setattr(sys, "stderr", buffer)
    dlt_logger.warning("into the buffer")
    assert buffer.getvalue().endswith("|into the buffer\n")
    assert any(isinstance(h, ConsoleHandler) for h in logging.getLogger("dlt").handlers)


def test_a_formatter_assigned_to_our_handlers_has_no_effect(pipeline, capfd):
    dltobs.configure(console="json")
    pipeline()
    for handler in logging.getLogger("dlt").handlers:
        handler.setFormatter(logging.Formatter("raw %(message)s"))
    dlt_logger.warning("password=hunter22")
    assert json.loads(capfd.readouterr().err)["message"] == "password=***"
