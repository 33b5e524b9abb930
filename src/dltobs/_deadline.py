"""Bounds the time of calls that know no time-out."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def run_within(timeout: float, *calls: Callable[[], object]) -> bool:
    """Run calls side by side and wait for them for at most `timeout` seconds together.

    A call that is not done by then goes on in a daemon thread, which does not keep the process alive.

    Returns:
        Whether all calls ended in time, and none of them returned False or raised.
    """
    results: list[bool] = []
    threads = [_start(call, results) for call in calls]
    deadline = time.monotonic() + timeout
    _join(threads, deadline)
    return len(results) == len(calls) and all(results)


def _start(call: Callable[[], object], results: list[bool]) -> threading.Thread | None:
    def run() -> None:
        try:
            results.append(call() is not False)
        except Exception:  # noqa: BLE001 - the caller is told by the result
            results.append(False)

    thread = threading.Thread(target=run, name="dltobs-flush", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        # some versions of Python start no thread any more while they exit
        run()
        return None
    return thread


def _join(threads: Iterable[threading.Thread | None], deadline: float) -> None:
    for thread in threads:
        if thread is not None:
            thread.join(max(deadline - time.monotonic(), 0.0))
