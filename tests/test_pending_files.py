"""Rows and bytes of packages that a later run loads."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path

import dlt
import pytest
from dlt.common.destination.exceptions import DestinationTransientException
from dlt.pipeline.exceptions import PipelineStepFailed

import dltobs
from dltobs._redaction.redactor import Redactor
from dltobs._runs import pending_files
from dltobs._runs.jobs import WrittenFile
from dltobs._runs.pending_files import FILE_NAME, PendingFiles, known_files
from dltobs._warnings import Warner
from recording import RecordingSink
from scripts import run_script

ROWS = [{"id": number} for number in range(7)]


@pytest.fixture
def sink():
    recording = RecordingSink()
    dltobs.configure(sinks=[recording])
    return recording


@pytest.fixture
def warnings(caplog):
    return lambda: [record.getMessage() for record in caplog.records if record.name == "dltobs"]


def file_of(one):
    return Path(one.working_dir) / FILE_NAME


class Door:
    """A destination that takes the tables that are open to it."""

    def __init__(self, *tables):
        self.tables = set(tables)

    def destination(self):
        @dlt.destination(batch_size=10, name="door")
        def door(items, table):
            if table["name"] not in self.tables:
                raise DestinationTransientException("closed")

        return door


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch):
    """One try for a job in a load, so that a refused one ends the load."""
    monkeypatch.setenv("LOAD__RAISE_ON_MAX_RETRIES", "1")


def test_steps_called_one_by_one_know_what_was_written(sink, pipeline):
    one = pipeline()
    one.extract(ROWS, table_name="orders")
    assert not file_of(one).exists()
    one.normalize()
    assert stat.S_IMODE(file_of(one).stat().st_mode) == 0o600
    one.load()
    assert not file_of(one).exists()
    last = sink.runs[-1]
    assert last.rows == 7
    assert last.bytes == sum(table.bytes for table in sink.step("normalize").tables if not table.internal)


def test_a_run_that_loads_what_it_wrote_writes_nothing(sink, pipeline, monkeypatch):
    written = []
    monkeypatch.setattr(pending_files, "write_json", lambda *args: written.append(args))
    pipeline().run(ROWS, table_name="orders")
    assert sink.run.rows == 7
    assert written == []


def test_a_package_that_was_loaded_in_part_is_remembered_until_it_is_done(sink, pipeline):
    """Each run counts the jobs that it has completed."""
    door = Door("orders")
    one = pipeline(destination=door.destination())

    @dlt.source(name="shop")
    def both():
        return dlt.resource(ROWS, name="orders"), dlt.resource(ROWS[:2], name="items")

    with pytest.raises(PipelineStepFailed):
        one.run(both())
    kept = file_of(one).read_bytes()
    with pytest.raises(PipelineStepFailed):
        one.run(both())
    assert file_of(one).read_bytes() == kept
    door.tables.add("items")
    one.run(both())
    assert not file_of(one).exists()
    # which of them a job belongs to that ends as the other one fails is dlt's to say
    assert sum(run.rows for run in sink.runs) == 9
    assert sink.runs[-1].rows >= 2


def test_what_somebody_drops_is_forgotten(sink, pipeline):
    one = pipeline()
    one.extract(ROWS, table_name="orders")
    one.normalize()
    one.drop_pending_packages()
    one.run(ROWS[:1], table_name="orders")
    assert not file_of(one).exists()
    assert sink.runs[-1].rows == 1


def test_another_process_knows_too(tmp_path):
    """The file is all that they share."""
    for step in ("extract([{'id': 1}, {'id': 2}], table_name='orders')", "normalize()", "load()"):
        run = run_script(
            f"""
            import dltobs
            dltobs.configure(log_level="INFO")
            pipeline().{step}
            """,
            tmp_path,
        )
        assert run.returncode == 0, run.stderr
    assert re.search(r"Run of shop finished after \d+\.\d s: 2 rows", run.stderr)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"1.5": {"orders.1',
        b"\xff\xfe\x00",
        b"[]",
        b'{"LOAD": 1}',
        b'{"LOAD": {"JOB": 7}}',
        b'{"LOAD": {"JOB": [7]}}',
        b'{"LOAD": {"JOB": [true, 1]}}',
        b'{"LOAD": {"JOB": [-7, 1]}}',
        b'{"LOAD": {"JOB": ["7", 1]}}',
        b'{"LOAD": {"JOB": [1e400, 1]}}',
        b'{"LOAD": {"JOB": [9223372036854775808, 1]}}',
        b"[" * 100_000,
        b" " * pending_files._MAX_SIZE + b"{}",
    ],
)
def test_a_torn_or_foreign_file_harms_nothing(sink, pipeline, warnings, content):
    """The rows are not known then."""
    one = pipeline()
    one.extract(ROWS, table_name="orders")
    one.normalize()
    ((load_id, files),) = json.loads(file_of(one).read_bytes()).items()
    (job_id,) = (job_id for job_id in files if job_id.startswith("orders."))
    file_of(one).write_bytes(content.replace(b"LOAD", load_id.encode()).replace(b"JOB", job_id.encode()))
    one.load()
    last = sink.runs[-1]
    assert (last.outcome, last.rows) == ("ok", None)
    assert last.bytes > 0
    assert not warnings()


def test_a_folder_that_cannot_be_written_is_one_warning(sink, pipeline, warnings):
    """What stands in the way here stands there for root, too."""
    one = pipeline()
    one.extract(ROWS, table_name="orders")
    file_of(one).mkdir()
    one.normalize()
    one.load()
    one.run(ROWS, table_name="orders")
    (warning,) = warnings()
    assert "cannot be kept" in warning
    assert [run.rows for run in sink.runs] == [0, 0, None, 7]


def test_a_pipe_in_its_place_does_not_stop_the_run(sink, pipeline):
    one = pipeline()
    Path(one.working_dir).mkdir(parents=True, exist_ok=True)
    os.mkfifo(file_of(one))
    one.run(ROWS, table_name="orders")
    assert sink.run.rows == 7


def test_the_file_has_a_bound(tmp_path, warnings):
    """What is small enough is remembered, whatever is beside it."""
    files = PendingFiles(Warner(Redactor()))
    huge = {f"orders.{number:010d}.jsonl": WrittenFile(1, 1000) for number in range(200_000)}
    small = {"orders.0000000001.jsonl": WrittenFile(7, 70)}
    files.keep(str(tmp_path), {"1.5": small, "2.5": huge, "3.5": small}, ["1.5", "2.5", "3.5"])
    assert known_files(str(tmp_path)) == {"1.5": small, "3.5": small}
    assert not warnings()


def test_ten_thousand_files_are_remembered(tmp_path):
    many = {f"orders.{number:010d}.insert_values.gz": WrittenFile(1, 1000) for number in range(10_000)}
    PendingFiles(Warner(Redactor())).keep(str(tmp_path), {"1.5": many}, ["1.5"])
    assert known_files(str(tmp_path)) == {"1.5": many}
