"""Gives each log record the ids of its run, and renders records without secrets."""

from __future__ import annotations

import logging
import sys
import traceback
from itertools import islice
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from dltobs._context.current import Correlation, current_correlation
from dltobs._describe import text_of, type_name
from dltobs._redaction.patterns import WITHHELD
from dltobs.logs.plain import plain

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType, TracebackType

    from dltobs._redaction.redactor import Redactor

    ExcInfo = tuple[type[BaseException], BaseException | None, TracebackType | None]

CORRELATION_ATTRIBUTE = "_dltobs_correlation"
"""The attribute of a log record that holds its `Correlation`. Other formatters skip such a name.

The value is a plain tuple: records are pickled, for processes that may not know our classes.
"""

EXCEPTION_ATTRIBUTE = "_dltobs_exception"
"""The attribute of a record that tells an exception without holding it: its type, message and stack trace.

JSON lines and loguru show it; a line of text stays one line.
"""

WITH_IDS_ATTRIBUTE = "_dltobs_with_ids"
"""The attribute of a record whose line shows the ids on a terminal: the first and the last of a run."""

_SHADOWED_ATTRIBUTE = "_dltobs_shadowed"
"""The same, where an `extra` bears the name of an id."""


class CorrelationFilter(logging.Filter):
    """Puts `pipeline`, `step`, `transaction_id`, `trace_id` and `span_id` on each record.

    It runs in the thread that logs, so handlers that work elsewhere (a `QueueListener`) know the ids too.
    Attributes that an `extra` has set already are left alone. File, line and function become those of the
    code that called dlt's logger, where dlt says otherwise.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last: tuple[Correlation | None, dict[str, Any]] = (None, {})

    def filter(self, record: logging.LogRecord) -> bool:
        """Mark the record; never drop it."""
        if record.exc_info or record.filename == "logger.py":
            _correct_origin(record)
        correlation = current_correlation()
        attributes = record.__dict__
        if correlation is None or CORRELATION_ATTRIBUTE in attributes:
            return True
        known, marks = self._last
        if known is not correlation:
            marks = {name: value for name, value in correlation._asdict().items() if value is not None}
            marks[CORRELATION_ATTRIBUTE] = tuple(correlation)
            self._last = (correlation, marks)
        if attributes.keys().isdisjoint(Correlation._fields):
            attributes.update(marks)
        else:
            attributes[_SHADOWED_ATTRIBUTE] = marks[CORRELATION_ATTRIBUTE]
            for name in marks.keys() - {CORRELATION_ATTRIBUTE}:
                attributes.setdefault(name, marks[name])
        return True


def _correct_origin(record: logging.LogRecord) -> None:
    """Name the caller of dlt's logger as the origin of the record.

    `dlt.common.logger.exception` counts one frame too many on Python 3.11 and later (its stacklevel is that
    of older versions); `metrics` and `suppress_and_warn` name themselves.
    """
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 - how logging itself finds its caller
    is_dlts = False
    while frame is not None:
        module = frame.f_globals.get("__name__")
        if module == "dlt.common.logger":
            is_dlts = True
        elif is_dlts and module != "contextlib":
            break
        elif not is_dlts and module != "logging":
            return
        frame = frame.f_back
    if frame is not None:
        path = PurePath(frame.f_code.co_filename)
        record.pathname, record.filename, record.module = str(path), path.name, path.stem
        record.lineno, record.funcName = frame.f_lineno, frame.f_code.co_name


def correlation_of(record: logging.LogRecord) -> Correlation | None:
    """The ids of a record, also of one that passed no `CorrelationFilter`."""
    attributes = record.__dict__
    marked = attributes.get(CORRELATION_ATTRIBUTE) or attributes.get(_SHADOWED_ATTRIBUTE)
    return Correlation(*marked) if marked else current_correlation()


_STANDARD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({})))
_COUNT = len(_STANDARD_ATTRIBUTES)
_KNOWN_ATTRIBUTES = _STANDARD_ATTRIBUTES | {"message", "asctime", "taskName"}
_KNOWN_MARKED_ATTRIBUTES = _KNOWN_ATTRIBUTES | {
    CORRELATION_ATTRIBUTE,
    WITH_IDS_ATTRIBUTE,
    *Correlation._fields,
}
_NO_EXTRA: Mapping[str, Any] = {}


def count_of_attributes(marks: tuple[str | None, ...] | None) -> int:
    """How many attributes a record without an extra has, if `CorrelationFilter` has put these on it."""
    return _COUNT if marks is None else _COUNT + 1 + len(marks) - marks.count(None)


def extra_of(record: logging.LogRecord) -> Mapping[str, Any]:
    """What `extra` added to a record: its attributes but the standard ones and our ids."""
    attributes = record.__dict__
    known = _KNOWN_MARKED_ATTRIBUTES if CORRELATION_ATTRIBUTE in attributes else _KNOWN_ATTRIBUTES
    if known.issuperset(attributes):
        return _NO_EXTRA
    shadowed = attributes.get(_SHADOWED_ATTRIBUTE)
    ours = Correlation(*shadowed)._asdict() if shadowed else {}
    extra = {}
    # a record begins with its standard attributes
    for key, value in islice(attributes.items(), _COUNT, None):
        if key not in known:
            name = key if isinstance(key, str) else text_of(key)
            if not name.startswith("_") and not (ours and isinstance(value, str) and ours.get(name) == value):
                extra[name] = value
    return extra


def message_of(record: logging.LogRecord) -> str:
    """The message with its arguments; a bad format string gives the raw parts, never an exception."""
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - a wrong format string is the caller's bug; the line still counts
        return f"{text_of(record.msg)} {plain(record.args)}" if record.args else text_of(record.msg)


def exc_info_of(record: logging.LogRecord) -> ExcInfo | None:
    """The exception of a record; None where there is none (`exc_info=True` outside of an `except`)."""
    info: Any = record.exc_info
    if isinstance(info, BaseException):
        return (type(info), info, info.__traceback__)
    return info if isinstance(info, tuple) and info[0] is not None else None


def stacktrace_of(record: logging.LogRecord) -> str:
    """The stack trace of the record's exception, as Python prints it; empty where there is none."""
    info = exc_info_of(record)
    if info is None:
        return record.exc_text or ""
    try:
        return "".join(traceback.format_exception(*info)).rstrip("\n")
    except Exception:  # noqa: BLE001 - exceptions are foreign code, too
        return f"{type_name(info[0])}: {text_of(info[1])}"


