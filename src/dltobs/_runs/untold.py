"""Runs whose end dlt does not tell.

dlt makes a text of the exception that ends a step before it calls the hooks. Where that text cannot be made
(the `__str__` of somebody's exception raises) none is called.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from dltobs._events import Failure
from dltobs._runs.open_run import leave
from dltobs._runs.terminated import ended_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from dltobs._events import Event, LogLine
    from dltobs._runs.open_run import OpenRun

_UNKNOWN_ERROR = "_OTHER"
"""OpenTelemetry's word for an error whose type is not known."""
_MESSAGE = "dlt has not told how the run ended: the text of its exception cannot be made, perhaps"


def is_untold(state: OpenRun) -> bool:
    """Whether the run is not on any more: its pipeline is in no trace, or in another one."""
    is_own = state.thread == threading.get_ident()
    if state.pipeline is None or not (is_own or state.steps):
        return False  # in another thread it may just begin: dlt keeps the trace before the first step
    pipeline = state.pipeline()
    if pipeline is None:
        return True
    # a dlt that keeps it elsewhere is believed to have told
    trace = getattr(pipeline, "_trace", state.run)
    return trace is None or trace.transaction_id != state.run.transaction_id


def tell_untold(state: OpenRun, log_lines: tuple[LogLine, ...], emit: Callable[[Event], None]) -> None:
    """Tell the end of such a run, and leave its context, if this is its thread."""
    step = state.steps[-1].name if state.steps else "run"
    failure = Failure(
        step=step, error_type=_UNKNOWN_ERROR, message=_MESSAGE, terminal=False, chain=(), stacktrace=""
    )
    event = ended_run(state, "failed", failure, log_lines)
    is_own = state.thread == threading.get_ident()
    for ended in event.steps[len(state.finished) :] if is_own else ():
        emit(ended)
        leave(state.steps.pop().token)
    emit(event)
    if is_own:
        leave(state.token)
