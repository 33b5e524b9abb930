"""What Sentry and Slack are told of a retry loop: one story, when it is over."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import threading
import time

import dlt
import pytest
from dlt.pipeline.exceptions import PipelineStepFailed
from tenacity import RetryError, Retrying, stop_after_attempt, wait_none

import dltobs
from recording import RecordingSink
from scripts import run_script


def load(shop, succeed_at: int, **strategies) -> None:
    asked = iter(range(1, 100))

    @dlt.resource(name="orders")
    def orders():
        number = next(asked)
        if number < succeed_at:
            message = f"reset by peer {number}"
            raise ConnectionError(message)
        yield {"id": 1}

    options = {"stop": stop_after_attempt(3), "wait": wait_none(), "reraise": True, **strategies}
    for attempt in Retrying(**options, **dltobs.tenacity_callbacks()):
        with attempt:
            shop.run(orders())


def arrived(sentry) -> list:
    """The events, when there are some; nothing is flushed for it."""
    until = time.monotonic() + 20
    while not sentry.events and time.monotonic() < until:
        time.sleep(0.01)
    return list(sentry.events)


def titles(slack) -> list[str]:
    first_lines = [post["text"].splitlines()[0] for post in slack.posts]
    return [line for line in first_lines if "first run" not in line]


@pytest.fixture
def configured(sentry, slack):
    def configure(**settings):
        dltobs.configure(sentry_dsn=sentry.dsn, slack_incoming_hook=f"{slack.url}/services/T/B/X", **settings)

    return configure


def test_a_run_that_succeeds_at_its_third_attempt_is_one_story(pipeline, configured, sentry, slack):
    """A warning in Sentry with all attempts, one message in Slack that it went well in the end."""
    configured()
    load(pipeline(), 3)
    dltobs.shutdown()
    (event,) = sentry.events
    assert event["level"] == "warning"
    assert event["exception"]["values"][-1]["value"] == "reset by peer 2"
    assert (event["tags"]["dlt.outcome"], event["tags"]["dlt.attempt"]) == ("ok", "3")
    assert [(one["attempt"], one["error"]) for one in event["contexts"]["dlt"]["earlier_attempts"]] == [
        (1, "ConnectionError: reset by peer 1"),
        (2, "ConnectionError: reset by peer 2"),
    ]
    assert titles(slack) == ["🟡 shop: ok at attempt 3"]
    (told,) = [post["text"] for post in slack.posts if "attempt 3" in post["text"]]
    assert "Attempts: 3, the last one went well" in told
    assert "ConnectionError: reset by peer 2" in told


def test_one_that_fails_for_good_says_how_often_it_was_tried(pipeline, configured, sentry, slack):
    configured()
    with pytest.raises(Exception, match="reset by peer 3"):
        load(pipeline(), 99)
    dltobs.shutdown()
    (event,) = sentry.events
    assert (event["level"], event["tags"]["dlt.attempt"]) == ("error", "3")
    assert len(event["contexts"]["dlt"]["earlier_attempts"]) == 2
    assert titles(slack) == ["🔴 shop: extract failed after 3 attempts"]
    assert "Attempts: 3, all failed" in slack.posts[-1]["text"]


def test_a_success_at_the_first_attempt_is_no_story(pipeline, configured, sentry, slack):
    configured()
    load(pipeline(), 1)
    dltobs.shutdown()
    assert (sentry.events, titles(slack)) == ([], [])


def test_who_wants_successes_only_hears_of_it_as_one(pipeline, configured, slack):
    configured(slack_on="success")
    load(pipeline(), 2)
    dltobs.shutdown()
    assert titles(slack) == ["🟡 shop: ok at attempt 2"]


def test_a_failure_that_the_attempt_outlives_is_told(pipeline, configured, sentry, slack):
    """The attempt succeeds although its run did not, so there is no other one."""
    configured()

    @dlt.resource
    def broken():
        message = "no such order"
        raise ValueError(message)
        yield

    for attempt in Retrying(stop=stop_after_attempt(3), **dltobs.tenacity_callbacks()):
        with attempt, pytest.raises(Exception, match="no such order"):
            pipeline().run(broken())
    dltobs.shutdown()
    (event,) = sentry.events
    assert event["tags"]["dlt.attempt"] == "1"
    assert titles(slack) == ["🔴 shop: extract failed"]


def test_the_check_in_is_one_for_all_attempts(pipeline, configured, sentry):
    """An attempt that is followed by another one does not alarm the monitor."""
    configured(sentry_monitor=True)
    load(pipeline(), 2)
    dltobs.shutdown()
    check_ins = [item for header, item in sentry.items if header["type"] == "check_in"]
    assert [one["status"] for one in check_ins] == ["in_progress", "in_progress", "ok"]
    assert len({one["check_in_id"] for one in check_ins}) == 1


def test_each_loop_is_a_story_of_its_own(pipeline, configured, sentry):
    configured()
    for _ in range(2):
        load(pipeline(), 2)
    dltobs.shutdown()
    assert [event["tags"]["dlt.attempt"] for event in sentry.events] == ["2", "2"]


@pytest.mark.parametrize(("succeed_at", "level"), [(2, "warning"), (99, "error")])
def test_a_loop_that_nobody_can_foresee_is_told_when_tenacity_ends_it(
    pipeline, configured, sentry, succeed_at, level
):
    """Not before, for another attempt may follow, and not later."""
    configured()
    told: list[int] = []

    def stop(retry_state) -> bool:
        told.append(dltobs._state.runtime.deliveries["sentry"].pending + len(sentry.events))
        return retry_state.attempt_number == 2

    with contextlib.suppress(PipelineStepFailed):
        load(pipeline(), succeed_at, stop=stop)
    assert set(told) == {0}
    assert [(one["level"], one["tags"]["dlt.attempt"]) for one in arrived(sentry)] == [(level, "2")]


def test_a_run_that_ends_after_its_loop_is_told_at_once(pipeline, configured, sentry):
    """It was begun in an attempt, in a thread for which the loop did not wait."""
    configured()
    has_begun, is_over = threading.Event(), threading.Event()

    @dlt.resource
    def broken():
        has_begun.set()
        assert is_over.wait(20)
        message = "no such order"
        raise ValueError(message)
        yield

    def run() -> None:
        with contextlib.suppress(PipelineStepFailed):
            pipeline().run(broken())

    def start() -> threading.Thread:
        thread = threading.Thread(target=contextvars.copy_context().run, args=(run,))
        thread.start()
        assert has_begun.wait(20)
        return thread

    thread = Retrying(**dltobs.tenacity_callbacks())(start)
    is_over.set()
    thread.join()
    assert [event["level"] for event in arrived(sentry)] == ["error"]


def test_a_loop_that_was_left_in_the_body_holds_no_other_run_back(pipeline, configured, sentry):
    """An alert on a run after it is not one of the loop's."""
    configured()
    for _ in Retrying(stop=stop_after_attempt(3), **dltobs.tenacity_callbacks()):
        break
    shop = pipeline()
    with contextlib.suppress(PipelineStepFailed):
        shop.run([{"id": object()}], table_name="orders")
    assert [event["level"] for event in arrived(sentry)] == ["error"]


