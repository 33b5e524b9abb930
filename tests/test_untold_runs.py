"""Runs whose end dlt does not tell, and what must not get lost when a run ends by a signal."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import dlt
import pytest
from dlt.pipeline import trace as dlt_trace
from opentelemetry import trace

import dltobs
from dltobs import _state
from dltobs._context.current import current_run
from dltobs._dispatch import Dispatcher
from dltobs._redaction.redactor import Redactor
from dltobs._runs.marker_files import FOLDER
from dltobs._warnings import Warner
from recording import RecordingSink
from scripts import run_script
from servers import attributes_of


class OddError(Exception):
    """Its text cannot be made: dlt makes it before it calls the hooks."""

    def __str__(self):
        return f"HTTP {self.response.status_code}"


@dlt.resource
def odd_orders():
    yield {"id": 1}
    raise OddError


def run_oddly(one):
    with pytest.raises(AttributeError):
        one.run(odd_orders())


def ends(sink):
    return [(event.run.pipeline, event.outcome) for event in sink.runs]


def test_a_run_that_dlt_does_not_tell_the_end_of_is_told_by_the_next_one(otlp, sentry, pipeline):
    sink = RecordingSink()
    dltobs.configure(otlp_endpoint=otlp.url, sentry_dsn=sentry.dsn, metrics="off", sinks=[sink])
    run_oddly(pipeline("odd"))
    pipeline("next").run([{"id": 1}], table_name="t")
    assert ends(sink) == [("odd", "failed"), ("next", "ok")]
    failure = sink.runs[0].failed_step.failure
    assert (failure.step, failure.error_type) == ("extract", "_OTHER")
    assert current_run.get() is None
    assert not trace.get_current_span().get_span_context().is_valid
    dltobs.shutdown()
    roots = [span for span in otlp.spans if not span.parent_span_id]
    assert {span.name: attributes_of(span)["dlt.outcome"] for span in roots} == {
        "run odd": "failed",
        "run next": "ok",
    }
    ids = {span.span_id for span in otlp.spans}
    assert all(span.parent_span_id in ids for span in otlp.spans if span.parent_span_id)
    (event,) = sentry.events
    assert event["tags"]["dlt.pipeline.name"] == "odd"


def test_a_run_that_dlt_does_not_tell_the_end_of_is_told_at_shutdown(pipeline):
    """Its marker, its context and our hooks go, too."""
    sink = RecordingSink()
    dltobs.configure(sinks=[sink])
    one = pipeline("odd")
    run_oddly(one)
    dltobs.shutdown()
    assert ends(sink) == [("odd", "failed")]
    assert current_run.get() is None
    assert not any("dltobs" in type(module).__module__ for module in dlt_trace.TRACKING_MODULES)
    assert not list((dlt_folder(one) / FOLDER).iterdir())


def dlt_folder(one):
    return Path(one.working_dir)


def test_a_run_is_told_once_though_two_find_it(pipeline, monkeypatch):
    """A signal's report, or another thread, may have been quicker."""
    sink = RecordingSink()
    dltobs.configure(sinks=[sink])
    run_oddly(pipeline("odd"))
    tracker = _state.runtime.tracker

    def slow(state):
        if state.run.transaction_id in tracker._runs:
            tracker.interrupt("SIGTERM")
        return True

    monkeypatch.setattr("dltobs._runs.tracker.is_untold", slow)
    dltobs.shutdown()
    assert ends(sink) == []


def test_a_run_of_another_thread_that_ended_untold_is_told_at_shutdown(pipeline):
    sink = RecordingSink()
    dltobs.configure(sinks=[sink])
    thread = threading.Thread(target=run_oddly, args=(pipeline("odd"),))
    thread.start()
    thread.join()
    dltobs.shutdown()
    assert ends(sink) == [("odd", "failed")]


def test_a_run_that_is_on_is_not_taken_for_untold(pipeline):
    """Its pipeline is in its trace."""
    sink = RecordingSink()
    dltobs.configure(sinks=[sink])
    is_on, may_end = threading.Event(), threading.Event()

    @dlt.resource
    def outer():
        is_on.set()
        assert may_end.wait(30)
        yield {"id": 1}

    thread = threading.Thread(target=lambda: pipeline("outer").run(outer()))
    thread.start()
    assert is_on.wait(30)
    pipeline("other").run([{"id": 1}], table_name="t")
    may_end.set()
    thread.join()
    assert ends(sink) == [("other", "ok"), ("outer", "ok")]


