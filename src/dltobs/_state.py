"""The mutable state of dltobs: what runs now. `_runtime` writes it, in a worker process `_worker`.

It stands apart from `_runtime` so that a formatter of the user's `dictConfig` can find the redactor without
importing the machinery that starts and stops everything.
"""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING

from dltobs._redaction import Redactor

if TYPE_CHECKING:
    from dltobs._setup import Setup
    from dltobs.sinks.delivery import Delivery

lock = threading.RLock()
"""Held while the set-up changes."""

runtime: Setup | None = None
"""What `configure()` has set up, until `shutdown()`."""

deliveries: tuple[Delivery, ...] = ()
"""The counters of the last set-up; they outlive it, so that `status()` can tell how it ended."""


@functools.cache
def _patterns_only() -> Redactor:
    return Redactor()


def current_redactor() -> Redactor:
    """The redactor of the running set-up; before it, one that knows key names and patterns only."""
    return _patterns_only() if runtime is None else runtime.redactor
