"""Turns dlt's trace hooks into events; the only module that meets dlt's live traces.

dlt calls the four hooks on the thread of the run. What goes wrong in them is caught here: dlt would
log it, with the stack trace, as its own warning.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar

from dltobs._attempts import LoadAttempts
from dltobs._context import RunContext, current_correlation, current_run
from dltobs._describe import text_of, type_name
from dltobs._events import (
    Failure,
    RunFinished,
    RunStarted,
    StepFinished,
    StepStarted,
)
from dltobs._jobs import files_of, load_jobs_of
from dltobs._runs import RunState, StepState, contains, live_error, outcome_of
from dltobs._span_links import PACKAGE_STATES, SpanLinks
from dltobs._steps import StepDetail, detail_of, failure_of, pending_packages_of, run_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Token

    from dlt.common.pipeline import SupportsPipeline
    from dlt.pipeline.trace import PipelineStepTrace, PipelineTrace

    from dltobs._dispatch import Dispatcher
    from dltobs._events import Job, Package, SpanLink
    from dltobs._warnings import Warner
    from dltobs.logs.handlers import RecentLines

T = TypeVar("T")

_inside: ContextVar[bool] = ContextVar("dltobs_inside_hook", default=False)
"""True while a hook of ours is on: a pipeline that a sink runs is not observed."""


class Tracker:
    """Listens to every pipeline of the process, from `attach()` until `detach()`.

    Args:
        dispatcher: Takes the events.
        warner: Told of what goes wrong.
        recent_lines: The memory of the run's log lines, if a sink wants them.
        before_run: Called on the run's thread before its first event.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        warner: Warner,
        recent_lines: RecentLines | None = None,
        before_run: Callable[[], None] | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._warner = warner
        self._recent_lines = recent_lines
        self._before_run = before_run
        self._load_attempts = LoadAttempts(warner)
        self._links = SpanLinks(warner)
        self._runs: dict[str, RunState] = {}

    def __repr__(self) -> str:
        """Name us as dlt does in its warnings on tracking modules."""
        return "<dltobs>"

    def attach(self) -> None:
        """Have dlt call the hooks."""
        from dlt.pipeline import trace

        self._load_attempts.attach()
        trace.TRACKING_MODULES.append(self)

    def detach(self) -> None:
        """Have dlt call them no more; runs that are on end unheard."""
        from dlt.pipeline import trace

        # a new list: another thread may be walking through the old one
        trace.TRACKING_MODULES = [module for module in trace.TRACKING_MODULES if module is not self]
        self._load_attempts.detach()

    def on_start_trace(self, trace: PipelineTrace, step: str, pipeline: SupportsPipeline) -> None:
        """A run begins."""
        self._guarded(self._start_run, trace, step, pipeline)

    def on_start_trace_step(self, trace: PipelineTrace, step: str, pipeline: SupportsPipeline) -> None:
        """A step of it begins."""
        self._guarded(self._start_step, trace, step, pipeline)

    def on_end_trace_step(
        self,
        trace: PipelineTrace,
        step: PipelineStepTrace,
        pipeline: SupportsPipeline,
        step_info: Any,
        send_state: bool,  # noqa: ARG002, FBT001 - the signature is dlt's
    ) -> None:
        """A step of it ends."""
        self._guarded(self._end_step, trace, step, pipeline, step_info)

    def on_end_trace(
        self,
        trace: PipelineTrace,
        pipeline: SupportsPipeline,
        send_state: bool,  # noqa: ARG002, FBT001 - the signature is dlt's
    ) -> None:
        """The run ends."""
        self._guarded(self._end_run, trace, pipeline)

    def _guarded(self, hook: Callable[..., None], *args: Any) -> None:
        if _inside.get():
            return
        token = _inside.set(True)
        try:
            hook(*args)
        except Exception as error:  # noqa: BLE001 - never into the pipeline
            self._warner.internal_error("tracker", error)
        finally:
            _inside.reset(token)

    def _start_run(self, trace: PipelineTrace, step: str, pipeline: SupportsPipeline) -> None:
        if self._before_run is not None:
            self._before_run()
        run = run_of(trace, pipeline)
        token = current_run.set(RunContext(run.pipeline, step, run.transaction_id))
        state = RunState(run, trace.started_at, token, sys.exc_info()[1])
        self._runs[run.transaction_id] = state
        self._load_attempts.begin(run.transaction_id)
        if self._recent_lines is not None:
            self._recent_lines.begin(run.transaction_id)
        self._dispatcher.emit(RunStarted(run, step, state.started_at))

    def _start_step(self, trace: PipelineTrace, step: str, pipeline: SupportsPipeline) -> None:
        state = self._runs.get(trace.transaction_id)
        if state is None:
            return
        started_at = datetime.now(timezone.utc)
        self._update(state, trace, pipeline)
        token = current_run.set(RunContext(state.run.pipeline, step, trace.transaction_id))
        depth = len(state.steps)
        state.steps.append(StepState(step, started_at, token))
        self._dispatcher.emit(StepStarted(state.run, step, depth, started_at))

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
            self._update(state, trace, pipeline)
            finished = self._step_finished(state, step, step_trace, pipeline, step_info)
            state.finished.append(finished)
            self._dispatcher.emit(finished)
        finally:
            _reset(step.token)

    def _step_finished(
        self,
        state: RunState,
        step: StepState,
        step_trace: PipelineStepTrace,
        pipeline: SupportsPipeline,
        step_info: Any,
    ) -> StepFinished:
        correlation = current_correlation()
        detail = self._attempt(StepDetail(), lambda: detail_of(step.name, step_info))
        error = live_error(state, step_trace)
        failure = self._failure(state, step.name, error, step_trace)
        unknown: tuple[Job, ...] | None = None
        load_jobs = self._attempt(unknown, lambda: self._load_jobs(state, step, step_info))
        finished = StepFinished(
            run=state.run,
            step=step.name,
            depth=len(state.steps),
            started_at=step.started_at,
            finished_at=max(step_trace.finished_at or datetime.now(timezone.utc), step.started_at),
            failure=failure,
            packages=detail.packages,
            tables=detail.tables,
            rows=detail.rows,
            bytes=detail.bytes,
            jobs=detail.jobs if load_jobs is None else len(load_jobs),
            resources=detail.resources,
            load_jobs=load_jobs or (),
            links=self._attempt((), lambda: self._linked(step.name, detail.packages, failure, pipeline)),
            trace_id=(correlation and correlation.trace_id) or state.run.transaction_id,
            span_id=correlation and correlation.span_id,
        )
        if failure is not None and (state.failed is None or failure is not state.failed.failure):
            state.failed = finished
        return finished

    def _load_jobs(self, state: RunState, step: StepState, step_info: Any) -> tuple[Job, ...]:
        """The jobs of a load; of what normalize wrote, their sizes are kept for it."""
        if step.name == "normalize":
            state.files.update(files_of(step_info))
        if step.name != "load":
            return ()
        attempts = self._load_attempts.take(state.run.transaction_id)
        return load_jobs_of(step_info, step.started_at, state.files, attempts)

    def _linked(
        self, step: str, packages: tuple[Package, ...], failure: Failure | None, pipeline: SupportsPipeline
    ) -> tuple[SpanLink, ...]:
        """The spans of earlier traces that made the packages; the current one is kept for later ones."""
        folder = getattr(pipeline, "working_dir", None)
        if folder is None or step not in PACKAGE_STATES:
            return ()
        load_ids = [package.load_id for package in packages]
        if failure is not None and failure.load_id is not None:
            load_ids.append(failure.load_id)
        done = [package.load_id for package in packages if package.state in PACKAGE_STATES[step]]
        return self._links.pass_on(folder, load_ids, done, is_last=step == "load")

    def _failure(
        self, state: RunState, step: str, error: BaseException | None, step_trace: PipelineStepTrace
    ) -> Failure | None:
        """The failure of a step; that of the inner step from which it came, where there is one.

        Inner steps end first, so the first one that an exception passes is the deepest.
        """
        if error is None:
            return None
        if state.failed is not None and contains(error, state.error):
            return state.failed.failure
        state.error = error
        unknown = Failure(step, type_name(type(error)), text_of(error), False, (), "")  # noqa: FBT003
        return self._attempt(unknown, lambda: failure_of(step, error, step_trace.exception_traces))

    def _update(self, state: RunState, trace: PipelineTrace, pipeline: SupportsPipeline) -> None:
        """Look at the identity again: destination and dataset may have been given to a step."""
        state.run = self._attempt(state.run, lambda: run_of(trace, pipeline))

    def _attempt(self, default: T, read: Callable[[], T]) -> T:
        """What `read` gives; if dlt has changed what it reads, one warning and the default."""
        try:
            return read()
        except Exception as error:  # noqa: BLE001 - an event with a part missing is better than none
            self._warner.internal_error("tracker", error)
            return default

    def _end_run(self, trace: PipelineTrace, pipeline: SupportsPipeline) -> None:
        self._load_attempts.end(trace.transaction_id)
        state = self._runs.pop(trace.transaction_id, None)
        if state is None:
            return
        try:
            lines = () if self._recent_lines is None else self._recent_lines.take(trace.transaction_id)
            self._dispatcher.emit(
                RunFinished(
                    run=state.run,
                    outcome=outcome_of(state),
                    started_at=state.started_at,
                    finished_at=trace.finished_at or datetime.now(timezone.utc),
                    steps=tuple(state.finished),
                    failed_step=state.failed,
                    pending_packages=self._attempt((), lambda: pending_packages_of(pipeline))
                    if state.failed
                    else (),
                    log_lines=lines,
                )
            )
        finally:
            _reset(state.token)


def _reset(token: Token[RunContext | None]) -> None:
    try:
        current_run.reset(token)
    except ValueError:
        # ended in another context than begun: the best that is left
        current_run.set(token.old_value if isinstance(token.old_value, RunContext) else None)
