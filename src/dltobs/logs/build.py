"""Makes formatters and handlers out of the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dltobs.exceptions import ConfigurationError
from dltobs.logs.formatters import JsonFormatter
from dltobs.logs.text import TEXT_FORMAT, TerminalFormatter, TextFormatter, wants_color

if TYPE_CHECKING:
    import logging

    from dltobs._redaction.redactor import Redactor
    from dltobs._settings.settings import Settings
    from dltobs._warnings import Warner
    from dltobs.logs.forward import Outlet
    from dltobs.logs.handlers import ConsoleHandler, FileHandler, RecentLines

JSON = "JSON"
"""dlt's word for JSON lines in `RUNTIME__LOG_FORMAT`."""


def json_formatter(settings: Settings, redactor: Redactor) -> JsonFormatter:
    """The JSON formatter for these settings."""
    return JsonFormatter(
        redactor=redactor,
        service=settings.service_name,
        environment=settings.environment,
        tags=settings.tags,
    )


def console_format(settings: Settings, log_format: str) -> str:
    """`text`, `json` or `off`, for a log format of dlt's."""
    if settings.console != "auto":
        return settings.console
    if settings.loguru:
        return "off"
    return "json" if log_format == JSON else "text"


def console_handler(
    settings: Settings, redactor: Redactor, warner: Warner, log_format: str
) -> ConsoleHandler | None:
    """The handler in the place of dlt's own; None where the console is off."""
    from dltobs.logs.handlers import ConsoleHandler

    kind = console_format(settings, log_format)
    if kind == "off":
        return None
    if kind == "json":
        return ConsoleHandler(json_formatter(settings, redactor), warner)
    if log_format not in {JSON, TEXT_FORMAT}:  # somebody's own, which counts on a terminal, too
        return ConsoleHandler(TextFormatter(redactor=redactor, fmt=log_format), warner)
    terminal = TerminalFormatter(redactor=redactor, color=wants_color())
    return ConsoleHandler(TextFormatter(redactor=redactor), warner, terminal_formatter=terminal)


def file_handler(settings: Settings, redactor: Redactor, warner: Warner) -> FileHandler | None:
    """The rotating file, opened once to see that it can be written.

    Raises:
        ConfigurationError: It cannot.
    """
    if settings.log_file is None:
        return None
    from dltobs.logs.handlers import FileHandler

    is_json = settings.log_file_format == "json"
    path = settings.log_file.absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = FileHandler(
            path,
            json_formatter(settings, redactor) if is_json else TextFormatter(redactor=redactor),
            max_bytes=settings.log_file_max_bytes,
            backup_count=settings.log_file_backup_count,
            warner=warner,
        )
        handler.check()
    except OSError as error:
        raise ConfigurationError(
            "log_file",
            source=settings.source_of("log_file"),
            problem=f"{str(path)!r} cannot be written ({error.strerror or type(error).__name__})",
            expected="a path whose file can be created or appended to",
        ) from error
    return handler


def loguru_handler(
    settings: Settings, redactor: Redactor, warner: Warner, outlet: Outlet | None = None
) -> logging.Handler | None:
    """The handler that hands records to loguru: that of this process, or through an outlet the parent's."""
    if not settings.loguru:
        return None
    if outlet is not None:
        from dltobs.logs.forward import ForwardingHandler

        return ForwardingHandler(outlet, redactor=redactor, warner=warner)
    from dltobs.logs.loguru import InterceptHandler

    return InterceptHandler(redactor=redactor, warner=warner)


def recent_lines(settings: Settings, warner: Warner) -> RecentLines | None:
    """The memory of each run's last lines, where somebody reports them."""
    if settings.sentry_dsn is None and not settings.sinks:
        return None
    from dltobs.logs.handlers import RecentLines

    return RecentLines(warner)
