"""A process that a signal ends reports its runs first, and dies as it would have without dltobs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dlt
import pytest

import dltobs
from recording import RecordingSink
from scripts import start_python
from servers import attributes_of

if TYPE_CHECKING:
    from collections.abc import Iterator

PRELUDE = """
import ctypes, json, os, signal, sys, threading, time
import dlt
import dltobs
from dlt.common.runtime import signals as dlts

class FileSink:
    '''Appends the end of each run to a file, whatever thread it comes on.'''

    def emit(self, event):
        if isinstance(event, (dltobs.RunFinished, dltobs.RunLost)):
            failed = getattr(event, "failed_step", None)
            failure = None if failed is None else failed.failure
            line = {
                "outcome": event.outcome,
                "transaction_id": event.run.transaction_id,
                "step": None if failure is None else failure.step,
                "error_type": None if failure is None else failure.error_type,
                "message": None if failure is None else failure.message,
                "frames": [] if failure is None else [frame.function for info in failure.chain for frame in info.frames],
                "steps": [(step.step, step.failure is not None) for step in getattr(event, "steps", ())],
            }
            with open("ends.jsonl", "a") as file:
                file.write(json.dumps(line) + "\\n")

    def flush(self, timeout):
        return True

    def close(self):
        pass

def pipeline(name="shop", **options):
    options.setdefault("destination", dlt.destinations.duckdb(f"{name}.duckdb"))
    return dlt.pipeline(name, pipelines_dir="pipelines", dataset_name=f"{name}_data", **options)

def ready():
    print("ready", flush=True)

def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)

@dlt.resource
def sleeping():
    yield {"id": 1}
    ready()
    time.sleep(60)
    yield {"id": 2}
"""

FLUSH_TIMEOUT = 2.0
LIMIT = 10.0
"""Seconds until a process is gone, however slow the machine is; what hangs does so for 30 or more."""
DESCRIPTORS = Path("/proc/self/fd")


class Ended:
    """How a process ended: its status as of `subprocess`, after how many seconds, and what it left."""

    def __init__(self, folder: Path, status: int, seconds: float, stderr: str) -> None:
        self.status = status
        self.seconds = seconds
        self.stderr = stderr
        path = folder / "ends.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        self.ends: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self.markers = sorted(path.name for path in folder.glob("pipelines/*/dltobs_runs/*"))

    @property
    def end(self) -> dict[str, Any]:
        (end,) = self.ends
        return end


def end_by(
    folder: Path,
    source: str,
    *signals: int,
    is_busy: bool = False,
    is_ready_for_each: bool = False,
    command: tuple[str, ...] = (),
    limit: float = LIMIT,
    **variables: str,
) -> Ended:
    """Run a script, send it these signals when it says `ready`, and see that it ends within the limit.

    Args:
        folder: Where.
        source: The script.
        signals: All at once.
        is_busy: It computes when it is where it said that it is going; else it sleeps.
        is_ready_for_each: It says `ready` again before each further signal.
        command: What runs it.
        limit: Seconds.
        variables: Of its environment.
    """
    script = folder / "script.py"
    script.write_text(PRELUDE + textwrap.dedent(source))
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment |= {
        "RUNTIME__DLTHUB_TELEMETRY": "false",
        "DLT_DATA_DIR": str(folder / "dlt"),
        "DLTOBS__FLUSH_TIMEOUT": str(FLUSH_TIMEOUT),
        **variables,
    }
    if command:
        process = subprocess.Popen(
            [*command, sys.executable, str(script)],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    else:
        process = start_python([str(script)], folder, environment)
    try:
        _await_ready(process)
        target = _innermost(process.pid) if command else process.pid
        if signals:
            _await_arrival(target, is_busy=is_busy)
        started = time.monotonic()
        for count, number in enumerate(signals):
            if count and is_ready_for_each:
                _await_ready(process)
                _await_arrival(target, is_busy=is_busy)
            os.kill(target, number)
        _, stderr = process.communicate(timeout=20 if limit < 20 else limit + 5)
        seconds = time.monotonic() - started
    finally:
        process.kill()
        process.wait()
    assert seconds < limit, stderr
    return Ended(folder, process.returncode, seconds, stderr)


def _await_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "ready":
            return
    pytest.fail(f"it never was ready: {process.communicate()[1]}")


def _await_arrival(pid: int, *, is_busy: bool) -> None:
    """Wait until a process is where it said that it is going: all of its threads sleep, and go on sleeping."""
    if is_busy or not DESCRIPTORS.exists():
        time.sleep(0.1)
        return
    looks, deadline = 0, time.monotonic() + 5
    while looks < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
        looks = looks + 1 if _sleeps(pid) else 0


def _sleeps(pid: int) -> bool:
    """Whether all threads of a process do, or it has ended."""
    try:
        stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:  # a thread has ended meanwhile
        return False
    return all(stat.rpartition(")")[2].split()[0] in "SZ" for stat in stats)


def _innermost(pid: int) -> int:
    """The last of a chain of children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return _innermost(int(children[0])) if children else pid


