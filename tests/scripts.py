"""Runs scripts in processes of their own, for what depends on a fresh one: imports, exit, fork."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import forge

if TYPE_CHECKING:
    from pathlib import Path

SLACK = 8.0
"""Seconds that a busy machine may take on top of a deadline; what hangs in a test does so for longer."""

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
    return run_python([str(script)], folder, own_variables(folder, **variables), timeout=timeout)


def own_variables(folder: Path, **variables: str) -> dict[str, str]:
    """These environment variables, a data directory in `folder`, and what any process needs."""
    needed = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return needed | {"RUNTIME__DLTHUB_TELEMETRY": "false", "DLT_DATA_DIR": str(folder / "dlt"), **variables}


def run_python(
    command: list[str], folder: Path, environment: dict[str, str], *, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, and wait for it.

    Args:
        command: The arguments: `-c` and code, or the path of a script.
        folder: Where.
        environment: All of it.
        timeout: Seconds.
    """
    with start_python(command, folder, environment) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
        return subprocess.CompletedProcess(command, process.wait(), output, errors)


def start_python(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start Python as `run_python()` does, with pipes for its output.

    On Linux that is a fork of a process that has executed dlt and other libraries, which saves most of the time.
    """
    if _may_be_forked(environment):
        return forge.start(command, folder, environment)
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _may_be_forked(environment: dict[str, str]) -> bool:
    # others have no sockets of the kind that is needed; DuckDB for Python 3.10 aborts when a fork of it exits
    if sys.platform != "linux" or sys.version_info < (3, 11):
        return False
    # the interpreter reads these when it starts
    of_python = {name: value for name, value in environment.items() if name.startswith("PYTHON")}
    return of_python.items() <= os.environ.items()