def test_a_failure_whose_loop_was_left_is_told_when_the_next_run_begins(pipeline, configured, sentry):
    """By `break` after the block, for example: nobody tries again."""
    configured()

    def give_up(shop) -> None:
        for attempt in Retrying(stop=stop_after_attempt(3), **dltobs.tenacity_callbacks()):
            with attempt:
                shop.run([{"id": object()}], table_name="orders")
            break

    give_up(pipeline())
    gc.collect()
    assert sentry.events == []
    pipeline("other").run([{"id": 1}], table_name="orders")
    (event,) = arrived(sentry)
    assert (event["level"], event["tags"]["dlt.pipeline.name"]) == ("error", "shop")


def nested(shop, succeed_at: int, inner: dict, outer: dict) -> None:
    """Two attempts in each of two; `inner` and `outer` are what these loops have besides."""
    asked = iter(range(1, 100))

    @dlt.resource(name="orders")
    def orders():
        number = next(asked)
        if number < succeed_at:
            message = f"reset by peer {number}"
            raise ConnectionError(message)
        yield {"id": 1}

    common = {"stop": stop_after_attempt(2), "wait": wait_none(), **dltobs.tenacity_callbacks()}
    within = Retrying(**common, **inner)
    Retrying(**common, **outer)(lambda: within(lambda: shop.run(orders())))