RUN = "dltobs.configure(sinks=[FileSink()]); pipeline().run(sleeping())"


def test_sigterm_in_extract_ends_the_run_as_terminated(tmp_path):
    """The process dies of the signal as without dltobs, and the sinks hear where it was."""
    ended = end_by(tmp_path, RUN, signal.SIGTERM, DLTOBS__FLUSH_TIMEOUT="30")
    assert ended.status == -signal.SIGTERM
    assert ended.seconds < 10, "nothing is left to wait for"
    assert ended.end["outcome"] == "terminated"
    assert (ended.end["step"], ended.end["error_type"], ended.end["message"]) == (
        "extract",
        "Signal",
        "SIGTERM",
    )
    assert ended.end["steps"] == [["extract", True], ["run", True]]
    assert ended.end["frames"][-1] == "sleeping"
    assert ended.markers == []
    assert re.search(r"Run of shop terminated in extract after \d+\.\d s: SIGTERM", ended.stderr)


def test_without_the_setting_nothing_is_reported(tmp_path):
    """`handle_sigterm=false`: the process dies at once, and the marker stays for the next run."""
    ended = end_by(tmp_path, RUN, signal.SIGTERM, DLTOBS__HANDLE_SIGTERM="false")
    assert ended.status == -signal.SIGTERM
    assert ended.ends == []
    assert len(ended.markers) == 1


def test_spans_metrics_sentry_slack_and_the_log_say_terminated(tmp_path, otlp, sentry, slack):
    """Every back end gets the end of the run, with the same ids, before the process is gone."""
    ended = end_by(
        tmp_path,
        RUN,
        signal.SIGTERM,
        OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url,
        SENTRY_DSN=sentry.dsn,
        RUNTIME__LOG_FORMAT="JSON",
        DLTOBS__SLACK_INCOMING_HOOK=slack.hook,
    )
    assert ended.status == -signal.SIGTERM
    root, extract = otlp.named("run shop"), otlp.named("extract")
    assert attributes_of(root)["dlt.outcome"] == "terminated"
    assert attributes_of(root)["error.type"] == attributes_of(extract)["error.type"] == "Signal"
    assert extract.parent_span_id == root.span_id
    assert extract.status.code == root.status.code == 2
    (runs,) = [point for point in otlp.points if point.name == "dlt.runs"]
    assert runs.attributes["dlt.outcome"] == "terminated"
    (event,) = sentry.events
    assert event["tags"]["dlt.outcome"] == "terminated"
    assert event["exception"]["values"][0]["type"] == "Signal"
    assert event["exception"]["values"][0]["stacktrace"]["frames"][-1]["function"] == "sleeping"
    assert event["contexts"]["trace"]["trace_id"] == root.trace_id.hex() == ended.end["transaction_id"]
    (line,) = [json.loads(line) for line in ended.stderr.splitlines() if "Run of shop terminated" in line]
    assert (line["transaction_id"], line["step"]) == (ended.end["transaction_id"], "run")
    assert (line["level"], line["outcome"], line["failed_step"]) == ("ERROR", "terminated", "extract")
    (post,) = slack.posts
    assert post["text"].startswith("🟠 shop: terminated in extract")
    assert "Worth a retry: yes, it was stopped from outside" in post["text"]


def test_the_spans_of_the_application_are_exported_too(tmp_path):
    """Its provider would flush at exit, and there is none after a signal."""
    source = """
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

    class Files(SpanExporter):
        def export(self, spans):
            with open("spans", "a") as file:
                file.writelines(f"{span.name} {span.attributes.get('dlt.outcome')}\\n" for span in spans)

    trace.set_tracer_provider(TracerProvider())
    trace.get_tracer_provider().add_span_processor(BatchSpanProcessor(Files()))
    """
    end_by(tmp_path, textwrap.dedent(source) + RUN, signal.SIGTERM)
    assert (tmp_path / "spans").read_text().splitlines() == ["extract None", "run shop terminated"]


