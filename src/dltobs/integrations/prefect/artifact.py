"""Writes a Markdown artifact for each run in a flow or task, on a thread of its own."""

from __future__ import annotations

import contextvars
import os
import threading
import time
from typing import TYPE_CHECKING

from dltobs._events import RunFinished
from dltobs.integrations.prefect.context import PrefectRun, api_client, current_prefect_run
from dltobs.integrations.prefect.report import key_of, report
from dltobs.sinks.reasons import reason_of

if TYPE_CHECKING:
    from dltobs._events import Event
    from dltobs.sinks.delivery import Delivery

_REQUEST_TIMEOUT = 10.0
"""Seconds."""
_LONGEST_WAIT = 2.0
"""Seconds for which a run waits for its artifact: of one that is written while Python exits, Prefect cannot
send its event, and prints a stack trace."""
_MAX_WAITING = 100
"""Artifacts that are being written at once; more than that, and the API does not answer."""


class ArtifactSink:
    """One artifact a run; all runs of a pipeline have the same key, so Prefect shows them as its history.

    Args:
        delivery: The counters.
    """

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._process = os.getpid()
        self._threads: list[threading.Thread] = []

    def emit(self, event: Event) -> None:
        """Write the artifact of a run that has ended, or at least begin to."""
        if not isinstance(event, RunFinished):
            return
        run = current_prefect_run()
        if run is None:
            return
        if self._process != os.getpid():
            self._process, self._threads = os.getpid(), []  # those were threads of our parent
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        self._delivery.submitted(1)
        if len(self._threads) >= _MAX_WAITING:
            self._delivery.dropped(1, "the API does not answer")
            return
        context = contextvars.copy_context()  # Prefect's settings are in it
        thread = threading.Thread(
            target=context.run,
            args=(self._write, event, run),
            name="dltobs-prefect",
            daemon=True,
        )
        self._threads.append(thread)
        thread.start()
        thread.join(_LONGEST_WAIT)

    def flush(self, timeout: float) -> bool:
        """Wait until all artifacts have been written, at most `timeout` seconds."""
        deadline = time.monotonic() + timeout
        for thread in self._threads if self._process == os.getpid() else ():
            thread.join(max(deadline - time.monotonic(), 0.0))
        return self._delivery.everything_delivered()

    def close(self) -> None:
        """What has not been written by now is lost."""
        self._delivery.abandon("not written before the deadline")

    def _write(self, event: RunFinished, run: PrefectRun) -> None:
        try:
            from prefect.client.schemas.actions import ArtifactCreate

            artifact = ArtifactCreate(
                type="markdown",
                key=key_of(event.run.pipeline),
                description=f"{event.run.pipeline}: {event.outcome}"
                + ("" if event.rows is None else f", {event.rows:,} rows"),
                data=report(event),
                flow_run_id=run.flow_run_id,
                task_run_id=run.task_run_id,
            )
            with api_client(_REQUEST_TIMEOUT) as client:
                client.create_artifact(artifact)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is counted and told once
            self._delivery.dropped(1, reason_of(error))
        else:
            self._delivery.delivered(1)
