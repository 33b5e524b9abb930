"""What is left to watch for when dlt has taken a signal: it stops in its own time, as without dltobs."""

from __future__ import annotations

import time
from typing import Any


class Drain:
    """A signal that dlt has taken; no hook of ours may hold up for ever what may be about to end."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._in_hook_since: float | None = None

    def is_held_up(self, patience: float, *, is_in_hook: bool) -> bool:
        """Whether the main thread has been in a hook of ours at each look for longer than this."""
        if not is_in_hook:
            self._in_hook_since = None
            return False
        now = time.monotonic()
        if self._in_hook_since is None:
            self._in_hook_since = now
        return now > self._in_hook_since + patience


def is_dlts(handler: Any) -> bool:
    """Whether a handler is that of dlt, which lets a step drain."""
    return getattr(handler, "__module__", None) == "dlt.common.runtime.signals"
