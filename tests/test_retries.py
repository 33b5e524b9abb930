"""Retry loops: a span and a line for each attempt, and the loop's own behaviour as it was."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import re
import signal
import subprocess
import sys

import dlt
import pytest
import tenacity
from dlt.pipeline.exceptions import PipelineStepFailed
from dlt.pipeline.helpers import retry_load
from opentelemetry import trace
from tenacity import (
    AsyncRetrying,
    AttemptManager,
    RetryError,
    Retrying,
    before_nothing,
    retry,
    retry_if_exception,
    retry_if_exception_type,
    retry_if_result,
    stop_after_attempt,
    stop_after_delay,
    stop_never,
    wait_fixed,
    wait_none,
)

import dltobs
from conftest import SECRET
from dltobs._runs import attempt_context
from dltobs._runs.attempt_context import current_attempt
from recording import RecordingSink
from scripts import run_script
from servers import attributes_of


def flaky(succeed_at: int, message: str = "reset by peer"):
    """A resource that fails until it is asked for that many times."""
    asked = iter(range(1, 100))

    @dlt.resource(name="orders")
    def orders():
        if next(asked) < succeed_at:
            raise ConnectionError(message)
        yield {"id": 1}

    return orders


def options(**more):
    return {
        "stop": stop_after_attempt(3),
        "wait": wait_none(),
        "retry": retry_if_exception(retry_load(("extract", "load"))),
        "reraise": True,
        **dltobs.tenacity_callbacks(),
        **more,
    }


@pytest.fixture
def lines(caplog):
    """The lines on attempts, as level and message."""

    def read() -> list[tuple[str, str]]:
        return [
            (record.levelname, record.getMessage())
            for record in caplog.records
            if record.module == "retries" or "attempt" in record.getMessage().lower()
        ]

    def listen() -> None:
        logger = logging.getLogger("dlt")
        logger.addHandler(caplog.handler)
        logger.setLevel(logging.INFO)

    read.listen = listen  # type: ignore[attr-defined]
    return read


def tree(otlp) -> set[tuple[str, str | None]]:
    """Name and parent's name of the spans of loops, attempts and runs."""
    names = {span.span_id: span.name for span in otlp.spans}
    return {
        (span.name, names.get(span.parent_span_id))
        for span in otlp.spans
        if span.name.split()[0] in {"retry", "attempt", "run"}
    }


def test_each_attempt_is_a_span_below_that_of_the_loop(pipeline, otlp):
    """The runs are below their attempts, all in one trace."""
    dltobs.configure(otlp_endpoint=otlp.url)
    orders = flaky(3)

    @retry(**options())
    def load():
        return pipeline().run(orders())

    load()
    assert trace.get_current_span() is trace.INVALID_SPAN
    dltobs.shutdown()
    assert tree(otlp) == {
        ("retry load", None),
        *((f"attempt {number}", "retry load") for number in (1, 2, 3)),
        *(("run shop", f"attempt {number}") for number in (1, 2, 3)),
    }
    assert len({span.trace_id for span in otlp.spans}) == 1
    loop = otlp.named("retry load")
    assert (attributes_of(loop), loop.status.code) == ({"dlt.retry.attempts": 3}, 0)
    failed = otlp.named("attempt 2")
    assert attributes_of(failed) == {"dlt.retry.attempt": 2, "error.type": "ConnectionError"}
    assert failed.status.message == "ConnectionError: reset by peer"
    assert otlp.named("attempt 3").status.code == 0
    assert loop.start_time_unix_nano <= otlp.named("attempt 1").start_time_unix_nano
    assert loop.end_time_unix_nano >= otlp.named("attempt 3").end_time_unix_nano


def test_a_loop_that_fails_is_a_failed_span(pipeline, otlp):
    dltobs.configure(otlp_endpoint=otlp.url)
    with pytest.raises(Exception, match="reset by peer"):
        Retrying(**options())(lambda: pipeline().run(flaky(99)()))
    dltobs.shutdown()
    (loop,) = [span for span in otlp.spans if span.name.startswith("retry")]
    assert attributes_of(loop)["error.type"] == "ConnectionError"
    assert loop.status.code == 2


