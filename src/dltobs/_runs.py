"""The state of a run that is on, and what follows from it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dltobs._context import RunContext, current_run
from dltobs._describe import chain_of

if TYPE_CHECKING:
    from contextvars import Token
    from datetime import datetime

    from dlt.pipeline.trace import PipelineStepTrace

    from dltobs._events import Outcome, Run, StepFinished


@dataclass(slots=True)
class OpenStep:
    name: str
    started_at: datetime
    token: Token[RunContext | None]


@dataclass(slots=True)
class OpenRun:
    """The state of a run that is on; touched by its own thread only."""

    run: Run
    started_at: datetime
    token: Token[RunContext | None]
    error_at_start: BaseException | None
    steps: list[OpenStep] = field(default_factory=list)
    finished: list[StepFinished] = field(default_factory=list)
    failed: StepFinished | None = None
    error: BaseException | None = None


def live_error(state: OpenRun, step_trace: PipelineStepTrace) -> BaseException | None:
    """The exception that ends the step.

    The hook runs in a `finally`, so it is the current one. A run that somebody calls in an `except` block
    sees that outer exception even when it succeeds.
    """
    error = sys.exc_info()[1]
    if step_trace.step_exception is not None or error is not state.error_at_start:
        return error
    return None


def comes_from(error: BaseException, other: BaseException | None) -> bool:
    """Whether one exception was raised while or because the other was."""
    return any(one is other for one in chain_of(error))


def outcome_of(state: OpenRun) -> Outcome:
    if any(step.failure is not None and step.depth == 0 for step in state.finished):
        return "failed"
    if any(step.failed_jobs for step in state.finished):
        return "ok_with_failed_jobs"
    if not any(step.packages for step in state.finished):
        return "no_data"
    return "ok"


def leave(token: Token[RunContext | None]) -> None:
    try:
        current_run.reset(token)
    except ValueError:
        # ended in another context than begun: the best that is left
        current_run.set(token.old_value if isinstance(token.old_value, RunContext) else None)
