"""Puts handlers on dlt's logger, whatever it is called, and keeps other people's things there as they are.

dlt creates its logger late, more than once, and takes the first handler that it finds for its own: it replaces
that handler's formatter, and under `RUNTIME__LOG_FORMAT=JSON` the formatter of every handler in the process.
So the hook wraps the function that does this.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dltobs.logs.formatters import TEXT_FORMAT
from dltobs.logs.records import CorrelationFilter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dltobs._warnings import Warner

    CreateLogger = Callable[[str, str, str, str, Mapping[str, str]], logging.Logger]
    HandlersFor = Callable[[str], Sequence[logging.Handler]]


class LoggerHook:
    """Follows dlt's logger through its creations.

    Args:
        warner: Told of what goes wrong; dlt gets its logger in any case.
    """

    def __init__(self, warner: Warner) -> None:
        self.warner = warner
        self._filter = CorrelationFilter()
        self._handlers_for: HandlersFor | None = None
        self._handlers: Sequence[logging.Handler] = ()
        self._level: int | None = None
        self._adopted: logging.Logger | None = None
        self._replaced: list[logging.Handler] = []
        self._applied_level: int | None = None
        self._natural_level: int | None = None
        self._original: CreateLogger | None = None
        self._wrapper: CreateLogger | None = None
        self._last_call: tuple[Any, ...] | None = None

    def install(self) -> None:
        """Wrap dlt's creation of its logger: from now on it spares what is not its own."""
        from dlt.common import logger as dlt_logger

        original: CreateLogger = vars(dlt_logger)["_create_logger"]

        def _create_logger(
            logger_name: str, level: str, fmt: str, component: str, version: Mapping[str, str]
        ) -> logging.Logger:
            if self._wrapper is not _create_logger:  # detached, but somebody has wrapped us
                return original(logger_name, level, fmt, component, version)
            self._last_call = (logger_name, level, fmt, component, version)
            return self._create(original, *self._last_call)

        self._original, self._wrapper = original, _create_logger
        dlt_logger._create_logger = _create_logger

    def attach(self, handlers_for: HandlersFor, level: int | None) -> None:
        """Put handlers on dlt's logger, now and whenever it is created again.

        Args:
            handlers_for: Gives the handlers for a log format of dlt's (`JSON` or a format string).
            level: The level for the logger; None leaves it to dlt and the application.
        """
        self._handlers_for = handlers_for
        self._level = level
        # a level set in our own configuration is meant, whoever else has set one before
        if level is not None:
            self._applied_level = _current_level()
        self.refresh()

    def refresh(self) -> None:
        """Look whether dlt logs through another logger now (Airflow swaps it), and follow."""
        from dlt.common import logger as dlt_logger

        current: logging.Logger | None = vars(dlt_logger)["LOGGER"]
        if current is None or current is self._adopted or self._handlers_for is None:
            return
        self._release()
        own = [handler for handler in current.handlers if _is_dlts_own(handler)]
        fmt, dlts_level = _log_format_and_level()
        if self._applied_level is None and current.level == dlts_level:
            self._applied_level = dlts_level
        self._adopt(current, own, fmt)

    def detach(self) -> None:
        """Leave everything as dlt alone would have it."""
        from dlt.common import logger as dlt_logger

        was_installed, self._wrapper = self._wrapper, None
        if was_installed is not None and vars(dlt_logger)["_create_logger"] is was_installed:
            dlt_logger._create_logger = self._original  # type: ignore[assignment]
        attached = self._adopted is not None
        self._release()
        call = self._last_call
        if not attached and self._original is not None and call is not None and call[2] == "JSON":
            # nothing was set up after all: dlt's own JSON logging, which we had held back
            dlt_logger.LOGGER = self._original(*call)

    def _create(
        self,
        original: CreateLogger,
        logger_name: str,
        level: str,
        fmt: str,
        component: str,
        version: Mapping[str, str],
    ) -> logging.Logger:
        logger = logging.getLogger(None if logger_name == "root" else logger_name)
        level_before = logger.level
        replaced_before = self._replaced if logger is self._adopted else []
        self._release(restore=False)
        formatters = [(handler, handler.formatter) for handler in logger.handlers]
        created = original(logger_name, level, TEXT_FORMAT if fmt == "JSON" else fmt, component, version)
        try:
            known = [handler for handler, _ in formatters]
            own = [handler for handler in created.handlers if handler not in known]
            for handler, formatter in formatters:
                if handler.formatter is not formatter:
                    handler.formatter = formatter
            # a level that neither dlt nor we had set is somebody's own, and stays
            if level_before not in (logging.NOTSET, self._applied_level):
                created.setLevel(level_before)
            else:
                self._applied_level = created.level
            if self._handlers_for is None:
                self._replaced = replaced_before
            else:
                self._adopt(created, own, fmt)
        except Exception as error:  # noqa: BLE001 - dlt must get its logger
            self.warner.internal_error("logs", error)
        return created

    def _adopt(self, logger: logging.Logger, own: Sequence[logging.Handler], fmt: str) -> None:
        assert self._handlers_for is not None  # noqa: S101 - both callers have looked
        if self._level is not None and logger.level in (self._applied_level, logging.NOTSET):
            self._natural_level = logger.level
            logger.setLevel(self._level)
            self._applied_level = self._level
        # without any handler, logging's last resort would print warnings, unredacted
        self._handlers = self._handlers_for(fmt) or (logging.NullHandler(),)
        for handler in own:
            logger.removeHandler(handler)
        self._replaced = list(own)
        logger.addFilter(self._filter)
        for handler in self._handlers:
            logger.addHandler(handler)
        self._adopted = logger

    def _release(self, *, restore: bool = True) -> None:
        logger, self._adopted = self._adopted, None
        if logger is None:
            return
        logger.removeFilter(self._filter)
        for handler in self._handlers:
            logger.removeHandler(handler)
        if restore:
            for handler in self._replaced:
                logger.addHandler(handler)
            if self._natural_level is not None and logger.level == self._level:
                logger.setLevel(self._natural_level)
            self._natural_level = None
        self._replaced = []


def _is_dlts_own(handler: logging.Handler) -> bool:
    """Whether dlt made this handler: a plain one that bears a formatter of dlt's, and is not on stdout."""
    return (
        type(handler) is logging.StreamHandler
        and handler.stream not in (sys.stdout, sys.__stdout__)
        and type(handler.formatter).__module__ in {"dlt.common.logger", "dlt.common.runtime.json_logging"}
    )


def _current_level() -> int | None:
    from dlt.common import logger as dlt_logger

    current: logging.Logger | None = vars(dlt_logger)["LOGGER"]
    return None if current is None else current.level


def _log_format_and_level() -> tuple[str, int | None]:
    """What dlt is configured to, once its runtime is up."""
    from dlt.common.configuration.container import Container
    from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

    config = Container()[PluggableRunContext].context.runtime_config
    if config is None:
        return TEXT_FORMAT, None
    level = logging.getLevelName(config.log_level)
    return config.log_format, level if isinstance(level, int) else None
