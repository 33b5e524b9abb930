"""What a JSON log line costs, against formatters that neither redact nor know of traces."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import orjson
import structlog
from dlt.common import logger as dlt_logger
from dlt.common.runtime import json_logging
from material import info_records, secrets
from measure import Contender, Figure, prepared, side_by_side
from opentelemetry.sdk.trace import TracerProvider
from pythonjsonlogger.orjson import OrjsonFormatter

import dltobs
from dltobs._context.current import RunContext, current_run
from dltobs.logs.records import CorrelationFilter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SECRETS = 100
_COPIES = 20
"""Of dlt's records, for one round of one contender."""

_SAME_FIELDS = (
    "levelname", "name", "message", "process", "threadName", "filename", "lineno", "funcName",
)  # fmt: skip

_INCLUDED = {
    "dltobs": "CorrelationFilter.filter() (run context and current span), then JsonFormatter.format(): "
    "15 fields, scanned for 100 secrets and all patterns",
    "OrjsonFormatter, same fields": "format() with the 8 fields of the record that dltobs writes, "
    "and timestamp=True",
    "OrjsonFormatter, bare": "format() as it comes without arguments: an object with one field, the message",
    "structlog + orjson": "structlog.stdlib.ProcessorFormatter.format() with level, logger, UTC timestamp, "
    "the same five call-site fields, and JSONRenderer over orjson",
    "dlt's own JSON": "format() of the formatter that dlt puts on its logger under RUNTIME__LOG_FORMAT=JSON",
    "no-op": "format() that returns an empty text: the loop alone",
}


class _NoOp(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:  # noqa: ARG002 - the signature is logging's
        return ""


def json_line(rounds: int) -> Figure:
    """Against the fields that dltobs writes, without redaction and trace context."""
    return _figure(
        rounds,
        title="A JSON line of dlt's, redacted over 100 secrets and with trace context, against "
        "python-json-logger's OrjsonFormatter with the same fields and neither",
        peer="OrjsonFormatter, same fields",
    )


def json_line_against_bare(rounds: int) -> Figure:
    """Against a line that holds nothing but the message."""
    return _figure(
        rounds,
        title="The same line against OrjsonFormatter() without arguments, which writes the message alone",
        peer="OrjsonFormatter, bare",
    )


def _figure(rounds: int, *, title: str, peer: str) -> Figure:
    records = info_records()
    with _run_and_span():
        formats = _formats()
        contenders = {key: _contender(formatting, records) for key, formatting in formats.items()}
        seconds = side_by_side(contenders, rounds)
        samples = {key: formatting(_copies(records[:1])[0]) for key, formatting in formats.items()}
    lengths = [len(record.getMessage()) for record in records]
    return Figure(
        title=title,
        subject="dltobs",
        peer=peer,
        goal=1.0,
        unit="a line",
        seconds=seconds,
        details={
            "included": _INCLUDED,
            "samples": samples,
            "records": len(records),
            "message_characters": {
                "min": min(lengths),
                "mean": sum(lengths) / len(lengths),
                "max": max(lengths),
            },
        },
    )


def _formats() -> dict[str, Callable[[logging.LogRecord], str]]:
    ours = dltobs.JsonFormatter(redactor=dltobs.Redactor(secrets(_SECRETS)), service="dlt")
    correlation = CorrelationFilter()

    def filter_and_format(record: logging.LogRecord) -> str:
        correlation.filter(record)
        return ours.format(record)

    return {
        "dltobs": filter_and_format,
        "OrjsonFormatter, same fields": OrjsonFormatter(_SAME_FIELDS, timestamp=True).format,
        "OrjsonFormatter, bare": OrjsonFormatter().format,
        "structlog + orjson": _structlog_formatter().format,
        "dlt's own JSON": _dlts_formatter().format,
        "no-op": _NoOp().format,
    }


def _contender(
    formatting: Callable[[logging.LogRecord], str], records: tuple[logging.LogRecord, ...]
) -> Contender:
    def format_all(copies: list[logging.LogRecord]) -> None:
        for record in copies:
            formatting(record)

    # each record is formatted once, as in a program: formatters and filters leave attributes behind
    return prepared(lambda: _copies(records * _COPIES), format_all, len(records) * _COPIES)


def _copies(records: tuple[logging.LogRecord, ...]) -> list[logging.LogRecord]:
    return [logging.makeLogRecord(record.__dict__) for record in records]


@contextmanager
def _run_and_span() -> Iterator[None]:
    """A run that is on, and a recording span of OpenTelemetry's SDK."""
    token = current_run.set(RunContext("shop", "extract", f"{0xD17:032x}"))
    try:
        with TracerProvider().get_tracer("bench").start_as_current_span("extract"):
            yield
    finally:
        current_run.reset(token)


def _structlog_formatter() -> logging.Formatter:
    parameter = structlog.processors.CallsiteParameter
    call_site = structlog.processors.CallsiteParameterAdder(
        {parameter.PROCESS, parameter.THREAD_NAME, parameter.FILENAME, parameter.LINENO, parameter.FUNC_NAME}
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            call_site,
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(serializer=_orjson),
        ],
    )


def _orjson(value: Any, **options: Any) -> str:
    return orjson.dumps(value, default=options.get("default")).decode()


def _dlts_formatter() -> logging.Formatter:
    """dlt makes the class in a function, and replaces the formatters of the whole process: put those back."""
    default = vars(logging)["_defaultFormatter"]
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict]
    kept = [(handler, handler.formatter) for logger in loggers for handler in logger.handlers]
    created = dlt_logger._create_logger("bench", "INFO", "JSON", "dlt", {"dlt_version": "0"})
    formatter = created.handlers[0].formatter
    created.handlers.clear()
    vars(logging)["_defaultFormatter"] = default
    for handler, previous in kept:
        handler.formatter = previous
    if not isinstance(formatter, json_logging.JSONLogFormatter):
        message = f"dlt has put {formatter!r} on its logger"
        raise TypeError(message)
    return formatter
