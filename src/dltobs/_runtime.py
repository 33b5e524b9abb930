"""Sets everything up, and takes it down again."""

from __future__ import annotations

import atexit
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dltobs import _state
from dltobs._deadline import run_within
from dltobs._dispatch import Dispatcher, Sink
from dltobs._excepthook import ExceptHook
from dltobs._propagation import LoadThreads
from dltobs._redaction import Redactor
from dltobs._secrets import SecretLearner, secrets_in
from dltobs._settings import Arguments, Settings, resolve_settings
from dltobs._tracker import Tracker
from dltobs._warnings import Warner, logger
from dltobs.exceptions import ConfigurationError
from dltobs.sinks.delivery import BackendStatus, Delivery

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping, Sequence

    from typing_extensions import Unpack

    from dltobs.logs.attach import LoggerHook
    from dltobs.logs.handlers import FileHandler, RecentLines

_CLOSING_SHARE = 0.15
"""Of `flush_timeout`: for closing what did not flush in time."""


@dataclass
class Runtime:
    """What one `configure()` has set up: built first, then attached, in the end detached and closed."""

    settings: Settings
    redactor: Redactor
    warner: Warner
    deliveries: dict[str, Delivery]
    sinks: tuple[Sink, ...]
    logger_hook: LoggerHook
    learner: SecretLearner
    tracker: Tracker
    log_file: FileHandler | None
    recent_lines: RecentLines | None
    load_threads: LoadThreads = field(default_factory=LoadThreads)
    process: int = field(default_factory=os.getpid)
    excepthook: ExceptHook | None = None
    own_logger_handlers: Sequence[logging.Handler] = ()
    log_format: str = ""

    def attach(self) -> None:
        """Hook into dlt, in the order in which nothing can leak: secrets first, sinks last."""
        self.learner.attach()
        self.logger_hook.attach(self._handlers_for, self.settings.log_level)
        self.load_threads.attach()
        self.tracker.attach()
        if self.excepthook is not None:
            self.excepthook.attach()

    def detach(self) -> None:
        """Undo `attach()`; every part is tried, whatever another one raises."""
        parts: list[Callable[[], None]] = [self.tracker.detach, self._release_own_logger]
        if self.excepthook is not None:
            parts.append(self.excepthook.detach)
        parts += (self.load_threads.detach, self.logger_hook.detach, self.learner.detach)
        for part in parts:
            try:
                part()
            except Exception as error:  # noqa: BLE001 - the other parts still have to be undone
                self.warner.internal_error("shutdown", error)

    def flush(self, timeout: float) -> bool:
        """Have all sinks deliver, side by side, within `timeout` seconds."""
        calls = [_flushing(sink, timeout) for sink in self.sinks]
        return run_within(timeout, *calls)

    def close_sinks(self, timeout: float) -> None:
        """Close the sinks; one that takes longer than `timeout` seconds is left behind."""
        run_within(timeout, *(sink.close for sink in self.sinks))

    def close_files(self) -> None:
        """Close the log file."""
        if self.log_file is not None:
            self.log_file.close()

    def _handlers_for(self, log_format: str) -> Sequence[logging.Handler]:
        """The handlers for dlt's logger under a log format of dlt's."""
        from dltobs.logs.build import console_handler, loguru_handler

        self.log_format = log_format
        self._release_own_logger()
        made = (
            console_handler(self.settings, self.redactor, self.warner, log_format),
            self.log_file,
            loguru_handler(self.settings, self.redactor, self.warner),
        )
        visible = [handler for handler in made if handler is not None]
        self.own_logger_handlers = tuple(visible)
        for handler in visible:
            logger.addHandler(handler)
        return [*visible, self.recent_lines] if self.recent_lines is not None else visible

    def exception_formatter(self) -> logging.Formatter | None:
        """What renders an uncaught exception: as the console does; None is Python's own way."""
        from dltobs.logs.build import console_format, json_formatter

        if console_format(self.settings, self.log_format) != "json":
            return None
        return json_formatter(self.settings, self.redactor)

    def _release_own_logger(self) -> None:
        for handler in self.own_logger_handlers:
            logger.removeHandler(handler)
        self.own_logger_handlers = ()


def configure(**settings: Unpack[Arguments]) -> None:
    """Make every dlt pipeline of this process observable.

    Call it once, in the first line of the script. Each setting may also come from the environment
    (`DLTOBS__LOG_FILE`) or from dlt's configuration files (`[dltobs] log_file`); an argument wins. A second call
    with the same settings changes nothing; with others it replaces the set-up once the new one stands.

    Args:
        **settings: See `Settings`, and the table in the README.

    Raises:
        ConfigurationError: A setting is wrong. Nothing has been attached, and what ran before still runs.
    """
    with _state.lock:
        running = _state.runtime
        hook = None if running is not None else _installed_hook()
        try:
            resolved = resolve_settings(settings)
            if running is not None and resolved == running.settings:
                return
            built = _build(resolved, hook) if resolved.enabled else None
        except BaseException:
            if hook is not None:
                hook.detach()
            raise
        if running is not None:
            _take_down(running)
        if built is None:
            if hook is not None:
                hook.detach()
            return
        _state.runtime = built
        _state.deliveries = tuple(built.deliveries.values())
        if running is not None:
            built.logger_hook.install()
        built.attach()
        atexit.unregister(_at_exit)
        atexit.register(_at_exit)


