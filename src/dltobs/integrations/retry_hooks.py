"""Hears from tenacity what it calls nobody for: that an attempt begins or has ended, and that a loop is over.

Nothing of tenacity is imported: its classes are those of the objects that it gives us.
"""

from __future__ import annotations

import functools
import inspect
import sys
import weakref
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from tenacity import RetryCallState

_LISTENER = "_dltobs_loop"


class Listener(Protocol):
    """What is told; it does not raise."""

    def block_entered(self, state: RetryCallState) -> None:
        """The block `with attempt:` of a loop without a function begins."""

    def attempt_ended(self, state: RetryCallState) -> None:
        """The attempt has got its outcome."""

    def is_over(self, state: RetryCallState) -> None:
        """tenacity has given the result to the caller, or raised."""


def listener_of(state: RetryCallState) -> Any:
    """Who is told of the loop; None as long as nobody is."""
    return getattr(state, _LISTENER, None)


def listen(state: RetryCallState, listener: Listener) -> None:
    """Tell `listener` of the loop with this state."""
    # a reference cycle would keep the state of a loop that was left until the garbage is collected
    kind: Any = type(state)
    reference = weakref.ref(state)

    def set_result(value: Any) -> None:
        _set("set_result", value)

    def set_exception(exc_info: Any) -> None:
        _set("set_exception", exc_info)

    def _set(method: str, value: Any) -> None:
        # whoever calls the method of an object holds the object
        getattr(kind, method)(reference(), value)
        listener.attempt_ended(reference())  # type: ignore[arg-type]

    vars(state).update({_LISTENER: listener, "set_result": set_result, "set_exception": set_exception})
    vars(state.retry_object).setdefault("iter", _iter)
    if state.fn is None:
        _hear_blocks(kind)


def _hear_blocks(kind: Any) -> None:
    """Have tenacity's `with attempt:` tell when it is entered.

    `before` is called when the loop goes on to its next round, which may never come to that block. What it
    gives out then knows of no loop but by the state in it, and Python looks for `__enter__` in the class.
    """
    manager = sys.modules[kind.__module__].AttemptManager
    for name in ("__enter__", "__aenter__"):
        original = vars(manager).get(name)  # only newer versions have the second
        if original is not None and not hasattr(original, _LISTENER):
            setattr(manager, name, _telling(original))


def _telling(original: Any) -> Any:
    @functools.wraps(original)
    def enter(manager: Any) -> Any:
        listener = listener_of(manager.retry_state)
        if listener is not None:
            listener.block_entered(manager.retry_state)
        return original(manager)

    setattr(enter, _LISTENER, None)
    return enter


def _iter(retry_state: RetryCallState) -> Any:
    """Do what tenacity's own `iter` does: decide what comes next."""
    kind: Any = type(retry_state.retry_object)
    if inspect.iscoroutinefunction(kind.iter):
        return _iter_later(kind, retry_state)
    goes_on = False
    try:
        answer = kind.iter(retry_state.retry_object, retry_state)
        goes_on = _goes_on(answer)
    finally:
        if not goes_on:
            _tell_end(retry_state)
    return answer


async def _iter_later(kind: Any, retry_state: RetryCallState) -> Any:
    goes_on = False
    try:
        answer = await kind.iter(retry_state.retry_object, retry_state)
        goes_on = _goes_on(answer)
    finally:
        if not goes_on:
            _tell_end(retry_state)
    return answer


def _goes_on(answer: Any) -> bool:
    kind = type(answer)
    return (kind.__module__, kind.__name__) in {("tenacity", "DoAttempt"), ("tenacity", "DoSleep")}


def _tell_end(state: RetryCallState) -> None:
    listener = listener_of(state)
    if listener is not None:  # the retry object may serve other loops, which nobody watches
        listener.is_over(state)
