"""A sink that remembers, and sinks that misbehave."""

from __future__ import annotations

from typing import TypeVar

from dltobs._events import Event, RunFinished, StepFinished

T = TypeVar("T", bound=Event)


class RecordingSink:
    """Keeps every event in order."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.closed = 0

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def flush(self, timeout: float) -> bool:
        return True

    def close(self) -> None:
        self.closed += 1

    def of(self, kind: type[T]) -> list[T]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def runs(self) -> list[RunFinished]:
        return self.of(RunFinished)

    @property
    def run(self) -> RunFinished:
        """The only run there was."""
        (run,) = self.runs
        return run

    def step(self, name: str) -> StepFinished:
        """The only step of that name."""
        (step,) = [step for step in self.of(StepFinished) if step.step == name]
        return step


class FailingSink(RecordingSink):
    """Raises in every method."""

    def emit(self, event: Event) -> None:
        message = "sink is broken"
        raise RuntimeError(message)

    def flush(self, timeout: float) -> bool:
        message = "cannot flush"
        raise RuntimeError(message)

    def close(self) -> None:
        message = "cannot close"
        raise RuntimeError(message)
