"""Puts handlers on dlt's logger, whatever it is called, and keeps other people's things there as they are.

dlt creates its logger late, more than once, and takes the first handler that it finds for its own: it
replaces that handler's formatter, and under `RUNTIME__LOG_FORMAT=JSON` the formatter of every handler in the
process. So the hook wraps the function that does this.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dltobs._process.fork_safe import fork_safe
from dltobs.logs.dlts import Formatters, configured, current_logger, is_dlts_own
from dltobs.logs.records import CorrelationFilter
from dltobs.logs.text import TEXT_FORMAT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from dltobs._warnings import Warner

    CreateLogger = Callable[[str, str, str, str, Mapping[str, str]], logging.Logger]
    Call = tuple[str, str, str, str, Mapping[str, str]]
    HandlersFor = Callable[[str], Sequence[logging.Handler]]


OWN_NAME = "dltobs"
"""The logger's name on dltobs' own lines."""


@dataclass
class _Adopted:
    """A logger with our handlers, and what it had before: the level, and handlers with their positions."""

    logger: logging.Logger
    level: int
    handlers: Sequence[logging.Handler] = ()
    replaced: list[tuple[int, logging.Handler]] = field(default_factory=list)


def _leave_out_of_sentry() -> None:
    """Keep dltobs' lines from being events of the application's Sentry, which gets the error itself."""
    sentry = sys.modules.get("sentry_sdk.integrations.logging")
    if sentry is not None:
        sentry.ignore_logger(OWN_NAME)


class LoggerHook:
    """Follows dlt's logger through its creations.

    Args:
        warner: Told of what goes wrong; dlt gets its logger in any case.
    """

    def __init__(self, warner: Warner) -> None:
        self.warner = warner
        self._lock = fork_safe(threading.RLock())
        self._filter = CorrelationFilter()
        self._handlers_for: HandlersFor | None = None
        self._level: int | None = None
        """What dlt's logger is set to, if we do."""
        self._own_level: int | None = None
        self._is_apart = False
        """Whether our own lines have another level than dlt's logger."""
        self._adopted: _Adopted | None = None
        self._was_attached = False
        self._dlts_handlers: list[logging.Handler] = []
        self._dlts_level: int | None = None
        self._original: CreateLogger | None = None
        self._wrapper: CreateLogger | None = None
        self._last_call: Call | None = None
        self._waiting: list[Callable[[], None]] = []

    def install(self) -> None:
        """Wrap dlt's creation of its logger: from now on it spares what is not its own."""
        from dlt.common import logger as dlt_logger

        original: CreateLogger = vars(dlt_logger)["_create_logger"]

        def _create_logger(
            logger_name: str, level: str, fmt: str, component: str, version: Mapping[str, str]
        ) -> logging.Logger:
            if self._wrapper is not _create_logger:  # detached, but somebody has wrapped us
                return original(logger_name, level, fmt, component, version)
            with self._lock:
                return self._create(original, (logger_name, level, fmt, component, version))

        self._original, self._wrapper = original, _create_logger
        vars(dlt_logger)["_create_logger"] = _create_logger
        existing = current_logger()
        if existing is not None:
            self._dlts_level = configured()[1]
            self._dlts_handlers = [handler for handler in existing.handlers if is_dlts_own(handler)]

    def attach(self, handlers_for: HandlersFor, level: int | None, dlt_level: int | None = None) -> None:
        """Put handlers on dlt's logger, now and whenever it is created again.

        Args:
            handlers_for: Gives the handlers for a log format of dlt's (`JSON` or a format string).
            level: The level for dlt's lines and our own, whoever else has set one; None leaves that to them.
            dlt_level: The level for dlt's lines alone, if that is another one.
        """
        with self._lock:
            self._own_level, self._is_apart = level, dlt_level is not None
            level = level if dlt_level is None else dlt_level
            adopted, level_before = self._adopted, self._level
            self._handlers_for = handlers_for
            self._level = level
            self._was_attached = True
            if adopted is None or adopted.logger is not current_logger():
                self.refresh()
                return
            # the new ones before the old ones go: what is logged meanwhile must not come out raw
            outgoing, adopted.handlers = adopted.handlers, self._handlers_now(configured()[0])
            self._put_on(adopted.logger, adopted.handlers)
            for handler in outgoing:
                adopted.logger.removeHandler(handler)
            if level is not None:
                adopted.logger.setLevel(level)
            elif level_before is not None and adopted.logger.level == level_before:
                adopted.logger.setLevel(adopted.level)

    def when_attached(self, call: Callable[[], None]) -> None:
        """Call a function once our handlers are on dlt's logger: now, or when dlt creates that."""
        with self._lock:
            if self._adopted is None:
                self._waiting.append(call)
                return
        call()

    def refresh(self) -> None:
        """Look whether dlt logs through another logger now (Airflow swaps it), and follow it."""
        # our own warnings are not lost either, whatever a `dictConfig` has disabled
        logging.getLogger("dltobs").disabled = False
        with self._lock:
            current = current_logger()
            if current is None or self._handlers_for is None:
                return
            if self._adopted is not None and self._adopted.logger is current:
                # a `dictConfig` of the application may have taken them away
                self._put_on(current, self._adopted.handlers)
                return
            self._release()
            self._adopt(current, configured()[0])

    def detach(self) -> None:
        """Leave everything as dlt alone would have it."""
        from dlt.common import logger as dlt_logger

        with self._lock:
            wrapper, self._wrapper = self._wrapper, None
            if wrapper is not None and vars(dlt_logger)["_create_logger"] is wrapper:
                vars(dlt_logger)["_create_logger"] = self._original
            self._handlers_for = None
            self._release()
            if self._original is None or self._last_call is None:
                return
            if not self._was_attached:
                # nothing was set up after all, so nothing of what dlt does is held back
                with contextlib.suppress(Exception):  # as a level that dlt itself has refused already
                    dlt_logger.LOGGER = self._original(*self._last_call)
            elif self._last_call[2] == "JSON":
                self._give_json_back(self._original, self._last_call)

    def shows(self, level: int) -> bool:
        """Tell whether lines of dltobs' own at this level are written."""
        logger, adopted = current_logger() or logging.getLogger(OWN_NAME), self._adopted
        least = logger.getEffectiveLevel()
        if self._is_apart and self._own_level is not None:
            least = self._own_level
        elif self._is_apart and adopted is not None and adopted.logger is logger:
            least = adopted.level or least  # what it would be without us
        return level >= least and level > logger.manager.disable

    def log(self, level: int, message: str, fields: Mapping[str, Any]) -> None:
        """Log a line of dltobs' own through dlt's logger, so that every handler on that gets it.

        The record bears the name `dltobs`, which tells it from dlt's own.

        Args:
            level: Its level.
            message: The whole message.
            fields: Attributes of the record.
        """
        if not self.shows(level):
            return
        own = logging.getLogger(OWN_NAME)
        logger = current_logger() or own
        caller = sys._getframe(1)  # noqa: SLF001 - how logging itself finds its caller
        code = caller.f_code
        record = logger.makeRecord(
            OWN_NAME,
            level,
            code.co_filename,
            caller.f_lineno,
            "%s",
            (message,),
            None,
            code.co_name,
            extra=fields,
        )
        _leave_out_of_sentry()
        # a `dictConfig` of the application disables the loggers that it does not name
        (own if logger.disabled else logger).handle(record)

    def _create(self, original: CreateLogger, call: Call) -> logging.Logger:
        logger_name, level, fmt, component, version = call
        self._last_call = call
        logger = logging.getLogger(None if logger_name == "root" else logger_name)
        adopted = self._adopted
        # somebody has set a level since we set ours
        keep_level = adopted is not None and adopted.logger is logger and logger.level != self._level
        self._release()
        level_before = logger.level
        formatters = Formatters(logger.handlers)
        created = original(logger_name, level, TEXT_FORMAT if fmt == "JSON" else fmt, component, version)
        try:
            self._dlts_handlers += [handler for handler in created.handlers if handler not in formatters]
            formatters.restore(but=self._dlts_handlers)
            # a level that neither dlt nor we had set is somebody's own, and stays
            dlts_level, self._dlts_level = self._dlts_level, created.level
            if level_before not in (logging.NOTSET, dlts_level):
                created.setLevel(level_before)
            if self._handlers_for is not None:
                self._adopt(created, fmt, keep_level=keep_level)
                waiting, self._waiting = self._waiting, []
                for waiting_call in waiting:
                    waiting_call()
        except Exception as error:  # noqa: BLE001 - dlt must get its logger
            self.warner.internal_error("logs", error)
        return created

    def _adopt(self, logger: logging.Logger, fmt: str, *, keep_level: bool = False) -> None:
        handlers = self._handlers_now(fmt)
        self._adopted = adopted = _Adopted(logger, logger.level, handlers)
        for position, handler in enumerate(logger.handlers[:]):
            if handler in self._dlts_handlers or is_dlts_own(handler):
                adopted.replaced.append((position, handler))
                logger.removeHandler(handler)
        if self._level is not None and not keep_level:
            logger.setLevel(self._level)
        self._put_on(logger, handlers)

    def _handlers_now(self, fmt: str) -> Sequence[logging.Handler]:
        assert self._handlers_for is not None  # noqa: S101 - the callers have looked
        # without any handler, logging's last resort would print warnings, unredacted
        return self._handlers_for(fmt) or (logging.NullHandler(),)

    def _put_on(self, logger: logging.Logger, handlers: Sequence[logging.Handler]) -> None:
        logger.addFilter(self._filter)
        for handler in handlers:
            logger.addHandler(handler)
            if logger is logging.root:
                # our own warnings get there by themselves
                logging.getLogger("dltobs").removeHandler(handler)

    def _release(self) -> None:
        adopted, self._adopted = self._adopted, None
        if adopted is None:
            return
        logger = adopted.logger
        logger.removeFilter(self._filter)
        for handler in adopted.handlers:
            logger.removeHandler(handler)
        for position, handler in adopted.replaced:
            if handler not in logger.handlers:
                # where it was: dlt takes the first one for its own
                logger.handlers.insert(position, handler)
        if self._level is not None and logger.level == self._level:
            logger.setLevel(adopted.level)

    def _give_json_back(self, original: CreateLogger, call: Call) -> None:
        """Have dlt give its own handler the JSON formatter that we had held back, and no other one."""
        logger = current_logger()
        if logger is None or not any(handler in self._dlts_handlers for handler in logger.handlers):
            return
        level, formatters = logger.level, Formatters.of_all_loggers()
        original(*call)
        formatters.restore(but=self._dlts_handlers)
        logger.setLevel(level)
