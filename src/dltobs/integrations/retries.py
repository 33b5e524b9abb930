"""Watches tenacity's retry loops: spans, log lines, and one story in Sentry and Slack for all attempts.

Nothing of tenacity is imported: its callbacks get what they need.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import weakref
from typing import TYPE_CHECKING, Any, TypedDict

from dltobs import _state
from dltobs._cut import MESSAGE
from dltobs._describe import causes_of, root_cause, text_of, type_name
from dltobs._redaction.patterns import WITHHELD
from dltobs._runs.attempt_context import RetryAttempt, current_attempt, enter, opened, over
from dltobs._runs.open_run import run_ended_by
from dltobs._warnings import Warner
from dltobs.integrations.retry_hooks import listen, listener_of
from dltobs.integrations.retry_spans import Failed, LoopSpans
from dltobs.integrations.retry_strategies import will_retry, would_retry
from dltobs.logs.run_lines import ids_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenacity import RetryCallState

    from dltobs._runs.open_run import EndedRun

    Callback = Callable[[RetryCallState], object]

_MAX_REASON = 500


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
        _guarded(lambda: _loop_of(state, name).begin_round(state))
        if before is not None:
            try:
                before(state)
            except BaseException:
                _guarded(lambda: _loop_of(state, name).is_over(state))
                raise

    def before_pause(state: RetryCallState) -> None:
        _guarded(lambda: _loop_of(state, name).pause(state))
        if before_sleep is not None:
            before_sleep(state)

    return {"before": begin_attempt, "before_sleep": before_pause}


def _guarded(call: Callable[[], object]) -> None:
    """Keep our own failures away from the loop."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 - the loop is the user's
        running = _state.runtime
        warner = Warner(_state.current_redactor()) if running is None else running.warner
        warner.internal_error("retries", error)


def _loop_of(state: RetryCallState, name: str | None) -> _Loop:
    found = listener_of(state)
    if isinstance(found, _Loop):
        return found
    loop = _Loop(state, name)
    listen(state, loop)
    return loop


