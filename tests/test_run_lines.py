"""The lines that dltobs adds to dlt's log: one for the end of each run, whatever the user's code catches."""

from __future__ import annotations

import json
import logging
import logging.config
import pickle
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import dlt
import pytest
from dlt.common import logger as dlt_logger
from dlt.common.configuration.container import Container
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext
from dlt.common.destination.exceptions import DestinationTerminalException
from dlt.pipeline.exceptions import PipelineStepFailed
from loguru import logger as loguru_logger
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_none

import dltobs
from conftest import SECRET
from dltobs._runs.open_run import run_ended_by
from recording import RecordingSink
from servers import attributes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@dlt.resource
def orders() -> Iterator[dict[str, int]]:
    yield {"id": 1}
    message = f"no such order\n  for {SECRET}"
    raise ValueError(message)


class Lines:
    """Records of dltobs' own in a JSON file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, *, at_least: int = logging.DEBUG) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.path.read_text().splitlines()]
        levels = logging.getLevelNamesMapping() if hasattr(logging, "getLevelNamesMapping") else vars(logging)
        return [line for line in lines if line["logger"] == "dltobs" and levels[line["level"]] >= at_least]

    @property
    def only(self) -> dict[str, Any]:
        (line,) = self(at_least=logging.WARNING)
        return line


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    return Lines(tmp_path / "dlt.jsonl")


@pytest.fixture
def configure(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Log into that file, at dlt's default level, and know a secret."""
    monkeypatch.setenv("SOURCES__API_KEY", SECRET)

    def configured(**settings: Any) -> None:
        dltobs.configure(**{"console": "off", "log_file": lines.path, **settings})
        assert dlt.secrets["sources.api_key"] == SECRET

    return configured


def test_a_failed_run_is_one_error_where_its_exception_is_caught(configure, lines, pipeline, otlp):
    """At the default level; JSON has the root cause with its own stack trace, and the ids."""
    configure(otlp_endpoint=otlp.url)
    with suppress(PipelineStepFailed):
        pipeline().run(orders())
    dltobs.shutdown()
    line = lines.only
    assert line["level"] == "ERROR"
    assert re.fullmatch(
        r"Run of shop failed in extract \(resource orders\) after \d+\.\d s: "
        r"ValueError: no such order for \*\*\*",
        line["message"],
    )
    exception = line["exception"]
    assert (exception["type"], exception["message"]) == ("ValueError", "no such order\n  for ***")
    assert exception["stacktrace"].startswith("Traceback (most recent call last):\n")
    assert exception["stacktrace"].endswith("ValueError: no such order\n  for ***")
    assert exception["stacktrace"].count("Traceback") == 1
    assert "test_run_lines.py" in exception["stacktrace"]
    root = otlp.named("run shop")
    assert (line["pipeline"], line["step"]) == ("shop", "run")
    assert (line["trace_id"], line["span_id"]) == (root.trace_id.hex(), root.span_id.hex())
    assert line["transaction_id"] == attributes_of(root)["dlt.transaction_id"]
    assert (line["outcome"], line["failed_step"], line["resource"]) == ("failed", "extract", "orders")
    assert line["duration"] > 0
    assert SECRET not in lines.path.read_text()


def test_in_text_it_is_one_line(configure, pipeline, capsys, tmp_path):
    """The stack trace is Python's to print, if nobody catches the exception."""
    configure(console="text", log_file=tmp_path / "dlt.log", log_file_format="text")
    with suppress(PipelineStepFailed):
        pipeline().run(orders())
    console, file = capsys.readouterr().err, (tmp_path / "dlt.log").read_text()
    for text in (console, file):
        (line,) = [line for line in text.splitlines() if "Run of" in line]
        assert "[ERROR]" in line
        assert "ValueError: no such order for ***" in line
        assert "Traceback" not in text
        assert SECRET not in text


def test_loguru_gets_the_text_of_the_exception_and_no_live_one(configure, pipeline):
    """Also with `diagnose=True`, which prints the variables of live frames."""
    seen: list[Any] = []
    loguru_logger.remove()
    loguru_logger.add(seen.append, level="WARNING", diagnose=True, backtrace=True)
    configure(loguru=True)
    with suppress(PipelineStepFailed):
        pipeline().run(orders())
    loguru_logger.remove()
    (message,) = seen
    record = message.record
    assert record["level"].name == "ERROR"
    assert record["message"].startswith("Run of shop failed in extract (resource orders) after ")
    assert "raise ValueError(message)\nValueError: no such order\n  for ***" in record["message"]
    assert record["exception"].type.__name__ == "ValueError"
    assert record["exception"].traceback is None
    assert not isinstance(record["exception"].value, ValueError)
    assert record["extra"]["outcome"] == "failed"
    assert SECRET not in str(message)