def test_a_long_c_call_does_not_hold_it_up(tmp_path):
    """The main thread cannot run a handler in it; the process exits with the status a shell gives it."""
    source = """
    @dlt.resource
    def in_c():
        yield {"id": 1}
        ready()
        deadline = time.monotonic() + 60
        ctypes.CDLL(None).usleep.argtypes = [ctypes.c_uint]
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # usleep would be interrupted
        for _ in range(60):
            ctypes.CDLL(None).usleep(60_000_000)

    # another thread takes the signal, so that the call is not even interrupted
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    dltobs.configure(sinks=[FileSink()]); pipeline().run(in_c())
    """
    ended = end_by(tmp_path, source, signal.SIGTERM)
    assert ended.status == 128 + signal.SIGTERM
    assert ended.end["outcome"] == "terminated"
    assert ended.markers == []


def test_a_query_of_duckdb_does_not_hold_it_up(tmp_path):
    """It runs for a long time without the interpreter's lock."""
    source = """
    import duckdb

    @dlt.resource
    def in_duckdb():
        yield {"id": 1}
        ready()
        duckdb.sql("select count(*) from range(10000000) a, range(10000000) b where a.range + b.range = 1.5").fetchall()

    dltobs.configure(sinks=[FileSink()]); pipeline().run(in_duckdb())
    """
    ended = end_by(tmp_path, source, signal.SIGTERM, is_busy=True)
    assert ended.status in {-signal.SIGTERM, 128 + signal.SIGTERM}
    assert ended.end["outcome"] == "terminated"


NORMALIZING = """
from dlt.normalize.normalize import Normalize

original = Normalize.spool_schema_files
def slow(self, *args, **kwargs):
    ready()
    wait_until(dlts.was_signal_received)
    return original(self, *args, **kwargs)
Normalize.spool_schema_files = slow
dltobs.configure(sinks=[FileSink()])
pipeline().run([{"id": 1}], table_name="orders")
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_in_normalize_dlt_drains_and_the_run_is_terminated(tmp_path, workers):
    """dlt takes the first signal, ends the step with an exception, and Python exits as it would have."""
    ended = end_by(tmp_path, NORMALIZING, signal.SIGTERM, NORMALIZE__WORKERS=workers, limit=15)
    assert ended.end["outcome"] == "terminated"
    assert ended.end["error_type"].endswith("SignalReceivedException")
    assert ended.markers == []
    plain = end_by(
        tmp_path,
        NORMALIZING,
        signal.SIGTERM,
        DLTOBS__ENABLED="false",
        NORMALIZE__WORKERS=workers,
        limit=15,
    )
    assert ended.status == plain.status


def test_a_second_signal_ends_what_dlt_drains(tmp_path):
    """The run is reported from where it is."""
    received = "wait_until(dlts.was_signal_received)"
    source = NORMALIZING.replace(received, f"{received}; ready(); time.sleep(60)")
    ended = end_by(tmp_path, source, signal.SIGTERM, signal.SIGTERM, is_ready_for_each=True)
    assert ended.status == -signal.SIGTERM
    assert (ended.end["outcome"], ended.end["step"]) == ("terminated", "normalize")
    assert ended.end["steps"] == [["extract", False], ["normalize", True], ["run", True]]


LOADING = """
@dlt.destination(name="slow", batch_size=0)
def slow(items, table):
    ready()
    wait_until(dlts.was_signal_received)

