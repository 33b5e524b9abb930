"""A run whose process died without a word is reported by the next run of its pipeline, once."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import dlt
import pytest

import dltobs
from dltobs._process.identity import ProcessIdentity, is_alive, own_process
from dltobs._runs import markers
from dltobs._runs.marker_files import FOLDER, Marker, read, write
from dltobs._runs.markers import SILENCE
from dltobs._small_files import write_whole
from recording import RecordingSink
from scripts import PRELUDE, own_variables, run_python
from servers import attributes_of

ID = "0123456789abcdef0123456789abcdef"
STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)

KILLED = """
import signal
import dltobs

dltobs.configure()

@dlt.resource
def dying():
    yield {"id": 1}
    os.kill(os.getpid(), signal.SIGKILL)

pipeline().run(dying())
"""


def run_in(folder: Path, source: str, **variables: str) -> subprocess.CompletedProcess[str]:
    code = PRELUDE + source
    return run_python(["-c", code], folder, own_variables(folder, **variables))


def kill_a_run(folder: Path, **variables: str) -> Marker:
    """Have a run of the pipeline `shop` killed, and give the marker that it left."""
    done = run_in(folder, KILLED, **variables)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (path,) = markers_in(folder)
    found = read(path)
    assert found is not None
    return found[0]


def markers_in(folder: Path) -> list[Path]:
    return sorted((folder / "pipelines" / "shop" / FOLDER).iterdir())


def make_pipeline(folder: Path) -> None:
    """dlt wipes a working directory in which it finds no state."""
    if not (folder / "pipelines" / "shop").exists():
        dlt.pipeline("shop", pipelines_dir=str(folder / "pipelines"))


def plant(folder: Path, marker: Marker, *, name: str | None = None, age: float = 0.0) -> Path:
    path = folder / "pipelines" / "shop" / FOLDER / (name or f"{marker.transaction_id}.json")
    make_pipeline(folder)
    path.parent.mkdir(exist_ok=True)
    write(path, marker)
    os.utime(path, (time.time() - age,) * 2)
    return path


def dead_process() -> ProcessIdentity:
    """A process that has been, in this boot and namespace."""
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    return replace(own_process(), pid=child.pid, start=1)


def a_marker(**changes: object) -> Marker:
    fields = {
        "transaction_id": ID,
        "pipeline": "shop",
        "method": "run",
        "started_at": STARTED,
        "process": dead_process(),
        "step": "load",
    }
    return Marker(**{**fields, **changes})  # type: ignore[arg-type]  # each is as the test wants it


@pytest.fixture
def sink():
    sink = RecordingSink()
    dltobs.configure(sinks=[sink])
    return sink


def lost_of(sink: RecordingSink) -> list[dltobs.RunLost]:
    return sink.of(dltobs.RunLost)


def load(pipeline, name="shop"):
    return pipeline(name).run([{"id": 1}], table_name="orders")


def test_a_killed_run_is_reported_by_the_next_one(tmp_path, pipeline, sink):
    """When it began, in which step it was, host and process id; and only once."""
    marker = kill_a_run(tmp_path)
    load(pipeline)
    (lost,) = lost_of(sink)
    assert lost.run.pipeline == "shop"
    assert lost.run.transaction_id == marker.transaction_id
    assert (lost.method, lost.step, lost.outcome) == ("run", "extract", "lost")
    assert lost.started_at == marker.started_at <= lost.last_seen_at <= lost.noticed_at
    assert (lost.host, lost.pid) == (socket.gethostname(), marker.process.pid)
    assert lost.noticed_by == sink.run.run.transaction_id
    assert [type(event).__name__ for event in sink.events[:3]] == ["RunStarted", "RunLost", "StepStarted"]
    assert markers_in(tmp_path) == []
    load(pipeline)
    assert len(lost_of(sink)) == 1


def test_spans_metrics_sentry_slack_and_the_log_are_told(tmp_path, otlp, sentry, slack):
    """The missing root span is exported with its own ids, so that what is below it finds its parent."""
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url,
        "SENTRY_DSN": sentry.dsn,
        "OTEL_BSP_SCHEDULE_DELAY": "10",
        "DLTOBS__TAGS": "team=sales,on call=ann",
        "DLTOBS__SLACK_INCOMING_HOOK": slack.hook,
        "DLTOBS__SLACK_ON": "lost",
        "DLTOBS__TRACE_URL_TEMPLATE": "https://jaeger/trace/{trace_id}",
        "DLTOBS__LOG_FILE": "dlt.jsonl",
    }
    killing = KILLED.replace("os.kill", "import time; time.sleep(0.5); os.kill").replace(
        "pipeline().run(dying())",
        """
