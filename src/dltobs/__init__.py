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
from dltobs._events import Event, RunFinished, RunStarted, StepFinished, StepStarted
from dltobs._redaction import Redactor
from dltobs._runtime import configure, shutdown, status
from dltobs._settings import Settings
from dltobs._version import __version__
from dltobs.exceptions import ConfigurationError, DltobsError
from dltobs.sinks.delivery import BackendStatus

if TYPE_CHECKING:
    from dltobs.logs.formatters import JsonFormatter
    from dltobs.logs.loguru import InterceptHandler

__all__ = [
    "BackendStatus",
    "ConfigurationError",
    "DltobsError",
    "Event",
    "InterceptHandler",
    "JsonFormatter",
    "Redactor",
    "RunFinished",
    "RunStarted",
    "Settings",
    "Sink",
    "StepFinished",
    "StepStarted",
    "__version__",
    "configure",
    "propagation_env",
    "shutdown",
    "status",
]

_LAZY = {
    "InterceptHandler": "dltobs.logs.loguru",
    "JsonFormatter": "dltobs.logs.formatters",
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
