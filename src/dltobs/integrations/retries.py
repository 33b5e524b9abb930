"""Watches tenacity's retry loops: spans, log lines, and one story in Sentry and Slack for all attempts.

Nothing of tenacity is imported: its callbacks get what they need.
"""

from __future__ import annotations

import copy
import inspect
import logging
import secrets
from typing import TYPE_CHECKING, Any, TypedDict

from dltobs import _state
from dltobs._attempt_context import RetryAttempt, current_attempt, ended, enter
from dltobs._describe import root_cause, text_of, type_name
from dltobs._patterns import WITHHELD
from dltobs._warnings import Warner

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenacity import RetryCallState

    Callback = Callable[[RetryCallState], object]

_MAX_REASON = 500
_OURS = "_dltobs_loop"


class TenacityCallbacks(TypedDict):
    """Keyword arguments for `Retrying(...)`, `AsyncRetrying(...)` and `@retry(...)`."""

    before: Callable[[RetryCallState], None]
    before_sleep: Callable[[RetryCallState], None]


def tenacity_callbacks(
    *, name: str | None = None, before: Callback | None = None, before_sleep: Callback | None = None
) -> TenacityCallbacks:
    """Make the attempts of a retry loop visible.

    ```python
    for attempt in Retrying(
        stop=stop_after_attempt(5),
        retry=retry_if_exception(retry_load()),
        reraise=True,
        **dltobs.tenacity_callbacks(),
    ):
        with attempt:
            pipeline.run(data)
    ```

    Args:
        name: What is tried, for the span and the log lines; the name of the decorated function by default.
        before: A callback of your own, called after ours.
        before_sleep: Likewise.
    """

    def begin_attempt(state: RetryCallState) -> None:
        _guarded(lambda: _loop_of(state, name).begin_attempt())
        if before is not None:
            before(state)

    def before_pause(state: RetryCallState) -> None:
        _guarded(lambda: _loop_of(state, name).pause())
        if before_sleep is not None:
            before_sleep(state)

    return {"before": begin_attempt, "before_sleep": before_pause}


def _guarded(call: Callable[[], None]) -> None:
    """Keep our own failures away from the loop."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 - the loop is the user's
        running = _state.runtime
        warner = Warner(_state.current_redactor()) if running is None else running.warner
        warner.internal_error("retries", error)


def _loop_of(state: RetryCallState, name: str | None) -> _Loop:
    found = getattr(state, _OURS, None)
    if isinstance(found, _Loop):
        return found
    loop = _Loop(state, name)
    setattr(state, _OURS, loop)
    return loop


class _Loop:
    """One retry loop from its first attempt to its last.

    tenacity calls nobody when an attempt succeeds, nor when it fails for good, so we hear of the end of each
    by the method with which tenacity notes it.
    """

    def __init__(self, state: RetryCallState, name: str | None) -> None:
        self._state = state
        function = getattr(state, "fn", None)
        self._name = name or getattr(function, "__name__", None) or "retry"
        self._id = secrets.token_hex(16)
        self._spans = _Spans.start(self._name)
        set_result, set_exception = state.set_result, state.set_exception

        def note_result(value: Any) -> None:
            set_result(value)
            _guarded(self._end_attempt)

        def note_exception(exc_info: Any) -> None:
            set_exception(exc_info)
            _guarded(self._end_attempt)

        vars(state).update(set_result=note_result, set_exception=note_exception)

    def begin_attempt(self) -> None:
        state, number = self._state, self._state.attempt_number
        enter(
            RetryAttempt(
                self._id,
                number,
                # the same object goes from attempt to attempt
                is_on=lambda: state.attempt_number == number and state.outcome is None,
                will_retry=self._would_retry,
                outer=current_attempt(),
            )
        )
        if self._spans is not None:
            self._spans.begin_attempt(number)

    def pause(self) -> None:
        """The line between two attempts."""
        wait = self._state.upcoming_sleep
        error = self._error()
        _log(
            logging.WARNING,
            f"Attempt {self._state.attempt_number} of {self._name} {_because(error)}; next in {wait:.1f} s",
            attempt=self._state.attempt_number,
            wait=round(wait, 3),
            **_fields(error),
        )

    def _end_attempt(self) -> None:
        number, error = self._state.attempt_number, self._error()
        goes_on = _will_retry(self._state)
        if self._spans is not None:
            self._spans.end_attempt(error, number, is_last=not goes_on)
        if not goes_on:
            self._tell_end(number, error)
        ended(self._id, goes_on=goes_on)

    def _tell_end(self, number: int, error: BaseException | None) -> None:
        if error is not None:
            tries = f"{number} attempt{'' if number == 1 else 's'}"
            _log(
                logging.ERROR,
                f"{self._name} failed after {tries}: {_reason(error)}",
                attempt=number,
                **_fields(error),
            )
        elif number > 1:
            _log(logging.INFO, f"Attempt {number} of {self._name} succeeded", attempt=number)

    def _error(self) -> BaseException | None:
        outcome = self._state.outcome
        return outcome.exception() if outcome is not None and outcome.failed else None

    def _would_retry(self, error: BaseException) -> bool:
        probe = _probe(self._state)
        probe.set_exception((type(error), error, error.__traceback__))
        return _will_retry(probe)


def _probe(state: RetryCallState) -> RetryCallState:
    """A copy to ask tenacity's strategies with; it is not watched."""
    probe = copy.copy(state)
    for name in ("set_result", "set_exception", _OURS):
        vars(probe).pop(name, None)
    return probe


