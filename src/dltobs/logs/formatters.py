"""Log lines as JSON and as text, without secrets."""

from __future__ import annotations

import json
import logging
import math
import time
from typing import TYPE_CHECKING, Any

import orjson
from pythonjsonlogger.orjson import OrjsonFormatter, orjson_default

from dltobs._redaction import WITHHELD
from dltobs._describe import text_of, type_name
from dltobs._state import current_redactor
from dltobs.logs.records import (
    correlation_of,
    extra_of,
    message_of,
    redacted_copy,
    stacktrace_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dltobs._redaction import Redactor

TEXT_FORMAT = "{asctime}|[{levelname}]|{process}|{thread}|{name}|{filename}|{funcName}:{lineno}|{message}"
"""dlt's own default (`RuntimeConfiguration.log_format`)."""

_IDENTITY_KEYS = frozenset(
    {"timestamp", "level", "logger", "service", "environment", "pipeline", "step", "transaction_id",
     "trace_id", "span_id", "process", "line"}
)  # fmt: skip
"""Keys of ours whose values redaction does not touch: ids, words and numbers of a fixed kind."""

_CONTRACT_KEYS = _IDENTITY_KEYS | {"message", "thread", "file", "function", "exception", "stack"}
_MAX_DEPTH = 16
_JSON_OPTIONS = orjson.OPT_NON_STR_KEYS


class JsonFormatter(OrjsonFormatter):
    """One JSON object a line, with the ids of the run; safe for a `dictConfig` of your own.

    Keys: `timestamp` (RFC 3339, UTC, microseconds), `level`, `logger`, `message`, `service`, `environment`,
    `pipeline`, `step`, `transaction_id`, `trace_id`, `span_id`, `process`, `thread`, `file`, `line`, `function`,
    `exception` (`type`, `message`, `stacktrace`), and the fields of `extra` beside them (one that bears
    the name of a key above is written as `extra.<name>`). What is not known is left out.

    Args:
        redactor: Takes the secrets out. By default the one of the running `dltobs.configure()`, so the
            formatter may be created before it.
        service: Value of `service`.
        environment: Value of `environment`; left out when None.
        tags: Fixed fields for every line.
    """

    def __init__(
        self,
        *,
        redactor: Redactor | None = None,
        service: str | None = None,
        environment: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._redactor = redactor
        self._fixed: dict[str, Any] = {}
        if service is not None:
            self._fixed["service"] = service
        if environment is not None:
            self._fixed["environment"] = environment
        self._tags = dict(tags or {})
        self._second = (0, "")

    def format(self, record: logging.LogRecord) -> str:
        """The line, without the newline at its end."""
        fields: dict[str, Any] = {
            "timestamp": self._timestamp(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": message_of(record) if record.args else record.msg,
            **self._fixed,
        }
        correlation = correlation_of(record)
        if correlation is not None:
            for key, value in zip(correlation._fields, correlation, strict=True):
                if value is not None:
                    fields[key] = value
        fields["process"] = record.process
        fields["thread"] = record.threadName
        fields["file"] = record.filename
        fields["line"] = record.lineno
        fields["function"] = record.funcName
        if record.exc_info or record.exc_text:
            fields["exception"] = _exception_of(record)
        if record.stack_info:
            fields["stack"] = record.stack_info
        if self._tags:
            for key, value in self._tags.items():
                fields.setdefault(key, value)
        extra = extra_of(record)
        if isinstance(record.msg, dict):
            fields["message"] = ""
            extra = {**record.msg, **extra}
        elif not isinstance(fields["message"], str):
            fields["message"] = message_of(record)
        for key, value in extra.items():
            fields[f"extra.{key}" if key in _CONTRACT_KEYS else key] = value
        return self._render(fields)

    def _render(self, fields: dict[str, Any]) -> str:
        line = _dumps(fields)
        redactor = self._redactor or current_redactor()
        try:
            if not redactor.finds(line):
                return line
            return _dumps(_redacted(json.loads(line), redactor))
        except Exception:  # noqa: BLE001 - the record must appear all the same
            return _dumps(_withheld(fields))

    def _timestamp(self, created: float) -> str:
        second = int(created)
        cached, text = self._second
        if second != cached:
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = (second, text)
        return f"{text}.{int((created - second) * 1_000_000):06d}Z"


class TextFormatter(logging.Formatter):
    """dlt's text line, without secrets, followed by `[pipeline step trace_id]` while a run is on.

    Args:
        redactor: Takes the secrets out.
        fmt: A format in `{` style, dlt's by default. One that names an id itself (`{transaction_id}`) gets
            nothing appended; outside of a run an id is `-`.
    """

    _ids = ("pipeline", "step", "transaction_id", "trace_id", "span_id")

    def __init__(self, *, redactor: Redactor | None = None, fmt: str = TEXT_FORMAT) -> None:
        super().__init__(fmt, style="{", defaults=dict.fromkeys(self._ids, "-"))
        self._redactor = redactor
        self._append_ids = not any(f"{{{name}" in fmt for name in self._ids)

    def format(self, record: logging.LogRecord) -> str:
        """The line, and below it the stack trace where there is one."""
        copy = logging.makeLogRecord(record.__dict__)
        copy.msg, copy.args = message_of(record), None
        copy.exc_text, copy.exc_info = stacktrace_of(record) or None, None
        text = self._finish(copy)
        redactor = self._redactor or current_redactor()
        try:
            if not redactor.finds(text):
                return text
        except Exception:  # noqa: BLE001 - redacted_copy withholds the texts then
            pass
        return self._finish(redacted_copy(record, redactor))

    def _finish(self, record: logging.LogRecord) -> str:
        if "metrics" in record.__dict__:  # dlt's own formatter appends them likewise
            record.msg = f"{record.msg}: {_dumps(record.__dict__['metrics'])}"
        correlation = correlation_of(record)
        if self._append_ids and correlation is not None and correlation.pipeline is not None:
            record.msg = f"{record.msg} [{correlation.pipeline} {correlation.step} {correlation.trace_id}]"
        return super().format(record)


def _exception_of(record: logging.LogRecord) -> dict[str, str]:
    info = record.exc_info
    described = {"stacktrace": stacktrace_of(record)}
    if isinstance(info, tuple) and info[0] is not None:
        described = {"type": type_name(info[0]), "message": text_of(info[1]), **described}
    return described


def _redacted(fields: dict[str, Any], redactor: Redactor) -> dict[str, Any]:
    clean = {key: value for key, value in fields.items() if key in _IDENTITY_KEYS}
    rest = redactor.redact({key: value for key, value in fields.items() if key not in clean})
    names = {key: key if key in _CONTRACT_KEYS else redactor.text(key) for key in fields}
    return {names[key]: clean[key] if key in clean else rest[names[key]] for key in fields}


def _withheld(fields: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in fields.items() if key in _IDENTITY_KEYS}
    return {**kept, "message": WITHHELD}


def _dumps(value: Any) -> str:
    try:
        return orjson.dumps(value, default=orjson_default, option=_JSON_OPTIONS).decode()
    except (TypeError, ValueError, RecursionError):
        # what orjson cannot write: huge integers, lone surrogates, circular references
        return json.dumps(_plain(value, 0))


def _plain(value: Any, depth: int) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None  # as orjson does: JSON has no word for it
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if depth < _MAX_DEPTH and isinstance(value, dict):
        return {text_of(key): _plain(item, depth + 1) for key, item in value.items()}
    if depth < _MAX_DEPTH and isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item, depth + 1) for item in value]
    return f"<{type_name(type(value))}>" if depth >= _MAX_DEPTH else text_of(value)