def test_an_error_that_is_not_tried_again_ends_the_loop(pipeline, otlp, lines):
    """tenacity calls nobody back then; the span ends, and the alert is told at once."""
    recording = RecordingSink()
    dltobs.configure(otlp_endpoint=otlp.url, sinks=[recording])
    lines.listen()
    with pytest.raises(Exception, match="reset by peer"):
        Retrying(**options(retry=retry_if_exception(retry_load(("load",)))))(
            lambda: pipeline().run(flaky(99)())
        )
    assert recording.run.will_retry is False
    dltobs.shutdown()
    assert len([span for span in otlp.spans if span.name.startswith("attempt")]) == 1
    told = [(level, message) for level, message in lines() if level != "INFO"]
    assert [level for level, _ in told] == ["ERROR"]
    assert re.fullmatch(r"Run of shop failed in .* s, attempt 1: ConnectionError: reset by peer", told[0][1])
    assert ("INFO", "<lambda> failed after 1 attempt") in lines()


def test_each_attempt_has_a_line_with_the_wait_and_the_reason(lines, caplog, monkeypatch):
    """Number, seconds and cause; without the secret that was in the message."""
    monkeypatch.setenv("SOURCES__API_KEY", SECRET)
    dltobs.configure()
    lines.listen()
    dltobs._state.runtime.redactor.add(SECRET)
    asked = iter(range(1, 4))
    for attempt in Retrying(**options(wait=wait_fixed(0.01), **dltobs.tenacity_callbacks(name="shop"))):
        with attempt:
            if next(asked) < 3:
                raise ConnectionError(f"denied for {SECRET}")
    assert lines() == [
        ("WARNING", "Attempt 1 of shop failed: ConnectionError: denied for ***; next in 0.0 s"),
        ("WARNING", "Attempt 2 of shop failed: ConnectionError: denied for ***; next in 0.0 s"),
        ("INFO", "Attempt 3 of shop succeeded"),
    ]
    (first, *_) = [record for record in caplog.records if "Attempt 1" in record.getMessage()]
    assert (first.attempt, first.wait, first.error_type) == (1, 0.01, "ConnectionError")


def test_what_the_line_of_a_run_has_told_is_not_repeated(pipeline, lines):
    """Those of the loop are INFO then, and have no reason."""
    dltobs.configure()
    lines.listen()
    orders = flaky(3)
    for attempt in Retrying(**options(**dltobs.tenacity_callbacks(name="shop"))):
        with attempt:
            pipeline().run(orders())
    assert [(level, message) for level, message in lines() if "Run of" not in message] == [
        ("INFO", "Attempt 1 of shop failed; next in 0.0 s"),
        ("INFO", "Attempt 2 of shop failed; next in 0.0 s"),
        ("INFO", "Attempt 3 of shop succeeded"),
    ]
    ends = [
        (level, message) for level, message in lines() if "Run of" in message and "started" not in message
    ]
    assert [level for level, _ in ends] == ["WARNING", "WARNING", "INFO"]


def test_a_reason_in_one_line_has_no_secret_of_several(lines):
    """Nor one with spaces, which are made one."""
    key, phrase = "-----BEGIN KEY-----\nhunter22x\n-----END KEY-----", "correct  horse  battery"
    dltobs.configure()
    lines.listen()
    dltobs._state.runtime.redactor.add(key, phrase)

    def fail() -> None:
        raise ConnectionError(f"denied for\n{key} and {phrase}")

    with pytest.raises(ConnectionError):
        Retrying(**options())(fail)
    told = " ".join(message for _, message in lines())
    assert "Attempt 1 of fail failed: ConnectionError: denied for *** and ***" in told
    assert "horse" not in told


@pytest.mark.parametrize("succeed_at", [3, 99])
def test_the_lines_are_in_the_trace_of_the_loop(pipeline, otlp, tmp_path, succeed_at):
    """Those on an attempt bear the id of its span, that on the end of a failed loop the loop's."""
    dltobs.configure(otlp_endpoint=otlp.url, log_level="INFO", log_file="log.jsonl")
    orders = flaky(succeed_at)
    with contextlib.suppress(PipelineStepFailed):
        Retrying(**options())(lambda: pipeline().run(orders()))
    dltobs.shutdown()
    found = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    told = [line for line in found if line["file"] == "retries.py"]
    names = {span.span_id.hex(): span.name for span in otlp.spans}
    last = "attempt 3" if succeed_at == 3 else "retry <lambda>"
    assert [names[line["span_id"]] for line in told] == ["attempt 1", "attempt 2", last]
    assert {line["trace_id"] for line in told} == {span.trace_id.hex() for span in otlp.spans}


