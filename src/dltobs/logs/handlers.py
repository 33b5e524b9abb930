"""Where log lines go: the console, a rotating file, loguru, and the memory of the run."""

from __future__ import annotations

import collections
import logging
import os
import sys
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from concurrent_log_handler import ConcurrentRotatingFileHandler

from dltobs._events import LogLine
from dltobs.logs.records import correlation_of, message_of

if TYPE_CHECKING:
    from pathlib import Path

    from dltobs._warnings import Warner

_FILE_MODE = 0o600
_LINES_OF_A_RUN = 50


class _Handler(logging.Handler):
    """What our handlers have in common.

    The formatter is fixed: dlt and `json_logging` assign one of their own to every handler they meet. What goes
    wrong is one warning: `logging` would print the record to stderr, with its message and arguments,
    unredacted.
    """

    subject = "log"
    _fixed_formatter: logging.Formatter
    _warner: Warner | None

    def format(self, record: logging.LogRecord) -> str:
        """Format with our own formatter, whatever has been assigned to the handler."""
        return self._fixed_formatter.format(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        """Warn once."""
        error = sys.exc_info()[1]
        # a warning of ours that cannot be written must not become another one
        if error is not None and self._warner is not None and record.name != "dltobs":
            self._warner.internal_error(self.subject, error)


class ConsoleHandler(_Handler):
    """Writes to what `sys.stderr` is at the time of the record, as `logging.lastResort` does."""

    subject = "console log"

    def __init__(self, formatter: logging.Formatter, warner: Warner | None = None) -> None:
        super().__init__()
        self._fixed_formatter = formatter
        self._warner = warner

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line in one piece."""
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:  # noqa: BLE001 - logging's own rule: a handler does not raise
            self.handleError(record)


class FileHandler(_Handler, ConcurrentRotatingFileHandler):
    """A rotating file, readable by its owner only, into which several processes may write."""

    subject = "log file"

    def __init__(
        self,
        path: Path,
        formatter: logging.Formatter,
        *,
        max_bytes: int,
        backup_count: int,
        warner: Warner | None = None,
    ) -> None:
        ConcurrentRotatingFileHandler.__init__(
            self,
            str(path),
            maxBytes=max_bytes,
            backupCount=backup_count,
            encoding="utf-8",
            chmod=_FILE_MODE,
            newline="",
            unicode_error_policy="replace",
        )
        self._fixed_formatter = formatter
        self._warner = warner

    def check(self) -> None:
        """Open the file and its lock once.

        Raises:
            OSError: The path cannot be written.
        """
        with open(self.baseFilename, "a", encoding="utf-8", opener=_private):  # noqa: PTH123 - Path.open takes no opener
            pass
        with open(self.lockFilename, "a", encoding="utf-8", opener=_private):  # noqa: PTH123
            pass


class RecentLines(_Handler):
    """Remembers the last records of each run that is on, for the report of a failure.

    The lines are as they were logged: they pass the redactor with the event that carries them.
    """

    subject = "log memory"

    def __init__(self, warner: Warner | None = None) -> None:
        super().__init__()
        self._warner = warner
        self._lines: dict[str, collections.deque[LogLine]] = {}

    def begin(self, transaction_id: str) -> None:
        """Start to remember for a run."""
        self._lines[transaction_id] = collections.deque(maxlen=_LINES_OF_A_RUN)

    def take(self, transaction_id: str) -> tuple[LogLine, ...]:
        """The lines of a run, oldest first; they are forgotten."""
        return tuple(self._lines.pop(transaction_id, ()))

    def emit(self, record: logging.LogRecord) -> None:
        """Remember the record, if it belongs to a run."""
        try:
            correlation = correlation_of(record)
            if correlation is None or correlation.transaction_id is None:
                return
            lines = self._lines.get(correlation.transaction_id)
            if lines is not None:
                at = datetime.fromtimestamp(record.created, timezone.utc)
                lines.append(LogLine(at, record.levelname, record.name, message_of(record)))
        except Exception:  # noqa: BLE001 - logging's own rule: a handler does not raise
            self.handleError(record)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, _FILE_MODE)
