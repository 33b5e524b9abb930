"""The state of a run that is on, and what follows from it."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from dltobs._context.current import Correlation, RunContext, current_run
from dltobs._describe import chain_of, read, root_cause
from dltobs._events import RunFinished

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Token
    from weakref import ReferenceType

    from dlt.pipeline.trace import PipelineStepTrace

    from dltobs._events import LogLine, Outcome, Package, Run, StepFinished
    from dltobs._runs.attempt_context import RetryAttempt
    from dltobs._runs.jobs import WrittenFile

RAISED_BY_SIGNAL = "_dltobs_signal"
"""The attribute of an exception that a handler of a signal has raised: the signal's name."""


_ENDED_RUN = "_dltobs_run"
"""The attribute of an exception that has ended a run: the fields of `EndedRun` as tuples, for pickle."""


class EndedRun(NamedTuple):
    """The run that an exception has ended; its own line in the log has told the exception.

    `ids` are those of its outermost step. `is_error`: the line is an ERROR; else it is the WARNING of an
    attempt of a retry loop that goes on, or may go on.
    """

    ids: Correlation
    is_error: bool


def run_ended_by(error: BaseException) -> EndedRun | None:
    """Return the run that has ended with this very exception; None where it has ended none.

    Kept on the exception itself, so it is known in whatever thread or process that comes out.
    """
    attributes = read(error, "__dict__")
    ended = attributes.get(_ENDED_RUN) if isinstance(attributes, dict) else None
    return None if ended is None else EndedRun(Correlation(*ended[0]), ended[1])


def remember_end(error: BaseException | None, event: RunFinished) -> None:
    """Keep on the exception that has ended a run which run that was."""
    attributes = None if error is None else read(error, "__dict__")
    if not isinstance(attributes, dict) or event.outcome not in {"failed", "terminated"}:
        return
    run, outermost = event.run, next((step for step in reversed(event.steps) if step.depth == 0), None)
    step, trace_id, span_id = (
        ("run", run.transaction_id, None)
        if outermost is None
        else (outermost.step, outermost.trace_id, outermost.span_id)
    )
    ids = (run.pipeline, step, run.transaction_id, trace_id, span_id)
    attributes[_ENDED_RUN] = (ids, event.outcome == "terminated" or event.will_retry is False)


@dataclass(slots=True)
class OpenStep:
    name: str
    started_at: datetime
    token: Token[RunContext | None]
    trace_id: str | None = None
    span_id: str | None = None


@dataclass(slots=True)
class OpenRun:
    """The state of a run that is on; touched by its own thread only, until a signal ends the process."""

    run: Run
    started_at: datetime
    token: Token[RunContext | None]
    error_at_start: BaseException | None
    attempt: RetryAttempt | None = None
    steps: list[OpenStep] = field(default_factory=list)
    finished: list[StepFinished] = field(default_factory=list)
    failed: StepFinished | None = None
    error: BaseException | None = None
    files: dict[str, dict[str, WrittenFile]] = field(default_factory=dict)
    """What normalize wrote, by load id, then by the id of the job that loads it."""
    schema_files: dict[str, bytes] | None = None
    """The stored schemas when extract began; None if the run did not extract."""
    migrated: frozenset[str] = frozenset()
    """The packages whose schema changes had been made before the load."""
    pipeline: ReferenceType[Any] | None = None
    thread: int = field(default_factory=threading.get_ident)
    process: int = field(default_factory=os.getpid)


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


def finished_run(
    state: OpenRun,
    finished_at: datetime | None,
    *,
    pending: tuple[str, ...],
    lines: tuple[LogLine, ...],
    retries: Callable[[], bool | None],
) -> RunFinished:
    """The end of a run.

    Args:
        state: What is known of it.
        finished_at: When it ended; None is now.
        pending: The load ids that wait in the working directory.
        lines: Its last log lines.
        retries: Says whether the loop in which it failed goes on; asked only then.
    """
    outcome = outcome_of(state)
    return RunFinished(
        run=state.run,
        outcome=outcome,
        started_at=state.started_at,
        finished_at=finished_at or datetime.now(timezone.utc),
        steps=tuple(state.finished),
        failed_step=state.failed,
        pending_packages=pending,
        log_lines=lines,
        partly_loaded_packages=partly_loaded_of(state),
        aborted_packages=aborted_of(state),
        will_retry=outcome == "failed" and retries(),
    )


def outcome_of(state: OpenRun) -> Outcome:
    """The one word on a run that every sink uses.

    - `failed`: the method that was called has raised;
    - `ok_with_failed_jobs`: it has not, but jobs have failed: `raise_on_failed_jobs` is false, or the
      package was aborted at the caller's wish;
    - `no_data`: there was nothing to extract, normalize or load, dlt's own tables aside;
    - `ok`: any other. A step that failed inside it was caught by the caller's own code.
    """
    if any(step.failure is not None and step.depth == 0 for step in state.finished):
        return "terminated" if is_by_signal(state.error, state.error_at_start) else "failed"
    if any(step.failed_jobs for step in state.finished):
        return "ok_with_failed_jobs"
    return "ok" if any(_has_data(step) for step in state.finished) else "no_data"


def _has_data(step: StepFinished) -> bool:
    # a job without rows may have emptied its table; jobs that could not be read are nobody's
    jobs = any(not job.internal for job in step.load_jobs) if step.load_jobs else step.jobs > 0
    return bool(step.rows or step.bytes or jobs)


def partly_loaded_of(state: OpenRun) -> tuple[str, ...]:
    """The load ids of packages that this run has left partly loaded."""
    found = [package.load_id for package in _packages(state) if package.is_partly_loaded]
    for step in state.finished:
        failure = step.failure
        if failure is not None and failure.is_package_partially_loaded and failure.load_id is not None:
            found.append(failure.load_id)
    return tuple(dict.fromkeys(found))


def aborted_of(state: OpenRun) -> tuple[str, ...]:
    """The load ids of packages that were aborted in this run."""
    found = [package.load_id for package in _packages(state) if package.state == "aborted"]
    return tuple(dict.fromkeys(found))


def _packages(state: OpenRun) -> list[Package]:
    return [package for step in state.finished for package in step.packages]


def will_retry(state: OpenRun) -> bool | None:
    """Whether the retry loop in which the run was made goes on after the exception that ends it."""
    error = sys.exc_info()[1]
    if error is None:
        error = state.error
    return False if state.attempt is None or error is None else state.attempt.will_retry(error)


def is_by_signal(error: BaseException | None, until: BaseException | None = None) -> bool:
    """Whether a run ended because somebody asked it to: by Ctrl-C, or by a signal that a handler took.

    Args:
        error: The exception that ended it.
        until: The one that was being handled when the run was called.
    """
    if error is None:
        return False
    try:
        cause = root_cause(error, until)
    except Exception:  # noqa: BLE001 - foreign code; the end of the run is told whatever it is
        return False
    # dlt's SignalReceivedException is a KeyboardInterrupt
    if issubclass(type(cause), KeyboardInterrupt):
        return True
    attributes = read(cause, "__dict__")  # not `read()` of the mark: `__getattr__` may have an answer to all
    return isinstance(attributes, dict) and RAISED_BY_SIGNAL in attributes


def leave(token: Token[RunContext | None]) -> None:
    try:
        current_run.reset(token)
    except ValueError:
        # ended in another context than begun: the best that is left
        current_run.set(token.old_value if isinstance(token.old_value, RunContext) else None)
