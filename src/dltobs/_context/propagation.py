"""Carries the context of a run into the threads in which dlt works for it.

dlt's resources run in the context of their step, but its load jobs do not: their thread pool starts each
job with an empty context.
"""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future


class LoadThreads:
    """Makes dlt's thread pool run each job in a copy of the context that submitted it."""

    def __init__(self) -> None:
        self._original: type[Any] | None = None
        self._replacement: type[Any] | None = None

    def attach(self) -> None:
        """Exchange the class that dlt makes its pools of."""
        from dlt.common.runners import pool_runner

        original: type[Any] = pool_runner.TimeoutThreadPoolExecutor

        class TimeoutThreadPoolExecutor(original):  # type: ignore[misc]  # the base is a value
            """dlt's pool, with the context of the submitting thread in its jobs."""

            def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
                """Run `call` in a copy of the current context."""
                future: Future[Any] = super().submit(contextvars.copy_context().run, call, *args, **kwargs)
                return future

        self._original, self._replacement = original, TimeoutThreadPoolExecutor
        pool_runner.TimeoutThreadPoolExecutor = TimeoutThreadPoolExecutor  # type: ignore[misc]

    def detach(self) -> None:
        """Put dlt's class back, unless somebody has replaced ours."""
        from dlt.common.runners import pool_runner

        if self._original is not None and pool_runner.TimeoutThreadPoolExecutor is self._replacement:
            pool_runner.TimeoutThreadPoolExecutor = self._original  # type: ignore[misc]
        self._original = self._replacement = None