@pytest.mark.parametrize(("inner", "foreseen"), [({"reraise": True}, True), ({}, None)])
def test_loops_in_loops_are_one_story(pipeline, configured, sentry, slack, inner, foreseen):
    """The outermost one's: what the inner one has given up goes on. Without reraise it is not known beforehand."""
    recording = RecordingSink()
    configured(sinks=[recording])
    nested(pipeline(), 4, inner, {})
    dltobs.shutdown()
    (event,) = sentry.events
    assert (event["level"], event["tags"]["dlt.attempt"]) == ("warning", "4")
    assert [one["attempt"] for one in event["contexts"]["dlt"]["earlier_attempts"]] == [1, 2, 3]
    assert titles(slack) == ["🟡 shop: ok at attempt 4"]
    assert [(one.run.attempt, one.will_retry) for one in recording.runs] == [
        (1, True),
        (2, foreseen),
        (3, True),
        (4, False),
    ]
    assert len({one.run.retry_id for one in recording.runs}) == 1


@pytest.mark.parametrize("options", [{"reraise": True}, {}])
def test_loops_in_loops_that_fail_for_good_are_one_failure(pipeline, configured, sentry, slack, options):
    recording = RecordingSink()
    configured(sinks=[recording])
    with pytest.raises((PipelineStepFailed, RetryError)):
        nested(pipeline(), 99, options, options)
    assert recording.runs[-1].will_retry is False
    dltobs.shutdown()
    assert [(event["level"], event["tags"]["dlt.attempt"]) for event in sentry.events] == [("error", "4")]
    assert titles(slack) == ["🔴 shop: extract failed after 4 attempts"]


def test_a_failure_in_an_inner_loop_that_the_outer_attempt_outlives_is_told(pipeline, configured, sentry):
    """And a pipeline beside it counts its own attempts."""
    configured()
    shop, other = pipeline(), pipeline("other")

    def work() -> None:
        with contextlib.suppress(PipelineStepFailed):
            load(shop, 99)
        load(other, 2)

    Retrying(**dltobs.tenacity_callbacks())(work)
    dltobs.shutdown()
    told = {event["tags"]["dlt.pipeline.name"]: event for event in sentry.events}
    assert {name: (event["level"], event["tags"]["dlt.attempt"]) for name, event in told.items()} == {
        "shop": ("error", "3"),
        "other": ("warning", "2"),
    }


def test_a_process_that_ends_between_two_attempts_tells_what_it_has(tmp_path, sentry):
    """Nobody tries again, so it is a failure."""
    script = """
    import dltobs
    from tenacity import Retrying, stop_after_attempt, wait_fixed
    dltobs.configure()
    def leave(seconds):
        raise SystemExit(3)
    loop = Retrying(stop=stop_after_attempt(3), wait=wait_fixed(9), sleep=leave, **dltobs.tenacity_callbacks())
    loop(lambda: pipeline().run(broken()))
    """
    done = run_script(script, tmp_path, SENTRY_DSN=sentry.dsn)
    assert done.returncode == 3
    (event,) = sentry.events
    assert (event["level"], event["tags"]["dlt.attempt"]) == ("error", "1")
