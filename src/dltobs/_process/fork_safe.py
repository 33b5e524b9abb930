"""Give forked children locks that are free.

A child has only the thread that forked. A lock that another thread held at that moment stays locked in the
child for ever, because its holder does not exist there.
"""

from __future__ import annotations

import weakref
from typing import Any, TypeVar

from dltobs._platform import register_at_fork

T = TypeVar("T")

_locks: weakref.WeakSet[Any] = weakref.WeakSet()


def fork_safe(lock: T) -> T:
    """Register a lock, condition or event (what has `_at_fork_reinit`), so that it is free in a child."""
    _locks.add(lock)
    return lock


def _after_fork() -> None:
    for lock in list(_locks):
        lock._at_fork_reinit()  # noqa: SLF001 - what the standard library calls for its own locks


register_at_fork(after_in_child=_after_fork)