@pytest.mark.parametrize(
    ("call", "step"),
    [
        (lambda shop: shop.extract(orders()), "extract"),
        (lambda shop: shop.run(orders()), "extract"),
        (lambda shop: shop.run([{"id": 1}], table_name="orders", destination="no_such_place"), "run"),
    ],
    ids=["extract alone", "run", "run itself"],
)
def test_a_run_that_fails_anywhere_is_told_once(call, step, configure, lines, pipeline):
    configure()
    recording = RecordingSink()
    configure(sinks=[recording])
    with pytest.raises(Exception, match=r".") as caught:
        call(pipeline())
    told = [line for line in lines(at_least=logging.WARNING) if "outcome" in line]
    assert [line["failed_step"] for line in told] == [step] * len(recording.runs)
    assert len(told) <= 1
    if told:
        ended = run_ended_by(caught.value)
        assert ended is not None
        assert ended.is_error
        assert ended.ids.transaction_id == told[0]["transaction_id"]


def test_a_run_inside_a_run_has_a_line_of_its_own(configure, lines, pipeline):
    @dlt.resource
    def outer() -> Iterator[dict[str, int]]:
        pipeline("inner").run(orders())
        yield {"id": 1}

    configure()
    with suppress(PipelineStepFailed):
        pipeline("outer").run(outer())
    told = lines(at_least=logging.WARNING)
    assert [line["pipeline"] for line in told] == ["inner", "outer"]
    assert {line["exception"]["type"] for line in told} == {"ValueError"}
    assert len({line["transaction_id"] for line in told}) == 2


def test_failed_jobs_that_are_tolerated_are_a_warning_with_the_reason(
    configure, lines, pipeline, monkeypatch
):
    @dlt.destination(name="refusing", batch_size=0)
    def refusing(items: Any, table: Any) -> None:
        if table["name"] == "orders":
            message = f"no room for {SECRET}"
            raise DestinationTerminalException(message)

    monkeypatch.setenv("LOAD__RAISE_ON_FAILED_JOBS", "false")
    configure()
    data = [dlt.resource([{"id": 1}], name="orders"), dlt.resource([{"id": 1}, {"id": 2}], name="people")]
    pipeline(destination=refusing()).run(data)
    (line,) = [line for line in lines(at_least=logging.WARNING) if "outcome" in line]
    assert (line["level"], line["outcome"]) == ("WARNING", "ok_with_failed_jobs")
    assert re.fullmatch(
        r"Run of shop finished with 1 failed job after \d+\.\d s, 2 rows loaded: "
        r"table orders: .*no room for \*\*\*",
        line["message"],
    )


def test_runs_that_go_well_are_quiet_by_default(configure, lines, pipeline):
    configure()
    pipeline().run([{"id": 1}], table_name="orders")
    pipeline().run(dlt.resource([], name="orders"))
    assert lines() == []


def test_at_info_each_end_is_a_line(configure, lines, pipeline):
    configure(log_level="INFO")
    pipeline().run([{"id": 1}], table_name="orders")
    pipeline().run(dlt.resource([], name="orders"))
    ends = [line for line in lines() if "outcome" in line]
    assert [(line["level"], line["outcome"]) for line in ends] == [("INFO", "ok"), ("INFO", "no_data")]
    assert re.fullmatch(r"Run of shop finished after \d+\.\d s: 1 row loaded", ends[0]["message"])
    assert re.fullmatch(r"Run of shop finished after \d+\.\d s: no data", ends[1]["message"])