@dlt.resource
def first():
    from opentelemetry import trace
    with trace.get_tracer("mine").start_as_current_span("mine"):
        yield {"id": 1}

pipeline().run([first(), dying()])""",
    )
    done = run_in(tmp_path, killing, **variables)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (path,) = markers_in(tmp_path)
    found = read(path)
    assert found is not None
    marker = found[0]
    again = "import dltobs\ndltobs.configure()\npipeline().run([{'id': 1}], table_name='orders')"
    done = run_in(tmp_path, again, **variables)
    assert done.returncode == 0, done.stderr
    (lost,) = [span for span in otlp.spans if attributes_of(span).get("dlt.outcome") == "lost"]
    assert lost.name == "run shop"
    assert lost.trace_id.hex() == marker.trace_id == marker.transaction_id
    assert lost.span_id.hex() == marker.span_id
    assert not lost.parent_span_id
    assert lost.status.code == 2
    assert lost.start_time_unix_nano == int(marker.started_at.timestamp() * 1e6) * 1000
    attributes = attributes_of(lost)
    assert attributes["dlt.transaction_id"] == marker.transaction_id
    assert attributes["dlt.lost.step"] == "extract"
    assert attributes["process.pid"] == marker.process.pid
    assert attributes["host.name"] == socket.gethostname()
    assert attributes["dlt.tag.team"] == "sales"
    (other,) = [span for span in otlp.spans if attributes_of(span).get("dlt.outcome") == "ok"]
    assert attributes["dlt.noticed_by"] == other.trace_id.hex()
    counted = {
        point.attributes["dlt.outcome"]: point.value for point in otlp.points if point.name == "dlt.runs"
    }
    assert counted == {"ok": 1, "lost": 1}
    (event,) = sentry.events
    assert event["level"] == "fatal"
    assert event["fingerprint"] == ["shop", "lost"]
    assert event["tags"]["dlt.outcome"] == "lost"
    assert (event["tags"]["team"], event["tags"]["on_call"]) == ("sales", "ann")
    assert event["tags"]["dlt.transaction_id"] == marker.transaction_id
    assert event["contexts"]["trace"]["trace_id"] == marker.trace_id
    assert event["contexts"]["dlt"]["pid"] == marker.process.pid
    assert event["contexts"]["dlt"]["started_at"] == marker.started_at.isoformat()
    (post,) = slack.posts
    told = post["text"].split("\n")
    assert told[0] == "🔴 shop: lost, its process died in extract without a word"
    assert f"Process: {marker.process.pid} on {socket.gethostname()}" in told
    assert f"Run: {marker.transaction_id}" in told
    assert f"Sentry: {event['event_id']}" in told
    assert f"https://jaeger/trace/{marker.trace_id}" in post["text"]
    lines = [json.loads(line) for line in (tmp_path / "dlt.jsonl").read_text().splitlines()]
    (line,) = [line for line in lines if line.get("outcome") == "lost"]
    assert (line["level"], line["transaction_id"], line["step"]) == (
        "ERROR",
        marker.transaction_id,
        "extract",
    )
    assert line["message"].startswith(
        f"Run of shop lost in extract: process {marker.process.pid} on {socket.gethostname()} died without "
    )


@pytest.mark.long
def test_a_pipeline_that_dies_again_and_again_is_told_to_slack_once(tmp_path, slack):
    """The cooldown is kept in its working directory."""
    variables = {"DLTOBS__SLACK_INCOMING_HOOK": slack.hook}
    for _ in range(3):
        done = run_in(tmp_path, KILLED, **variables)
        assert done.returncode == -signal.SIGKILL, done.stderr
    again = "import dltobs\ndltobs.configure()\npipeline().run([{'id': 1}], table_name='orders')"
    assert run_in(tmp_path, again, **variables).returncode == 0
    lost = [post["text"].split("\n")[0] for post in slack.posts if "lost" in post["text"]]
    assert lost == ["🔴 shop: lost, its process died in extract without a word"]


def test_with_the_provider_of_the_application_the_span_is_in_the_same_trace(tmp_path, pipeline):
    """Below the root that is missing: the ids of new spans are the application's."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(provider)
    plant(tmp_path, a_marker(trace_id="a" * 32, span_id="b" * 16))
    plant(tmp_path, a_marker(trace_id="c" * 32, span_id="d" * 16, is_sampled=False, transaction_id="c" * 32))
    dltobs.configure()
    load(pipeline)
    (lost,) = [span for span in spans.get_finished_spans() if span.attributes.get("dlt.outcome") == "lost"]
    assert f"{lost.context.trace_id:032x}" == "a" * 32
    assert f"{lost.parent.span_id:016x}" == "b" * 16


