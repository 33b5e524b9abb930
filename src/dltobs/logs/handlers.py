"""What all handlers of dltobs have in common, the console, and the memory of each run's last lines."""

from __future__ import annotations

import collections
import contextlib
import logging
import sys
from datetime import datetime, timezone
from typing import Any

from dltobs import _state
from dltobs._cut import MESSAGE
from dltobs._events import LogLine
from dltobs._warnings import Warner
from dltobs.logs.formatters import JsonFormatter
from dltobs.logs.plain import to_ascii
from dltobs.logs.records import correlation_of, message_of
from dltobs.logs.text import is_terminal

_LINES_OF_A_RUN = 50


class SafeHandler(logging.Handler):
    """A handler that nobody can break: its errors are one warning, and its lock is its own.

    `logging` would print the record of an error to stderr, with its message and arguments, unredacted. It is
    no `StreamHandler`: libraries exchange the streams of those. What others do with `acquire()` and
    `release()` holds up no line and no exit.

    Args:
        warner: Told of errors; by default the one of the running `dltobs.configure()`.
    """

    subject = "log"

    def __init__(self, warner: Warner | None = None) -> None:
        super().__init__()
        self._warner = warner

    def acquire(self) -> None:
        """Do nothing."""

    def release(self) -> None:
        """Do nothing."""

    def handle(self, record: logging.LogRecord) -> Any:
        """Emit a record that passes the filters, one at a time."""
        passed: Any = self.filter(record)
        if passed:
            with self.lock or contextlib.nullcontext():
                # since Python 3.12 a filter may return another record
                self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return passed

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - the names are logging's
        """Warn once."""
        error = sys.exc_info()[1]
        if error is not None:
            self.warn(error)  # once, also where this warning cannot be written either

    def warn(self, error: BaseException) -> None:
        """Warn once of an error."""
        (self._warner or _current_warner()).internal_error(self.subject, error)


class FormattingHandler(SafeHandler):
    """A handler whose formatter stays: dlt assigns one of its own to the handlers that it meets."""

    def __init__(self, formatter: logging.Formatter, warner: Warner | None = None) -> None:
        super().__init__(warner)
        self._fixed_formatter = formatter

    def format(self, record: logging.LogRecord) -> str:
        """Format with our own formatter, whatever has been assigned to the handler."""
        return self._fixed_formatter.format(record)


class ConsoleHandler(FormattingHandler):
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
        super().__init__(formatter, warner)
        self._terminal_formatter = terminal_formatter or formatter
        self._writing_to: object = None
        self._loop: object = None

    def _at_fork_reinit(self) -> None:
        """In a forked child: no thread of the parent is writing."""
        super()._at_fork_reinit()  # type: ignore[misc]  # not in typeshed
        self._writing_to = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line in one piece."""
        stderr = _without_progress_bar(sys.stderr)
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


def _without_progress_bar(stream: Any) -> Any:
    """The stream behind that of alive_progress, which writes "on 3: " before each line.

    On a terminal it is left alone: there it keeps lines and bar apart.
    """
    if type(stream).__module__ == "alive_progress.core.hook_manager":
        with contextlib.suppress(Exception):
            return stream if stream.isatty() else stream._stream  # noqa: SLF001 - it has no name for others
    return stream


class RecentLines(SafeHandler):
    """Remembers the last records of each run that is on, for the report of a failure.

    Long lines are redacted and cut. The others are as they were logged: they pass the redactor with the event
    that carries them.
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
                message = message_of(record)
                if len(message) > MESSAGE:
                    message = _state.current_redactor().text(message, MESSAGE)
                lines.append(LogLine(at, record.levelname, record.name, message))
        except Exception:  # noqa: BLE001 - logging's own rule: a handler does not raise
            self.handleError(record)


def _current_warner() -> Warner:
    running = _state.runtime
    return _own_warner if running is None else running.warner


_own_warner = Warner(_state.current_redactor())