def test_events_tell_the_attempt_and_whether_another_one_follows(pipeline):
    recording = RecordingSink()
    dltobs.configure(sinks=[recording])
    shop = pipeline()
    orders = flaky(3)
    Retrying(**options())(lambda: shop.run(orders()))
    assert [(run.run.attempt, run.outcome, run.will_retry) for run in recording.runs] == [
        (1, "failed", True),
        (2, "failed", True),
        (3, "ok", False),
    ]
    assert len({run.run.retry_id for run in recording.runs}) == 1
    shop.run([{"id": 2}], table_name="orders")
    assert (recording.runs[-1].run.attempt, recording.runs[-1].run.retry_id) == (None, None)


def test_the_last_attempt_is_known_to_be_the_last(pipeline):
    recording = RecordingSink()
    dltobs.configure(sinks=[recording])
    orders = flaky(99)
    with pytest.raises(Exception, match="reset by peer"):
        Retrying(**options())(lambda: pipeline().run(orders()))
    assert [run.will_retry for run in recording.runs] == [True, True, False]


def test_asynchronous_loops_are_watched_likewise(pipeline, otlp):
    """`async for`, and the calls in it."""
    recording = RecordingSink()
    dltobs.configure(otlp_endpoint=otlp.url, sinks=[recording])
    orders = flaky(2)

    async def load() -> None:
        async for attempt in AsyncRetrying(**options()):
            with attempt:
                pipeline().run(orders())

    asyncio.run(load())
    dltobs.shutdown()
    assert [(run.run.attempt, run.outcome) for run in recording.runs] == [(1, "failed"), (2, "ok")]
    assert {name for name, _ in tree(otlp)} == {"retry retry", "attempt 1", "attempt 2", "run shop"}


def test_results_that_are_not_wanted_are_tried_again(lines):
    """`retry_if_result`; the loop ends as tenacity ends it."""
    dltobs.configure()
    lines.listen()
    results = iter([1, 2, 3])
    loop = Retrying(**options(retry=retry_if_result(lambda value: value < 3)))
    assert loop(lambda: next(results)) == 3
    assert [message for _, message in lines()] == [
        "Attempt 1 of <lambda> gave a result that is not wanted; next in 0.0 s",
        "Attempt 2 of <lambda> gave a result that is not wanted; next in 0.0 s",
        "Attempt 3 of <lambda> succeeded",
    ]
    with pytest.raises(RetryError):
        Retrying(**options(retry=retry_if_result(lambda value: True)))(lambda: None)


def test_callbacks_of_ones_own_are_called_too():
    """After ours, with tenacity's state."""
    called = []
    callbacks = dltobs.tenacity_callbacks(
        before=lambda state: called.append(("before", state.attempt_number)),
        before_sleep=lambda state: called.append(("before_sleep", state.attempt_number)),
    )
    results = iter([ValueError(), None])

    def work():
        if error := next(results):
            raise error

    Retrying(stop=stop_after_attempt(2), **callbacks)(work)
    assert called == [("before", 1), ("before_sleep", 1), ("before", 2)]


def test_a_loop_in_a_loop_leads_back_to_the_outer_attempt():
    """And none is current when both have ended."""
    seen = []
    for outer in Retrying(**options()):
        with outer:
            first = current_attempt()
            for inner in Retrying(**options()):
                with inner:
                    seen.append(current_attempt())
            assert current_attempt() is first
            assert first is not None
            assert seen[0].retry_id != first.retry_id
    assert current_attempt() is None


class Strategies:
    """Of the user's: a budget of tries, and how often each one was asked."""

    def __init__(self, tries: int) -> None:
        self.tries = tries
        self.asked = {"retry": 0, "wait": 0, "stop": 0}

    def stop(self, retry_state) -> bool:
        self.asked["stop"] += 1
        return self.asked["stop"] >= self.tries

    def wait(self, retry_state) -> float:
        self.asked["wait"] += 1
        return 0.0

    def is_wanted(self, error: BaseException) -> bool:
        self.asked["retry"] += 1
        return True

    def options(self) -> dict:
        return options(stop=self.stop, wait=self.wait, retry=retry_if_exception(self.is_wanted))