class _Loop:
    """One retry loop from its first attempt to its last.

    It does not hold tenacity's state, nor an exception, by which it could see that nobody else does.
    """

    def __init__(self, state: RetryCallState, name: str | None) -> None:
        function = getattr(state, "fn", None)
        self._name = name or getattr(function, "__name__", None) or "retry"
        self.retry_id = secrets.token_hex(16)
        self._state = weakref.ref(state)
        self._spans = LoopSpans.prepare(self._name)
        self._attempt: RetryAttempt | None = None
        self._failed: Failed | None = None
        self._run: EndedRun | None = None
        """The run that the last attempt has failed with."""
        self._is_over = False
        self._outer = current_attempt()
        self.reraises = bool(state.retry_object.reraise) and state.retry_object.retry_error_callback is None
        self.tried: dict[str, tuple[int, RetryAttempt]] = {}
        opened(self)

    @property
    def is_left(self) -> bool:
        """Whether tenacity's state of the loop is gone."""
        return self._state() is None

    def begin_round(self, state: RetryCallState) -> None:
        """tenacity is about to call the function, or to give out what `with attempt:` is made of."""
        if state.fn is not None:
            self._begin_attempt(state)

    def block_entered(self, state: RetryCallState) -> None:
        """Begin an attempt in a loop without a function."""
        _guarded(lambda: self._begin_attempt(state))

    def attempt_ended(self, state: RetryCallState) -> None:
        """End the attempt; the loop, too, if it is known already that it does not go on."""
        _guarded(lambda: self._end_attempt(state))

    def is_over(self, state: RetryCallState) -> None:
        """End the loop."""
        _guarded(lambda: self._end(state))

    def leave(self) -> None:
        """End a loop with which nobody goes on: it was left in a pause, or by `break` after a failure."""
        _guarded(self._leave)

    def would_retry(self, error: BaseException | None) -> bool | None:
        """Whether tenacity would go on if this exception, or one that nobody knows, ended the attempt."""
        state = self._state()
        return None if state is None else would_retry(state, error)

    def pause(self, state: RetryCallState) -> None:
        """The line between two attempts."""
        wait = 0.0 if state.next_action is None else state.next_action.sleep
        failed = _failure_of(state)
        level, because = logging.WARNING, "gave a result that is not wanted"
        if failed is not None:
            # a run's own line has told the reason already, as a warning
            is_told = _run_of(state) is not None
            level, because = (logging.INFO, "failed") if is_told else (level, f"failed: {failed.reason}")
        self._log(
            level,
            f"Attempt {state.attempt_number} of {self._name} {because}; next in {wait:.1f} s",
            failed,
            attempt=state.attempt_number,
            wait=round(wait, 3),
        )

    def _begin_attempt(self, state: RetryCallState) -> None:
        if self._is_over:
            return
        self._failed = self._run = None
        self._attempt = RetryAttempt(self, state.attempt_number, self._outer)
        enter(self._attempt)
        if self._spans is not None:
            self._spans.begin_attempt(state.attempt_number)

    def _end_attempt(self, state: RetryCallState) -> None:
        self._failed, self._run = _failure_of(state), _run_of(state)
        self._leave_attempt()
        if will_retry(state) is False:
            self._end(state)

    def _leave(self) -> None:
        if self._failed is not None and self._attempt is not None and not self._is_over:
            number = self._attempt.number
            message = f"{self._name} was left after {_count_of(number)}: {self._failed.reason}"
            self._log(logging.ERROR, message, self._failed, of_loop=True, attempt=number)
        self._close()

    def _leave_attempt(self) -> None:
        if self._attempt is not None:
            self._attempt.is_on = False
        if self._spans is not None:
            self._spans.end_attempt(self._failed)

    def _end(self, state: RetryCallState) -> None:
        if state.outcome is None:  # a callback of the user's has raised
            self._leave_attempt()
        elif not self._is_over:
            self._tell_end(state)
        self._close()

    def _tell_end(self, state: RetryCallState) -> None:
        number = state.attempt_number
        if self._failed is not None:
            message = f"{self._name} failed after {_count_of(number)}"
            run = _run_of(state)
            # a run's own line has told the reason already, as an error
            is_told = run is not None and run.is_error
            level, message = (
                (logging.INFO, message) if is_told else (logging.ERROR, f"{message}: {self._failed.reason}")
            )
            self._log(level, message, self._failed, of_loop=True, attempt=number)
        elif number > 1:
            self._log(logging.INFO, f"Attempt {number} of {self._name} succeeded", attempt=number)

    def _log(
        self,
        level: int,
        message: str,
        failed: Failed | None = None,
        *,
        of_loop: bool = False,
        **fields: float,
    ) -> None:
        running = _state.runtime
        reason: dict[str, Any] = {} if failed is None else failed._asdict()
        spans = self._spans
        if self._run is not None and spans is None:  # else the line has those of the loop's span
            reason |= ids_of(self._run.ids)
        with contextlib.nullcontext() if spans is None else spans.inside(of_loop=of_loop):
            if running is None:
                logging.getLogger("dltobs").log(level, "%s", message, extra=fields | reason)
            else:
                running.logger_hook.log(level, message, fields | reason)

    def _close(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self._attempt is not None:
            self._attempt.is_on = False
            if self._spans is not None:
                self._spans.end(self._failed, self._attempt.number)
        over(self.retry_id)


def _count_of(attempts: int) -> str:
    return f"{attempts} attempt{'' if attempts == 1 else 's'}"


def _error_of(state: RetryCallState) -> BaseException | None:
    outcome = state.outcome
    return outcome.exception() if outcome is not None and outcome.failed else None


def _run_of(state: RetryCallState) -> EndedRun | None:
    """Return the run with whose exception the attempt has failed, if there is one."""
    error = _error_of(state)
    causes = () if error is None else causes_of(error)
    return next(filter(None, map(run_ended_by, causes)), None)


def _failure_of(state: RetryCallState) -> Failed | None:
    error = _error_of(state)
    return None if error is None else Failed(type_name(type(root_cause(error))), _reason(error))


def _reason(error: BaseException) -> str:
    """Type and message of the root cause in one line, without secrets."""
    cause = root_cause(error)
    try:
        # before lines are joined and the end is cut off: a secret that has been changed is not found
        clean = _state.current_redactor().text(f"{type_name(type(cause))}: {text_of(cause)}", MESSAGE)
        return " ".join(clean.split())[:_MAX_REASON]
    except Exception:  # noqa: BLE001 - better no reason than a secret
        return WITHHELD
