"""For your own tests: a sink that remembers, and a pytest fixture that observes with it.

```python
pytest_plugins = ["dltobs.testing"]  # in conftest.py


def test_orders_are_loaded(dltobs_sink):
    load_orders()
    assert [run.outcome for run in dltobs_sink.finished] == ["ok"]
```

Importing it needs no pytest; where there is none, there is no fixture.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

from dltobs._events import Event, Failure, Run, RunFinished, RunStarted, SchemaChange, StepFinished
from dltobs._process.fork_safe import fork_safe
from dltobs._runtime import set_up, shutdown
from dltobs._settings.settings import Settings

try:
    import pytest
except ImportError:
    pytest = None  # type: ignore[assignment]  # there is a sink, and no fixture

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["RecordingSink"]

E = TypeVar("E", bound=Event)


class RecordingSink:
    """Keeps every event, in the order in which it came; pipelines may run in several threads."""

    def __init__(self) -> None:
        self._lock = fork_safe(threading.Lock())
        self._events: list[Event] = []

    def emit(self, event: Event) -> None:
        """Remember the event."""
        with self._lock:
            self._events.append(event)

    def flush(self, timeout: float) -> bool:  # noqa: ARG002 - the protocol's
        """There is nothing to deliver."""
        return True

    def close(self) -> None:
        """The events stay."""

    def clear(self) -> None:
        """Forget all events."""
        with self._lock:
            self._events.clear()

    @property
    def events(self) -> list[Event]:
        """All events so far; a copy, as of all lists here."""
        with self._lock:
            return list(self._events)

    def of(self, kind: type[E]) -> list[E]:
        """The events of a class."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def runs(self) -> list[Run]:
        """The runs that have begun."""
        return [event.run for event in self.of(RunStarted)]

    @property
    def finished(self) -> list[RunFinished]:
        """The ends of runs: outcome, rows, failed jobs, …."""
        return self.of(RunFinished)

    @property
    def steps(self) -> list[StepFinished]:
        """The ends of steps."""
        return self.of(StepFinished)

    @property
    def failures(self) -> list[Failure]:
        """Why runs have failed: one for each, of the deepest step."""
        return [run.failure for run in self.finished if run.failure is not None]

    @property
    def schema_changes(self) -> list[SchemaChange]:
        """What the loads have changed in the schemas of their destinations."""
        return [change for step in self.steps for change in step.schema_changes]


if pytest is not None:

    @pytest.fixture
    def dltobs_sink() -> Iterator[RecordingSink]:
        """A sink that sees the runs of the test, in the place of any other set-up of dltobs.

        Environment variables and configuration files do not count: nothing is sent anywhere.
        """
        sink = RecordingSink()
        set_up(lambda _: Settings(sinks=(sink,), tracing="off", metrics="off", excepthook=False))
        yield sink
        shutdown()