def test_a_run_leaves_its_marker_for_as_long_as_it_is_on(tmp_path, pipeline, sink):
    """Readable by its owner only; it says in which step the run is."""
    seen = []

    @dlt.resource
    def orders():
        (path,) = markers_in(tmp_path)
        seen.append((read(path)[0], stat.S_IMODE(path.stat().st_mode), path.name))
        yield {"id": 1}

    pipeline().run(orders())
    ((marker, mode, name),) = seen
    assert name == f"{sink.run.run.transaction_id}.json"
    assert (marker.pipeline, marker.method, marker.step) == ("shop", "run", "extract")
    assert marker.process == own_process()
    assert mode == 0o600
    assert markers_in(tmp_path) == []


def test_a_failed_run_is_not_lost(tmp_path, pipeline, sink):
    @dlt.resource
    def broken():
        yield {"id": 1}
        raise ValueError("no such order")

    with pytest.raises(Exception, match="no such order"):
        pipeline().run(broken())
    assert markers_in(tmp_path) == []


def test_nested_runs_and_threads_have_markers_of_their_own(tmp_path, pipeline, sink):
    """Runs of one process that are on are not lost for each other."""

    def run_in_a_thread(name):
        thread = threading.Thread(target=load, args=(pipeline, name))
        thread.start()
        thread.join()

    seen = []

    @dlt.resource
    def orders():
        run_in_a_thread("inner")
        run_in_a_thread("shop")
        seen.append(len(markers_in(tmp_path)))
        yield {"id": 1}

    pipeline().run(orders())
    assert seen == [1]
    assert lost_of(sink) == []
    assert [run.run.pipeline for run in sink.runs] == ["inner", "shop", "shop"]
    assert markers_in(tmp_path) == []


