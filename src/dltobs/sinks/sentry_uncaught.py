"""What Sentry is told of an uncaught exception outside of any run."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

from dltobs._alerts.fingerprint import uncaught_fingerprint
from dltobs._version import __version__
from dltobs.sinks.sentry_exceptions import exceptions_of
from dltobs.sinks.sentry_tags import tidied

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dltobs._events import UncaughtError
    from dltobs._redaction.redactor import Redactor


def uncaught_report(event: UncaughtError, redactor: Redactor, own_tags: Mapping[str, str]) -> dict[str, Any]:
    """Make the event for an uncaught exception; the arguments are those of `report()`."""
    failure = event.failure
    tags = {
        "dlt.pipeline.name": event.pipeline,
        "dlt.destination.name": event.destination_name,
        "dlt.destination.type": event.destination_type,
        "dlt.dataset.name": event.dataset,
        "dlt.resource.name": failure.resource,
        "dlt.terminal": str(failure.terminal).lower(),
        "dlt.failure.kind": failure.kind,
        "error.type": failure.error_type,
    }
    return {
        "exception": {"values": exceptions_of(failure, redactor)},
        "level": "error",
        "logger": "dltobs",
        "platform": "python",
        "timestamp": event.at.isoformat(),
        "transaction": event.name,
        "tags": tidied({**{name: value for name, value in tags.items() if value}, **own_tags}),
        "contexts": {
            "dlt": {
                "pipeline": event.pipeline,
                "script": event.script,
                "destination": event.destination_name,
                "destination_type": event.destination_type,
                "dataset": event.dataset,
            },
            "runtime": {"name": "CPython", "version": platform.python_version()},
        },
        "fingerprint": uncaught_fingerprint(event),
        "sdk": {"name": "dltobs", "version": __version__},
    }
