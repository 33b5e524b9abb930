"""Tells what the application's own signal handlers raise from what is raised where it happens to come."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType


def is_raised_by_handler(error: BaseException) -> bool:
    """Whether a Python handler of a signal, which may run between any two lines, has raised this.

    It is meant for the program then: `sys.exit()` on SIGTERM.
    """
    handlers = map(signal.getsignal, signal.valid_signals())
    codes = {getattr(getattr(handler, "__func__", handler), "__code__", None) for handler in handlers}
    traceback: TracebackType | None = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code in codes:
            return True
        traceback = traceback.tb_next
    return False
