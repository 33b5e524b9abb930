"""Where log lines go: the console, a rotating file, loguru, and the memory of the run."""

from __future__ import annotations

import collections
import logging
import os
import sys
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from concurrent_log_handler import ConcurrentRotatingFileHandler

from dltobs import _state
from dltobs._events import LogLine
from dltobs._warnings import Warner
from dltobs.logs.formatters import JsonFormatter
from dltobs.logs.plain import to_ascii
from dltobs.logs.records import correlation_of, message_of
from dltobs.logs.text import is_terminal

if TYPE_CHECKING:
    from pathlib import Path

_FILE_MODE = 0o600
_LINES_OF_A_RUN = 50


class SafeHandler(logging.Handler):
    """A handler whose errors are one warning.

    `logging` would print the record to stderr, with its message and arguments, unredacted.

    Args:
        warner: Told of errors; by default the one of the running `dltobs.configure()`.
    """

    subject = "log"

    def __init__(self, warner: Warner | None = None) -> None:
        super().__init__()
        self._warner = warner

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        """Warn once."""
        error = sys.exc_info()[1]
        # a warning of ours that cannot be written must not become another one
        if error is not None and record.name != "dltobs":
            (self._warner or _current_warner()).internal_error(self.subject, error)


class _FormattingHandler(SafeHandler):
    """A handler whose formatter stays: dlt assigns one of its own to the handlers that it meets."""

    _fixed_formatter: logging.Formatter

    def format(self, record: logging.LogRecord) -> str:
        """Format with our own formatter, whatever has been assigned to the handler."""
        return self._fixed_formatter.format(record)


class ConsoleHandler(_FormattingHandler):
    """Writes to what `sys.stderr` is at the time of the record, as `logging.lastResort` does.

    Args:
        formatter: Renders a line.
        warner: Told of errors.
        terminal_formatter: Renders a line where stderr is a terminal; by default as elsewhere.
    """

    subject = "console log"

    def __init__(
        self,
        formatter: logging.Formatter,
        warner: Warner | None = None,
        *,
        terminal_formatter: logging.Formatter | None = None,
    ) -> None:
        super().__init__(warner)
        self._fixed_formatter = formatter
        self._terminal_formatter = terminal_formatter or formatter
        self._writing_to: object = None
        self._loop: object = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line in one piece."""
        stderr = sys.stderr
        if stderr is None or stderr is self._loop:
            return
        if stderr is self._writing_to:
            # what we write comes back to us: Airflow turns stderr into records of the task's logger
            self._loop = stderr
            return
        self._writing_to = stderr
        try:
            formatter = self._terminal_formatter if is_terminal(stderr) else self._fixed_formatter
            line = f"{formatter.format(record)}\n"
            stderr.write(self._encodable(line, getattr(stderr, "encoding", None)))
            stderr.flush()
        except Exception:  # noqa: BLE001 - logging's own rule: a handler does not raise
            self.handleError(record)
        finally:
            self._writing_to = None

    def _encodable(self, line: str, encoding: str | None) -> str:
        if line.isascii():
            return line
        encoding = encoding or "utf-8"
        try:
            line.encode(encoding)
        except UnicodeEncodeError:
            # stderr itself would write \xe9, which is no escape in JSON
            if isinstance(self._fixed_formatter, JsonFormatter):
                return to_ascii(line)
            return line.encode(encoding, "backslashreplace").decode(encoding)
        return line


class FileHandler(_FormattingHandler, ConcurrentRotatingFileHandler):
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
        for path in (self.baseFilename, self.lockFilename):
            os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, _FILE_MODE))

    def close(self) -> None:
        """Close the file and its lock; what cannot be written any more is a warning, too."""
        try:
            super().close()
        except OSError as error:
            (self._warner or _current_warner()).internal_error(self.subject, error)


class RecentLines(SafeHandler):
    """Remembers the last records of each run that is on, for the report of a failure.

    The lines are as they were logged: they pass the redactor with the event that carries them.
    """

    subject = "log memory"

    def __init__(self, warner: Warner | None = None) -> None:
        super().__init__(warner)
        self._lines: dict[str, collections.deque[LogLine]] = {}

    def begin(self, transaction_id: str) -> None:
        """Start to remember for a run."""
        self._lines[transaction_id] = collections.deque(maxlen=_LINES_OF_A_RUN)

    def take_over(self, other: RecentLines) -> None:
        """Go on with what another memory knows of the runs that are on."""
        self._lines = other._lines

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


def _current_warner() -> Warner:
    running = _state.runtime
    return _own_warner if running is None else running.warner


_own_warner = Warner(_state.current_redactor())
