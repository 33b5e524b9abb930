"""What dlt has done to the loggers: which handler is its own, and what the formatters were before."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

from dltobs.logs.text import TEXT_FORMAT

if TYPE_CHECKING:
    from collections.abc import Iterable

_MODULES = {"dlt.common.logger", "dlt.common.runtime.json_logging"}


def current_logger() -> logging.Logger | None:
    """The logger that dlt writes to; None until something needs it."""
    from dlt.common import logger as dlt_logger

    # the module answers every name with a function, so getattr() would never fail
    current: logging.Logger | None = vars(dlt_logger)["LOGGER"]
    return current


def configured() -> tuple[str, int | None]:
    """Log format and level that dlt is configured to, once its runtime is up."""
    from dlt.common.configuration.container import Container
    from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

    config: Any = Container()[PluggableRunContext].context.runtime_config
    if config is None:
        return TEXT_FORMAT, None
    level = logging.getLevelName(config.log_level)
    return config.log_format, level if isinstance(level, int) else None


def is_dlts_own(handler: logging.Handler) -> bool:
    """Whether dlt made this handler: a plain one on stderr that bears a formatter of dlt's."""
    return (
        type(handler) is logging.StreamHandler
        and is_formatter_of_dlt(handler.formatter)
        and _is_stderr(handler.stream)
    )


def is_formatter_of_dlt(formatter: logging.Formatter | None) -> bool:
    """Whether it is one of the formatters that dlt assigns to handlers."""
    return type(formatter).__module__ in _MODULES


def _is_stderr(stream: Any) -> bool:
    # by name: a notebook or a test may have put another one in its place since
    return stream in (sys.stderr, sys.__stderr__) or getattr(stream, "name", None) in (
        "<stderr>",
        "stderr",
        2,
    )


class Formatters:
    """The formatters of some handlers as they are now.

    Args:
        handlers: Those to look at.
    """

    def __init__(self, handlers: Iterable[logging.Handler]) -> None:
        self._before = [(handler, handler.formatter) for handler in handlers]
        self._default: Any = vars(logging).get("_defaultFormatter")

    @classmethod
    def of_all_loggers(cls) -> Formatters:
        """Those of every handler on every logger."""
        known = [logging.root, *logging.Logger.manager.loggerDict.copy().values()]
        loggers = [logger for logger in known if isinstance(logger, logging.Logger)]
        return cls(handler for logger in loggers for handler in logger.handlers)

    def __contains__(self, handler: object) -> bool:
        return any(handler is known for known, _ in self._before)

    def restore(self, *, but: Iterable[logging.Handler] = ()) -> None:
        """Put back what has been changed since, but for some handlers."""
        for handler, formatter in self._before:
            if handler.formatter is not formatter and handler not in but:
                handler.formatter = formatter
        vars(logging)["_defaultFormatter"] = self._default
