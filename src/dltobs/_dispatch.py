"""Hands each event to the sinks: redacted, in order, their failures kept away from the run."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar, runtime_checkable

from dltobs._cut import MESSAGE
from dltobs._events import RunFinished, StepFinished, UncaughtError
from dltobs._process.interrupts import is_raised_by_handler

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dltobs._events import Event
    from dltobs._redaction.redactor import Redactor
    from dltobs._warnings import Warner

E = TypeVar("E", bound="Event")


@runtime_checkable
class Sink(Protocol):
    """Receives redacted events, on the pipeline's own thread, in order.

    But for one: the end of a run that a signal terminates comes on a thread of dltobs, while the pipeline's
    own is interrupted wherever it is, perhaps in this sink.

    What `emit` raises becomes one warning; what it waits for, the pipeline waits for. A sink that sends
    something should hand it to a thread of its own and wait for that in `flush`.
    """

    def emit(self, event: Event) -> None:
        """Take an event; its class tells what happened."""

    def flush(self, timeout: float) -> bool:
        """Deliver what is left within `timeout` seconds. True: everything was delivered."""

    def close(self) -> None:
        """Let go of everything; no event follows."""


def is_log(sink: Sink) -> bool:
    """Whether a sink only writes lines, for handlers of whoever has some."""
    return getattr(sink, "is_log", False) is True


class _CleanStep(NamedTuple):
    """A step, the same redacted, and how many secrets were known then."""

    step: StepFinished
    clean: StepFinished
    size: int


class Dispatcher:
    """Fans events out.

    Args:
        sinks: In the order in which each event reaches them.
        redactor: What each event passes first; it cuts long texts, too.
        warner: Told of failures.
    """

    def __init__(self, sinks: Sequence[Sink], redactor: Redactor, warner: Warner) -> None:
        self._sinks = tuple(sinks)
        self._redactor = redactor
        self._warner = warner
        self._steps: dict[str, dict[int, _CleanStep]] = {}

    def retain(self, *sinks: Sink) -> None:
        """Have no other sinks from now on."""
        self._sinks = sinks

    def emit(self, event: Event) -> None:
        """Redact and deliver. Of an event that cannot be redacted, the texts are withheld."""
        if not self._sinks:
            return
        self._keep_names(event)
        clean = self._clean_run(event) if isinstance(event, RunFinished) else self._clean(event)
        if isinstance(event, StepFinished) and isinstance(clean, StepFinished):
            steps = self._steps.setdefault(event.run.transaction_id, {})
            steps[id(event)] = _CleanStep(event, clean, self._redactor.size)
        interrupt: BaseException | None = None
        for sink in self._sinks:
            try:
                self._deliver(sink, clean)
            except BaseException as error:  # noqa: BLE001 - Ctrl-C; the other sinks hear of the event before
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def emitters(
        self, events: Sequence[RunFinished]
    ) -> tuple[list[Callable[[], object]], Callable[[], set[str]]]:
        """Redact the ends of runs, and give for each sink a call that delivers them there.

        The other function gives the transaction ids of those that a sink has not taken which has taken
        others: it is slow. One that has taken none hangs, and nobody waits for it, if there is another that
        does not.
        """
        for event in events:
            self._keep_names(event)
        clean = [self._clean_run(event) for event in events]
        told: list[set[str]] = [set() for _ in self._sinks]

        def deliver(sink: Sink, taken: set[str]) -> None:
            for event in clean:
                self._deliver(sink, event)
                taken.add(event.run.transaction_id)

        def untold() -> set[str]:
            ids = {event.run.transaction_id for event in clean}
            # our own lines in the log reach nobody by themselves
            tellers = [taken for sink, taken in zip(self._sinks, told, strict=True) if not is_log(sink)]
            if not tellers:
                return set()
            slow = [taken for taken in tellers if taken]
            return {one for one in ids if not slow or not all(one in taken for taken in slow)}

        return [partial(deliver, sink, taken) for sink, taken in zip(self._sinks, told, strict=True)], untold

    def _deliver(self, sink: Sink, event: Event) -> None:
        try:
            sink.emit(event)
        except (Exception, SystemExit) as error:
            if isinstance(error, SystemExit) and is_raised_by_handler(error):
                raise
            # one sink's failure is not another's, nor the run's
            self._warner.internal_error(f"sink {type(sink).__name__}", error)

    def _keep_names(self, event: Event) -> None:
        """Have the names of the run stay, though a weak password be one of their words."""
        if self._redactor.keep_names(*_names_in(event)):
            self._warner.warn(
                "secrets",
                "a secret of this run is an ordinary word that is also part of the name of a pipeline, "
                "dataset, resource, table or file: the word is not redacted; choose another password",
            )

    def _clean(self, event: E) -> E:
        try:
            return self._redactor.redact(event, MESSAGE)
        except Exception as error:  # noqa: BLE001 - what happened is told all the same
            self._warner.internal_error("redaction", error)
            return self._redactor.withhold(event)

    def _clean_run(self, event: RunFinished) -> RunFinished:
        """Redact the end of a run. Its steps, which may have many jobs, have been redacted before."""
        known = self._steps.pop(event.run.transaction_id, {})

        def clean_step(step: StepFinished) -> StepFinished:
            before = known.get(id(step))
            is_current = before is not None and before.size == self._redactor.size
            return before.clean if before is not None and is_current else self._clean(step)

        steps = {id(step): clean_step(step) for step in event.steps}
        failed = event.failed_step
        return replace(
            self._clean(replace(event, steps=(), failed_step=None)),
            steps=tuple(steps[id(step)] for step in event.steps),
            failed_step=None if failed is None else steps.get(id(failed)) or clean_step(failed),
        )


def _names_in(event: Event) -> set[str]:
    """Return what dlt, and the files of the user's code, are called by in an event."""
    run = event if isinstance(event, UncaughtError) else event.run
    names = {run.pipeline, run.dataset, run.working_dir, *sys.argv[:1]}
    if isinstance(event, StepFinished):
        names.update(table.name for table in event.tables)
        names.update(resource.name for resource in event.resources)
        names.update(one.schema for one in event.packages)
        names.update(job.table for job in event.load_jobs)
    failure = event.failure if isinstance(event, (StepFinished, RunFinished, UncaughtError)) else None
    if failure is not None:
        names |= {failure.resource, failure.table}
        names.update(frame.path for one in failure.chain for frame in one.frames if frame.in_app)
    return {name for name in names if isinstance(name, str)}