def shutdown() -> None:
    """Deliver what is left within `flush_timeout`, and take everything away that was attached.

    It may be called twice, and runs by itself when the process exits. Pipelines that are run afterwards
    behave as if dltobs were not there.
    """
    with _state.lock:
        running, _state.runtime = _state.runtime, None
        if running is not None:
            _take_down(running)


def status() -> Mapping[str, BackendStatus]:
    """What each back end has taken and lost since `configure()`, by name: `otlp`, `sentry`, ….

    It can be read after `shutdown()`, too.
    """
    return {delivery.name: delivery.status for delivery in _state.deliveries}


def _installed_hook() -> LoggerHook:
    """A hook on dlt's logger before our settings are resolved: that is what makes dlt create it."""
    from dltobs.logs.attach import LoggerHook

    # what it may warn of has met no secret yet; the redactor is exchanged as soon as there is one
    hook = LoggerHook(Warner(Redactor()))
    hook.install()
    return hook


def _build(settings: Settings, hook: LoggerHook | None) -> Runtime:
    """Make every part that may fail, attaching none."""
    from dltobs.logs.attach import LoggerHook
    from dltobs.logs.build import file_handler, recent_lines

    redactor = Redactor(keys=settings.redact_keys, patterns=settings.redact_patterns)
    redactor.add(*_own_secrets(settings))
    warner = Warner(redactor)
    if hook is None:
        hook = LoggerHook(warner)
    else:
        hook.warner = warner
    log_file = file_handler(settings, redactor, warner)
    deliveries: dict[str, Delivery] = {}
    try:
        sinks = _sinks(settings, redactor, warner, deliveries)
        recent = recent_lines(settings, warner)
        runtime = Runtime(
            settings=settings,
            redactor=redactor,
            warner=warner,
            deliveries=deliveries,
            sinks=sinks,
            logger_hook=hook,
            learner=SecretLearner(redactor, lambda error: warner.internal_error("secrets", error)),
            tracker=Tracker(Dispatcher(sinks, redactor, warner), warner, recent, before_run=hook.refresh),
            log_file=log_file,
            recent_lines=recent,
        )
        if settings.excepthook:
            runtime.excepthook = ExceptHook(redactor, runtime.exception_formatter)
    except BaseException:
        if log_file is not None:
            log_file.close()
        raise
    return runtime


def _sinks(
    settings: Settings, redactor: Redactor, warner: Warner, deliveries: dict[str, Delivery]
) -> tuple[Sink, ...]:
    sinks: list[Sink] = []
    if settings.tracing != "off":
        from dltobs.sinks.spans import SpanSink

        for name in settings.trace_exporters:
            deliveries[name] = Delivery(name, "spans", warner)
        sinks.append(SpanSink(settings, redactor, deliveries))
    if settings.sentry_dsn is not None:
        from dltobs.sinks.sentry import SentrySink

        deliveries["sentry"] = Delivery("sentry", "events", warner)
        try:
            sinks.append(SentrySink(settings, redactor, deliveries["sentry"]))
        except Exception as error:
            raise ConfigurationError(
                "sentry_dsn",
                source=settings.source_of("sentry_dsn"),
                problem=f"Sentry's client refuses this value ({type(error).__name__})",
                expected="a DSN such as https://PUBLIC_KEY@o0.ingest.sentry.io/PROJECT_ID",
            ) from None
    return (*sinks, *settings.sinks)


def _own_secrets(settings: Settings) -> set[str]:
    """The secrets among our own settings and the variables that our exporters read."""
    found: set[str] = set()
    for value in (settings.sentry_dsn, settings.otlp_endpoint):
        if value is not None:
            # an endpoint is no secret as a whole: only what stands before its @
            found.update(secrets_in(value, whole=value is settings.sentry_dsn))
    for variable in ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"):
        for pair in os.environ.get(variable, "").split(","):
            value = pair.partition("=")[2].strip()
            found.update((value, value.rpartition(" ")[2], value.rpartition("%20")[2]))
    found.update(secrets_in(os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", ""), whole=False))
    return found


def _take_down(runtime: Runtime) -> None:
    deadline = time.monotonic() + runtime.settings.flush_timeout
    closing = runtime.settings.flush_timeout * _CLOSING_SHARE
    try:
        runtime.tracker.detach()
        runtime.flush(max(deadline - closing - time.monotonic(), 0.0))
    finally:
        # sinks are closed while our handlers are still there to write what is lost
        runtime.close_sinks(max(deadline - time.monotonic(), 0.0))
        runtime.detach()
        runtime.close_files()


def _flushing(sink: Sink, timeout: float) -> Callable[[], Any]:
    return lambda: sink.flush(timeout)


def _at_exit() -> None:
    running = _state.runtime
    # a forked child inherits this handler, but not the threads; the parent delivers
    if running is not None and running.process == os.getpid():
        shutdown()