def test_at_info_start_and_steps_are_lines_too(configure, lines, pipeline, otlp):
    """With rows and seconds; all in the spans that they speak of."""
    configure(log_level="INFO", dlt_log_level="WARNING", otlp_endpoint=otlp.url)
    pipeline().run([{"id": 1, "items": [{"sku": "a"}, {"sku": "b"}]}] * 1000, table_name="orders")
    dltobs.shutdown()
    told = [(line["step"], re.sub(r"\d+\.\d s", "N s", line["message"])) for line in lines()]
    assert told == [
        ("run", "Run of shop started"),
        ("extract", "extract: 1 resource, 1,000 rows in N s"),
        ("normalize", "normalize: 2 tables, 3,000 rows in N s"),
        ("load", "load: 2 jobs, 3,000 rows in N s"),
        ("load", "Schema changes: first run: 2 tables, 2 columns"),
        ("run", "Run of shop finished after N s: 3,000 rows loaded"),
    ]
    spans = {span.span_id.hex(): span.name for span in otlp.spans}
    assert [spans[line["span_id"]] for line in lines()] == [
        "run shop",
        "extract",
        "normalize",
        "load",
        "load",
        "run shop",
    ]
    steps = [line for line in lines() if line["message"].startswith(f"{line['step']}: ")]
    assert [line["rows"] for line in steps] == [1000, 3000, 3000]
    assert all(line["duration"] > 0 for line in steps)


def test_a_step_that_is_called_alone_starts_and_ends(configure, lines, pipeline):
    configure(log_level="INFO")
    pipeline().extract([{"id": 1}], table_name="orders")
    told = [re.sub(r"\d+\.\d s", "N s", line["message"]) for line in lines()]
    assert told == [
        "Run of shop started",
        "extract: 1 resource, 1 row in N s",
        "Run of shop finished after N s",
    ]


# the level of dlt's lines beside that of dltobs' own


def of_dlt(lines: Lines) -> set[str]:
    found = [json.loads(line) for line in lines.path.read_text().splitlines()]
    return {line["level"] for line in found if line["logger"] == "dlt"}


def test_dlts_lines_have_a_level_of_their_own(configure, lines, pipeline, capsys):
    """In every output, and after dlt has made its logger again; `shutdown()` undoes it."""
    configure(log_level="INFO", dlt_log_level="WARNING", console="json", loguru=True)
    seen: list[Any] = []
    loguru_logger.remove()
    loguru_logger.add(seen.append, level=0)
    logger = logging.getLogger("dlt")
    for _ in range(2):
        pipeline().run([{"id": 1}], table_name="orders")
        dlt_logger.warning("a warning of dlt's")
        dlt_logger.info("not this one")
        Container()[PluggableRunContext].reload()
    loguru_logger.remove()
    assert of_dlt(lines) == {"WARNING"}
    assert [line["message"] for line in lines()].count("Run of shop started") == 2
    console = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert {line["level"] for line in console if line["logger"] == "dlt"} == {"WARNING"}
    assert [line["message"] for line in console].count("Run of shop started") == 2
    names = [(message.record["name"], message.record["level"].name) for message in seen]
    assert ("dltobs", "INFO") in names
    assert ("dlt", "INFO") not in names
    assert logger.level == logging.WARNING
    configure(log_level="INFO")
    assert logger.level == logging.INFO
    configure(log_level="ERROR", dlt_log_level="DEBUG")
    assert logger.level == logging.DEBUG
    before = len(lines())
    pipeline().run([{"id": 1}], table_name="orders")
    assert len(lines()) == before
    assert "DEBUG" in of_dlt(lines)
    dltobs.shutdown()
    assert logger.level == logging.WARNING


def test_without_a_level_of_ours_that_of_dlt_counts_for_our_lines(configure, lines, pipeline, monkeypatch):
    """`RUNTIME__LOG_LEVEL`, beside `dlt_log_level`."""
    monkeypatch.setenv("RUNTIME__LOG_LEVEL", "INFO")
    configure(dlt_log_level="ERROR")
    pipeline().run([{"id": 1}], table_name="orders")
    assert "Run of shop started" in [line["message"] for line in lines()]
    assert of_dlt(lines) == set()
    dltobs.shutdown()
    assert logging.getLogger("dlt").level == logging.INFO


def flaky(succeed_at: int) -> Any:
    asked = iter(range(1, 100))

    @dlt.resource(name="orders")
    def resource() -> Iterator[dict[str, int]]:
        if next(asked) < succeed_at:
            message = "reset by peer"
            raise ConnectionError(message)
        yield {"id": 1}

    return resource


