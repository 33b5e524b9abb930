"""Where the log lines of one set-up go: the handlers on dlt's logger, and on our own."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from dltobs._warnings import logger
from dltobs.logs.build import console_format, console_handler, loguru_handler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dltobs._redaction.redactor import Redactor
    from dltobs._settings.settings import Settings
    from dltobs._warnings import Warner
    from dltobs.logs.attach import LoggerHook
    from dltobs.logs.file import FileHandler
    from dltobs.logs.forward import Outlet
    from dltobs.logs.handlers import RecentLines


class LogOutput:
    """Makes the handlers for the log format that dlt has, whenever dlt makes its logger anew.

    Args:
        settings: Say which.
        redactor: What each line passes.
        warner: Told of lines that cannot be written.
        log_file: The rotating file, if there is one.
        recent_lines: The memory of the last lines of each run, if somebody reports them.
        more: Handlers of integrations.
        hook: Knows which lines of dltobs' own are written; None: there are none.
    """

    def __init__(  # noqa: PLR0913 - each is a part
        self,
        settings: Settings,
        redactor: Redactor,
        warner: Warner,
        *,
        log_file: FileHandler | None,
        recent_lines: RecentLines | None,
        more: Sequence[logging.Handler] = (),
        hook: LoggerHook | None = None,
    ) -> None:
        self._hook = hook
        self._settings = settings
        self._redactor = redactor
        self._warner = warner
        self._more = tuple(more)
        self.log_file = log_file
        self.recent_lines = recent_lines
        self.outlet: Outlet | None = None
        """In a worker process: the way to the loguru of the process that has started it."""
        self._log_format = ""
        self._on_own_logger: tuple[logging.Handler, ...] = ()
        self._console: logging.Handler | None = None
        self._loguru: logging.Handler | None = None

    def handlers_for(self, log_format: str) -> Sequence[logging.Handler]:
        """The handlers for dlt's logger under a log format of dlt's; our own logger gets those that show."""
        self._log_format = log_format
        self.release_own_logger()
        self._console = console_handler(self._settings, self._redactor, self._warner, log_format)
        self._loguru = loguru_handler(self._settings, self._redactor, self._warner, self.outlet)
        made = (self._console, self.log_file, self._loguru, *self._more)
        visible = tuple(handler for handler in made if handler is not None)
        self._on_own_logger = visible
        # a `dictConfig` of the application disables what it does not name, unless it is told not to
        logger.disabled = False
        for handler in visible:
            logger.addHandler(handler)
        return visible if self.recent_lines is None else (*visible, self.recent_lines)

    @property
    def console_is_json(self) -> bool:
        """Whether each line on the console is a JSON object."""
        return console_format(self._settings, self._log_format) == "json"

    def write_to_console(self, record: logging.LogRecord) -> None:
        """Write a record that belongs to no logger to the console, if there is one."""
        if self._console is not None:
            self._console.handle(record)

    def write_uncaught(self, record: logging.LogRecord, pointer: logging.LogRecord | None) -> None:
        """Write an uncaught exception to the log file and loguru, and to a console that is JSON.

        Args:
            record: Has the exception.
            pointer: Is written where the line of a run has the exception with its stack trace, which a text
                file has not; None: there is no such line.
        """
        is_shown = self._hook is not None and self._hook.shows(logging.ERROR)
        told = record if pointer is None or not is_shown else pointer
        if self.console_is_json:
            self.write_to_console(told)
        if self.log_file is not None:
            self.log_file.handle(told if self._settings.log_file_format == "json" else record)
        if self._loguru is not None:
            self._loguru.handle(told)

    def take_over(self, other: LogOutput) -> None:
        """Go on with what another one knows of the runs that are on."""
        other.release_own_logger()
        if self.recent_lines is not None and other.recent_lines is not None:
            self.recent_lines.take_over(other.recent_lines)

    def release_own_logger(self) -> None:
        """Take our handlers off our own logger; dlt's is the affair of the hook on it."""
        for handler in self._on_own_logger:
            logger.removeHandler(handler)
        self._on_own_logger = ()

    def close(self) -> None:
        """Close the file."""
        if self.log_file is not None:
            self.log_file.close()
