"""Full disks, read-only folders, clocks that jump, processes side by side: the data is what it would have been."""

from __future__ import annotations

import json
import subprocess
from functools import cache

import duckdb
import pytest

from scripts import PRELUDE, run_script
from servers import attributes_of

RUN = """
import dltobs
dltobs.configure()
pipeline().run([dlt.resource([{"id": n, "name": str(n)} for n in range(50)], name="orders", write_disposition="replace")])
"""
DEAD = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "DLTOBS__FLUSH_TIMEOUT": "1"}


def loaded(folder, name="shop"):
    """What the pipeline has brought to the destination: rows by table, without dlt's ids and times."""
    with duckdb.connect(str(folder / f"{name}.duckdb"), read_only=True) as connection:
        orders = connection.sql(f"select id, name from {name}_data.orders order by id").fetchall()
        tables = connection.sql(
            f"select table_name from information_schema.tables where table_schema = '{name}_data'"
        ).fetchall()
    return orders, sorted(table for (table,) in tables)


@pytest.fixture
def as_without(tmp_path):
    """What a run without dltobs loads."""
    folder = tmp_path / "without"
    folder.mkdir()
    result = run_script(RUN, folder, DLTOBS__ENABLED="false")
    assert result.returncode == 0, result.stderr
    return loaded(folder)


@cache
def can_mount():
    command = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=64k tmpfs /mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


mounting = pytest.mark.skipif(not can_mount(), reason="no file system can be mounted here (unshare -rm)")


def run_mounted(mount, folder, **variables):
    """Run the script in a namespace of its own, in which `mount` has been called in `folder`."""
    inner = folder / "inner.py"
    inner.write_text(PRELUDE + RUN)
    launcher = f"""
    import os, subprocess, sys
    command = {mount!r} + ' && exec "$@"'
    done = subprocess.run(["unshare", "-rm", "sh", "-c", command, "sh", sys.executable, {str(inner)!r}])
    sys.exit(done.returncode)
    """
    return run_script(launcher, folder, prelude="", **variables)


@mounting
def test_a_full_disk_takes_nothing_from_the_run(tmp_path, as_without):
    """The log file and the spool lie on it: one warning for each says why."""
    (tmp_path / "small").mkdir()
    result = run_mounted(
        "mount -t tmpfs -o size=64k tmpfs small && { cat /dev/zero > small/filler || true; } 2>/dev/null",
        tmp_path,
        **DEAD,
        DLTOBS__LOG_FILE="small/dlt.jsonl",
        DLTOBS__SPOOL_DIR="small/spool",
        DLTOBS__METRICS="off",
        RUNTIME__LOG_LEVEL="INFO",
    )
    assert result.returncode == 0, result.stderr
    assert loaded(tmp_path) == as_without
    warnings = [line for line in result.stderr.splitlines() if "|[WARNING]|" in line and "|dltobs|" in line]
    about_files = [line for line in warnings if "pace left" in line]
    assert len([line for line in about_files if "log file" in line]) == 1, result.stderr
    assert len([line for line in about_files if "spool" in line]) == 1, result.stderr
    assert len([line for line in warnings if "could not be delivered" in line]) == 1


@mounting
def test_a_read_only_folder_takes_nothing_from_the_run(tmp_path, as_without):
    """The spool may not be written, nor what dltobs keeps in the working directory of the pipeline."""
    run_script(RUN, tmp_path, DLTOBS__ENABLED="false")
    for name in ("spool", "pipelines/shop/dltobs_runs"):
        (tmp_path / name).mkdir()
    # a folder in its place cannot be replaced
    (tmp_path / "pipelines" / "shop" / "dltobs_span_links.json").mkdir()
    result = run_mounted(
        "mount -t tmpfs -o ro tmpfs spool && mount -t tmpfs -o ro tmpfs pipelines/shop/dltobs_runs",
        tmp_path,
        **DEAD,
        DLTOBS__SPOOL_DIR="spool",
        DLTOBS__METRICS="off",
    )
    assert result.returncode == 0, result.stderr
    assert loaded(tmp_path) == as_without
    warnings = [line for line in result.stderr.splitlines() if "|dltobs|" in line]
    for what in ("spool:", "marker", "pending packages"):
        told = [line for line in warnings if what in line]
        assert len(told) == 1, (what, result.stderr)


@pytest.mark.parametrize("jump", [-86_400, 86_400], ids=["a day back", "a day ahead"])
def test_a_clock_that_jumps_takes_nothing_from_the_run(tmp_path, otlp, as_without, jump):
    """No span ends before it begins, and the next run does not take this one for lost."""
    script = f"""
    import dltobs, time, time_machine
    dltobs.configure()
    traveller = time_machine.travel(time.time() + {jump}, tick=True)

    @dlt.resource
    def orders():
        for n in range(50):
            if n == 25:
                traveller.start()
            yield {{"id": n, "name": str(n)}}

    pipeline().run(orders())
    traveller.stop()
    pipeline("other").run([{{"id": 1}}], table_name="x")
    pipeline().run([], table_name="orders")
    """
    result = run_script(script, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url)
    assert result.returncode == 0, result.stderr
    assert "dltobs" not in result.stderr
    assert loaded(tmp_path) == as_without
    runs = [span for span in otlp.spans if span.name == "run shop"]
    assert [attributes_of(span)["dlt.outcome"] for span in runs] == ["ok", "no_data"]
    assert all(span.start_time_unix_nano <= span.end_time_unix_nano for span in otlp.spans)


def test_two_processes_with_the_same_pipeline_do_what_they_would_have_done(tmp_path, otlp):
    """One runs while the other is in extract; neither takes the other for lost."""
    script = """
    import dltobs, subprocess, sys, time
    dltobs.configure()

    def run(rows):
        target = dlt.destinations.filesystem(bucket_url="file://" + os.path.abspath("bucket"))
        dlt.pipeline("shop", pipelines_dir="pipelines", destination=target, dataset_name="data").run(rows)

    if len(sys.argv) > 1:
        run(dlt.resource([{"id": 2}], name="orders"))
        sys.exit()

    @dlt.resource
    def orders():
        yield {"id": 1}
        subprocess.run([sys.executable, __file__, "second"], check=True)
        yield {"id": 3}

    run(orders())
    """

    def outcome(folder, **variables):
        folder.mkdir()
        result = run_script(script, folder, DATA_WRITER__DISABLE_COMPRESSION="true", **variables)
        files = sorted((folder / "bucket" / "data" / "orders").rglob("*.jsonl"))
        rows = [json.loads(line)["id"] for path in files for line in path.read_text().splitlines()]
        return result.returncode, sorted(rows), result.stderr

    code, rows, _ = outcome(tmp_path / "without", DLTOBS__ENABLED="false")
    with_code, with_rows, stderr = outcome(tmp_path / "with", OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url)
    assert (with_code, with_rows) == (code, rows), stderr
    outcomes = [attributes_of(span).get("dlt.outcome") for span in otlp.spans if span.name == "run shop"]
    assert len(outcomes) == 2
    assert "lost" not in outcomes
