"""Log lines as text, as dlt writes them, without secrets."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from dltobs._cut import TEXT
from dltobs._state import current_redactor
from dltobs.logs.plain import dumps
from dltobs.logs.records import correlation_of, message_of, redacted_copy, stacktrace_of

if TYPE_CHECKING:
    from dltobs._redaction.redactor import Redactor

TEXT_FORMAT = "{asctime}|[{levelname}]|{process}|{thread}|{name}|{filename}|{funcName}:{lineno}|{message}"
"""dlt's own default (`RuntimeConfiguration.log_format`)."""

_DEFAULT = logging.Formatter(TEXT_FORMAT, style="{")


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
        """The line, and below it the stack trace where there is one; never raises."""
        redactor = self._redactor or current_redactor()
        try:
            copy = logging.makeLogRecord(record.__dict__)
            copy.msg, copy.args = message_of(record), None
            copy.exc_text, copy.exc_info = stacktrace_of(record, redactor) or None, None
            text = self._finish(copy)
            if len(text) <= TEXT and not redactor.finds(text):
                return text
        except Exception:  # noqa: BLE001, S110 - the redacted copy is rendered, or withheld
            pass
        clean = redacted_copy(record, redactor)
        try:
            return self._finish(clean)
        except Exception:  # noqa: BLE001 - a format that does not fit the record: the default always does
            return _DEFAULT.format(clean)

    def _finish(self, record: logging.LogRecord) -> str:
        message = record.msg
        if "metrics" in record.__dict__:  # dlt's own formatter appends them likewise
            record.msg = f"{record.msg}: {dumps(record.__dict__['metrics'])}"
        correlation = correlation_of(record)
        if self._append_ids and correlation is not None and correlation.pipeline is not None:
            record.msg = f"{record.msg} [{correlation.pipeline} {correlation.step} {correlation.trace_id}]"
        try:
            return super().format(record)
        finally:
            record.msg = message
