"""configure(), shutdown(), exit and fork."""

from __future__ import annotations

import logging
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import dlt
import pytest
from dlt.common import logger as dlt_logger
from dlt.common.configuration.specs.base_configuration import BaseConfiguration
from dlt.common.configuration.utils import TraceLogContext
from dlt.common.runners import pool_runner
from dlt.pipeline import trace as dlt_trace
from dlt.pipeline.exceptions import PipelineStepFailed
from opentelemetry import trace

import dltobs
from conftest import SECRET
from dltobs import ConfigurationError, _state
from dltobs._context.current import current_run
from dltobs._context.propagation import LoadThreads
from dltobs._process import deadline
from recording import FailingSink, RecordingSink
from scripts import PRELUDE, SLACK, WITHOUT_THREADS, run_script
from servers import OtlpServer, attributes_of

STEPS = ["extract", "normalize", "load", "run shop"]


def steps_of(server: OtlpServer) -> list[str]:
    """The names of the spans of steps, without those of their parts, in the order of their ends."""
    parts = {"extract", "normalize", "load"}
    return [span.name for span in server.spans if span.name in parts or span.name.startswith("run ")]


def runs_counted(server: OtlpServer) -> dict[str, int]:
    """How many runs of each pipeline the points count; each of them has come once."""
    points = [point for point in server.points if point.name == "dlt.runs"]
    found = {point.attributes["dlt.pipeline.name"]: int(point.value) for point in points}
    assert len(found) == len(points)
    return found


def attached() -> dict[str, object]:
    """Everything in the process that a set-up changes."""
    from dlt.common import logger

    current = vars(logger)["LOGGER"]
    return {
        "hooks": list(dlt_trace.TRACKING_MODULES),
        "logger": vars(logger)["_create_logger"],
        "handlers": [type(handler) for handler in current.handlers] if current else None,
        "filters": list(current.filters) if current else None,
        "level": current.level if current else None,
        "own": list(logging.getLogger("dltobs").handlers),
        "pool": pool_runner.TimeoutThreadPoolExecutor,
        "except": sys.excepthook,
        "thread_except": threading.excepthook,
        "resolve": BaseConfiguration.call_method_in_mro,
        "log": TraceLogContext.log,
    }


def test_the_import_brings_no_back_end_along(tmp_path):
    """Nor does configure() with nothing switched on."""
    result = run_script(
        """
        heavy = ("sentry_sdk", "loguru", "opentelemetry.exporter", "opentelemetry.sdk.trace.export", "grpc")
        import dltobs
        print([name for name in heavy if name in sys.modules and name not in heavy_before])
        dltobs.configure()
        pipeline().run([{"id": 1}], table_name="orders")
        print([name for name in heavy if name in sys.modules and name not in heavy_before])
        """,
        tmp_path,
        prelude="import sys\n" + "import dlt\nheavy_before = set(sys.modules)\n"
        "def pipeline():\n    return dlt.pipeline('shop', destination=dlt.destinations.duckdb('x.duckdb'))\n",
    )
    assert result.stdout.splitlines() == ["[]", "[]"], result.stderr


def test_the_same_settings_twice_change_nothing(otlp, pipeline):
    """Before and after the first run, which installs the provider."""
    dltobs.configure(otlp_endpoint=otlp.url)
    first, state = _state.runtime, attached()
    dltobs.configure(otlp_endpoint=otlp.url)
    pipeline().run([{"id": 1}], table_name="orders")
    dltobs.configure(otlp_endpoint=otlp.url)
    assert _state.runtime is first
    assert attached() == state
    dltobs.shutdown()
    assert steps_of(otlp) == STEPS
    assert runs_counted(otlp) == {"shop": 1}