def _will_retry(state: RetryCallState) -> bool:
    """What tenacity will decide: it asks the same strategies in the same order.

    An asynchronous strategy cannot be asked from here; then no: an alert too many rather than none.
    """
    loop, probe = state.retry_object, _probe(state)
    outcome = probe.outcome
    error = outcome.exception() if outcome is not None and outcome.failed else None
    if type(error).__name__ != "TryAgain":
        is_wanted: Any = loop.retry(probe)
        if _is_later(is_wanted) or not is_wanted:
            return False
    pause: Any = loop.wait(probe)
    if not _is_later(pause):
        probe.upcoming_sleep = pause
    is_over: Any = loop.stop(probe)
    return not _is_later(is_over) and not is_over


def _is_later(answer: Any) -> bool:
    """Whether an answer is that of an asynchronous strategy, which is not waited for."""
    if inspect.iscoroutine(answer):
        answer.close()
        return True
    return False


class _Spans:
    """A span for the loop, and one below it for each attempt, which is the current one while it is on."""

    def __init__(self, tracer: Any, parent: Any) -> None:
        self._tracer, self._parent = tracer, parent
        self._attempt: Any = None
        self._token: Any = None

    @classmethod
    def start(cls, name: str) -> _Spans | None:
        """Begin; None where there is no tracing."""
        running = _state.runtime
        sinks = () if running is None else running.sinks
        sink = next((one for one in sinks if hasattr(one, "tracer")), None)
        tracer = None if sink is None else sink.tracer()
        if tracer is None:
            return None
        from dltobs._environment import parent_context

        return cls(tracer, tracer.start_span(f"retry {name}", context=parent_context()))

    def begin_attempt(self, number: int) -> None:
        from opentelemetry import context, trace

        below = trace.set_span_in_context(self._parent)
        attributes = {"dlt.retry.attempt": number}
        self._attempt = self._tracer.start_span(f"attempt {number}", context=below, attributes=attributes)
        self._token = context.attach(trace.set_span_in_context(self._attempt))

    def end_attempt(self, error: BaseException | None, number: int, *, is_last: bool) -> None:
        from opentelemetry import context

        if self._attempt is not None:
            context.detach(self._token)
            _end(self._attempt, error)
            self._attempt = None
        if is_last:
            self._parent.set_attribute("dlt.retry.attempts", number)
            _end(self._parent, error)


def _end(span: Any, error: BaseException | None) -> None:
    from opentelemetry.trace import Status, StatusCode

    if error is not None:
        span.set_attribute("error.type", type_name(type(root_cause(error))))
        span.set_status(Status(StatusCode.ERROR, _reason(error)))
    span.end()


def _because(error: BaseException | None) -> str:
    return "gave a result that is not wanted" if error is None else f"failed: {_reason(error)}"


def _fields(error: BaseException | None) -> dict[str, Any]:
    if error is None:
        return {}
    return {"error_type": type_name(type(root_cause(error))), "reason": _reason(error)}


def _reason(error: BaseException) -> str:
    """Type and message of the root cause in one line, without secrets."""
    cause = root_cause(error)
    text = f"{type_name(type(cause))}: {' '.join(text_of(cause).split())}"
    try:
        return _state.current_redactor().text(text)[:_MAX_REASON]
    except Exception:  # noqa: BLE001 - better no reason than a secret
        return WITHHELD


def _log(level: int, message: str, **fields: Any) -> None:
    from dlt.common import logger as dlts

    # the module answers any attribute; before dlt has made its logger there is none
    logger: logging.Logger = vars(dlts).get("LOGGER") or logging.getLogger("dltobs")
    logger.log(level, "%s", message, extra=fields)
