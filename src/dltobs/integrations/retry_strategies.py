"""Foresees what tenacity will decide, without asking what may notice that it is asked.

A strategy of the user's may keep a budget, count or log; only tenacity asks it. Nothing of tenacity is
imported: its classes are known by their names.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenacity import RetryCallState

_MODULES = frozenset({"tenacity.retry", "tenacity.stop"})
_PURE = frozenset(
    {
        "_retry_always", "_retry_never", "retry_if_exception_type", "retry_if_not_exception_type",
        "retry_unless_exception_type", "retry_if_exception_message", "retry_if_not_exception_message",
        "retry_if_exception_cause_type", "_stop_never", "stop_after_attempt", "stop_after_delay",
    }
)  # fmt: skip
"""Strategies whose answer depends on nothing but the state that they are given."""
_PURE_PREDICATES = "dlt.pipeline.helpers"
"""The module of dlt's `retry_load` and `retry_schema_update`."""


def will_retry(state: RetryCallState) -> bool | None:
    """Whether the loop goes on after the outcome in `state`; None if only tenacity can know."""
    is_wanted = _is_explicit(state) or _answer(state.retry_object.retry, state)
    return False if is_wanted is False else _unless_over(state, is_wanted)


def would_retry(state: RetryCallState, error: BaseException | None) -> bool | None:
    """The same, if the attempt ended with this exception, or with one that nobody knows."""
    probe = copy.copy(state)
    for name in ("set_exception", "set_result"):
        vars(probe).pop(name, None)  # what watches the loop
    raised = Exception() if error is None else error
    probe.set_exception((type(raised), raised, raised.__traceback__))
    return will_retry(probe) if error is not None else _unless_over(probe, None)


def _unless_over(state: RetryCallState, is_wanted: bool | None) -> bool | None:  # noqa: FBT001 - an answer
    is_over = _answer(state.retry_object.stop, state)
    if is_over:
        return False
    return True if is_wanted and is_over is False else None


def _is_explicit(state: RetryCallState) -> bool:
    outcome = state.outcome
    return outcome is not None and outcome.failed and type(outcome.exception()).__name__ == "TryAgain"


def _answer(strategy: Any, state: RetryCallState) -> bool | None:
    kind = type(strategy)
    if kind.__module__ not in _MODULES:
        return None
    name = kind.__name__
    if name in {"retry_any", "stop_any", "retry_all", "stop_all"}:
        parts = strategy.retries if name.startswith("retry") else strategy.stops
        return _combined([_answer(part, state) for part in parts], decisive=name.endswith("any"))
    if name == "retry_if_exception":
        if state.outcome is None or not state.outcome.failed:
            return False
        is_pure = getattr(strategy.predicate, "__module__", None) == _PURE_PREDICATES
    else:
        is_pure = name in _PURE
    return bool(strategy(state)) if is_pure else None


def _combined(answers: list[bool | None], *, decisive: bool) -> bool | None:
    if decisive in answers:
        return decisive
    return None if None in answers else not decisive
