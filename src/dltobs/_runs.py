"""What the tracker knows of a run that is on."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dltobs._describe import chain_of

if TYPE_CHECKING:
    from contextvars import Token
    from datetime import datetime

    from dlt.pipeline.trace import PipelineStepTrace

    from dltobs._context import RunContext
    from dltobs._events import Outcome, Run, StepFinished
    from dltobs._jobs import WrittenFile


@dataclass(slots=True)
class StepState:
    """A step that is on."""

    name: str
    started_at: datetime
    token: Token[RunContext | None]


@dataclass(slots=True)
class RunState:
    """The state of a run that is on; touched by its own thread only."""

    run: Run
    started_at: datetime
    token: Token[RunContext | None]
    error_at_start: BaseException | None
    steps: list[StepState] = field(default_factory=list)
    finished: list[StepFinished] = field(default_factory=list)
    failed: StepFinished | None = None
    error: BaseException | None = None
    files: dict[str, WrittenFile] = field(default_factory=dict)
    """What normalize wrote, by the id of the job that loads it."""


def live_error(state: RunState, step_trace: PipelineStepTrace) -> BaseException | None:
    """The exception that ends the step.

    The hook runs in a `finally`, so it is the current one. A run that somebody calls in an `except` block
    sees that outer exception even when it succeeds.
    """
    error = sys.exc_info()[1]
    if step_trace.step_exception is not None or error is not state.error_at_start:
        return error
    return None


def contains(error: BaseException, other: BaseException | None) -> bool:
    """Whether one exception was raised while or because the other was."""
    return any(one is other for one in chain_of(error))


def outcome_of(state: RunState) -> Outcome:
    """How a run ended, by its steps."""
    if any(step.failure is not None and step.depth == 0 for step in state.finished):
        return "failed"
    if any(step.failed_jobs for step in state.finished):
        return "ok_with_failed_jobs"
    if not any(step.packages for step in state.finished):
        return "no_data"
    return "ok"
