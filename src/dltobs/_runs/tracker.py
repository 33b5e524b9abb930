"""Turns dlt's trace hooks into events; the only module that meets dlt's live traces.

dlt calls the four hooks on the thread of the run. What goes wrong in them is caught here: dlt would
log it, with the stack trace, as its own warning.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

from dltobs._context.current import (
    RunContext,
    current_correlation,
    current_run,
    current_span_is_sampled,
    hooked_pipeline,
    inside_hook,
)
from dltobs._context.surroundings import remember
from dltobs._events import RunStarted, StepStarted
from dltobs._runs.attempt_context import current_attempt, end_left
from dltobs._runs.callbacks import Callbacks
from dltobs._runs.markers import RunMarkers
from dltobs._runs.open_run import OpenRun, OpenStep, finished_run, leave, remember_end, will_retry
from dltobs._runs.step_reader import StepReader
from dltobs._runs.steps import active_pipeline, pending_packages_of, reactivate, run_of, run_of_again
from dltobs._runs.terminated import interrupted
from dltobs._runs.untold import is_untold, tell_untold

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from dlt.common.pipeline import SupportsPipeline
    from dlt.pipeline.trace import PipelineStepTrace, PipelineTrace

    from dltobs._dispatch import Dispatcher
    from dltobs._events import LogLine, Run, RunFinished
    from dltobs._warnings import Warner
    from dltobs.logs.handlers import RecentLines


class Tracker:
    """Listens to every pipeline of the process, from `attach()` until `detach()`.

    Args:
        dispatcher: Takes the events.
        warner: Told of what goes wrong.
        recent_lines: The memory of the run's log lines, if a sink wants them.
        callbacks: What else has to be done around the hooks.
        schema_change_ignore: Globs of schema changes that nobody is told of.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        warner: Warner,
        recent_lines: RecentLines | None = None,
        *,
        callbacks: Callbacks | None = None,
        schema_change_ignore: Sequence[str] = (),
    ) -> None:
        self._dispatcher = dispatcher
        self._warner = warner
        self._recent_lines = recent_lines
        self._callbacks = callbacks or Callbacks()
        self.markers = RunMarkers(warner)
        self.busy: set[int] = set()
        """The threads that are in a hook, by their identifiers."""
        self._reader = StepReader(warner, schema_change_ignore)
        self._runs: dict[str, OpenRun] = {}
        self._is_closing = False

    def __repr__(self) -> str:
        """Name us as dlt does in its warnings on tracking modules."""
        return "<dltobs>"

    def attach(self) -> None:
        """Have dlt call the hooks."""
        from dlt.pipeline import trace

        self._reader.load_attempts.attach()
        trace.TRACKING_MODULES.append(self)

    def detach(self) -> None:
        """Have dlt call them no more, once the runs that are on have ended: their context must be left."""
        self._is_closing = True
        self._detach_when_idle()

    def take_over(self, other: Tracker) -> None:
        """Stand in the place of another tracker, and go on with the runs that it observes."""
        from dlt.pipeline import trace

        self._runs = other._runs
        self._reader.take_over(other._reader)
        # a hook that is on, in another thread or below a sink that has called configure(), ends here
        other._dispatcher, other._warner = self._dispatcher, self._warner
        other._recent_lines = self._recent_lines
        self.busy = other.busy
        self.markers = other.markers
        self.markers.redirect(self._warner)
        trace.TRACKING_MODULES = [self if module is other else module for module in trace.TRACKING_MODULES]

    def _detach_when_idle(self) -> None:
        from dlt.pipeline import trace

        if self._is_closing and not self._runs:
            # a new list: another thread may be walking through the old one
            trace.TRACKING_MODULES = [module for module in trace.TRACKING_MODULES if module is not self]
            self._reader.load_attempts.detach()
            self.markers.close()

    def on_start_trace(self, trace: PipelineTrace, step: str, pipeline: SupportsPipeline) -> None:
        """A run begins."""
        self._guarded(pipeline, self._start_run, trace, step, pipeline)

    def on_start_trace_step(self, trace: PipelineTrace, step: str, pipeline: SupportsPipeline) -> None:
        """A step of it begins."""
        self._guarded(pipeline, self._start_step, trace, step, pipeline)

    def on_end_trace_step(
        self,
        trace: PipelineTrace,
        step: PipelineStepTrace,
        pipeline: SupportsPipeline,
        step_info: Any,
        send_state: bool,  # noqa: ARG002, FBT001 - the signature is dlt's
    ) -> None:
        """A step of it ends."""
        self._guarded(pipeline, self._end_step, trace, step, pipeline, step_info)

    def on_end_trace(
        self,
        trace: PipelineTrace,
        pipeline: SupportsPipeline,
        send_state: bool,  # noqa: ARG002, FBT001 - the signature is dlt's
    ) -> None:
        """The run ends."""
        self._guarded(pipeline, self._end_run, trace, pipeline)

    def _guarded(self, pipeline: SupportsPipeline, hook: Callable[..., None], *args: Any) -> None:
        if inside_hook.get():
            return
        token, pipeline_token = inside_hook.set(True), hooked_pipeline.set(pipeline)
        thread = threading.get_ident()
        self.busy.add(thread)
        active = None
        try:
            active = active_pipeline()
            hook(*args)
        except Exception as error:  # noqa: BLE001 - never into the pipeline
            self._warner.internal_error("tracker", error)
        finally:
            hooked_pipeline.reset(pipeline_token)
            inside_hook.reset(token)
            self._reader.attempt(None, lambda: reactivate(active))
            self.busy.discard(thread)
            self._callbacks.after_hook()

    def _start_run(self, trace: PipelineTrace, step: str, pipeline: SupportsPipeline) -> None:
        end_left()
        self.end_untold(threading.get_ident())
        if self._is_closing:
            return
        labels: Mapping[str, str] = {}
        labels = self._reader.attempt(labels, self._callbacks.before_run)
        run, attempt = replace(run_of(trace, pipeline), surroundings=labels), current_attempt()
        if attempt is not None:
            run = replace(run, attempt=attempt.count(run.pipeline), retry_id=attempt.story_id)
        remember(run.transaction_id, labels)
        token = current_run.set(RunContext(run.pipeline, step, run.transaction_id))
        state = OpenRun(run, trace.started_at, token, sys.exc_info()[1], attempt)
        state.pipeline = weakref.ref(pipeline)
        self._runs[run.transaction_id] = state
        self._reader.load_attempts.begin(run.transaction_id)
        if self._recent_lines is not None:
            self._recent_lines.begin(run.transaction_id)
        folder = getattr(pipeline, "working_dir", None)
        if folder is not None:
            self._reader.attempt(None, lambda: self.markers.begin(run, step, state.started_at, folder))
        self._dispatcher.emit(RunStarted(run, step, state.started_at))
        self._reader.attempt(None, lambda: self._tell_lost(run))

    def _tell_lost(self, run: Run) -> None:
        for lost in self.markers.lost(run):
            self._dispatcher.emit(lost)

    def _start_step(self, trace: PipelineTrace, step: str, pipeline: SupportsPipeline) -> None:
        state = self._runs.get(trace.transaction_id)
        if state is None:
            return
        started_at = datetime.now(timezone.utc)
        state.run = self._reader.attempt(state.run, lambda: run_of_again(state.run, trace, pipeline, step))
        self._reader.look(state, step, pipeline)
        token = current_run.set(RunContext(state.run.pipeline, step, trace.transaction_id))
        depth = len(state.steps)
        state.steps.append(OpenStep(step, started_at, token))
        self._dispatcher.emit(StepStarted(state.run, step, depth, started_at))
        self._reader.attempt(None, lambda: self._mark_step(state))

    def _mark_step(self, state: OpenRun) -> None:
        """Keep what somebody needs who tells of the run in our place: step, trace and span."""
        step, current = state.steps[-1], current_correlation()
        if current is not None:
            step.trace_id, step.span_id = current.trace_id, current.span_id
        sampled = current_span_is_sampled()
        self.markers.step(state.run, step.name, step.trace_id, step.span_id, sampled=sampled)

    def end_untold(self, thread: int | None = None) -> None:
        """Tell of the runs, of one thread or all, that have ended without a word of dlt's."""
        token = inside_hook.set(True)
        try:
            for state in reversed(list(self._runs.values())):
                if thread in {None, state.thread} and state.process == os.getpid() and is_untold(state):
                    self._reader.attempt(None, partial(self._tell_untold, state))
        finally:
            inside_hook.reset(token)

    def _tell_untold(self, state: OpenRun) -> None:
        transaction_id = state.run.transaction_id
        if self._runs.pop(transaction_id, None) is None:
            return  # somebody else has told of it meanwhile
        self._reader.load_attempts.end(transaction_id)
        tell_untold(state, self._lines_of(transaction_id), self._dispatcher.emit)
        self.markers.end(transaction_id)

    def _lines_of(self, transaction_id: str) -> tuple[LogLine, ...]:
        return () if self._recent_lines is None else self._recent_lines.take(transaction_id)

    @property
    def is_observing(self) -> bool:
        """Whether a run has begun and not ended."""
        return bool(self._runs)

    def forget_markers(self, untold: Collection[str] = ()) -> None:
        """The runs of this process have been reported, or their own threads are about to.

        Not so those that a sink has not been told of, and those that have begun since.
        """
        self.markers.end_all(but={*untold, *self._runs})

    def interrupt(self, signal_name: str) -> list[RunFinished]:
        """Take the runs of this process that are on away from their hooks: a signal ends them.

        Called by a thread of ours; what their own threads still tell of them is not heard.
        """
        return interrupted(self._runs, signal_name, self._lines_of)

    def _end_step(
        self,
        trace: PipelineTrace,
        step_trace: PipelineStepTrace,
        pipeline: SupportsPipeline,
        step_info: Any,
    ) -> None:
        state = self._runs.get(trace.transaction_id)
        if state is None or not state.steps:
            return
        step = state.steps.pop()
        try:
            state.run = self._reader.attempt(
                state.run, lambda: run_of_again(state.run, trace, pipeline, None)
            )
            finished = self._reader.read(state, step, step_trace, pipeline, step_info)
            state.finished.append(finished)
            self._dispatcher.emit(finished)
        finally:
            leave(step.token)

    def _end_run(self, trace: PipelineTrace, pipeline: SupportsPipeline) -> None:
        self._reader.load_attempts.end(trace.transaction_id)
        state = self._runs.pop(trace.transaction_id, None)
        if state is None:
            return
        is_told = False
        try:
            lines = self._lines_of(trace.transaction_id)
            pending: tuple[str, ...] = ()
            pending = self._reader.attempt(pending, lambda: pending_packages_of(pipeline))
            self._reader.keep_files(state, pending)
            event = finished_run(
                state,
                trace.finished_at,
                pending=pending,
                lines=lines,
                retries=lambda: self._reader.attempt(None, lambda: will_retry(state)),
            )
            is_told = True
            self._dispatcher.emit(event)
            remember_end(sys.exc_info()[1] or state.error, event)
        finally:
            if is_told:  # else an interrupt came in between, and the next run tells of this one
                self.markers.end(trace.transaction_id)
            leave(state.token)
            self._detach_when_idle()