def test_the_same_variables_twice_change_nothing(monkeypatch, otlp, pipeline):
    """Our own provider, which stands after the first run, is not taken for the application's."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.url)
    dltobs.configure()
    first = _state.runtime
    pipeline().run([{"id": 1}], table_name="orders")
    dltobs.configure()
    assert _state.runtime is first
    dltobs.shutdown()
    assert steps_of(otlp) == STEPS
    assert runs_counted(otlp) == {"shop": 1}


@pytest.mark.parametrize("by", ["argument", "variable"])
def test_other_settings_move_delivery_to_the_new_endpoint(monkeypatch, otlp, pipeline, by):
    """What ran before is delivered to the old one."""
    other = OtlpServer()

    def configure(url):
        if by == "variable":
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        dltobs.configure(**({"otlp_endpoint": url} if by == "argument" else {}))

    try:
        configure(otlp.url)
        pipeline("before").run([{"id": 1}], table_name="orders")
        configure(other.url)
        assert otlp.named("run before")
        assert runs_counted(otlp) == {"before": 1}
        pipeline("after").run([{"id": 1}], table_name="orders")
        dltobs.shutdown()
        assert steps_of(otlp) == ["extract", "normalize", "load", "run before"]
        assert steps_of(other) == ["extract", "normalize", "load", "run after"]
        assert runs_counted(otlp) == {"before": 1}
        assert runs_counted(other) == {"after": 1}
        assert dltobs.status() == {
            "otlp": dltobs.BackendStatus(delivered=len(other.spans)),
            "otlp_metrics": dltobs.BackendStatus(delivered=len(other.points)),
        }
    finally:
        other.close()


def test_a_wrong_setting_leaves_the_running_set_up_running(otlp, pipeline):
    dltobs.configure(otlp_endpoint=otlp.url)
    running, state = _state.runtime, attached()
    with pytest.raises(ConfigurationError):
        dltobs.configure(otlp_endpoint=otlp.url, log_level="LOUD")
    assert _state.runtime is running
    assert attached() == state
    pipeline().run([{"id": 1}], table_name="orders")
    dltobs.shutdown()
    assert otlp.named("run shop")


@pytest.mark.parametrize("order", ["before the first pipeline", "after it"])
@pytest.mark.parametrize(
    "settings",
    [
        {"log_fle": "x"},
        {"log_level": "LOUD"},
        {"log_file": "/proc/x/y"},
        {"sentry_dsn": "https://sentry.example/1"},
        {"otlp_endpoint": "nowhere"},
        {"sinks": [object()]},
    ],
)
def test_a_wrong_setting_leaves_nothing_attached(pipeline, order, settings):
    if order == "after it":
        pipeline()
    before = attached()
    with pytest.raises(ConfigurationError):
        dltobs.configure(**settings)
    after = attached()
    if order.startswith("before"):
        # dlt makes its logger for whoever asks first; it is its own
        assert after["handlers"] in (None, [logging.StreamHandler])
        for name in ("filters", "level", "handlers"):
            before.pop(name, None), after.pop(name, None)
    assert after == before


def test_a_part_that_cannot_be_attached_leaves_nothing_attached(monkeypatch, pipeline):
    """Something in dlt is not as expected."""
    pipeline()
    before = attached()

    def attach(self):
        raise RuntimeError("dlt has changed")

    monkeypatch.setattr(LoadThreads, "attach", attach)
    with pytest.raises(RuntimeError):
        dltobs.configure()
    assert attached() == before
    assert _state.runtime is None


@pytest.mark.parametrize("order", ["before the first pipeline", "after it"])
def test_shutdown_takes_everything_away_and_may_be_called_twice(tmp_path, otlp, sentry, pipeline, order):
    if order == "after it":
        pipeline()
    before = attached()
    dltobs.configure(
        otlp_endpoint=otlp.url, sentry_dsn=sentry.dsn, log_file=tmp_path / "x.log", log_level="INFO"
    )
    during = attached()
    pipeline().run([{"id": 1}], table_name="orders")
    dltobs.shutdown()
    dltobs.shutdown()
    after = attached()
    unchanged = [name for name in before if before[name] == during[name]]
    assert set(unchanged) <= {"handlers", "filters", "level"} if order != "after it" else not unchanged
    if order.startswith("before"):
        for name in ("filters", "level", "handlers"):
            before.pop(name), after.pop(name)
    assert after == before
    sent = len(otlp.requests)
    pipeline().run([{"id": 1}], table_name="orders")
    assert len(otlp.requests) == sent


def test_enabled_false_attaches_nothing_and_ends_what_ran(pipeline):
    sink = RecordingSink()
    pipeline()
    before = attached()
    dltobs.configure(enabled=False, sinks=[sink])
    assert attached() == before
    dltobs.configure(sinks=[sink])
    dltobs.configure(enabled="no", sinks=[sink])
    assert attached() == before
    assert sink.closed == 1
    pipeline().run([{"id": 1}], table_name="orders")
    assert sink.events == []


@pytest.mark.parametrize("order", ["before the first pipeline", "after it", "after its first run"])
def test_the_order_of_configure_and_the_first_pipeline_does_not_matter(
    tmp_path, monkeypatch, otlp, sentry, pipeline, order
):
    """A secret that dlt has resolved before is known as well."""
    monkeypatch.setenv("API_KEY", SECRET)

    @dlt.resource
    def orders(api_key: str = dlt.secrets.value, *, fail: bool = True):
        yield {"id": 1}
        dlt_logger.warning("page 1")
        if fail:
            raise ValueError(f"401 for {api_key}")

    def configure():
        dltobs.configure(
            otlp_endpoint=otlp.url, sentry_dsn=sentry.dsn, log_file=tmp_path / "dlt.jsonl", log_level="INFO"
        )

    if order.startswith("before"):
        configure()
    one = pipeline()
    failing = orders()  # the secret is resolved now
    if order == "after it":
        configure()
    if order == "after its first run":
        one.run(orders(fail=False))
        configure()
    with pytest.raises(PipelineStepFailed):
        one.run(failing)
    dltobs.shutdown()

    assert [span.name for span in otlp.spans] == ["extract", "run shop"]
    (event,) = sentry.events
    assert event["exception"]["values"][0]["value"] == "401 for ***"
    log = (tmp_path / "dlt.jsonl").read_text()
    assert '"pipeline":"shop"' in log
    for leak in (otlp.raw, sentry.raw, log.encode()):
        assert SECRET.encode() not in leak


@pytest.mark.parametrize("end", ["pass", "sys.exit(3)", "raise ValueError('end')", "dltobs.shutdown()"])
def test_the_end_of_the_process_delivers(tmp_path, otlp, sentry, end):
    result = run_script(
        f"""
        import dltobs
        dltobs.configure()
        try:
            pipeline().run(broken())
        except Exception:
            pass
        {end}
        """,
        tmp_path,
        DLTOBS__OTLP_ENDPOINT=otlp.url,
        DLTOBS__SENTRY_DSN=sentry.dsn,
    )
    assert result.returncode == (3 if "exit" in end else 1 if "raise" in end else 0), result.stderr
    assert otlp.named("run shop")
    assert len(sentry.events) == 1


def exit_time(tmp_path, source="", **variables) -> tuple[float, str]:
    """The seconds from the last line of a script with a failed run to the end of its process."""
    result = run_script(
        f"""
        import time, dltobs
        dltobs.configure()
        {source}
        try:
            pipeline().run(broken())
        except Exception:
            pass
        print(time.monotonic())
        """,
        tmp_path,
        **variables,
    )
    end = time.monotonic()
    return end - float(result.stdout.split()[-1]), result.stderr


def test_the_exit_is_within_one_deadline_for_all_that_hang(tmp_path, otlp, sentry):
    """A collector and a Sentry that accept and never answer; a sink of the user's that never ends."""
    otlp.delay = sentry.delay = 30
    seconds, stderr = exit_time(
        tmp_path,
        DLTOBS__OTLP_ENDPOINT=otlp.url,
        DLTOBS__SENTRY_DSN=sentry.dsn,
        DLTOBS__FLUSH_TIMEOUT="1",
    )
    assert seconds < 1 + SLACK
    assert "otlp: 2 spans kept in the spool (not sent before the deadline)" in stderr
    assert "sentry: 1 event kept in the spool (not sent before the deadline)" in stderr
    assert "otlp_metrics: 3 points kept in the spool (not sent before the deadline)" in stderr
    assert stderr.count("kept in the spool") == 3
    assert "could not be delivered" not in stderr


