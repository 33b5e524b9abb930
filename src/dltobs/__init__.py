"""Observability for dlt: one call makes every pipeline visible, and no secret leaves.

```python
import dltobs

dltobs.configure()
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dltobs._version import __version__
from dltobs.exceptions import ConfigurationError, DltobsError, SaveError

if TYPE_CHECKING:
    from dltobs._context.environment import propagation_env
    from dltobs._dispatch import Sink
    from dltobs._events import (
        Event,
        FailedJob,
        Failure,
        Job,
        Outcome,
        Package,
        Resource,
        Run,
        RunFinished,
        RunLost,
        RunStarted,
        SchemaChange,
        StepFinished,
        StepStarted,
        Table,
        UncaughtError,
    )
    from dltobs._redaction.redactor import Redactor
    from dltobs._runtime import configure, flush_spool, shutdown, status
    from dltobs._save import save
    from dltobs._settings.settings import Settings
    from dltobs._spool.resend import SpoolResult
    from dltobs.integrations.retries import tenacity_callbacks
    from dltobs.logs.formatters import JsonFormatter
    from dltobs.logs.loguru import InterceptHandler
    from dltobs.sinks.delivery import BackendStatus
    from dltobs.sinks.sentry_scrub import before_send

__all__ = [
    "BackendStatus",
    "ConfigurationError",
    "DltobsError",
    "Event",
    "FailedJob",
    "Failure",
    "InterceptHandler",
    "Job",
    "JsonFormatter",
    "Outcome",
    "Package",
    "Redactor",
    "Resource",
    "Run",
    "RunFinished",
    "RunLost",
    "RunStarted",
    "SaveError",
    "SchemaChange",
    "Settings",
    "Sink",
    "SpoolResult",
    "StepFinished",
    "StepStarted",
    "Table",
    "UncaughtError",
    "__version__",
    "before_send",
    "configure",
    "flush_spool",
    "propagation_env",
    "save",
    "shutdown",
    "status",
    "tenacity_callbacks",
]

_LAZY = {
    "BackendStatus": "dltobs.sinks.delivery",
    "Event": "dltobs._events",
    "FailedJob": "dltobs._events",
    "Failure": "dltobs._events",
    "InterceptHandler": "dltobs.logs.loguru",
    "Job": "dltobs._events",
    "JsonFormatter": "dltobs.logs.formatters",
    "Outcome": "dltobs._events",
    "Package": "dltobs._events",
    "Redactor": "dltobs._redaction.redactor",
    "Resource": "dltobs._events",
    "Run": "dltobs._events",
    "RunFinished": "dltobs._events",
    "RunLost": "dltobs._events",
    "RunStarted": "dltobs._events",
    "SchemaChange": "dltobs._events",
    "Settings": "dltobs._settings.settings",
    "Sink": "dltobs._dispatch",
    "SpoolResult": "dltobs._spool.resend",
    "StepFinished": "dltobs._events",
    "StepStarted": "dltobs._events",
    "Table": "dltobs._events",
    "UncaughtError": "dltobs._events",
    "before_send": "dltobs.sinks.sentry_scrub",
    "configure": "dltobs._runtime",
    "flush_spool": "dltobs._runtime",
    "propagation_env": "dltobs._context.environment",
    "save": "dltobs._save",
    "shutdown": "dltobs._runtime",
    "status": "dltobs._runtime",
    "tenacity_callbacks": "dltobs.integrations.retries",
}


if not TYPE_CHECKING:  # for a type checker, it would make every name an attribute

    def __getattr__(name: str) -> Any:
        """Import a name when it is used: every process that uses dlt imports this package."""
        if name not in _LAZY:
            message = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(message)
        from importlib import import_module

        value = globals()[name] = getattr(import_module(_LAZY[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