dltobs.configure(sinks=[FileSink()])
pipeline(destination=slow()).run([{"id": 1}], table_name="orders")
print("loaded", file=sys.stderr)
"""


def test_in_load_a_run_that_succeeds_is_ok(tmp_path):
    """dlt completes the jobs that have begun; where nothing is left to do that is a success."""
    ended = end_by(tmp_path, LOADING, signal.SIGTERM)
    plain = end_by(tmp_path, LOADING, signal.SIGTERM, DLTOBS__ENABLED="false")
    assert ended.status == plain.status
    if "loaded" in plain.stderr:
        assert ended.end["outcome"] == "ok"
    else:
        assert ended.end["outcome"] == "terminated"
    assert ended.markers == []


def test_where_dlt_does_not_intercept_the_signal_is_ours(tmp_path):
    """`intercept_signals=false` means that SIGTERM kills in load, too."""
    source = LOADING.replace("wait_until(dlts.was_signal_received)", "time.sleep(60)")
    ended = end_by(tmp_path, source, signal.SIGTERM, RUNTIME__INTERCEPT_SIGNALS="false")
    assert ended.status == -signal.SIGTERM
    assert (ended.end["outcome"], ended.end["step"]) == ("terminated", "load")


def test_ctrl_c_is_a_termination(tmp_path):
    """Python raises KeyboardInterrupt, and everything ends in its order."""
    ended = end_by(tmp_path, RUN, signal.SIGINT)
    plain = end_by(tmp_path, RUN, signal.SIGINT, DLTOBS__ENABLED="false")
    assert ended.status == plain.status != 0
    assert (ended.end["outcome"], ended.end["error_type"]) == ("terminated", "KeyboardInterrupt")
    assert ended.markers == []


def test_a_sigint_that_kills_is_handled_as_sigterm(tmp_path):
    """Somebody has taken Python's own handler away."""
    ended = end_by(tmp_path, "signal.signal(signal.SIGINT, signal.SIG_DFL)\n" + RUN, signal.SIGINT)
    assert ended.status == -signal.SIGINT
    assert (ended.end["outcome"], ended.end["message"]) == ("terminated", "SIGINT")


def test_an_earlier_handler_is_called_and_decides(tmp_path):
    """One that exits ends the run with its SystemExit: terminated, with the handler's status."""
    ended = end_by(
        tmp_path, "signal.signal(signal.SIGTERM, lambda *args: sys.exit(7))\n" + RUN, signal.SIGTERM
    )
    assert ended.status == 7
    assert (ended.end["outcome"], ended.end["error_type"]) == ("terminated", "SystemExit")
    assert ended.markers == []


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_handler_that_goes_on_lets_the_run_succeed(tmp_path, place):
    """Whether it was installed before configure() or later."""
    handler = 'signal.signal(signal.SIGTERM, lambda *args: asked.append(print("asked", file=sys.stderr)))'
    configure = "dltobs.configure(sinks=[FileSink()])"
    lines = [handler, configure] if place == "before" else [configure, handler]
    source = """
    asked = []

    @dlt.resource
    def orders():
        yield {"id": 1}
        ready()
        wait_until(lambda: asked)

    pipeline().run(orders())
    """
    ended = end_by(tmp_path, "\n".join(lines) + "\n" + textwrap.dedent(source), signal.SIGTERM, limit=10)
    assert (ended.status, ended.end["outcome"]) == (0, "ok")
    assert "asked" in ended.stderr


def test_an_ignored_signal_stays_ignored(tmp_path):
    source = """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    dltobs.configure(sinks=[FileSink()])

    @dlt.resource
    def orders():
        yield {"id": 1}
        ready()
        time.sleep(0.5)

    pipeline().run(orders())
    """
    ended = end_by(tmp_path, source, signal.SIGTERM, limit=10)
    assert (ended.status, ended.end["outcome"]) == (0, "ok")


def test_runs_in_threads_are_all_reported(tmp_path):
    """The main thread waits for them; none of them hears of the signal itself."""
    source = """
    dltobs.configure(sinks=[FileSink()])
    barrier = threading.Barrier(3)

    @dlt.resource
    def waiting():
        yield {"id": 1}
        barrier.wait()
        time.sleep(60)

    for name in ("one", "two"):
        threading.Thread(target=lambda name=name: pipeline(name).run(waiting())).start()
    barrier.wait()
    ready()
    """
    ended = end_by(tmp_path, source, signal.SIGTERM)
    assert ended.status == -signal.SIGTERM
    assert [end["outcome"] for end in ended.ends] == ["terminated"] * 2
    assert len({end["transaction_id"] for end in ended.ends}) == 2
    assert all(end["frames"][-1] == "waiting" for end in ended.ends)


def test_signals_that_follow_change_nothing(tmp_path):
    """`timeout` sends two at once, an impatient person many."""
    ended = end_by(tmp_path, RUN, *[signal.SIGTERM] * 30)
    assert ended.status == -signal.SIGTERM
    assert ended.end["outcome"] == "terminated"


def can_unshare() -> bool:
    try:
        return (
            subprocess.run(
                ["unshare", "-pf", "--mount-proc", "true"], capture_output=True, check=False
            ).returncode
            == 0
        )
    except OSError:
        return False