def test_a_flush_timeout_of_zero_keeps_what_is_queued_and_says_so(tmp_path, otlp):
    otlp.delay = 30
    seconds, stderr = exit_time(tmp_path, DLTOBS__OTLP_ENDPOINT=otlp.url, DLTOBS__FLUSH_TIMEOUT="0")
    assert seconds < SLACK
    assert stderr.count("kept in the spool") == 2  # of spans and of metrics


def test_the_longest_flush_timeout_is_no_error_at_the_end():
    """Python's locks do not wait for longer than some centuries."""
    sink = RecordingSink()
    dltobs.configure(sinks=[sink], flush_timeout=1e300)
    dltobs.shutdown()
    assert sink.closed == 1


def test_shutdown_waits_for_all_sinks_together_not_for_one_after_the_other():
    """Sinks that hang take one flush_timeout; that of each would be far above the slack."""
    forever = threading.Event()

    class Hanging(RecordingSink):
        def flush(self, timeout):
            return forever.wait(30)

        def close(self):
            forever.wait(30)

    dltobs.configure(sinks=[Hanging() for _ in range(20)], flush_timeout=0.5)
    begin = time.monotonic()
    dltobs.shutdown()
    assert time.monotonic() - begin < 0.5 + SLACK
    forever.set()


def test_a_sink_that_fails_in_everything_does_not_keep_the_others_from_it(pipeline):
    sink = RecordingSink()
    dltobs.configure(sinks=[FailingSink(), sink])
    pipeline().run([{"id": 1}], table_name="orders")
    dltobs.shutdown()
    assert sink.run.outcome == "ok"
    assert sink.closed == 1


