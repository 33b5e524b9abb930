"""One set-up: its parts are built first, then attached, in the end flushed, closed and detached."""

from __future__ import annotations

import functools
import os
import time
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

from dltobs._context.propagation import LoadThreads
from dltobs._process.deadline import LONGEST, reserve, run_within
from dltobs._runs.attempt_context import end_all as end_retry_loops
from dltobs._settings import otel
from dltobs.sinks.metrics import MetricSink

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dltobs._dispatch import Dispatcher, Sink
    from dltobs._excepthook import ExceptHook
    from dltobs._process.signals import TerminationWatch
    from dltobs._redaction.learner import SecretLearner
    from dltobs._redaction.redactor import Redactor
    from dltobs._runs.tracker import Tracker
    from dltobs._settings.settings import Settings
    from dltobs._spool.resend import Resending
    from dltobs._spool.spool import Spool
    from dltobs._warnings import Warner
    from dltobs._workers.parent import WorkerPools
    from dltobs.integrations.prefect.hook import PrefectHook
    from dltobs.logs.attach import LoggerHook
    from dltobs.logs.output import LogOutput
    from dltobs.sinks.delivery import Delivery

_CLOSING_SHARE = 0.15
"""Of `flush_timeout`: for closing what did not flush in time."""
_SHORTEST_CLOSE = 0.3
"""Seconds: a sink that closes writes what it has lost, which takes a moment also where nothing may wait."""
_KEEPING_TIMEOUT = 0.5
"""Seconds, though `flush_timeout` be over: for putting what was not sent into the spool."""


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
    log: LogOutput
    log_sink: Sink
    """Hears each event before the others; it has nothing to deliver."""
    start_sink: Sink
    """Gets each event after the others, likewise."""
    load_threads: LoadThreads = field(default_factory=LoadThreads)
    prefect: PrefectHook | None = None
    worker_pools: WorkerPools | None = None
    process: int = field(default_factory=os.getpid)
    excepthook: ExceptHook | None = None
    termination: TerminationWatch | None = None
    spool: Spool | None = None
    resending: Resending | None = None

    def attach(self, *, dlt_was_used: bool) -> None:
        """Hook into dlt, in the order in which nothing can leak: secrets first, sinks last.

        If a part fails, none stays attached.
        """
        try:
            self.learner.attach(dlt_was_used=dlt_was_used)
            self.logger_hook.warner = self.warner
            self.logger_hook.attach(
                self.log.handlers_for, self.settings.log_level, self.settings.dlt_log_level
            )
            self.load_threads.attach()
            if self.worker_pools is not None:
                self.worker_pools.attach()
            self.tracker.attach()
            self._attach_prefect()
            if self.excepthook is not None:
                self.excepthook.attach()
            if self.termination is not None:
                self.termination.attach()
        except BaseException:
            self.detach()
            self.log.close()
            raise
        self._get_ready()

    def replace(self, old: Setup) -> None:
        """Take the place of another set-up: its hooks stay where they are, and its runs go on here.

        At no moment is a hook missing, so nothing comes out raw; then the old set-up is closed.
        """
        self.learner, self.load_threads = old.learner, old.load_threads
        self.learner.redirect(self.redactor, lambda error: self.warner.internal_error("secrets", error))
        self.logger_hook.warner = self.warner
        self.logger_hook.attach(self.log.handlers_for, self.settings.log_level, self.settings.dlt_log_level)
        self.log.take_over(old.log)
        if old.prefect is not None:
            old.prefect.detach()
        self._attach_prefect()
        self.worker_pools = old.worker_pools
        if self.worker_pools is not None:
            self.worker_pools.redirect(self)
        if self.excepthook is not None and old.excepthook is not None:
            old.excepthook.redirect(self.redactor, self.log, self.dispatcher)
            self.excepthook = old.excepthook
        elif self.excepthook is not None:
            self.excepthook.attach()
        elif old.excepthook is not None:
            old.excepthook.detach()
        spans = self._take_over_spans(old)
        for before, now in product(_metric_sinks_of(old.sinks), _metric_sinks_of(self.sinks)):
            now.take_over(before)
        self.tracker.take_over(old.tracker)
        if spans is not None:
            # only now: until then an event of such a run may have reached either sink
            spans.let_go()
        self._take_over_signals(old)
        if old.process == os.getpid():
            old._deliver_and_close()
        self._get_ready()

    def _attach_prefect(self) -> None:
        if self.prefect is not None:
            spans = _span_sink_of(self.sinks)
            self.prefect.attach(None if spans is None else spans.decide)

    def _take_over_spans(self, old: Setup) -> Any:
        """Go on with the open spans of another set-up; gives the sink that has them no longer, if any."""
        before, now = _span_sink_of(old.sinks), _span_sink_of(self.sinks)
        if before is None or not before.open_runs:
            return None
        if now is None:
            # there are no spans any more, but the threads of these runs must be led out of theirs
            self.dispatcher.retain(self.log_sink, *self.sinks, before, self.start_sink)
            return None
        now.take_over(before.open_runs)
        return before

    def _take_over_signals(self, old: Setup) -> None:
        if self.termination is not None and old.termination is not None:
            old.termination.redirect(self.termination)
            self.termination = old.termination
        elif old.termination is not None:
            old.termination.detach()
        if self.termination is not None:
            self.termination.attach()

    def before_run(self) -> Mapping[str, str]:
        """A run begins on this thread; gives the names of what it happens in."""
        self.logger_hook.refresh()
        if self.termination is not None:
            self.termination.refresh()
        return {} if self.prefect is None else self.prefect.refresh()

    def after_hook(self) -> None:
        """A hook of ours has ended on this thread."""
        if self.termination is not None:
            self.termination.hold()

    def _get_ready(self) -> None:
        try:
            self._begin()
        except Exception as error:  # noqa: BLE001 - all is attached, and must be known as running
            self.warner.internal_error("configure", error)

    def _begin(self) -> None:
        if self.settings.sentry_dsn is not None and _dlt_has_sentry():
            self.warner.warn(
                "dlt's own Sentry",
                "RUNTIME__SENTRY_DSN switches dlt's own Sentry on beside ours: it replaces the client of the "
                "application and sends secrets; leave it out, and set SENTRY_DSN alone",
            )
        # one thread for the flush and two for the end of each sink that may have to wait
        reserve(3 * (len(self.deliveries) + len(self.settings.sinks)) + 1)
        if self.resending is not None:
            self.resending.start()

    def take_down(self) -> None:
        """Deliver what is left within `flush_timeout`, then undo `attach()`."""
        self.tracker.end_untold()
        self.tracker.detach()
        if self.process == os.getpid():
            end_retry_loops()
            self._deliver_and_close(self.detach)
            return
        self.deliver_as_child()
        self.detach()

    @property
    def timeout(self) -> float:
        """`flush_timeout`, as far as locks can wait."""
        return min(self.settings.flush_timeout, LONGEST)

    def deliver(self) -> None:
        """Have all sinks deliver, side by side; some of `flush_timeout` is left for closing them."""
        timeout = self.timeout * (1 - _CLOSING_SHARE)
        deadline = time.monotonic() + timeout
        run_within(timeout, *(_flushing(sink, timeout) for sink in self.sinks))
        if self.resending is not None:
            # afterwards: a flush that is a success has what waits in the spool sent, too
            self.resending.wait(max(deadline - time.monotonic(), 0.0))

    def deliver_as_child(self) -> None:
        """In a forked child: deliver or keep what it has made itself; the rest is its parent's."""
        # points are counted when they are collected, so nothing is pending before
        has_points = any(sink.has_points for sink in _metric_sinks_of(self.sinks))
        if has_points or any(delivery.pending for delivery in self.deliveries.values()):
            self.deliver()
            self._keep_the_rest(_KEEPING_TIMEOUT)

    def _keep_the_rest(self, timeout: float) -> None:
        """Put what was not sent into the spool, without the time to close anything."""
        for metrics in _metric_sinks_of(self.sinks):
            # sums that wait behind an export that hangs are not pending yet
            metrics.keep(timeout)
        left = [one for one in self.deliveries.values() if one.pending]
        run_within(timeout, *(functools.partial(one.abandon, "not sent before the deadline") for one in left))

    def deliver_at_last(self, timeout: float) -> None:
        """Have all sinks deliver, and the application's provider, which the signal leaves no time to."""
        flush_application = otel.application_flush(timeout)
        application = [] if flush_application is None else [flush_application]
        flushing = timeout * (1 - _CLOSING_SHARE)
        deadline = time.monotonic() + flushing
        run_within(timeout * _CLOSING_SHARE, end_retry_loops)
        left = max(deadline - time.monotonic(), 0.0)
        run_within(left, *(_flushing(sink, left) for sink in self.sinks), *application)
        self._keep_the_rest(max(timeout - flushing, _KEEPING_TIMEOUT))

    def _deliver_and_close(self, detach: Callable[[], None] | None = None) -> None:
        deadline = time.monotonic() + self.timeout
        try:
            self.deliver()
        finally:
            spans = _span_sink_of(self.sinks)
            # no event follows the close of a sink, but for those that end the spans of open runs
            self.dispatcher.retain(*([] if spans is None else [spans]))
            # closed while our handlers are still there to write what is lost
            if self.resending is not None:
                self.resending.stop()
            least = _KEEPING_TIMEOUT if self.spool is not None and self.deliveries else _SHORTEST_CLOSE
            run_within(max(deadline - time.monotonic(), least), *(sink.close for sink in self.sinks))
            late = [one for one in self.deliveries.values() if one.pending]
            run_within(_SHORTEST_CLOSE, *(one.overdue for one in late))
            if detach is not None:
                detach()
            self.log.close()

    def detach(self) -> None:
        """Undo `attach()`; every part is tried, whatever another one raises."""
        parts: list[Callable[[], None]] = [self.tracker.detach, self.log.release_own_logger]
        if self.excepthook is not None:
            parts.append(self.excepthook.detach)
        if self.worker_pools is not None:
            parts.append(self.worker_pools.detach)
        if self.termination is not None:
            parts.append(self.termination.detach)
        if self.prefect is not None:
            parts.append(self.prefect.detach)
        parts += (self.load_threads.detach, self.logger_hook.detach, self.learner.detach)
        for part in parts:
            try:
                part()
            except Exception as error:  # noqa: BLE001 - the other parts still have to be undone
                self.warner.internal_error("shutdown", error)


def _span_sink_of(sinks: Sequence[Sink]) -> Any:
    """The span sink among these, early or late; None where there is none."""
    return next((sink for sink in sinks if hasattr(sink, "open_runs") and hasattr(sink, "take_over")), None)


def _metric_sinks_of(sinks: Sequence[Sink]) -> list[MetricSink]:
    """The metric sink among these: one or none."""
    return [sink for sink in sinks if isinstance(sink, MetricSink)]


def _dlt_has_sentry() -> bool:
    from dlt.common.configuration.container import Container
    from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

    config = Container()[PluggableRunContext].context.runtime_config
    return bool(config is not None and getattr(config, "sentry_dsn", None))


def _flushing(sink: Sink, timeout: float) -> Callable[[], Any]:
    return lambda: sink.flush(timeout)