@pytest.mark.skipif(not can_unshare(), reason="unshare needs a privilege that this system does not give")
@pytest.mark.parametrize("is_in_c", [False, True])
def test_as_the_first_process_of_a_container_it_ends(tmp_path, is_in_c):
    """The kernel does not kill a PID 1 by a signal; it exits with 128 + 15, in a C call, too."""
    sleep = "ctypes.CDLL(None).sleep(60)" if is_in_c else "time.sleep(60)"
    source = f"""
    assert os.getpid() == 1

    @dlt.resource
    def orders():
        yield {{"id": 1}}
        ready()
        for _ in range(60): {sleep}

    dltobs.configure(sinks=[FileSink()]); pipeline().run(orders())
    """
    ended = end_by(tmp_path, source, signal.SIGTERM, command=("unshare", "-pf", "--mount-proc"))
    assert ended.status == 128 + signal.SIGTERM
    assert ended.end["outcome"] == "terminated"
    assert ended.markers == []


def test_a_back_end_that_hangs_is_given_up(tmp_path, otlp, sentry):
    """The process is gone when `flush_timeout` is over, and the other sinks have their events."""
    otlp.delay = sentry.delay = 30.0
    ended = end_by(tmp_path, RUN, signal.SIGTERM, OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url, SENTRY_DSN=sentry.dsn)
    assert ended.status == -signal.SIGTERM
    assert ended.end["outcome"] == "terminated"
    assert ended.markers == []


@pytest.mark.parametrize("place", ["emit", "elsewhere"])
def test_a_lock_that_the_main_thread_holds_costs_only_its_sink(tmp_path, place):
    """Whether it is held in a hook of ours or in the user's code, the others hear of the end."""
    source = f"""
    class LockedSink(FileSink):
        lock = threading.Lock()

        def emit(self, event):
            with self.lock:
                if {place!r} == "emit" and type(event).__name__ == "StepStarted" and event.step == "extract":
                    ready()
                    time.sleep(60)

    @dlt.resource
    def orders():
        yield {{"id": 1}}
        with LockedSink.lock:
            ready()
            time.sleep(60)

    dltobs.configure(sinks=[LockedSink(), FileSink()]); pipeline().run(orders())
    """
    ended = end_by(tmp_path, source, signal.SIGTERM)
    assert ended.status == -signal.SIGTERM
    assert ended.end["outcome"] == "terminated"


def test_a_sink_that_hangs_after_dlt_has_drained_does_not_hold_the_process_up(tmp_path):
    """dlt has taken the signal, and the process is to end: what the other sinks have heard is delivered."""
    source = NORMALIZING.replace(
        "dltobs.configure(sinks=[FileSink()])",
        """
class HangingSink(FileSink):
    def emit(self, event):
        if type(event).__name__ == "StepFinished" and event.step == "normalize":
            threading.Event().wait()

dltobs.configure(sinks=[FileSink(), HangingSink()])
""",
    )
    ended = end_by(tmp_path, source, signal.SIGTERM)
    assert ended.status == -signal.SIGTERM
    assert ended.end["outcome"] == "terminated"
    assert ended.markers == []


def test_a_lock_that_is_held_for_a_moment_is_let_go(tmp_path):
    """The interrupted main thread goes on for a while when the report may be waiting for it."""
    source = """
    import logging

    @dlt.resource
    def orders():
        yield {"id": 1}
        with threading._active_limbo_lock:  # without it no thread can be started
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(1000): pass
        time.sleep(60)

    ready()
    dltobs.configure(sinks=[FileSink()]); pipeline().run(orders())
    """
    ended = end_by(tmp_path, source, limit=10)
    assert ended.status == -signal.SIGTERM
    assert ended.end["outcome"] == "terminated"


@pytest.mark.parametrize("delay", [0.5, 1.0], ids=["a quick collector", "a slow collector"])
def test_a_signal_during_the_exit_does_not_cut_it_short(tmp_path, otlp, delay):
    """What is delivered by then is delivered within `flush_timeout`, then the process dies of the signal."""
    otlp.delay = delay
    source = """
    import atexit
    dltobs.configure(sinks=[FileSink()])
    pipeline().run([{"id": 1}], table_name="orders")
    atexit.register(ready)
    """
    ended = end_by(tmp_path, source, signal.SIGTERM, OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url)
    assert ended.status == -signal.SIGTERM
    assert ended.end["outcome"] == "ok"
    assert attributes_of(otlp.named("run shop"))["dlt.outcome"] == "ok"