def test_the_exit_of_a_handler_passes_through_a_sink(tmp_path):
    """It comes wherever the main thread is, here in our hook, and is meant for the program."""
    result = run_script(
        """
        import signal
        import dltobs

        class Slow:
            def emit(self, event):
                if type(event).__name__ == "RunStarted":
                    os.kill(os.getpid(), signal.SIGTERM)
            def flush(self, timeout):
                return True
            def close(self):
                pass

        class Exiting:
            def emit(self, event):
                if type(event).__name__ == "RunStarted":
                    raise SystemExit(3)
            flush = Slow.flush
            close = Slow.close

        def leave(number, frame):
            sys.exit(7)

        signal.signal(signal.SIGTERM, leave)
        dltobs.configure(sinks=[Exiting(), Slow()])
        pipeline().run([{"id": 1}], table_name="orders")
        print("survived")
        """,
        tmp_path,
    )
    assert result.returncode == 7, result.stderr
    assert "survived" not in result.stdout
    assert "sink Exiting" in result.stderr


TWO_RUNS = """
import signal
import threading
import time
import dltobs

class Slow:
    def emit(self, event):
        kind = type(event).__name__
        if kind == "RunFinished" and event.outcome == "terminated":
            if self.told:
                time.sleep(60)
            self.told.append(event.run.pipeline)
        if kind in {"RunFinished", "RunLost"}:
            with open("told.jsonl", "a") as file:
                print(json.dumps([event.run.pipeline, event.outcome]), file=file)
    def flush(self, timeout):
        return True
    def close(self):
        pass

sink = Slow()
sink.told = []
dltobs.configure(sinks=[sink], flush_timeout=2)
"""


def test_a_run_that_a_slow_sink_was_not_told_of_is_lost_for_the_next_one(tmp_path):
    """Its marker stays; that of the one that it was told of does not."""
    died = run_script(
        TWO_RUNS
        + """
begun = threading.Barrier(3)

@dlt.resource
def waiting():
    begun.wait(60)
    time.sleep(60)
    yield {"id": 1}

for name in ("one", "two"):
    threading.Thread(target=pipeline(name).run, args=(waiting(),), daemon=True).start()
begun.wait(60)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
""",
        tmp_path,
    )
    assert died.returncode == -signal.SIGTERM, died.stderr
    later = run_script(
        TWO_RUNS + 'for name in ("one", "two"):\n    pipeline(name).run([{"id": 1}], table_name="t")\n',
        tmp_path,
    )
    assert later.returncode == 0, later.stderr
    told = [tuple(json.loads(line)) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    first = told[0][0]
    second = {"one": "two", "two": "one"}[first]
    assert told[0] == (first, "terminated")
    assert sorted(told[1:]) == sorted([(second, "lost"), ("one", "ok"), ("two", "ok")])


class Told:
    def __init__(self, count):
        self.events = []
        self.count = count

    def emit(self, event):
        if len(self.events) == self.count:
            raise KeyboardInterrupt
        self.events.append(event)


class Log(Told):
    is_log = True


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((3, 3), []),
        ((3, 0), []),  # hangs: nobody waits for it
        ((3, 2), [2]),
        ((1, 2), [1, 2]),
        ((0, 0), [0, 1, 2]),
        ((), []),
    ],
)
def test_what_no_sink_or_a_slow_one_has_not_taken_is_untold(pipeline, counts, expected):
    recording = RecordingSink()
    dltobs.configure(sinks=[recording])
    for _ in range(3):
        pipeline().run([{"id": 1}], table_name="t")
    redactor = Redactor()
    dispatcher = Dispatcher([Log(3), *map(Told, counts)], redactor, Warner(redactor))
    calls, untold = dispatcher.emitters(recording.runs)
    for call in calls:
        with contextlib.suppress(KeyboardInterrupt):
            call()
    assert untold() == {recording.runs[number].run.transaction_id for number in expected}


def test_the_thread_of_the_markers_ends_with_the_set_up(pipeline):
    before = set(threading.enumerate())
    for _ in range(3):
        dltobs.configure(sinks=[RecordingSink()])
        pipeline().run([{"id": 1}], table_name="t")
        dltobs.shutdown()
    end = time.monotonic() + 10  # less than the pause between two signs of life
    while any(one.name == "dltobs-markers" for one in set(threading.enumerate()) - before):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_marker_of_a_clock_that_was_ahead_is_one_of_a_lost_run(pipeline, monkeypatch):
    """Where the kernel cannot be asked, its time is the only sign of life."""
    monkeypatch.setattr("dltobs._runs.markers.is_alive", lambda *_: None)
    one = pipeline()
    dltobs.configure()
    one.run([{"id": 1}], table_name="t")
    monkeypatch.setattr("dltobs._runs.markers.RunMarkers.end", lambda *_: None)
    one.run([{"id": 1}], table_name="t")
    dltobs.shutdown()
    monkeypatch.undo()
    monkeypatch.setattr("dltobs._runs.markers.is_alive", lambda *_: None)
    (path,) = (dlt_folder(one) / FOLDER).iterdir()
    os.utime(path, (time.time() + 3600, time.time() + 3600))
    sink = RecordingSink()
    dltobs.configure(sinks=[sink])
    one.run([{"id": 1}], table_name="t")
    assert [event.outcome for event in sink.events if type(event).__name__ == "RunLost"] == ["lost"]
