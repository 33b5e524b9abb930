"""dlt's records in loguru, with the file, line and function of the code that logged them."""

from __future__ import annotations

import copyreg
from functools import cache
from typing import TYPE_CHECKING, Any

from loguru import logger

from dltobs._context.surroundings import labels_of
from dltobs._describe import text_of
from dltobs._redaction.patterns import WITHHELD
from dltobs._state import current_redactor
from dltobs.logs.handlers import SafeHandler
from dltobs.logs.records import correlation_of, described_exception, exc_info_of, extra_of, redacted_copy

if TYPE_CHECKING:
    import logging

    from dltobs._redaction.redactor import Redactor
    from dltobs._warnings import Warner


class InterceptHandler(SafeHandler):
    """Hands records of the standard library to loguru; safe for a `dictConfig` of your own.

    `{file}`, `{line}`, `{function}`, `{level}`, `{thread}`, `{process}` and `{time}` are those of the record,
    `{name}` the name of its logger, and the ids of the run are in `{extra}`. An exception arrives as text in
    the message, with a stand-in of the same type and no traceback as `{exception}`: loguru's
    `diagnose=True`, its default, would print the values of the variables in every frame.

    Args:
        redactor: Takes the secrets out. By default the one of the running `dltobs.configure()`.
        warner: Told of errors. By default likewise.
    """

    subject = "loguru"

    def __init__(self, *, redactor: Redactor | None = None, warner: Warner | None = None) -> None:
        super().__init__(warner)
        self._redactor = redactor

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record with loguru; never raises."""
        try:
            self._emit(record)
        except Exception:  # noqa: BLE001 - logging's own rule: a handler does not raise
            self.handleError(record)

    def _emit(self, record: logging.LogRecord) -> None:
        redactor = self._redactor or current_redactor()
        clean = redacted_copy(record, redactor)
        told = described_exception(record, redactor)
        if told is None:
            log(clean, stand_in_for(record, redactor))
            return
        kind, message, clean.exc_text = told
        module, _, name = kind.rpartition(".")
        stand_in = _stand_in_type(name, module or "builtins")
        log(clean, (stand_in, stand_in(message), None))


def log(clean: logging.LogRecord, stand_in: Any) -> None:
    """Hand a record to loguru that `redacted_copy` has made, of this process or of a worker.

    Args:
        clean: The record.
        stand_in: What `stand_in_for` gave for the original.
    """
    try:
        level: str | int = logger.level(clean.levelname).name
    except ValueError:
        level = clean.levelno
    message = str(clean.msg)
    for text in (clean.exc_text, clean.stack_info):
        if text:
            message = f"{message}\n{text}"
    bound = logger.bind(**_fields_of(clean)).patch(lambda target: _copy_origin(clean, target))
    bound.opt(exception=stand_in).log(level, "{}", message)


def _fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """The extra fields and the ids; a field that bears the name of an id becomes `extra.<name>`."""
    correlation = correlation_of(record)
    ids = {} if correlation is None else {k: v for k, v in correlation._asdict().items() if v is not None}
    labels = {} if correlation is None else labels_of(correlation.transaction_id)
    extra = extra_of(record).items()
    return {**labels, **{f"extra.{name}" if name in ids else name: value for name, value in extra}, **ids}


def _copy_origin(record: logging.LogRecord, target: Any) -> None:
    """Make loguru's record speak of the code that logged, not of this handler."""
    target["name"] = record.name
    target["function"] = record.funcName
    target["line"] = record.lineno
    target["module"] = record.module
    target["level"].name = record.levelname
    target["file"].name, target["file"].path = record.filename, record.pathname
    target["thread"].id, target["thread"].name = record.thread, record.threadName
    target["process"].id, target["process"].name = record.process, record.processName
    target["time"] = type(target["time"]).fromtimestamp(record.created, target["time"].tzinfo)


def stand_in_for(record: logging.LogRecord, redactor: Redactor) -> Any:
    """An exception of the same type name that holds nothing but its own text, redacted."""
    info = exc_info_of(record)
    if info is None:
        return None
    try:
        text = redactor.text(text_of(info[1]))
    except Exception:  # noqa: BLE001 - the record must appear all the same
        text = WITHHELD
    kind = _stand_in_type(info[0].__name__, info[0].__module__)
    return (kind, kind(text), None)


class _StandInType(type):
    """The type of stand-ins: they are found nowhere, so pickle (`enqueue=True`) makes them anew."""


@cache
def _stand_in_type(name: str, module: str) -> Any:
    return _StandInType(name, (Exception,), {"__module__": module})


def _reduced(kind: _StandInType) -> tuple[Any, tuple[str, str]]:
    return _stand_in_type, (kind.__name__, kind.__module__)


copyreg.pickle(_StandInType, _reduced)