def described_exception(record: logging.LogRecord, redactor: Redactor) -> tuple[str, str, str] | None:
    """Return type, message and stack trace of `EXCEPTION_ATTRIBUTE`, redacted; None where there is none."""
    described = record.__dict__.get(EXCEPTION_ATTRIBUTE)
    if described is None:
        return None
    kind, message, trace = described
    try:
        return kind, redactor.text(message), redactor.text(trace)
    except Exception:  # noqa: BLE001 - the record must appear all the same
        return kind, WITHHELD, WITHHELD


_FREE_TEXTS = ("threadName", "processName", "pathname", "filename", "module", "funcName", "taskName")


def redacted_copy(record: logging.LogRecord, redactor: Redactor) -> logging.LogRecord:
    """A copy whose texts are without secrets and final.

    The arguments are in the message, the exception is text (`exc_text`), and objects among the extra fields
    are text. If redaction itself fails, all of them are `[withheld]`.
    """
    copy = logging.makeLogRecord(record.__dict__)
    attributes = copy.__dict__
    extra = extra_of(record)
    for name in [name for name in attributes if name not in _KNOWN_MARKED_ATTRIBUTES or name in extra]:
        del attributes[name]
    texts = {"msg": message_of(record), "exc_text": stacktrace_of(record), "stack_info": record.stack_info}
    texts |= {name: record.__dict__.get(name) for name in _FREE_TEXTS}
    correlation = correlation_of(record)
    copy.args = None
    copy.exc_info = None
    try:
        attributes.update({name: text and redactor.text(text) for name, text in texts.items()})
        attributes.update(redactor.redact(plain(extra)))
    except Exception:  # noqa: BLE001 - the record must appear all the same
        attributes.update({name: text and WITHHELD for name, text in texts.items()})
        attributes.update(dict.fromkeys(extra, WITHHELD))
    copy.exc_text = copy.exc_text or None
    if correlation is not None:
        is_shadowed = not extra.keys().isdisjoint(Correlation._fields)
        attributes[_SHADOWED_ATTRIBUTE if is_shadowed else CORRELATION_ATTRIBUTE] = tuple(correlation)
    return copy
