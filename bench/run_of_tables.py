"""A run of some tables into DuckDB at INFO, in a process of its own.

`run_of_tables.py HOW TABLES PORT FOLDER`

HOW is `plain`, `dltobs` (everything on), `counted` (the same, with the time of dltobs' own code counted) or
`dlt` (dlt's own JSON and Sentry). It prints the CPU seconds of the run, flushing included, and those counted.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import dlt

if TYPE_CHECKING:
    from collections.abc import Callable

_ROWS = 200
_OURS = ("dltobs", "opentelemetry", "sentry_sdk")


class _Account:
    """CPU time of a thread between entering our code and leaving it again, of all threads together."""

    def __init__(self) -> None:
        self.parts: list[float] = []
        self._here = threading.local()

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*arguments: Any, **more: Any) -> Any:
            if getattr(self._here, "is_inside", False):
                return function(*arguments, **more)
            self._here.is_inside = True
            before = time.thread_time()
            try:
                return function(*arguments, **more)
            finally:
                self.parts.append(time.thread_time() - before)
                self._here.is_inside = False

        return wrapper

    def count(self, owner: Any, *names: str) -> None:
        for name in names:
            setattr(owner, name, self.counted(getattr(owner, name)))


def _count_everything(account: _Account) -> None:
    """Every place at which dlt, logging or a thread enters our code.

    Not counted is the look at each assignment to a configuration, which would cost less than the counting.
    """
    from dltobs._redaction import learner
    from dltobs._runs import attempts, tracker
    from dltobs.logs import handlers, records

    hooks = ("on_start_trace", "on_start_trace_step", "on_end_trace_step", "on_end_trace")
    account.count(tracker.Tracker, *hooks)
    account.count(attempts.LoadAttempts, "_heard")
    account.count(learner.SecretLearner, "_learn")
    account.count(records.CorrelationFilter, "filter")
    for kind in vars(handlers).values():
        if isinstance(kind, type) and "emit" in dir(kind) and kind.__module__.startswith("dltobs."):
            account.count(kind, "handle")
    run = threading.Thread.run

    def counted_run(thread: Any) -> None:
        target = getattr(thread, "_target", None)
        module = getattr(target, "__module__", None) or type(thread).__module__
        (account.counted(run) if module.startswith(_OURS) else run)(thread)

    threading.Thread.run = counted_run  # type: ignore[method-assign, assignment]


def _nothing() -> None:
    """There is nothing to flush."""


def _resources(tables: int) -> list[Any]:
    return [
        dlt.resource(
            [{"id": row, "name": f"name {row}", "at": "2024-01-01T00:00:00Z"} for row in range(_ROWS)],
            name=f"table_{number}",
        )
        for number in range(tables)
    ]


def main() -> None:
    how, tables, port, folder = sys.argv[1:]
    os.environ.update(
        RUNTIME__LOG_LEVEL="INFO", RUNTIME__DLTHUB_TELEMETRY="false", DLT_DATA_DIR=folder, LOAD__WORKERS="4"
    )
    account, dsn = _Account(), f"http://publickey00@127.0.0.1:{port}/42"
    flush: Callable[[], Any] = _nothing
    if how == "dlt":
        os.environ.update(RUNTIME__LOG_FORMAT="JSON", RUNTIME__SENTRY_DSN=dsn)
    elif how != "plain":
        import dltobs

        if how == "counted":
            _count_everything(account)
        dltobs.configure(
            otlp_endpoint=f"http://127.0.0.1:{port}",
            sentry_dsn=dsn,
            console="json",
            log_file="dlt.jsonl",
            tracing="on",
            metrics="on",
            sentry_traces=True,
        )
        flush = account.counted(dltobs.shutdown)
    pipeline = dlt.pipeline(
        "many",
        destination=dlt.destinations.duckdb(f"{folder}/many.duckdb"),
        dataset_name="many_data",
        pipelines_dir=folder,
    )
    resources = _resources(int(tables))
    before = time.process_time()
    pipeline.run(resources)
    if how == "dlt":
        import sentry_sdk

        sentry_sdk.flush()
    flush()
    print(time.process_time() - before, sum(account.parts))


if __name__ == "__main__":
    main()
