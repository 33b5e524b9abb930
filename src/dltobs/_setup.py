"""One set-up: its parts are built first, then attached, in the end flushed, closed and detached."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dltobs import _otel as otel
from dltobs._deadline import reserve, run_within
from dltobs._dispatch import Dispatcher, Sink
from dltobs._excepthook import ExceptHook
from dltobs._propagation import LoadThreads
from dltobs._redaction import Redactor
from dltobs._resolution import metric_target
from dltobs._secrets import SecretLearner, secrets_in
from dltobs._settings import application_has_provider
from dltobs._tracker import Tracker
from dltobs._warnings import Warner, logger
from dltobs.exceptions import ConfigurationError
from dltobs.sinks.delivery import Delivery

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterator, Sequence

    from dltobs._settings import Settings
    from dltobs._workers import WorkerPools
    from dltobs.logs.attach import LoggerHook
    from dltobs.logs.forward import Outlet
    from dltobs.logs.handlers import FileHandler, RecentLines

_CLOSING_SHARE = 0.15
"""Of `flush_timeout`: for closing what did not flush in time."""
_LONGEST_TIMEOUT = 1e6
"""Seconds; the locks of Python refuse to wait for ever longer."""


@dataclass
class Setup:
    """What one `configure()` has set up."""

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
    worker_pools: WorkerPools | None = None
    outlet: Outlet | None = None
    process: int = field(default_factory=os.getpid)
    excepthook: ExceptHook | None = None
    own_logger_handlers: Sequence[logging.Handler] = ()
    log_format: str = ""

    def attach(self, *, dlt_was_used: bool) -> None:
        """Hook into dlt, in the order in which nothing can leak: secrets first, sinks last.

        If a part fails, none stays attached.
        """
        try:
            self.learner.attach(dlt_was_used=dlt_was_used)
            self.logger_hook.attach(self._handlers_for, self.settings.log_level)
            self.load_threads.attach()
            if self.worker_pools is not None:
                self.worker_pools.attach()
            self.tracker.attach()
            if self.excepthook is not None:
                self.excepthook.attach()
        except BaseException:
            self.detach()
            self._close_files()
            raise
        if self.settings.sentry_dsn is not None and _dlt_has_sentry():
            self.warner.warn(
                "dlt's own Sentry",
                "RUNTIME__SENTRY_DSN switches dlt's own Sentry on beside ours: it replaces the client of the "
                "application and sends secrets; leave it out, and set SENTRY_DSN alone",
            )
        # one thread for the flush and one for the end of each sink that may have to wait
        reserve(2 * (len(self.deliveries) + len(self.settings.sinks)))

    def take_down(self) -> None:
        """Deliver what is left within `flush_timeout`, then undo `attach()`."""
        if self.process != os.getpid():
            # a forked child has the hooks, but not the threads; what is queued belongs to the parent
            self.detach()
            return
        whole = min(self.settings.flush_timeout, _LONGEST_TIMEOUT)
        deadline = time.monotonic() + whole
        closing = whole * _CLOSING_SHARE
        try:
            self.tracker.detach()
            timeout = max(deadline - closing - time.monotonic(), 0.0)
            run_within(timeout, *(_flushing(sink, timeout) for sink in self.sinks))
        finally:
            # sinks are closed while our handlers are still there to write what is lost
            run_within(max(deadline - time.monotonic(), 0.0), *(sink.close for sink in self.sinks))
            self.detach()
            self._close_files()

    def detach(self) -> None:
        """Undo `attach()`; every part is tried, whatever another one raises."""
        parts: list[Callable[[], None]] = [self.tracker.detach, self._release_own_logger]
        if self.excepthook is not None:
            parts.append(self.excepthook.detach)
        if self.worker_pools is not None:
            parts.append(self.worker_pools.detach)
        parts += (self.load_threads.detach, self.logger_hook.detach, self.learner.detach)
        for part in parts:
            try:
                part()
            except Exception as error:  # noqa: BLE001 - the other parts still have to be undone
                self.warner.internal_error("shutdown", error)

    def _close_files(self) -> None:
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
            loguru_handler(self.settings, self.redactor, self.warner, self.outlet),
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


def build(settings: Settings, hook: LoggerHook | None) -> Setup:
    """Make every part that may fail, attaching none.

    Args:
        settings: What to build.
        hook: The hook on dlt's logger, if it is installed already.

    Raises:
        ConfigurationError: A part cannot be made of these settings.
    """
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
    sinks: list[Sink] = []
    try:
        for sink in _own_sinks(settings, redactor, warner, deliveries):
            sinks.append(sink)  # noqa: PERF402 - those made before a failure have to be closed
        sinks += settings.sinks
        recent = recent_lines(settings, warner)
        setup = Setup(
            settings=settings,
            redactor=redactor,
            warner=warner,
            deliveries=deliveries,
            sinks=tuple(sinks),
            logger_hook=hook,
            learner=SecretLearner(redactor, lambda error: warner.internal_error("secrets", error)),
            tracker=Tracker(Dispatcher(sinks, redactor, warner), warner, recent, before_run=hook.refresh),
            log_file=log_file,
            recent_lines=recent,
        )
    except BaseException:
        for sink in sinks:
            sink.close()
        if log_file is not None:
            log_file.close()
        raise
    if settings.excepthook:
        setup.excepthook = ExceptHook(redactor, setup.exception_formatter)
    return setup


def _own_sinks(
    settings: Settings, redactor: Redactor, warner: Warner, deliveries: dict[str, Delivery]
) -> Iterator[Sink]:
    if settings.tracing != "off":
        yield _span_sink(settings, redactor, warner, deliveries)
    if settings.metrics != "off" and not otel.is_disabled():
        yield _metric_sink(settings, redactor, warner, deliveries)
    if settings.sentry_dsn is not None:
        from dltobs.sinks.sentry import SentrySink

        deliveries["sentry"] = Delivery("sentry", "events", warner)
        try:
            yield SentrySink(settings, redactor, deliveries["sentry"])
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a value that it refuses
            raise ConfigurationError(
                "sentry_dsn",
                source=settings.source_of("sentry_dsn"),
                problem=f"Sentry's client refuses this value ({type(error).__name__})",
                expected="a DSN such as https://PUBLIC_KEY@o0.ingest.sentry.io/PROJECT_ID",
            ) from None


def _span_sink(
    settings: Settings, redactor: Redactor, warner: Warner, deliveries: dict[str, Delivery]
) -> Sink:
    if not settings.builds_provider or application_has_provider():
        from dltobs.sinks.late_spans import LateSpanSink

        if settings.sentry_traces:
            warner.warn(
                "sentry_traces",
                "sentry_traces does nothing where the application has a tracer provider or OTEL_SDK_DISABLED "
                "is set: add an exporter for Sentry to that provider",
            )
        return LateSpanSink(settings, redactor)
    from dltobs.sinks.spans import SpanSink

    for name in settings.trace_exporters:
        deliveries[name] = Delivery(name, "spans", warner)
    return SpanSink(settings, redactor, deliveries)


def _metric_sink(
    settings: Settings, redactor: Redactor, warner: Warner, deliveries: dict[str, Delivery]
) -> Sink:
    from dltobs.sinks.metrics import MetricSink

    target = metric_target(settings)
    for name in () if target is None else target.exporters:
        deliveries[f"{name}_metrics"] = Delivery(f"{name}_metrics", "points", warner)
    return MetricSink(settings, redactor, target, deliveries)


def _own_secrets(settings: Settings) -> set[str]:
    """The secrets among our own settings and the variables that our exporters read."""
    found: set[str] = set(otel.header_values())
    if settings.sentry_dsn is not None:
        found.update(secrets_in(settings.sentry_dsn))
    for endpoint in (settings.otlp_endpoint, *otel.endpoints()):
        if endpoint:
            # an endpoint is no secret as a whole: only what stands before its @ and in its query
            found.update(secrets_in(endpoint, whole=False))
    return found


def _dlt_has_sentry() -> bool:
    from dlt.common.configuration.container import Container
    from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

    config = Container()[PluggableRunContext].context.runtime_config
    return bool(config is not None and getattr(config, "sentry_dsn", None))


def _flushing(sink: Sink, timeout: float) -> Callable[[], Any]:
    return lambda: sink.flush(timeout)