def test_a_run_that_is_alive_is_not_lost(tmp_path, pipeline, sink):
    """However long it takes: its process is asked for, not its age."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        start = int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19])
        path = plant(
            tmp_path, a_marker(process=replace(own_process(), pid=child.pid, start=start)), age=10 * SILENCE
        )
        load(pipeline)
        assert lost_of(sink) == []
        assert path.exists()
    finally:
        child.kill()
    # a zombie is dead, though it has still its entry
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
    load(pipeline)
    assert len(lost_of(sink)) == 1
    child.wait()


def test_a_process_id_that_is_used_again_is_another_process(tmp_path, pipeline, sink):
    """It has started at another time."""
    plant(tmp_path, a_marker(process=replace(own_process(), start=own_process().start + 1)))
    load(pipeline)
    assert len(lost_of(sink)) == 1


ELSEWHERE = ProcessIdentity("pod-7", 1, "another-boot", "pid:[1]", 123)


@pytest.mark.parametrize(
    "process",
    [
        ELSEWHERE,
        replace(own_process(), namespace="pid:[1]"),
        replace(own_process(), boot="another-boot"),
        ProcessIdentity("laptop", 7),
    ],
    ids=["another host", "another container", "before the boot", "no /proc"],
)
def test_where_the_process_cannot_be_asked_its_silence_tells(tmp_path, pipeline, sink, process):
    """A pod has another name each time, and a volume may have two hosts: a fresh file is a sign of life."""
    path = plant(tmp_path, a_marker(process=process), age=SILENCE - 30)
    load(pipeline)
    assert lost_of(sink) == []
    assert path.exists()
    os.utime(path, (time.time() - SILENCE - 30,) * 2)
    load(pipeline)
    (lost,) = lost_of(sink)
    assert lost.host == process.host
    assert SILENCE < (lost.noticed_at - lost.last_seen_at).total_seconds() < SILENCE + 60


def test_a_run_gives_signs_of_life(tmp_path, pipeline, sink, monkeypatch):
    """A thread renews the time of the marker while the run is on."""
    monkeypatch.setattr(markers, "BEAT", 0.05)
    times = []

    @dlt.resource
    def orders():
        (path,) = markers_in(tmp_path)
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.02)
        times.append(path.stat().st_mtime)
        yield {"id": 1}

    pipeline().run(orders())
    assert abs(times[0] - time.time()) < 60


def test_torn_and_foreign_files_harm_nothing(tmp_path, pipeline, sink):
    """They stay while they may still be written, and are taken away after a day."""
    folder = tmp_path / "pipelines" / "shop" / FOLDER
    marker = json.loads(plant(tmp_path, a_marker()).read_text())
    (folder / f"{ID}.json").unlink()
    contents = {
        f"{'1' * 32}.json": '{"version": 1, "transac',
        f"{'2' * 32}.json": "[]",
        f"{'3' * 32}.json": json.dumps({**marker, "transaction_id": "3" * 32, "version": 2}),
        f"{'4' * 32}.json": json.dumps({**marker, "transaction_id": "4" * 32, "process": {"pid": "1"}}),
        f"{'5' * 32}.json": json.dumps({**marker, "transaction_id": "5" * 32, "step": {"a": 1}}),
        f"{'6' * 32}.json": json.dumps({**marker, "transaction_id": "7" * 32}),
        f"{'8' * 32}.json": json.dumps({**marker, "transaction_id": "8" * 32, "started_at": "yesterday"}),
        f"{'9' * 32}.json": json.dumps({**marker, "transaction_id": "9" * 32, "trace_id": "zz"}),
        f"{'a' * 32}.json": "[" * 50_000,
        f"{'b' * 32}.json": "",
        f"{'c' * 32}.json.123.456.tmp": json.dumps(marker),
        "README": "mine",
        "../.json": "mine",
    }
    for name, content in contents.items():
        (folder / name).write_text(content)
    os.mkfifo(folder / f"{'d' * 32}.json")
    (folder / f"{'e' * 32}.json").symlink_to("/etc/hostname")
    (folder / f"{'f' * 32}.json").mkdir()
    before = markers_in(tmp_path)
    load(pipeline)
    assert markers_in(tmp_path) == before
    day = 24 * 3600 + 60
    for path in before:
        os.utime(path, (time.time() - day,) * 2, follow_symlinks=False)
    load(pipeline)
    assert [path.name for path in markers_in(tmp_path)] == [f"{'f' * 32}.json"]
    assert lost_of(sink) == []
    assert Path("/etc/hostname").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"started_at": "9999-01-01T00:00:00+00:00"},
        {"started_at": "0001-01-01T00:00:00+00:00"},
        {"started_at": "1960-01-01T00:00:00+00:00"},
        {"step": "\ud800"},
        {"process": {"host": "\ud800"}},
        {"process": {"pid": 2**63}},
        {"process": {"pid": 0}},
    ],
    ids=str,
)
def test_what_no_run_can_have_written_takes_no_span_from_the_run(tmp_path, pipeline, otlp, change):
    path = plant(tmp_path, a_marker())
    marker = json.loads(path.read_text())
    marker["process"] |= change.pop("process", {})
    path.write_text(json.dumps({**marker, **change}))
    dltobs.configure(otlp_endpoint=otlp.url)
    load(pipeline)
    dltobs.shutdown()
    assert dltobs.status()["otlp"].dropped == dltobs.status()["otlp"].spooled == 0
    assert {"run shop", "extract", "load"} <= {span.name for span in otlp.spans}
    assert not [span for span in otlp.spans if attributes_of(span).get("dlt.outcome") == "lost"]


def test_a_marker_of_another_pipeline_is_left(tmp_path, pipeline, sink):
    path = plant(tmp_path, a_marker(pipeline="market"))
    load(pipeline)
    assert lost_of(sink) == []
    assert path.exists()


def test_a_claim_of_a_run_that_is_on_is_respected(tmp_path, pipeline, sink):
    """And taken over once that run is dead, too: it may not have got to report."""
    claimer = a_marker(transaction_id="f" * 32, process=ELSEWHERE)
    plant(tmp_path, claimer)
    claim = plant(tmp_path, a_marker(), name=f"{ID}.claimed-{'f' * 32}")
    load(pipeline)
    assert lost_of(sink) == []
    assert claim.exists()
    os.utime(claim.with_name(f"{'f' * 32}.json"), (0, 0))
    load(pipeline)
    assert sorted(lost.run.transaction_id for lost in lost_of(sink)) == [ID, "f" * 32]
    assert markers_in(tmp_path) == []


def test_a_claimer_that_a_signal_ends_has_reported(tmp_path, pipeline):
    """What the sinks are being told of then is not told again, however long a sink takes."""

    class Ending(RecordingSink):
        def emit(self, event):
            super().emit(event)
            if isinstance(event, dltobs.RunLost):
                claims.append(len(list((tmp_path / "pipelines" / "shop" / FOLDER).glob("*.claimed-*"))))
                dltobs._state.runtime.tracker.forget_markers()

    claims: list[int] = []
    sink = Ending()
    dltobs.configure(sinks=[sink])
    plant(tmp_path, a_marker())
    load(pipeline)
    assert claims == [1]
    assert len(lost_of(sink)) == 1
    assert markers_in(tmp_path) == []


def test_of_many_processes_one_reports(tmp_path):
    """They all find the marker at the same time."""
    plant(tmp_path, a_marker())
    source = """
