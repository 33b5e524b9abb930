"""What Sentry is told of a lost run: an event of its own, grouped by pipeline."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

from dltobs._alerts.fingerprint import lost_fingerprint
from dltobs._version import __version__
from dltobs.sinks.sentry_tags import tidied

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dltobs._events import RunLost


def lost_report(event: RunLost, own_tags: Mapping[str, str]) -> Any:
    """The event for a lost run. Its time is when the run was noticed: Sentry sorts by it."""
    run = event.run
    tags = {
        "dlt.pipeline.name": run.pipeline,
        "dlt.step": event.step or event.method,
        "dlt.transaction_id": run.transaction_id,
        "dlt.destination.name": run.destination_name,
        "dlt.destination.type": run.destination_type,
        "dlt.dataset.name": run.dataset,
        "dlt.outcome": event.outcome,
    }
    where = f" in {event.step}" if event.step else ""
    trace_id = event.trace_id or run.transaction_id
    return {
        "level": "fatal",
        "logger": "dltobs",
        "platform": "python",
        "timestamp": event.noticed_at.isoformat(),
        "transaction": run.pipeline,
        "message": f"Run of {run.pipeline} lost: its process died{where} without a word",
        "tags": tidied({**{name: value for name, value in tags.items() if value}, **own_tags}),
        "contexts": {
            "trace": {
                "trace_id": trace_id,
                "span_id": event.span_id or trace_id[:16],
                "op": "dlt",
                "status": "aborted",
            },
            "dlt": {
                "pipeline": run.pipeline,
                "step": event.step,
                "transaction_id": run.transaction_id,
                "destination": run.destination_name,
                "destination_type": run.destination_type,
                "dataset": run.dataset,
                "first_run": run.first_run,
                "started_at": event.started_at.isoformat(),
                "last_seen_at": event.last_seen_at.isoformat(),
                "host": event.host,
                "pid": event.pid,
                "noticed_by": event.noticed_by,
            },
            "runtime": {"name": "CPython", "version": platform.python_version()},
        },
        "fingerprint": lost_fingerprint(event),
        "sdk": {"name": "dltobs", "version": __version__},
    }
