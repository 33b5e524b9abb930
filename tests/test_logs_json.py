"""The JSON line: its fields, well-formed whatever was logged, and without secrets."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import json
import logging
import logging.config
import sys
import uuid
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider

import dltobs
from conftest import SECRET
from dltobs import JsonFormatter, Redactor
from dltobs._context.current import RunContext, current_run
from dltobs.logs import formatters
from dltobs.logs.records import CorrelationFilter

RUN = RunContext("shop", "extract", "0123456789abcdef0123456789abcdef")


class Unprintable:
    def __str__(self) -> str:
        message = "no text"
        raise RuntimeError(message)

    __repr__ = __str__


class Bearer:
    """An object that nothing but its text tells the secret of."""

    def __str__(self) -> str:
        return f"<bearer of {SECRET}>"

    __repr__ = __str__


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int


class Exploding(Redactor):
    """One that fails whenever it is asked."""

    def finds(self, text: str) -> bool:
        raise RuntimeError(text)

    def text(self, text: str) -> str:
        raise RuntimeError(text)

    def redact(self, value: Any) -> Any:
        raise RuntimeError(value)


@pytest.fixture
def in_run():
    token = current_run.set(RUN)
    yield
    current_run.reset(token)


def record_of(msg: Any = "loaded", *args: Any, extra: dict[Any, Any] | None = None, **kw: Any):
    """A record as a logger makes it, with the ids of the run."""
    logger = logging.getLogger("dlt")
    kw = {"level": logging.INFO, "exc_info": None, "sinfo": None, **kw}
    record = logger.makeRecord(
        "dlt", kw["level"], "/dlt/pipeline/pipeline.py", 42, msg, args, kw["exc_info"], "run",
        extra, kw["sinfo"],
    )  # fmt: skip
    CorrelationFilter().filter(record)
    return record


def line_of(*args: Any, secrets: tuple[str, ...] = (SECRET,), formatter: Any = None, **kw: Any):
    """The parsed line; duplicate keys, secrets and what a strict parser refuses fail the test."""
    formatter = formatter or JsonFormatter(redactor=Redactor(secrets))
    text = formatter.format(record_of(*args, **kw))
    assert "\n" not in text
    orjson.loads(text)  # stricter than json
    assert not [secret for secret in secrets if secret in text]
    return json.loads(text, object_pairs_hook=_without_duplicates)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(pairs) == len({key for key, _ in pairs}), pairs
    return dict(pairs)


def test_a_line_holds_the_keys_of_the_contract_in_their_order(in_run):
    tags = {"team": "data"}
    formatter = JsonFormatter(redactor=Redactor(), service="dlt", environment="production", tags=tags)
    with TracerProvider().get_tracer("t").start_as_current_span("run") as span:
        line = line_of("loaded %s rows", 7, extra={"table": "orders"}, formatter=formatter)
    context = span.get_span_context()
    assert list(line) == [
        "timestamp", "level", "logger", "message", "service", "environment", "pipeline", "step",
        "transaction_id", "trace_id", "span_id", "process", "thread", "file", "line", "function", "team", "table",
    ]  # fmt: skip
    assert line["message"] == "loaded 7 rows"
    assert (line["level"], line["logger"]) == ("INFO", "dlt")
    assert (line["pipeline"], line["step"], line["transaction_id"]) == RUN
    assert line["trace_id"] == f"{context.trace_id:032x}"
    assert line["span_id"] == f"{context.span_id:016x}"
    assert (line["file"], line["line"], line["function"]) == ("pipeline.py", 42, "run")
    assert isinstance(line["process"], int)
    assert line["thread"] == "MainThread"


def test_without_tracing_the_trace_id_is_the_transaction_id_and_there_is_no_span_id(in_run):
    line = line_of()
    assert line["trace_id"] == line["transaction_id"] == RUN.transaction_id
    assert "span_id" not in line


def test_outside_of_a_run_there_are_no_ids():
    assert {"pipeline", "step", "transaction_id", "trace_id", "span_id"}.isdisjoint(line_of())


@pytest.mark.parametrize("created", [0.0, 1.9999999, 1795296100.609114, 1795296100.9999997, 1700000000.0])
def test_the_timestamp_is_rfc_3339_in_utc_with_microseconds(created):
    record = record_of()
    record.created = created
    formatter = JsonFormatter(redactor=Redactor())
    formatter.format(record_of())
    text = json.loads(formatter.format(record))["timestamp"]
    assert text.endswith("Z")
    assert len(text) == len("2026-11-21T21:05:48.071030Z")
    parsed = dt.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=dt.timezone.utc)
    assert abs(parsed.timestamp() - created) < 2e-6


def test_timestamps_of_records_that_come_out_of_order_are_their_own():
    formatter = JsonFormatter(redactor=Redactor())
    texts = []
    for created in (100.25, 99.75, 100.5, 101.0):
        record = record_of()
        record.created = created
        texts.append(json.loads(formatter.format(record))["timestamp"][17:])
    assert texts == ["40.250000Z", "39.750000Z", "40.500000Z", "41.000000Z"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), None),
        (float("-inf"), None),
        (2**70, 2**70),
        (-(2**63) - 1, -(2**63) - 1),
        (b"bytes", "bytes"),
        (b"\xff\x00", "\\xff\x00"),
        (dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.timezone.utc), "2026-01-02T03:04:05+00:00"),
        (dt.date(2026, 1, 2), "2026-01-02"),
        (dt.timedelta(seconds=1), "0:00:01"),
        (decimal.Decimal("1.10"), "1.10"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Colour.RED, "red"),
        (Point(1), {"x": 1}),
        ({1: "a", None: "b", (1, 2): "c"}, {"1": "a", "None": "b", "(1, 2)": "c"}),
        ({3}, [3]),
        ((1, 2), [1, 2]),
        (MappingProxyType({"a": 1}), {"a": 1}),
        ("a\ud800b", "a\\ud800b"),
        ({"\udcff": "\udcff"}, {"\\udcff": "\\udcff"}),
        (None, None),
        (True, True),
        ('\u2028\x00"\\\n', '\u2028\x00"\\\n'),
    ],
)  # fmt: skip
def test_any_value_of_an_extra_field_becomes_well_formed_json(value, expected):
    assert line_of(extra={"field": value})["field"] == expected


@pytest.mark.parametrize("value", [Unprintable(), [Unprintable()], {"a": Unprintable()}])
def test_an_object_that_cannot_print_itself_does_not_spoil_the_line(value):
    assert line_of(extra={"field": value})["message"] == "loaded"
    assert line_of("%s", Unprintable())["level"] == "INFO"
    assert line_of(Unprintable())["message"] == "<unprintable Unprintable>"


def test_an_integer_that_python_refuses_to_write_is_described():
    line = line_of(extra={"field": 10**5000, "rows": 5})
    assert line["field"] == "<int of 16610 bits>"
    assert line["rows"] == 5


def test_circular_references_are_cut():
    loop: dict[str, Any] = {"name": "loop"}
    loop["self"] = [loop, loop]
    assert line_of(extra={"field": loop})["field"] == {"name": "loop", "self": ["<dict>", "<dict>"]}
    wide: list[Any] = []
    wide += [wide] * 50
    assert line_of(extra={"field": wide})["field"] == ["<list>"] * 50


def test_lone_surrogates_in_the_message_reach_strict_parsers_as_text():
    assert line_of("file \udcff %s", "\ud800")["message"] == "file \\udcff \\ud800"
    assert line_of(f"{SECRET} \udcff")["message"] == "*** \\udcff"


@given(st.text(), st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.floats(), st.binary())))
def test_whatever_is_logged_the_line_is_one_json_object(message, fields):
    record = record_of(message)
    record.__dict__.update({f"x{name}": value for name, value in fields.items()})
    parsed = orjson.loads(JsonFormatter(redactor=Redactor([SECRET])).format(record))
    assert parsed["level"] == "INFO"


@given(st.text(min_size=6).filter(lambda text: len(text.strip()) >= 6))
def test_a_secret_of_any_characters_leaves_the_line_well_formed(secret):
    record = record_of(f"before {secret} after")
    record.__dict__["field"] = [secret]
    parsed = orjson.loads(JsonFormatter(redactor=Redactor([secret])).format(record))
    assert parsed["field"] == ["***"]
    assert secret not in parsed["message"]


@pytest.mark.parametrize(
    "secret", ["quote\"in'side", "back\\slash\\", "new\nline\r\ntab\t", "{brace}%s<tag>", "é€😀ü-geheim"]
)
def test_secrets_of_special_characters_are_found_in_every_part(secret):
    try:
        raise ValueError(secret)
    except ValueError:
        info = sys.exc_info()
    line = line_of(
        "at %s", secret, secrets=(secret,), exc_info=info, sinfo=f"Stack:\n{secret}",
        extra={"field": {"deep": [secret]}, secret: 1, "object": Bearer()},
    )  # fmt: skip
    assert line["message"] == "at ***"
    assert line["exception"]["message"] == "***"
    assert line["stack"] == "Stack:\n***"
    assert line["field"] == {"deep": ["***"]}
    assert line["***"] == 1
    assert secret not in json.dumps(line, ensure_ascii=False)


def test_a_secret_that_only_the_text_of_an_object_tells_is_found():
    line = line_of(
        "%s", Bearer(), extra={"one": Bearer(), "more": {"deep": [Bearer()]}, "raw": SECRET.encode()}
    )
    assert line["message"] == "<bearer of ***>"
    assert line["one"] == "<bearer of ***>"
    assert line["more"] == {"deep": ["<bearer of ***>"]}
    assert line["raw"] == "***"


def test_numbers_ids_levels_and_own_keys_survive_secrets_that_look_like_them(in_run):
    token = current_run.set(RunContext("duckdb_shop", "extract", "12345678901234567890123456789012"))
    formatter = JsonFormatter(
        redactor=Redactor(["123456", "WARNING", "duckdb", "message", "function", "extract", "timestamp"]),
        service="duckdb",
    )
    line = line_of(
        "WARNING: 123456 rows into duckdb", level=logging.WARNING, formatter=formatter,
        extra={"rows": 123456, "rate": 123456.5, "text": "123456"},
    )  # fmt: skip
    current_run.reset(token)
    assert line["message"] == "***: *** rows into ***"
    assert (line["rows"], line["rate"], line["text"]) == (123456, 123456.5, "***")
    assert (line["level"], line["pipeline"], line["step"]) == ("WARNING", "duckdb_shop", "extract")
    assert line["transaction_id"] == line["trace_id"] == "12345678901234567890123456789012"
    assert line["service"] == "duckdb"
    assert {"timestamp", "function", "file", "line", "process"} <= line.keys()


def test_names_of_secret_fields_do_not_touch_own_keys():
    formatter = JsonFormatter(redactor=Redactor(keys=["file", "message", "thread", "stacktrace"]))
    line = line_of("failed token=abc", formatter=formatter, extra={"password": 123456, "file_path": "x"})
    assert line["message"] == "failed token=***"
    assert (line["file"], line["thread"]) == ("pipeline.py", "MainThread")
    assert line["password"] == "***"
    assert line["file_path"] == "***"


def test_what_stands_below_a_secret_name_in_an_extra_field_is_withheld_and_the_rest_is_not():
    extra = {
        "credentials": {"host": "db", "nested": [{"x": "y"}]},
        "login": {"password_changed_at": "2024-05-01", "has_password": "yes", "next_page_token": "p2"},
    }
    line = line_of("Loading table tokens: started", extra=extra)
    assert line["credentials"] == {"host": "***", "nested": [{"x": "***"}]}
    assert line["login"] == extra["login"]
    assert line["message"] == "Loading table tokens: started"


def test_extra_fields_that_bear_the_name_of_a_key_stand_beside_it(in_run):
    extra = {
        "level": "mine",
        "timestamp": 1,
        "pipeline": "other",
        "exception": "e",
        "stack": "s",
        "span_id": "sp",
    }
    line = line_of(extra=extra)
    assert line["level"] == "INFO"
    assert line["pipeline"] == "shop"
    assert "span_id" not in line
    assert "exception" not in line
    for name, value in extra.items():
        assert line[f"extra.{name}"] == value


def test_an_extra_field_that_repeats_an_id_is_written_once(in_run):
    assert "extra.pipeline" not in line_of(extra={"pipeline": RUN.pipeline[:2] + RUN.pipeline[2:]})


def test_tags_never_replace_a_key_of_ours_and_give_way_to_extra_fields():
    formatter = JsonFormatter(redactor=Redactor(), tags={"pipeline": "tag", "level": "tag", "team": "data"})
    line = line_of(formatter=formatter, extra={"team": "other"})
    assert (line["extra.pipeline"], line["extra.level"], line["team"]) == ("tag", "tag", "other")
    assert line["level"] == "INFO"
    assert "pipeline" not in line


def test_the_keys_of_a_message_that_is_a_dict_are_fields():
    line = line_of(
        {"event": "load", "level": "mine", 1: SECRET, "message": f"hi {SECRET}"}, extra={"rows": 1}
    )
    assert line["message"] == "hi ***"
    assert (line["event"], line["extra.level"], line["1"], line["rows"]) == ("load", "mine", "***", 1)
    assert line_of({"a": 1})["message"] == ""


def test_extra_fields_whose_names_are_no_text_are_written():
    line = line_of(extra={1: "one", None: "none"})
    assert (line["1"], line["None"]) == ("one", "none")


def test_private_attributes_of_a_record_are_not_written():
    assert not [key for key in line_of(extra={"_private": 1}) if key.startswith("_")]


def test_wrong_arguments_of_a_format_string_are_shown():
    assert line_of("%d rows in %s", "many")["message"] == "%d rows in %s ['many']"
    assert line_of("no placeholder", 1)["message"] == "no placeholder [1]"
    assert line_of("%d", SECRET)["message"] == "%d ['***']"
    assert line_of("%s and %s", Unprintable())["message"].startswith("%s and %s")


def test_an_exception_is_described_by_type_message_and_stack_trace():
    try:
        raise KeyError("orders") from ValueError("cause")
    except KeyError:
        exception = line_of(exc_info=sys.exc_info())["exception"]
    assert (exception["type"], exception["message"]) == ("KeyError", "'orders'")
    assert exception["stacktrace"].startswith("ValueError: cause\n")
    assert exception["stacktrace"].endswith("KeyError: 'orders'")


def test_exc_info_without_an_exception_leaves_the_key_out():
    assert "exception" not in line_of(exc_info=(None, None, None))


def test_an_exception_that_cannot_print_itself_is_still_described():
    class MuteError(Exception):
        __str__ = Unprintable.__str__

    try:
        raise MuteError
    except MuteError:
        exception = line_of(exc_info=sys.exc_info())["exception"]
    assert exception["message"] == "<unprintable MuteError>"
    assert "Mute" in exception["stacktrace"]


def test_stack_info_has_a_key():
    assert line_of(sinfo="Stack (most recent call last):\n  x")["stack"].startswith("Stack")


def test_a_record_whose_redaction_fails_appears_withheld(in_run):
    formatter = JsonFormatter(redactor=Exploding([SECRET]), service="dlt")
    try:
        raise ValueError(SECRET)
    except ValueError:
        line = line_of(SECRET, formatter=formatter, exc_info=sys.exc_info(), extra={"a": SECRET, SECRET: 1})
    assert line["message"] == "[withheld]"
    assert (line["level"], line["pipeline"], line["line"]) == ("INFO", "shop", 42)
    assert line.keys().isdisjoint({"a", "thread", "exception"})


def test_thread_file_and_function_are_free_of_secrets():
    record = record_of()
    record.threadName = record.filename = record.funcName = f"x-{SECRET}"
    line = json.loads(JsonFormatter(redactor=Redactor([SECRET])).format(record))
    assert line["thread"] == line["file"] == line["function"] == "x-***"


def test_a_secret_learned_later_is_found_in_what_was_rendered_before():
    redactor = Redactor()
    formatter = JsonFormatter(redactor=redactor, tags={"team": "team-of-secrets"})
    record = record_of()
    record.threadName = "worker-of-secrets"
    assert "worker-of-secrets" in formatter.format(record)
    redactor.add("worker-of-secrets", "team-of-secrets")
    line = json.loads(formatter.format(record))
    assert (line["thread"], line["team"]) == ("***", "***")


def test_a_line_with_a_hit_has_the_same_fields_in_the_same_order_as_one_without(in_run):
    tags = {"team": "data"}
    formatter = JsonFormatter(redactor=Redactor([SECRET]), service="s", environment="e", tags=tags)
    clean = line_of("x", extra={"a": 1}, formatter=formatter)
    redacted = line_of(SECRET, extra={"a": 1}, formatter=formatter)
    assert list(clean) == list(redacted)
    same = clean.keys() - {"message", "timestamp"}
    assert {key: clean[key] for key in same} == {key: redacted[key] for key in same}


def test_a_formatter_of_other_people_before_ours_does_not_show():
    record = record_of("loaded", extra={"rows": 1})
    logging.Formatter("%(asctime)s %(message)s").format(record)
    line = json.loads(JsonFormatter(redactor=Redactor()).format(record))
    assert line.keys().isdisjoint({"asctime", "extra.message", "taskName"})
    assert line["rows"] == 1


def test_the_record_is_left_as_it_was():
    try:
        raise ValueError(SECRET)
    except ValueError:
        record = record_of("%s", SECRET, exc_info=sys.exc_info(), extra={"a": SECRET})
    before = dict(vars(record))
    JsonFormatter(redactor=Redactor([SECRET])).format(record)
    assert vars(record) == before


def test_many_call_sites_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(formatters, "_CACHE_SIZE", 10)
    formatter = JsonFormatter(redactor=Redactor())
    for number in range(100):
        record = record_of()
        record.lineno = number
        token = current_run.set(RunContext("shop", "load", f"{number:032x}"))
        CorrelationFilter().filter(record)
        line = json.loads(formatter.format(record))
        current_run.reset(token)
        assert (line["line"], line["transaction_id"]) == (number, f"{number:032x}")
    assert len(formatter._origins) <= 10
    assert len(formatter._ids) <= 10


def test_the_ids_of_a_record_are_those_of_the_thread_that_logged_it(in_run):
    record = record_of()
    token = current_run.set(RunContext("other", "load", "f" * 32))
    line = json.loads(JsonFormatter(redactor=Redactor()).format(record))
    current_run.reset(token)
    assert line["pipeline"] == "shop"


@pytest.mark.parametrize("reference", [{"()": "dltobs.JsonFormatter"}, {"class": "dltobs.JsonFormatter"}, {"class": "dltobs.JsonFormatter", "format": "%(message)s", "datefmt": "%Y"}])  # fmt: skip
def test_a_dict_config_may_name_the_formatter(reference, monkeypatch, capsys):
    monkeypatch.setenv("API_KEY", SECRET)
    logging.config.dictConfig({
        "version": 1, "disable_existing_loggers": False,
        "formatters": {"json": reference},
        "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stdout"}},
        "loggers": {"app.json": {"handlers": ["out"], "level": "INFO", "propagate": False}},
    })  # fmt: skip
    logger = logging.getLogger("app.json")
    logger.info("before configure password=hunter22")
    dltobs.configure(service_name="shop-jobs", environment="test", tags={"team": "data"}, console="off")
    import dlt

    assert dlt.secrets["api_key"] == SECRET
    logger.info("it is %s", SECRET)
    logger.handlers.clear()
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["message"] == "before configure password=***"
    assert second["message"] == "it is ***"
    assert (second["service"], second["environment"], second["team"]) == ("shop-jobs", "test", "data")
    assert second["logger"] == "app.json"
