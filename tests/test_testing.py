"""What users have for tests of their own: `RecordingSink` and the fixture `dltobs_sink`."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from dlt.pipeline.exceptions import PipelineStepFailed

import dltobs
from dltobs.testing import RecordingSink

TESTS = """
import os
import dlt
import dltobs
import pytest

@dlt.resource
def broken():
    yield {"id": 1}
    raise ValueError("no such order")

def pipeline():
    return dlt.pipeline("shop", destination=dlt.destinations.duckdb("shop.duckdb"), pipelines_dir="pipelines")

def test_it_loads(dltobs_sink):
    pipeline().run([{"id": 1}], table_name="orders")
    assert [run.outcome for run in dltobs_sink.finished] == ["ok"]

def test_it_fails(dltobs_sink):
    with pytest.raises(Exception):
        pipeline().run(broken())
    (failure,) = dltobs_sink.failures
    assert (failure.error_type, failure.resource) == ("ValueError", "broken")

def test_nothing_is_sent(dltobs_sink):
    pipeline().run([{"id": 2}], table_name="orders")
    assert dltobs.status() == {}

def test_nothing_is_left():
    from dlt.pipeline import trace
    assert not [one for one in trace.TRACKING_MODULES if type(one).__module__.startswith("dltobs")]
"""


def test_the_fixture_observes_each_test_and_sends_nothing(tmp_path):
    """In a project of its own, whose environment has a DSN, an endpoint and a setting that is wrong."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["dltobs.testing"]\n')
    (tmp_path / "test_shop.py").write_text(TESTS)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            str(tmp_path),
            str(tmp_path),
        ],
        cwd=tmp_path,
        env={
            "HOME": str(tmp_path),
            "RUNTIME__DLTHUB_TELEMETRY": "false",
            "SENTRY_DSN": "http://key@127.0.0.1:9/1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
            "DLTOBS__LOG_LEVEL": "LOUD",
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "4 passed" in done.stdout, done.stdout + done.stderr


def test_the_sink_is_there_without_pytest(tmp_path):
    """And `import dltobs` imports neither."""
    script = (
        "import sys\n"
        "sys.modules['pytest'] = None\n"
        "import dltobs\n"
        "assert 'dltobs.testing' not in sys.modules\n"
        "from dltobs.testing import RecordingSink\n"
        "assert isinstance(RecordingSink(), dltobs.Sink)\n"
        "import dltobs.testing\n"
        "assert not hasattr(dltobs.testing, 'dltobs_sink')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_sink_keeps_runs_ends_steps_failures_and_schema_changes(pipeline):
    sink = RecordingSink()
    dltobs.configure(sinks=[sink], console="off")
    shop = pipeline()
    shop.run([{"id": 1}], table_name="orders")
    with pytest.raises(PipelineStepFailed):
        shop.run(1 / 0 for _ in range(1))  # it has no name, either
    assert [run.pipeline for run in sink.runs] == ["shop", "shop"]
    assert [run.outcome for run in sink.finished] == ["ok", "failed"]
    assert [failure.error_type for failure in sink.failures] == [sink.finished[1].failure.error_type]
    assert [step.step for step in sink.steps][:4] == ["extract", "normalize", "load", "run"]
    assert [change.table for change in sink.schema_changes] == ["orders"]
    assert [type(event) for event in sink.of(dltobs.RunStarted)] == [dltobs.RunStarted] * 2
    sink.clear()
    assert sink.events == sink.finished == sink.failures == []


def test_events_of_many_threads_are_all_kept():
    """While others read."""
    sink = RecordingSink()
    stop = threading.Event()
    event = dltobs.RunStarted(dltobs.Run("shop", "0" * 32), "run", None)

    def read() -> int:
        most = 0
        while not stop.is_set():
            most = max(most, len(sink.runs))
        return most

    with ThreadPoolExecutor(5) as pool:
        reader = pool.submit(read)
        writers = [pool.submit(lambda: [sink.emit(event) for _ in range(500)]) for _ in range(4)]
        for writer in writers:
            writer.result()
        stop.set()
        assert reader.result() <= 2000
    assert len(sink.events) == 2000