@pytest.mark.parametrize(("succeed_at", "levels"), [(3, ["WARNING"] * 2), (99, ["WARNING"] * 2 + ["ERROR"])])
def test_a_failed_attempt_that_is_tried_again_is_a_warning(succeed_at, levels, configure, lines, pipeline):
    """Only the last one is an error; the loop's own lines do not repeat the reason."""
    configure()
    shop, resource = pipeline(), flaky(succeed_at)
    retrying = Retrying(
        stop=stop_after_attempt(3), wait=wait_none(), reraise=True, **dltobs.tenacity_callbacks()
    )
    with suppress(PipelineStepFailed):
        retrying(lambda: shop.run(resource()))
    told = lines(at_least=logging.WARNING)
    assert [line["level"] for line in told] == levels
    assert re.fullmatch(
        r"Run of shop failed in extract \(resource orders\) after \d+\.\d s, attempt 1, another one follows: "
        "ConnectionError: reset by peer",
        told[0]["message"],
    )
    assert [line["attempt"] for line in told] == list(range(1, len(levels) + 1))


def test_a_loop_that_nobody_can_foresee_ends_in_an_error(configure, lines, pipeline):
    """Whether an attempt is the last one is not known when it fails: the loop tells the error then."""
    configure()
    shop, resource = pipeline(), flaky(99)
    retrying = Retrying(
        stop=lambda state: state.attempt_number >= 2,  # code of the user's: it is asked by tenacity alone
        retry=retry_if_exception_type(),
        wait=wait_none(),
        reraise=True,
        **dltobs.tenacity_callbacks(name="nightly load"),
    )
    with suppress(PipelineStepFailed):
        retrying(lambda: shop.run(resource()))
    told = lines(at_least=logging.WARNING)
    assert [line["level"] for line in told] == ["WARNING", "WARNING", "ERROR"]
    assert told[-1]["message"] == "nightly load failed after 2 attempts: ConnectionError: reset by peer"


def test_handlers_on_dlts_logger_get_the_lines_under_our_name(pipeline, caplog):
    dltobs.configure(console="off")
    dlt.secrets.get("anything")
    logging.getLogger("dlt").addHandler(caplog.handler)
    with suppress(PipelineStepFailed):
        pipeline().run(orders())
    (record,) = [one for one in caplog.records if one.getMessage().startswith("Run of shop failed")]
    assert (record.name, record.levelname, record.exc_info) == ("dltobs", "ERROR", None)
    assert record.outcome == "failed"


def test_a_dict_config_that_disables_dlts_logger_does_not_hide_a_failed_run(configure, lines, pipeline):
    configure()
    shop = pipeline()
    logging.config.dictConfig({"version": 1, "root": {"level": "WARNING"}})
    assert logging.getLogger("dlt").disabled
    with suppress(PipelineStepFailed):
        shop.run(orders())
    logging.getLogger("dlt").disabled = False
    assert lines.only["outcome"] == "failed"


def test_a_level_above_silences_them(configure, lines, pipeline):
    configure(log_level="CRITICAL")
    with suppress(PipelineStepFailed):
        pipeline().run(orders())
    assert lines() == []


def test_an_exception_knows_the_run_that_it_has_ended(configure, pipeline):
    """Through pickle, too, as a process pool does it; one that has ended no run knows none."""
    recording = RecordingSink()
    configure(sinks=[recording])
    with pytest.raises(PipelineStepFailed) as caught:
        pipeline().run(orders())
    ended = run_ended_by(caught.value)
    assert ended is not None
    assert (ended.ids.pipeline, ended.ids.step) == ("shop", "run")
    assert ended.ids.transaction_id == recording.run.run.transaction_id
    cause = caught.value.__cause__ or caught.value.__context__
    assert cause is not None
    assert run_ended_by(cause) is None
    plain = ValueError("x")
    vars(plain).update({name: value for name, value in vars(caught.value).items() if name[0] == "_"})
    assert run_ended_by(pickle.loads(pickle.dumps(plain))) == ended


def test_a_cause_of_many_lines_is_one_line_of_bounded_length(configure, lines, pipeline):
    @dlt.resource
    def verbose() -> Iterator[Any]:
        raise ValueError("first\n\tsecond " + "x" * 1000)
        yield

    configure()
    with suppress(PipelineStepFailed):
        pipeline().run(verbose())
    message = lines.only["message"]
    assert "ValueError: first second xxx" in message
    assert message.endswith("x…")
    assert len(message) < 500
