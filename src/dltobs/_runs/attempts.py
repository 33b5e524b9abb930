"""Hears of every attempt of a load job, of which dlt's own metrics keep the last.

dlt runs a job in a thread of its pool, in which the context of the run is known (see `_context.propagation`).
"""

from __future__ import annotations

import functools
import sys
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from dltobs._context.current import current_run
from dltobs._describe import root_cause, text_of, type_name
from dltobs._events import Attempt

if TYPE_CHECKING:
    from collections.abc import Callable

    from dltobs._warnings import Warner

_MAX_ATTEMPTS = 64
"""Of a job; of more, the first ones and the last are kept."""
_STATES = frozenset({"completed", "failed", "retry"})


class LoadAttempts:
    """Collects the attempts of the runs that have begun and not ended.

    Args:
        warner: Told of what goes wrong.
    """

    def __init__(self, warner: Warner) -> None:
        self._warner = warner
        self._runs: dict[str, dict[str, list[Attempt]]] = {}
        self._original: Callable[..., Any] | None = None
        self._wrapper: Callable[..., Any] | None = None
        self._is_attached = False

    def attach(self) -> None:
        """Wrap the method in which dlt runs a job."""
        from dlt.common.destination.client import RunnableLoadJob

        original = RunnableLoadJob.run_managed

        @functools.wraps(original)
        def run_managed(job: Any, /, *args: Any, **kwargs: Any) -> Any:
            if not self._is_attached:  # somebody has wrapped us, so we are still called
                return original(job, *args, **kwargs)
            started_at = datetime.now(timezone.utc)
            handled, raised = sys.exc_info()[1], None
            try:
                return original(job, *args, **kwargs)
            except BaseException as error:
                raised = error
                raise
            finally:
                self._heard(job, started_at, raised, handled)
                handled = raised = None  # a frame that holds its own exception is garbage for the collector

        self._original, self._wrapper, self._is_attached = original, run_managed, True
        RunnableLoadJob.run_managed = run_managed  # type: ignore[method-assign]

    def detach(self) -> None:
        """Put dlt's method back; if somebody has wrapped ours, it stays and does nothing."""
        from dlt.common.destination.client import RunnableLoadJob

        self._is_attached = False
        if self._original is not None and RunnableLoadJob.run_managed is self._wrapper:
            RunnableLoadJob.run_managed = self._original  # type: ignore[method-assign]
        self._original = self._wrapper = None

    def redirect(self, warner: Warner) -> None:
        """Tell somebody else of what goes wrong."""
        self._warner = warner

    def begin(self, transaction_id: str) -> None:
        """Collect for a run."""
        self._runs[transaction_id] = {}

    def take(self, transaction_id: str) -> dict[str, tuple[Attempt, ...]]:
        """The attempts of a run since this was asked before, by job id, in order of time."""
        if transaction_id not in self._runs:
            return {}
        taken, self._runs[transaction_id] = self._runs[transaction_id], {}
        return {job_id: tuple(attempts) for job_id, attempts in taken.items()}

    def end(self, transaction_id: str) -> None:
        """Forget a run; what its threads still tell is not heard."""
        self._runs.pop(transaction_id, None)

    def _heard(
        self, job: Any, started_at: datetime, raised: BaseException | None, handled: BaseException | None
    ) -> None:
        """A job has been tried. `handled` was being handled before: an exception of another matter."""
        try:
            run = current_run.get()
            jobs = None if run is None else self._runs.get(run.transaction_id)
            if jobs is None:
                return
            error = job.exception() if raised is None else raised
            cause = None if error is None else root_cause(error, handled)
            attempt = _attempt(job, started_at, cause, self._warner.clean)
            attempts = jobs.setdefault(attempt.job_id, [])
            if len(attempts) < _MAX_ATTEMPTS:
                attempts.append(attempt)
            else:
                attempts[-1] = attempt
        except Exception as error:  # noqa: BLE001 - the job is dlt's and goes on
            self._warner.internal_error("load attempts", error)


def _attempt(
    job: Any, started_at: datetime, cause: BaseException | None, clean: Callable[[str], str]
) -> Attempt:
    # what dlt does not catch, an interrupt among others, leaves the job in the state `running`
    state = text_of(job.state())
    if state == "completed":
        cause = None
    return Attempt(
        job_id=text_of(job.job_id()),
        number=int(job.job_file_info().retry_count) + 1,
        state=state if state in _STATES else "failed",
        started_at=started_at,
        finished_at=max(datetime.now(timezone.utc), started_at),
        error_type=None if cause is None else type_name(type(cause)),
        message=None if cause is None else clean(text_of(cause)),
    )