def test_a_forked_child_neither_flushes_nor_hangs_at_its_exit(tmp_path, otlp, sentry):
    """The parent delivers, once; a child that calls shutdown() delivers nothing either."""
    result = run_script(
        """
        import dltobs
        dltobs.configure()
        one = pipeline()
        try:
            one.run(broken())
        except Exception:
            pass
        for act in (lambda: None, dltobs.shutdown):
            child = os.fork()
            if child == 0:
                act()
                assert not dltobs.status()["otlp"].dropped
                sys.exit(0)
            print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        """,
        tmp_path,
        DLTOBS__OTLP_ENDPOINT=otlp.url,
        DLTOBS__SENTRY_DSN=sentry.dsn,
        PYTHONWARNINGS="ignore::DeprecationWarning",  # Python 3.12 and later advise against fork
    )
    assert result.stdout.split() == ["child", "0", "child", "0"], result.stderr
    (line,) = result.stderr.splitlines()
    assert "Run of shop failed in extract (resource broken)" in line
    assert len(otlp.spans) == 2
    assert len(sentry.events) == 1
    assert runs_counted(otlp) == {"shop": 1}


def test_a_forked_child_that_configures_delivers_its_own_runs(tmp_path, otlp):
    """The same settings, but the set-up is the parent's."""
    result = run_script(
        """
        import dltobs
        dltobs.configure()
        load("parent")
        child = os.fork()
        if child == 0:
            dltobs.configure()
            load("child")
            sys.exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """,
        tmp_path,
        prelude=PRELUDE + WITHOUT_THREADS,
        DLTOBS__OTLP_ENDPOINT=otlp.url,
    )
    assert result.stdout.split() == ["0"], result.stderr
    assert otlp.named("run parent")
    assert otlp.named("run child")
    assert len(steps_of(otlp)) == 8
    assert len({span.span_id for span in otlp.spans}) == len(otlp.spans)
    assert runs_counted(otlp) == {"parent": 1, "child": 1}


