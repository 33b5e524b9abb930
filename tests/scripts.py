"""Runs scripts in processes of their own, for what depends on a fresh one: imports, exit, fork."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

PRELUDE = """
import sys, json, os
import dlt

def pipeline(name="shop"):
    destination = dlt.destinations.duckdb(f"{name}.duckdb")
    return dlt.pipeline(name, pipelines_dir="pipelines", destination=destination, dataset_name=f"{name}_data")

@dlt.resource
def broken():
    yield {"id": 1}
    raise ValueError("no such order")
"""
"""A pipeline factory as that of the fixture `pipeline`, and a resource that fails."""

WITHOUT_THREADS = """
@dlt.destination(name="nowhere")
def nowhere(items, table):
    pass

def load(name):
    dlt.pipeline(name, pipelines_dir="pipelines", destination=nowhere).run([{"id": 1}], table_name="x")
"""
"""Loads without DuckDB, whose own threads do not survive a fork."""


def run_script(
    source: str, folder: Path, *, timeout: float = 60, prelude: str = PRELUDE, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a script in `folder`, with these environment variables and none of dltobs' own or its friends."""
    script = folder / "script.py"
    script.write_text(prelude + textwrap.dedent(source))
    environment: dict[str, Any] = {
        name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ
    }
    environment |= {"RUNTIME__DLTHUB_TELEMETRY": "false", "DLT_DATA_DIR": str(folder / "dlt"), **variables}
    return subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