def test_strategies_are_asked_by_tenacity_alone(pipeline):
    """One that keeps a budget of tries gives as many as without us."""
    recording = RecordingSink()
    dltobs.configure(sinks=[recording])
    strategies, unwatched = Strategies(5), Strategies(5)
    with pytest.raises(Exception, match="reset by peer"):
        Retrying(**strategies.options())(lambda: pipeline().run(flaky(99)()))
    with pytest.raises(ZeroDivisionError):
        Retrying(**unwatched.options() | {"before": before_nothing, "before_sleep": None})(lambda: 1 / 0)
    assert strategies.asked == unwatched.asked
    assert [(run.run.attempt, run.will_retry) for run in recording.runs] == [
        (number, None) for number in (1, 2, 3, 4, 5)
    ]


def test_the_end_of_such_a_loop_is_heard_all_the_same(otlp, lines):
    """From tenacity, when it gives up."""
    dltobs.configure(otlp_endpoint=otlp.url)
    lines.listen()
    with pytest.raises(ZeroDivisionError):
        Retrying(**Strategies(2).options())(lambda: 1 / 0)
    assert [level for level, _ in lines()] == ["WARNING", "ERROR"]
    dltobs.shutdown()
    loop = otlp.named("retry <lambda>")
    assert (attributes_of(loop)["dlt.retry.attempts"], loop.status.code) == (2, 2)


@pytest.mark.skipif(not hasattr(tenacity, "asyncio"), reason="this tenacity has none")
def test_asynchronous_strategies_are_waited_for_by_tenacity(lines):
    dltobs.configure()
    lines.listen()
    asked = []

    async def stop(retry_state) -> bool:
        asked.append(retry_state.attempt_number)
        await asyncio.sleep(0)
        return retry_state.attempt_number == 2

    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(AsyncRetrying(**options(stop=stop))(fail))
    assert asked == [1, 2]
    assert [level for level, _ in lines()] == ["WARNING", "ERROR"]


@pytest.mark.parametrize(
    ("strategies", "expected"),
    [
        ({"stop": stop_after_attempt(1)}, False),
        ({"stop": stop_after_attempt(9) | stop_after_delay(60)}, True),
        ({"stop": stop_after_attempt(1) | (lambda _: False)}, False),
        ({"stop": stop_after_attempt(9) | (lambda _: False)}, None),
        ({"stop": stop_after_attempt(1) & (lambda _: True)}, None),
        ({"stop": stop_never}, True),
        ({"retry": retry_if_exception_type(ValueError)}, False),
        ({"retry": retry_if_exception_type(ValueError) | retry_if_exception(lambda _: True)}, None),
        ({"retry": retry_if_exception(lambda _: True), "stop": stop_after_attempt(1)}, False),
    ],
)
def test_what_tenacity_itself_decides_is_foreseen(strategies, expected):
    """Where the user's own code takes part it is not known, unless that makes no difference."""
    dltobs.configure()
    foreseen = []

    def work() -> None:
        attempt = current_attempt()
        assert attempt is not None
        foreseen.append(attempt.will_retry(KeyError()))

    default = {"stop": stop_after_attempt(9), "retry": retry_if_exception_type()}
    Retrying(**options(**{**default, **strategies}))(work)
    assert foreseen == [expected]


def leave_by_exception() -> None:
    message = "before the block"
    for attempt in Retrying(**options()):
        if attempt is not None:
            raise ZeroDivisionError(message)
        with attempt:
            pass


def leave_by_break() -> None:
    for _ in Retrying(**options()):
        break


def leave_asynchronous_by_break() -> None:
    async def leave() -> None:
        async for _ in AsyncRetrying(**options()):
            break
        assert current_attempt() is None
        assert trace.get_current_span() is trace.INVALID_SPAN

    asyncio.run(leave())


def leave_by_a_callback_of_ones_own() -> None:
    Retrying(**options(**dltobs.tenacity_callbacks(before=lambda _: 1 / 0)))(lambda: None)