def test_status_can_be_read_after_shutdown_and_begins_anew_with_a_new_set_up(otlp, pipeline):
    assert dltobs.status() == {}
    dltobs.configure(otlp_endpoint=otlp.url)
    pipeline().run([{"id": 1}], table_name="orders")
    dltobs.shutdown()
    assert {name: one.delivered for name, one in dltobs.status().items()} == {
        "otlp": len(otlp.spans),
        "otlp_metrics": len(otlp.points),
    }
    assert otlp.spans
    assert otlp.points
    dltobs.configure(otlp_endpoint=otlp.url)
    assert {name: one.delivered for name, one in dltobs.status().items()} == {"otlp": 0, "otlp_metrics": 0}


def test_calls_run_side_by_side_within_one_time_out():
    """Each waits for the others."""
    barrier = threading.Barrier(3, timeout=10)
    assert deadline.run_within(10, barrier.wait, barrier.wait, barrier.wait)


def test_a_call_that_is_late_or_fails_or_says_no_makes_the_result_false():
    event = threading.Event()

    def fails():
        raise ValueError

    assert deadline.run_within(5, lambda: None, lambda: True)
    assert not deadline.run_within(5, lambda: None, lambda: False)
    assert not deadline.run_within(5, lambda: None, fails)
    assert not deadline.run_within(0.01, lambda: None, lambda: event.wait(30))
    event.set()


def test_where_no_thread_can_be_started_any_more_the_spare_ones_keep_the_deadline(monkeypatch):
    """As in the exit of Python 3.12."""
    event = threading.Event()
    monkeypatch.setattr(deadline, "_NO_THREADS_AT_EXIT", True)
    monkeypatch.setattr(deadline, "_spare", deadline._SpareThreads())
    deadline.reserve(2)

    def start(self):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", start)
    begin = time.monotonic()
    assert not deadline.run_within(0.1, lambda: event.wait(30), lambda: True)
    assert time.monotonic() - begin < 0.1 + SLACK
    event.set()
    numbers = count()
    assert deadline.run_within(5, lambda: next(numbers), lambda: next(numbers))
    assert next(numbers) == 2


def test_where_there_are_no_spare_threads_either_the_calls_are_made_all_the_same(monkeypatch):
    monkeypatch.setattr(deadline, "_spare", deadline._SpareThreads())

    def start(self):
        raise RuntimeError

    monkeypatch.setattr(threading.Thread, "start", start)
    assert deadline.run_within(0.1, lambda: True)


class Paused:
    """A run in a thread of its own, which waits in the middle of extract until it may go on."""

    def __init__(self, one, *, fails=False):
        self.executor = ThreadPoolExecutor(1)
        self.started, self.may_go_on = threading.Event(), threading.Event()

        @dlt.resource(name="slow")
        def rows():
            yield {"id": 1}
            self.started.set()
            self.may_go_on.wait(30)
            if fails:
                message = "no more"
                raise ValueError(message)
            yield {"id": 2}

        self.run = self.executor.submit(one.run, rows())
        assert self.started.wait(30)

    def finish(self):
        self.may_go_on.set()
        return self.run.exception(60)

    def context(self):
        """What is current in the thread of the run, now that it is over."""
        return self.executor.submit(
            lambda: (current_run.get(), trace.get_current_span().get_span_context().is_valid)
        ).result(30)


def test_a_run_goes_on_under_the_set_up_that_replaces_its_own(otlp, sentry, pipeline):
    """Its spans end with their outcome, its failure is reported, and its thread is left as it was."""
    dltobs.configure(otlp_endpoint=otlp.url, sentry_dsn=sentry.dsn, console="off")
    paused = Paused(pipeline("one"), fails=True)
    dltobs.configure(otlp_endpoint=otlp.url, sentry_dsn=sentry.dsn, console="off", environment="b")
    assert paused.finish() is not None
    assert paused.context() == (None, False)
    paused.executor.submit(pipeline("two").run, [{"id": 1}], table_name="x").result(60)
    dltobs.shutdown()

    assert attributes_of(otlp.named("run one"))["dlt.outcome"] == "failed"
    two = otlp.named("run two")
    assert two.trace_id.hex() == attributes_of(two)["dlt.transaction_id"]
    assert not two.parent_span_id
    assert [event["tags"]["dlt.pipeline.name"] for event in sentry.events] == ["one"]


