"""Holds a signal back that comes to a forked child before it has got rid of its parent's handlers.

It would have killed the child. With our handler still there it would be lost instead: Python forgets what has
come to a child before its hooks run (https://docs.python.org/3/library/os.html#os.register_at_fork), and the
parent would hear of it through the wake-up descriptor that both have.

A thread that another library starts in a hook of its own, before ours, has the signal blocked for ever.
"""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet


class _Held(threading.local):
    """The signals that a thread that forks has blocked for that time."""

    numbers: AbstractSet[int] = frozenset()


_held = _Held()


def hold_back(numbers: AbstractSet[int]) -> None:
    """Before a fork: block these signals in the thread that forks, and with it in the child."""
    if numbers:
        # noted before it is done: a handler that raises may come in between
        _held.numbers = _held.numbers | (numbers - signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        signal.pthread_sigmask(signal.SIG_BLOCK, _held.numbers)


def let_through() -> None:
    """After a fork, in both processes: what has come meanwhile does what it does."""
    if _held.numbers:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _held.numbers)
        _held.numbers = frozenset()
