"""Observability for dlt: one call makes every pipeline visible, and no secret leaves.

```python
import dltobs

dltobs.configure()
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dltobs._dispatch import Sink
from dltobs._environment import propagation_env
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
)
from dltobs._redaction import Redactor
from dltobs._resend import SpoolResult
from dltobs._runtime import configure, flush_spool, shutdown, status
from dltobs._settings import Settings
from dltobs._version import __version__
from dltobs.exceptions import ConfigurationError, DltobsError, SaveError
from dltobs.sinks.delivery import BackendStatus

if TYPE_CHECKING:
    from dltobs._save import save
    from dltobs.integrations.retries import tenacity_callbacks
    from dltobs.logs.formatters import JsonFormatter
    from dltobs.logs.loguru import InterceptHandler
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
    "InterceptHandler": "dltobs.logs.loguru",
    "JsonFormatter": "dltobs.logs.formatters",
    "before_send": "dltobs.sinks.sentry_scrub",
    "save": "dltobs._save",
    "tenacity_callbacks": "dltobs.integrations.retries",
}


def __getattr__(name: str) -> Any:
    """Import what is heavy when it is used."""
    if name not in _LAZY:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