@pytest.mark.parametrize("replacement", [{"tracing": "off"}, {"enabled": False}, None])
def test_a_run_whose_set_up_ends_leaves_its_thread_as_it_was(otlp, pipeline, replacement):
    """The hooks stay until the last run has ended, and no longer."""
    before = list(dlt_trace.TRACKING_MODULES)
    dltobs.configure(otlp_endpoint=otlp.url, console="off")
    paused = Paused(pipeline("one"))
    if replacement is None:
        dltobs.shutdown()
    else:
        dltobs.configure(console="off", **replacement)
    assert paused.finish() is None
    assert paused.context() == (None, False)
    dltobs.shutdown()
    assert before == dlt_trace.TRACKING_MODULES


def test_nothing_comes_out_raw_while_one_set_up_replaces_another(monkeypatch, capfd):
    """Another thread goes on logging all the time."""
    monkeypatch.setenv("API_KEY", SECRET)
    dltobs.configure(console="text")
    secret = dlt.secrets["api_key"]
    is_over = threading.Event()

    def log():
        while not is_over.wait(0.0005):
            dlt.common.logger.error("with %s", secret)

    thread = threading.Thread(target=log)
    thread.start()
    for number in range(20):
        dltobs.configure(console="text", environment=f"number {number}")
    is_over.set()
    thread.join()
    written = capfd.readouterr().err
    assert "with ***" in written
    assert SECRET not in written


@pytest.mark.parametrize("tracing", ["auto", "off"])
@pytest.mark.parametrize("ending", ["sys.exit(0)", "dltobs.shutdown(); os._exit(0)"])
def test_a_forked_child_delivers_what_it_has_made_itself(tmp_path, otlp, ending, tracing):
    """Without a configure() of its own; the parent's spans and points are the parent's."""
    result = run_script(
        """
        import dltobs
        dltobs.configure()
        load("parent")
        if not (child := os.fork()):
            load("child")
            ENDING
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """.replace("ENDING", ending),
        tmp_path,
        prelude=PRELUDE + WITHOUT_THREADS,
        DLTOBS__OTLP_ENDPOINT=otlp.url,
        DLTOBS__TRACING=tracing,
        PYTHONWARNINGS="ignore::DeprecationWarning",
    )
    assert result.stdout.split() == ["0"], result.stderr
    roots = sorted(span.name for span in otlp.spans if span.name.startswith("run"))
    assert roots == ([] if tracing == "off" else ["run child", "run parent"])
    assert len(steps_of(otlp)) == 4 * len(roots)
    assert runs_counted(otlp) == {"parent": 1, "child": 1}


@pytest.mark.parametrize("end", ["", "dltobs.shutdown()"])
def test_a_child_of_multiprocessing_delivers_what_it_has_made_itself(tmp_path, otlp, sentry, end):
    """It exits without asking `atexit`; its spans, points and events arrive, once."""
    result = run_script(
        """
        import multiprocessing
        import dltobs
        dltobs.configure()
        load("parent")

        def work():
            load("child")
            try:
                pipeline("failing").run(broken())
            except Exception:
                pass
            END

        child = multiprocessing.get_context("fork").Process(target=work)
        child.start()
        child.join()
        print(child.exitcode)
        """.replace("END", end),
        tmp_path,
        prelude=PRELUDE + WITHOUT_THREADS,
        DLTOBS__OTLP_ENDPOINT=otlp.url,
        DLTOBS__SENTRY_DSN=sentry.dsn,
        PYTHONWARNINGS="ignore::DeprecationWarning",
    )
    assert result.stdout.split() == ["0"], result.stderr
    roots = sorted(span.name for span in otlp.spans if span.name.startswith("run"))
    assert roots == ["run child", "run failing", "run parent"]
    assert runs_counted(otlp) == {"parent": 1, "child": 1, "failing": 1}
    assert len(sentry.events) == 1
