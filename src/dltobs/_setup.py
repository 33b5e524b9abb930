"""One set-up: its parts are built first, then attached, in the end flushed, closed and detached."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dltobs._deadline import reserve, run_within
from dltobs._propagation import LoadThreads
from dltobs._warnings import Warner, logger

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Sequence

    from dltobs._dispatch import Dispatcher, Sink
    from dltobs._excepthook import ExceptHook
    from dltobs._learner import SecretLearner
    from dltobs._redaction import Redactor
    from dltobs._settings import Settings
    from dltobs._tracker import Tracker
    from dltobs.logs.attach import LoggerHook
    from dltobs.logs.handlers import FileHandler, RecentLines
    from dltobs.sinks.delivery import Delivery

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
    dispatcher: Dispatcher
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

    def attach(self, *, dlt_was_used: bool) -> None:
        """Hook into dlt, in the order in which nothing can leak: secrets first, sinks last.

        If a part fails, none stays attached.
        """
        try:
            self.learner.attach(dlt_was_used=dlt_was_used)
            self.logger_hook.warner = self.warner
            self.logger_hook.attach(self._handlers_for, self.settings.log_level)
            self.load_threads.attach()
            self.tracker.attach()
            if self.excepthook is not None:
                self.excepthook.attach()
        except BaseException:
            self.detach()
            self._close_files()
            raise
        self._get_ready()

    def replace(self, old: Setup) -> None:
        """Take the place of another set-up: its hooks stay where they are, and its runs go on here.

        At no moment is a hook missing, so nothing comes out raw; then the old set-up is closed.
        """
        self.learner, self.load_threads = old.learner, old.load_threads
        self.learner.redirect(self.redactor, lambda error: self.warner.internal_error("secrets", error))
        self.logger_hook.warner = self.warner
        self.logger_hook.attach(self._handlers_for, self.settings.log_level)
        old._release_own_logger()
        if self.excepthook is not None and old.excepthook is not None:
            old.excepthook.redirect(self.redactor, self.exception_formatter)
            self.excepthook = old.excepthook
        elif self.excepthook is not None:
            self.excepthook.attach()
        elif old.excepthook is not None:
            old.excepthook.detach()
        if self.recent_lines is not None and old.recent_lines is not None:
            self.recent_lines.take_over(old.recent_lines)
        spans = self._take_over_spans(old)
        self.tracker.take_over(old.tracker)
        if spans is not None:
            # only now: until then an event of such a run may have reached either sink
            spans.let_go()
        if old.process == os.getpid():
            old._deliver_and_close()
        self._get_ready()

    def _take_over_spans(self, old: Setup) -> Any:
        """Go on with the open spans of another set-up; gives the sink that has them no longer, if any."""
        before, now = _span_sink_of(old.sinks), _span_sink_of(self.sinks)
        if before is None or not before.open_runs:
            return None
        if now is None:
            # there are no spans any more, but the threads of these runs must be led out of theirs
            self.dispatcher.retain(*self.sinks, before)
            return None
        now.take_over(before.open_runs)
        return before

    def _get_ready(self) -> None:
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
        self.tracker.detach()
        if self.process == os.getpid():
            self._deliver_and_close(self.detach)
            return
        # a forked child has the hooks; it delivers what it has made itself, the rest is its parent's
        if any(delivery.pending for delivery in self.deliveries.values()):
            self.deliver()
        self.detach()

    @property
    def _timeout(self) -> float:
        return min(self.settings.flush_timeout, _LONGEST_TIMEOUT)

    def deliver(self) -> None:
        """Have all sinks deliver, side by side; some of `flush_timeout` is left for closing them."""
        timeout = self._timeout * (1 - _CLOSING_SHARE)
        run_within(timeout, *(_flushing(sink, timeout) for sink in self.sinks))

    def _deliver_and_close(self, detach: Callable[[], None] | None = None) -> None:
        deadline = time.monotonic() + self._timeout
        try:
            self.deliver()
        finally:
            spans = _span_sink_of(self.sinks)
            # no event follows the close of a sink, but for those that end the spans of open runs
            self.dispatcher.retain(*([] if spans is None else [spans]))
            # closed while our handlers are still there to write what is lost
            run_within(max(deadline - time.monotonic(), 0.0), *(sink.close for sink in self.sinks))
            if detach is not None:
                detach()
            self._close_files()

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


def _span_sink_of(sinks: Sequence[Sink]) -> Any:
    """The span sink among these, early or late; None where there is none."""
    return next((sink for sink in sinks if hasattr(sink, "open_runs") and hasattr(sink, "take_over")), None)


def _dlt_has_sentry() -> bool:
    from dlt.common.configuration.container import Container
    from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

    config = Container()[PluggableRunContext].context.runtime_config
    return bool(config is not None and getattr(config, "sentry_dsn", None))


def _flushing(sink: Sink, timeout: float) -> Callable[[], Any]:
    return lambda: sink.flush(timeout)
