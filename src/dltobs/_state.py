"""The mutable state of dltobs: what runs now. `_runtime` writes it, in a worker process `_workers.worker`.

It stands apart from `_runtime` so that a formatter of the user's `dictConfig` can find the redactor without
importing the machinery that starts and stops everything.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from typing import TYPE_CHECKING

from dltobs._process.fork_safe import fork_safe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dltobs._redaction.redactor import Redactor
    from dltobs._setup import Setup
    from dltobs.sinks.delivery import Delivery

lock = fork_safe(threading.RLock())
"""Held while the set-up changes."""

_here = threading.local()

runtime: Setup | None = None
"""What `configure()` has set up, until `shutdown()`."""

is_off = False
"""Whether `configure()` has switched everything off, which `auto_configure` must not undo."""

deliveries: tuple[Delivery, ...] = ()
"""The counters of the last set-up; they outlive it, so that `status()` can tell how it ended."""

redactor: Redactor | None = None
"""That of the last set-up; it outlives it, for what the application sends afterwards."""


@contextlib.contextmanager
def changing() -> Iterator[None]:
    """Hold `lock`, and let what is called from here know it by `is_changing()`."""
    with lock:
        before = is_changing()
        _here.is_changing = True
        try:
            yield
        finally:
            _here.is_changing = before


def is_changing() -> bool:
    """Whether it is this thread in which the set-up is being changed."""
    return bool(getattr(_here, "is_changing", False))


@functools.cache
def _patterns_only() -> Redactor:
    from dltobs._redaction.redactor import Redactor

    return Redactor()


def current_redactor() -> Redactor:
    """The redactor of the running set-up; before it, one that knows key names and patterns only."""
    return _patterns_only() if runtime is None else runtime.redactor


def last_redactor() -> Redactor:
    """As `current_redactor()`, but what was known before `shutdown()` stays known."""
    return redactor if runtime is None and redactor is not None else current_redactor()
