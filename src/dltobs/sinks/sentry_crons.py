"""The check-ins of a run with a monitor of Sentry's: one when it starts, one when it ends.

A run that starts and never ends, or that never starts, is noticed by Sentry for want of them. The id of a
check-in is the transaction id of its run, so start and end belong together whatever happens in between: a new
`configure()`, a pipeline inside of a pipeline, several in threads.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from dltobs._context.current import current_correlation
from dltobs._events import RunFinished
from dltobs._settings.crons import slugified

if TYPE_CHECKING:
    from dltobs._events import Run, RunStarted
    from dltobs._settings.settings import Settings

_ENDED_WELL = frozenset({"ok", "ok_with_failed_jobs", "no_data"})


def check_in_of(event: RunStarted | RunFinished, settings: Settings) -> dict[str, Any] | None:
    """The check-in for an event; None where there is no monitor."""
    if not settings.sentry_monitor:
        return None
    if isinstance(event, RunFinished):
        status = "ok" if event.outcome in _ENDED_WELL else "error"
        trace_id = next((step.trace_id for step in event.steps if step.trace_id), event.run.transaction_id)
        started_at = min([event.started_at, *(one.started_at for one in event.earlier_attempts)])
        duration = max((event.finished_at - started_at).total_seconds(), 0.0)
        return {**_check_in(settings, event.run, status, trace_id), "duration": duration}
    correlation = current_correlation()
    started_in = (correlation and correlation.trace_id) or event.run.transaction_id
    return _check_in(settings, event.run, "in_progress", started_in)


def _check_in(settings: Settings, run: Run, status: str, trace_id: str) -> dict[str, Any]:
    slug = settings.sentry_monitor if isinstance(settings.sentry_monitor, str) else slugified(run.pipeline)
    check_in: dict[str, Any] = {
        "type": "check_in",
        "monitor_slug": slug,
        "check_in_id": _check_in_id(run),
        "status": status,
        "contexts": {"trace": {"trace_id": trace_id}},
    }
    if settings.sentry_monitor_schedule is not None:
        config = {
            "schedule": {"type": "crontab", "value": settings.sentry_monitor_schedule},
            "checkin_margin": settings.sentry_monitor_margin,
            "max_runtime": settings.sentry_monitor_max_runtime,
            "timezone": settings.sentry_monitor_timezone,
        }
        check_in["monitor_config"] = {name: value for name, value in config.items() if value is not None}
    return check_in


def _check_in_id(run: Run) -> str:
    """The attempts of a retry loop are one check-in, which ends with the last of them."""
    if run.retry_id is None:
        return run.transaction_id
    whole = f"{run.retry_id}\0{run.pipeline}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(whole, digest_size=16).hexdigest()
