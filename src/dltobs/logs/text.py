"""Log lines as text, as dlt writes them, without secrets."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from dltobs._state import current_redactor
from dltobs.logs.plain import dumps
from dltobs.logs.records import (
    WITH_IDS_ATTRIBUTE,
    correlation_of,
    message_of,
    redacted_copy,
    stacktrace_of,
)

if TYPE_CHECKING:
    from typing import Any

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
            copy.exc_text, copy.exc_info = stacktrace_of(record) or None, None
            text = self._finish(copy)
            if not redactor.finds(text):
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


_DIM, _CYAN = "2", "36"
_LEVEL_COLORS = (
    (logging.CRITICAL, "1;31"),
    (logging.ERROR, "31"),
    (logging.WARNING, "33"),
    (logging.INFO, "32"),
    (0, _DIM),
)
"""From which level on which colour: ANSI's codes."""


class TerminalFormatter(TextFormatter):
    """A line for people: `12:03:04 INFO     shop/extract  extract: 2 resources, 1,234 rows in 0.3 s`.

    The ids of a run are in its first and its last line alone. A record outside of a run has the name of its
    logger in the place of pipeline and step.

    Args:
        redactor: Takes the secrets out.
        color: Whether to use colour.
    """

    def __init__(self, *, redactor: Redactor | None = None, color: bool = False) -> None:
        super().__init__(redactor=redactor)
        self._append_ids = False
        self._color = color

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        """Return the line without the stack trace."""
        ids = correlation_of(record)
        place, suffix = record.name, ""
        if ids is not None and ids.pipeline is not None:
            place = ids.pipeline if ids.step in {None, "run"} else f"{ids.pipeline}/{ids.step}"
            if WITH_IDS_ATTRIBUTE in record.__dict__:
                known = {"trace": ids.trace_id, "transaction": ids.transaction_id}
                if ids.trace_id == ids.transaction_id:
                    del known["transaction"]
                suffix = ", ".join(f"{name} {value}" for name, value in known.items() if value is not None)
                suffix = f"  {self._painted(f'[{suffix}]', _DIM)}"
        color = next(code for least, code in _LEVEL_COLORS if record.levelno >= least or least == 0)
        return (
            f"{self._painted(self.formatTime(record, '%H:%M:%S'), _DIM)} "
            f"{self._painted(f'{record.levelname:<8}', color)} "
            f"{self._painted(place, _CYAN)}  {record.message}{suffix}"
        )

    def _painted(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._color else text


def is_terminal(stream: Any) -> bool:
    """Tell whether people read a stream: a terminal, or anything where `FORCE_COLOR` is set."""
    if _is_color_forced():
        return True
    try:
        return bool(stream.isatty())
    except Exception:  # noqa: BLE001 - a closed stream, or one of somebody else's making
        return False


def wants_color() -> bool:
    """Tell whether the environment allows colour: `NO_COLOR`, `FORCE_COLOR`, `TERM=dumb`."""
    if os.environ.get("NO_COLOR"):
        return False
    if _is_color_forced():
        return True
    # the old console of Windows shows the codes as they are
    is_plain = os.environ.get("TERM") == "dumb" or (os.name == "nt" and "WT_SESSION" not in os.environ)
    return not is_plain


def _is_color_forced() -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("FORCE_COLOR", "") not in {"", "0", "false"}