def test_a_forked_child_leaves_the_runs_of_its_parent_alone(tmp_path):
    """A signal kills it as without dltobs, and the parent does not hear of it."""
    source = """
    dltobs.configure(sinks=[FileSink()])

    @dlt.resource
    def forking():
        yield {"id": 1}
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(1)
        time.sleep(0.2)
        os.kill(child, signal.SIGTERM)
        assert os.waitpid(child, 0)[1] == signal.SIGTERM
        time.sleep(0.5)
        yield {"id": 2}

    ready()
    pipeline().run(forking())
    """
    ended = end_by(tmp_path, source, limit=15)
    assert ended.status == 0, ended.stderr
    assert ended.end["outcome"] == "ok"


def test_a_forked_child_reports_the_runs_of_its_own(tmp_path):
    """It watches from the start of its first run."""
    source = """
    def send():
        while not os.path.exists("waiting"):
            time.sleep(0.05)
        time.sleep(0.2)
        os.kill(int(open("waiting").read()), signal.SIGTERM)

    @dlt.resource
    def sleeping():
        yield {"id": 1}
        with open("new", "w") as file:
            file.write(str(os.getpid()))
        os.rename("new", "waiting")
        time.sleep(60)

    ready()

    @dlt.destination(name="nowhere")
    def nowhere(items, table):
        pass

    dltobs.configure(sinks=[FileSink()])
    child = os.fork()
    if child == 0:
        pipeline(destination=nowhere()).run(sleeping())
        os._exit(1)
    threading.Thread(target=send).start()
    status = os.waitpid(child, 0)[1]
    assert status == signal.SIGTERM, status
    """
    ended = end_by(tmp_path, textwrap.dedent(source), limit=20)
    assert ended.status == 0, ended.stderr
    assert ended.end["outcome"] == "terminated"


def test_with_asyncio_both_hear_of_signals(tmp_path):
    """A wake-up descriptor that was there before still gets its bytes; a loop's own handler decides."""
    source = """
    import asyncio

    async def main():
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, stopped.set)
        dltobs.configure(sinks=[FileSink()])
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.wait_for(stopped.wait(), 5)
        print("heard", file=sys.stderr)
        pipeline().run(sleeping())

    asyncio.run(main())
    """
    ended = end_by(tmp_path, source, signal.SIGTERM)
    assert "heard" in ended.stderr
    assert ended.status == -signal.SIGTERM
    assert ended.end["outcome"] == "terminated"


@contextmanager
def handlers_kept() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM), signal.set_wakeup_fd(-1)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.set_wakeup_fd(before[1])


def test_shutdown_puts_everything_back():
    """Handler, wake-up descriptor, thread and file descriptors."""
    with handlers_kept():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        dltobs.configure()
        dltobs.shutdown()
        time.sleep(0.1)
        opened, threads = set(DESCRIPTORS.iterdir()), set(threading.enumerate())
        dltobs.configure()
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        dltobs.shutdown()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.set_wakeup_fd(-1) == -1
        deadline = time.monotonic() + 5
        # threads and descriptors of earlier tests may end meanwhile
        while not set(threading.enumerate()) <= threads and time.monotonic() < deadline:
            time.sleep(0.01)
        assert set(threading.enumerate()) <= threads
        assert set(DESCRIPTORS.iterdir()) <= opened


def test_shutdown_leaves_what_somebody_has_put_in_our_place():
    with handlers_kept():
        dltobs.configure()

        def own(number: int, frame: Any) -> None:
            pass

        signal.signal(signal.SIGTERM, own)
        ends = os.pipe()
        for end in ends:
            os.set_blocking(end, False)
        signal.set_wakeup_fd(ends[1])
        dltobs.shutdown()
        assert signal.getsignal(signal.SIGTERM) is own
        assert signal.set_wakeup_fd(-1) == ends[1]
        for end in ends:
            os.close(end)


def test_a_new_set_up_keeps_or_drops_the_handler():
    """As its settings say."""
    with handlers_kept():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        dltobs.configure()
        installed = signal.getsignal(signal.SIGTERM)
        dltobs.configure(environment="test")
        assert signal.getsignal(signal.SIGTERM) is installed is not signal.SIG_DFL
        dltobs.configure(handle_sigterm=False)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        dltobs.configure()
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL


def test_off_the_main_thread_no_handler_is_installed(caplog):
    """Python refuses it; the log says so, and runs are observed all the same."""
    sink = RecordingSink()
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=lambda: dltobs.configure(sinks=[sink], console="off"))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
    told = [record.getMessage() for record in caplog.records if "main thread" in record.getMessage()]
    assert len(told) == 1
    dlt.pipeline("shop", destination="duckdb").run([{"id": 1}], table_name="orders")
    assert sink.run.outcome == "ok"