import time
import dltobs

class Sink:
    def emit(self, event):
        if isinstance(event, dltobs.RunLost):
            print("lost", event.run.transaction_id)

    def flush(self, timeout):
        return True

    def close(self):
        pass

dltobs.configure(sinks=[Sink()])
@dlt.destination(name="nowhere")
def nowhere(items, table):
    pass

one = dlt.pipeline("shop", pipelines_dir="pipelines", destination=nowhere)
open(f"ready-{os.getpid()}", "w").close()
while not os.path.exists("go"):
    time.sleep(0.001)
one.extract([{"id": 1}], table_name=f"orders_{os.getpid()}")
"""
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(run_in, tmp_path, source) for _ in range(4)]
        deadline = time.monotonic() + 50
        while len(list(tmp_path.glob("ready-*"))) < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
        (tmp_path / "go").touch()
        output = "".join(run.result().stdout for run in runs)
    assert output == f"lost {ID}\n"


def test_a_folder_that_cannot_be_written_is_one_warning(tmp_path, pipeline, sink, caplog):
    """The runs go on, and what is missing is said. What stands in the way here does so for root, too."""
    make_pipeline(tmp_path)
    (tmp_path / "pipelines" / "shop" / FOLDER).write_text("in the way")
    load(pipeline)
    load(pipeline)
    assert [run.outcome for run in sink.runs] == ["ok", "ok"]
    told = [record.getMessage() for record in caplog.records if "marker" in record.getMessage()]
    assert len(told) == 1
    assert "File exists" in told[0]
    assert "lost" in told[0]


def test_what_a_marker_says_passes_the_redactor(tmp_path, pipeline):
    """A file on disk is as little to be trusted as any other text."""
    sink = RecordingSink()
    dltobs.configure(sinks=[sink], redact_patterns=[r"SHOP-\d{6}"])
    plant(tmp_path, a_marker(process=replace(dead_process(), host="SHOP-123456")))
    load(pipeline)
    (lost,) = lost_of(sink)
    assert lost.host == "***"


def test_a_pipeline_that_is_dropped_in_mid_run_takes_its_marker_along(tmp_path, pipeline, sink):
    @dlt.resource
    def orders():
        for path in markers_in(tmp_path):
            path.unlink()
        yield {"id": 1}

    pipeline().run(orders())
    assert sink.run.outcome == "ok"
    assert markers_in(tmp_path) == []


def test_a_set_up_that_is_replaced_keeps_the_markers(tmp_path, pipeline):
    """The run that is on then ends in the new one."""
    sink = RecordingSink()
    dltobs.configure()

    @dlt.resource
    def orders():
        dltobs.configure(sinks=[sink])
        assert len(markers_in(tmp_path)) == 1
        yield {"id": 1}

    pipeline().run(orders())
    assert sink.run.outcome == "ok"
    assert markers_in(tmp_path) == []


def test_a_process_knows_itself_and_does_not_guess():
    own = own_process()
    assert is_alive(own, own) is True
    assert is_alive(dead_process(), own) is False
    assert is_alive(ELSEWHERE, own) is None
    assert is_alive(replace(own, start=None, pid=own.pid + 1), own) is None


def test_a_marker_comes_back_as_it_was_written(tmp_path):
    marker = a_marker(
        trace_id="a" * 32, span_id="b" * 16, first_run=True, started_at=STARTED + timedelta(microseconds=1)
    )
    write(tmp_path / "one", marker)
    found = read(tmp_path / "one")
    assert found is not None
    assert found[0] == marker
    assert found[1] == (tmp_path / "one").stat().st_mtime


def test_a_file_that_cannot_be_written_changes_nothing(tmp_path):
    """No part of it stays behind."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        write_whole(tmp_path / "folder", b"x")
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_a_marker_outlives_the_reset_of_the_pipeline(tmp_path, pipeline, sink):
    """dlt wipes the working directory in the midst of a run if the destination has been emptied."""
    load(pipeline)
    (tmp_path / "shop.duckdb").unlink()
    seen = []

    @dlt.resource
    def orders():
        seen.extend(markers_in(tmp_path))
        yield {"id": 1}

    pipeline().run(orders())
    assert len(seen) == 1
    assert [run.outcome for run in sink.runs] == ["ok", "ok"]


def test_an_interrupt_in_a_sink_reaches_the_run_after_the_other_sinks(tmp_path, pipeline):
    """Ctrl-C at the end of a run: it is reported all the same, and not lost later."""

    class Interrupted(RecordingSink):
        def emit(self, event):
            if isinstance(event, dltobs.RunFinished):
                raise KeyboardInterrupt

    sink = RecordingSink()
    dltobs.configure(sinks=[Interrupted(), sink])
    with pytest.raises(KeyboardInterrupt):
        load(pipeline)
    assert sink.run.outcome == "ok"
    assert markers_in(tmp_path) == []
