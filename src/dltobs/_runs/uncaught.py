"""Describes an uncaught exception that has come out of dlt outside of any run."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import PurePath
from typing import TYPE_CHECKING, TypeVar

from dltobs._describe import chain_of, is_of_dlt, members_of
from dltobs._events import UncaughtError
from dltobs._runs.failures import failure_of
from dltobs._runs.open_run import run_ended_by
from dltobs._runs.steps import active_pipeline

if TYPE_CHECKING:
    from collections.abc import Callable

    from dltobs._runs.open_run import EndedRun

T = TypeVar("T")


def ended_run_of(error: BaseException) -> EndedRun | None:
    """Return the run that an exception has ended, or one that it comes from; None where there is none.

    An exception of dlt's that is raised while another one is handled does not come from that one.
    """
    if _told_context_of(error) is not None:
        return None
    left, seen = [error], set[int]()
    while left:
        for one in chain_of(left.pop()):
            if id(one) in seen:
                break
            seen.add(id(one))
            run = run_ended_by(one)
            if run is not None:
                return run
            left += members_of(one)
    return None


def _told_context_of(error: BaseException) -> BaseException | None:
    """Return what was being handled when dlt raised another exception, if a run has reported that."""
    context = error.__context__
    if context is None or error.__cause__ is not None or not is_of_dlt(error) or run_ended_by(error):
        return None
    return None if ended_run_of(context) is None else context


def uncaught_error(error: BaseException, redact: Callable[[str, int], str]) -> UncaughtError | None:
    """Return the event for an uncaught exception.

    None where it has nothing to do with dlt: neither dlt's own, nor raised by code that dlt has called. None
    as well for what ends a process from outside (`KeyboardInterrupt`).

    Args:
        error: The exception.
        redact: Takes the secrets out of a text that is to be cut, and cuts it to a number of characters.
    """
    if not isinstance(error, Exception):
        return None
    failure = failure_of("", error, until=_told_context_of(error), attempt=_attempt, redact=redact)
    calls_dlt = any(frame.module.split(".")[0] == "dlt" for info in failure.chain for frame in info.frames)
    if not calls_dlt and not any(is_of_dlt(one) for one in chain_of(error)):
        return None
    script = PurePath(sys.argv[0]).name if sys.argv else ""
    event = UncaughtError(datetime.now(timezone.utc), failure, script=script)
    pipeline = _attempt(None, active_pipeline)
    if pipeline is None:
        return event
    destination = pipeline.destination
    return replace(
        event,
        pipeline=pipeline.pipeline_name,
        destination_name=None if destination is None else destination.destination_name,
        destination_type=None if destination is None else destination.destination_type,
        dataset=pipeline.dataset_name,
        working_dir=pipeline.working_dir,
    )


def _attempt(default: T, part: Callable[[], T]) -> T:
    try:
        return part()
    except Exception:  # noqa: BLE001 - exceptions and pipelines are foreign code
        return default
