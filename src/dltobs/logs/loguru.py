"""dlt's records in loguru, with the file, line and function of the code that logged them."""

from __future__ import annotations

import logging
import sys
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from loguru import logger

from dltobs._state import current_redactor
from dltobs.logs.records import correlation_of, extra_of, redacted_copy

if TYPE_CHECKING:
    from dltobs._redaction import Redactor
    from dltobs._warnings import Warner


class InterceptHandler(logging.Handler):
    """Hands records of the standard library to loguru; safe for a `dictConfig` of your own.

    `{file}`, `{line}`, `{function}`, `{thread}`, `{process}` and `{time}` are those of the record, `{name}` the
    name of its logger, and the ids of the run are in `{extra}`. An exception arrives as text in the
    message, with a stand-in of the same type and no traceback as `{exception}`: loguru's
    `diagnose=True`, its default, would print the values of the variables in every frame.

    Args:
        redactor: Takes the secrets out. By default the one of the running `dltobs.configure()`.
    """

    def __init__(self, *, redactor: Redactor | None = None, warner: Warner | None = None) -> None:
        super().__init__()
        self._redactor = redactor
        self._warner = warner

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record with loguru; never raises."""
        try:
            self._emit(record)
        except Exception:  # noqa: BLE001 - logging's own rule: a handler does not raise
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        """Warn once; `logging` itself would print the record unredacted."""
        error = sys.exc_info()[1]
        if error is not None and self._warner is not None and record.name != "dltobs":
            self._warner.internal_error("loguru", error)

    def _emit(self, record: logging.LogRecord) -> None:
        clean = redacted_copy(record, self._redactor or current_redactor())
        try:
            level: str | int = logger.level(record.levelname).name
        except ValueError:
            level = record.levelno
        message = str(clean.msg)
        if clean.exc_text:
            message = f"{message}\n{clean.exc_text}"
        correlation = correlation_of(record)
        ids = {} if correlation is None else correlation._asdict()
        extra = {**extra_of(clean), **{key: value for key, value in ids.items() if value is not None}}
        bound = logger.bind(**extra).patch(lambda target: _copy_origin(clean, target))
        bound.opt(exception=_stand_in(record, clean)).log(level, "{}", message)


def _copy_origin(record: logging.LogRecord, target: Any) -> None:
    """Make loguru's record speak of the code that logged, not of this handler."""
    target["name"] = record.name
    target["function"] = record.funcName
    target["line"] = record.lineno
    target["module"] = record.module
    target["file"].name = record.filename
    target["file"].path = str(PurePath(record.pathname))
    target["thread"].id, target["thread"].name = record.thread, record.threadName
    target["process"].id, target["process"].name = record.process, record.processName
    target["time"] = type(target["time"]).fromtimestamp(record.created, target["time"].tzinfo)


def _stand_in(record: logging.LogRecord, clean: logging.LogRecord) -> Any:
    """An exception of the same type name that holds nothing but the last line of the clean trace."""
    info = record.exc_info
    if not isinstance(info, tuple) or info[0] is None:
        return None
    name = info[0].__name__
    text = (clean.exc_text or "").rpartition("\n")[2].partition(": ")[2]
    kind = type(name, (Exception,), {"__module__": info[0].__module__})
    return (kind, kind(text), None)
