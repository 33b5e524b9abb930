"""Tells of the runs that a signal ends, from a thread of dltobs: to each sink, the log, then the back ends.

The main thread, which the signal has interrupted, may hold any lock; so each sink is told in a thread of its
own, and no wait is without bound.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from dltobs._describe import describe_stack
from dltobs._events import ExceptionInfo, Failure, RunFinished, StepFinished
from dltobs._process.deadline import run_within

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from types import FrameType

    from dltobs._events import LogLine, Outcome
    from dltobs._runs.open_run import OpenRun

    Untold = Callable[[], Collection[str]]

ERROR_TYPE = "Signal"
_HOOK_SHARE = 0.2
_EMIT_SHARE = 0.4
"""Of the time that there is: for hooks that are on, and for the sinks to take the events."""
_HIDDEN = frozenset({"dltobs._process.signals"})
"""Modules whose frames are on top of the stack of a thread that waits for us."""


def interrupted(
    runs: dict[str, OpenRun], signal_name: str, lines_of: Callable[[str], tuple[LogLine, ...]]
) -> list[RunFinished]:
    """Take the runs of this process out of those that are on, and give their ends."""
    ended = []
    for transaction_id in list(runs):
        state = runs.pop(transaction_id, None)
        if state is not None and state.process == os.getpid():
            ended.append(terminated_run(state, signal_name, lines_of(transaction_id)))
    return ended


def terminated_run(state: OpenRun, signal_name: str, log_lines: tuple[LogLine, ...]) -> RunFinished:
    """The end of a run in whose midst the process ends; each step that is on has failed by the signal."""
    return ended_run(state, "terminated", _failure(state, signal_name), log_lines)


def ended_run(
    state: OpenRun, outcome: Outcome, failure: Failure, log_lines: tuple[LogLine, ...]
) -> RunFinished:
    """The end of a run that dlt does not tell; each step that is on has failed so."""
    at = max(datetime.now(timezone.utc), state.started_at)
    opened = [
        StepFinished(
            run=state.run,
            step=step.name,
            depth=depth,
            started_at=step.started_at,
            finished_at=max(at, step.started_at),
            failure=failure,
            trace_id=step.trace_id or state.run.transaction_id,
            span_id=step.span_id,
        )
        for depth, step in enumerate(tuple(state.steps))
    ][::-1]
    return RunFinished(
        run=state.run,
        outcome=outcome,
        started_at=state.started_at,
        finished_at=at,
        steps=(*state.finished, *opened),
        failed_step=opened[0] if opened else state.failed,
        log_lines=log_lines,
    )


def _failure(state: OpenRun, signal_name: str) -> Failure:
    """Where the thread of the run was when the signal came takes the place of a stack trace."""
    frames, text = describe_stack(_top_of(sys._current_frames().get(state.thread)))  # noqa: SLF001 - documented
    return Failure(
        step=state.steps[-1].name if state.steps else "run",
        error_type=ERROR_TYPE,
        message=signal_name,
        terminal=False,
        chain=(ExceptionInfo(ERROR_TYPE, signal_name, frames),),
        stacktrace=text,
    )


def _top_of(frame: FrameType | None) -> FrameType | None:
    while frame is not None and frame.f_globals.get("__name__") in _HIDDEN:
        frame = frame.f_back
    return frame


class TerminationReport:
    """Reports the open runs of a process that is about to end.

    Args:
        hooks_are_on: Whether a thread is in a hook of ours, whose sinks it should leave first.
        interrupt: Takes the open runs away from their hooks and gives their ends.
        emitters: Gives a call for each sink, which hands it these events, and what tells in the end of which
            runs, by their transaction ids, a sink has not been told.
        reported: Told that the sinks have been told of all runs but these.
        deliver: Has the sinks deliver within so many seconds.
    """

    def __init__(
        self,
        *,
        hooks_are_on: Callable[[], bool],
        interrupt: Callable[[str], Sequence[RunFinished]],
        emitters: Callable[[Sequence[RunFinished]], tuple[Sequence[Callable[[], object]], Untold]],
        reported: Callable[[Collection[str]], None],
        deliver: Callable[[float], object],
    ) -> None:
        self._hooks_are_on = hooks_are_on
        self._interrupt = interrupt
        self._emitters = emitters
        self._reported = reported
        self._deliver = deliver

    def send(self, signal_name: str, timeout: float) -> None:
        """Tell everybody, within `timeout` seconds if no lock is in the way."""
        deadline = time.monotonic() + timeout
        patience = time.monotonic() + _HOOK_SHARE * timeout
        while self._hooks_are_on() and time.monotonic() < patience:
            time.sleep(0.005)
        events = self._interrupt(signal_name)
        calls, untold = self._emitters(events)
        if events:
            run_within(_EMIT_SHARE * max(deadline - time.monotonic(), 0.0), *calls)
        self._reported(untold())
        self._deliver(max(deadline - time.monotonic(), 0.0))
