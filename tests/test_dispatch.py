"""Every event reaches every sink, redacted, in order."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from dltobs._dispatch import Dispatcher
from dltobs._events import Failure, Run, RunFinished, StepFinished
from dltobs._redaction.redactor import Redactor
from dltobs._warnings import Warner
from recording import FailingSink, RecordingSink

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
SECRET = "pl4nted-secret-value"


@pytest.fixture
def redactor():
    return Redactor()


@pytest.fixture
def sink():
    return RecordingSink()


@pytest.fixture
def dispatcher(redactor, sink):
    return Dispatcher([FailingSink(), sink], redactor, Warner(redactor))


def failed_step(transaction_id="0" * 32):
    failure = Failure("load", "ValueError", f"no {SECRET}", terminal=False, chain=(), stacktrace=SECRET)
    return StepFinished(Run("shop", transaction_id), "load", 0, NOW, NOW, failure=failure)


def end_of(*steps):
    return RunFinished(steps[0].run, "failed", NOW, NOW, steps, steps[-1])


def test_the_end_of_a_run_holds_the_very_steps_that_were_told_before(dispatcher, redactor, sink):
    """They are not redacted twice."""
    redactor.add(SECRET)
    step = failed_step()
    dispatcher.emit(step)
    dispatcher.emit(end_of(step))
    (told,) = sink.of(StepFinished)
    assert told.failure.message == "no ***"
    assert sink.run.steps == (told,)
    assert sink.run.steps[0] is sink.run.failed_step is told


def test_a_secret_that_is_learned_after_a_step_is_not_in_the_end_of_the_run(dispatcher, redactor, sink):
    step = failed_step()
    dispatcher.emit(step)
    redactor.add(SECRET)
    dispatcher.emit(end_of(step))
    assert sink.run.failed_step.failure.message == "no ***"
    assert SECRET not in repr(sink.run)


def test_a_step_that_nobody_told_of_is_redacted_with_the_end_of_the_run(dispatcher, redactor, sink):
    redactor.add(SECRET)
    dispatcher.emit(end_of(failed_step()))
    assert SECRET not in repr(sink.run)


def test_runs_that_end_leave_nothing_behind(dispatcher):
    for number in range(3):
        step = failed_step(f"{number:032}")
        dispatcher.emit(step)
        dispatcher.emit(end_of(step))
    assert not dispatcher._steps


def test_an_event_that_cannot_be_redacted_goes_without_its_texts(dispatcher, redactor, sink, monkeypatch):
    def fail(*_):
        raise RuntimeError

    monkeypatch.setattr(redactor, "redact", fail)
    dispatcher.emit(failed_step())
    (told,) = sink.of(StepFinished)
    assert told.failure.message == "[withheld]"
    assert told.step == "load"