@pytest.mark.parametrize(
    "leave",
    [leave_by_exception, leave_by_break, leave_asynchronous_by_break, leave_by_a_callback_of_ones_own],
)
def test_a_loop_that_is_left_before_its_attempt_leaves_no_trace(pipeline, otlp, leave):
    """The next run has nothing to do with it."""
    recording = RecordingSink()
    dltobs.configure(otlp_endpoint=otlp.url, sinks=[recording])
    with contextlib.suppress(ZeroDivisionError):
        leave()
    assert current_attempt() is None
    assert trace.get_current_span() is trace.INVALID_SPAN
    pipeline().run([{"id": 1}], table_name="orders")
    assert (recording.run.run.attempt, recording.run.run.retry_id) == (None, None)
    dltobs.shutdown()
    assert ("run shop", None) in tree(otlp)
    ids = {span.span_id for span in otlp.spans}
    assert [span.name for span in otlp.spans if span.parent_span_id and span.parent_span_id not in ids] == []


def test_what_is_done_between_two_attempts_is_in_none_of_them():
    """In the body of the loop, before and after the block."""
    seen = []
    for attempt in Retrying(**options()):
        seen.append(current_attempt())
        with attempt:
            seen.append(current_attempt())
        seen.append(current_attempt())
    assert [one and one.number for one in seen] == [None, 1, None]


@pytest.mark.skipif(not hasattr(AttemptManager, "__aenter__"), reason="this tenacity has it not")
def test_async_with_begins_an_attempt_too():
    seen = []

    async def work() -> None:
        async for attempt in AsyncRetrying(**options()):
            async with attempt:
                seen.append(current_attempt())

    asyncio.run(work())
    assert [one and one.number for one in seen] == [1]


def test_a_loop_that_is_left_in_a_pause_ends_when_the_next_run_begins(pipeline, otlp, lines):
    """Nobody can go on with it then. It is a failure, as its last attempt was."""
    dltobs.configure(otlp_endpoint=otlp.url)

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        Retrying(**options(sleep=interrupted))(lambda: pipeline().run(flaky(99)()))
    gc.collect()
    lines.listen()
    pipeline().run([{"id": 1}], table_name="orders")
    reason = "ConnectionError: reset by peer"
    assert lines() == [("ERROR", f"<lambda> was left after 1 attempt: {reason}")]
    dltobs._state.runtime.deliver()
    loop = otlp.named("retry <lambda>")
    assert (attributes_of(loop)["dlt.retry.attempts"], loop.status.code) == (1, 2)


def test_loops_that_were_left_do_not_pile_up():
    """Nor without configure()."""
    for _ in range(50):
        leave_by_break()
    gc.collect()
    Retrying(**options())(lambda: None)
    assert not attempt_context._open


def test_shutdown_ends_the_loops_that_are_on(otlp):
    """The spans of loop and attempt are exported, and nothing stays the current one."""
    dltobs.configure(otlp_endpoint=otlp.url)
    Retrying(**options())(dltobs.shutdown)
    assert trace.get_current_span() is trace.INVALID_SPAN
    assert tree(otlp) == {("retry shutdown", None), ("attempt 1", "retry shutdown")}


def test_a_signal_ends_the_loops_that_are_on(tmp_path, otlp):
    """So the spans of the run have the parents that they name."""
    script = """
    import os, signal, time
    import dltobs
    from tenacity import Retrying
    dltobs.configure()
    @dlt.resource
    def slow():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
        yield
    Retrying(**dltobs.tenacity_callbacks(name="load"))(lambda: pipeline().run(slow()))
    """
    done = run_script(script, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url)
    assert done.returncode == -signal.SIGTERM
    assert tree(otlp) == {("retry load", None), ("attempt 1", "retry load"), ("run shop", "attempt 1")}


def test_without_configure_the_loop_works_as_ever():
    results = iter([ValueError(), None])

    def work():
        if error := next(results):
            raise error
        return "done"

    assert Retrying(**options(retry=retry_if_exception(lambda _: True)))(work) == "done"


def test_a_failure_of_ours_does_not_reach_the_loop(monkeypatch, caplog):
    """One warning, and the attempts go on."""

    def fail(*_):
        message = "inside"
        raise AttributeError(message)

    monkeypatch.setattr("dltobs.integrations.retries.LoopSpans.prepare", fail)
    dltobs.configure()
    assert Retrying(**options())(lambda: "done") == "done"
    assert any("retries: AttributeError: inside" in record.getMessage() for record in caplog.records)


def test_tenacity_is_not_imported_for_it(tmp_path):
    """Who has none can still ask for the callbacks."""
    code = (
        "import sys; sys.modules['tenacity'] = None\n"
        "import dltobs.integrations.retries as retries\n"
        "print(sorted(retries.tenacity_callbacks()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout == "['before', 'before_sleep']\n"
