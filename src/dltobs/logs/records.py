"""Gives each log record the ids of its run, and renders records without secrets."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING, Any

from dltobs._context import Correlation, current_correlation
from dltobs._redaction import WITHHELD

if TYPE_CHECKING:
    from dltobs._redaction import Redactor

CORRELATION_ATTRIBUTE = "dltobs_correlation"
"""The attribute of a log record that holds its `Correlation`."""


class CorrelationFilter(logging.Filter):
    """Puts `pipeline`, `step`, `transaction_id`, `trace_id` and `span_id` on each record.

    It runs in the thread that logs, so handlers that work elsewhere (a `QueueListener`) know the ids too.
    Attributes that an `extra` has set already are left alone.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Mark the record; never drop it."""
        correlation = current_correlation()
        if correlation is not None:
            attributes = record.__dict__
            attributes[CORRELATION_ATTRIBUTE] = correlation
            for name, value in zip(Correlation._fields, correlation, strict=True):
                if value is not None:
                    attributes.setdefault(name, value)
        return True


def correlation_of(record: logging.LogRecord) -> Correlation | None:
    """The ids of a record, also of one that passed no `CorrelationFilter`."""
    marked: Correlation | None = record.__dict__.get(CORRELATION_ATTRIBUTE)
    return marked or current_correlation()


_STANDARD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {
    "message", "asctime", "taskName", CORRELATION_ATTRIBUTE,
}  # fmt: skip


def extra_of(record: logging.LogRecord) -> dict[str, Any]:
    """What `extra` added to a record: its attributes but the standard ones and our ids."""
    attributes = record.__dict__
    names = attributes.keys() - _STANDARD_ATTRIBUTES
    if not names:
        return {}
    correlation: Correlation | None = attributes.get(CORRELATION_ATTRIBUTE)
    ours = {} if correlation is None else correlation._asdict()
    # in the order in which they were given: a difference of sets has none
    return {
        name: value
        for name, value in attributes.items()
        if name in names and not name.startswith("_") and (name not in ours or value != ours[name])
    }


_FREE_TEXTS = ("threadName", "processName", "pathname", "filename", "module", "funcName")


def message_of(record: logging.LogRecord) -> str:
    """The message with its arguments; a bad format string gives the raw parts, never an exception."""
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - a wrong format string is the caller's bug; the line still counts
        return f"{record.msg!s} {record.args!r}"


def stacktrace_of(record: logging.LogRecord) -> str:
    """The stack trace of the record's exception, as Python prints it; empty where there is none."""
    info = record.exc_info
    if isinstance(info, tuple) and info[0] is not None:
        return "".join(traceback.format_exception(*info)).rstrip("\n")
    return record.exc_text or ""


def redacted_copy(record: logging.LogRecord, redactor: Redactor) -> logging.LogRecord:
    """A copy whose message, stack trace and extra fields are without secrets and final.

    If redaction itself fails, the texts are `[withheld]` and the extra fields are gone.
    """
    copy = logging.makeLogRecord(record.__dict__)
    stacktrace = stacktrace_of(record)
    copy.args = None
    copy.exc_info = None
    try:
        copy.msg = redactor.text(message_of(record))
        copy.exc_text = redactor.text(stacktrace) or None
        copy.stack_info = redactor.text(record.stack_info) if record.stack_info else None
        for name in _FREE_TEXTS:
            copy.__dict__[name] = redactor.redact(getattr(record, name, None))
        extra = extra_of(record)
        for name, value in redactor.redact(extra).items():
            copy.__dict__[name] = value
    except Exception:  # noqa: BLE001 - the record must appear all the same
        copy.msg = WITHHELD
        copy.exc_text = WITHHELD if stacktrace else None
        copy.stack_info = None
        for name in extra_of(record):
            copy.__dict__[name] = WITHHELD
    return copy
