"""Scripts that are forked from a prepared process behave as in an interpreter of their own."""

from __future__ import annotations

import json
import os
import signal
import sys

import pytest

from scripts import run_python, start_python

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or sys.version_info < (3, 11),
    reason="scripts are forked on Linux, from Python 3.11 on",
)

LOADED = (
    "print(json.dumps({name: name in sys.modules for name in ('dlt', 'opentelemetry.trace', 'dltobs')}))\n"
)


def test_a_library_is_imported_when_the_script_imports_it(tmp_path):
    """With what it imports itself, and no other."""
    code = (
        f"import json, sys\n{LOADED}import opentelemetry.sdk.trace\n{LOADED}import dlt\n{LOADED}"
        "from importlib.util import find_spec\n"
        "print(find_spec('duckdb') is not None, 'duckdb' in sys.modules, dlt.__spec__.origin == dlt.__file__)"
    )
    done = run_python(["-c", code], tmp_path, dict(os.environ))
    *loaded, found = done.stdout.splitlines()
    assert [list(json.loads(line).values()) for line in loaded] == [
        [False, False, False],
        [False, True, False],
        [True, True, False],
    ]
    assert found == "True False True"


def test_several_scripts_run_at_once_and_each_has_its_own_status(tmp_path):
    """Whatever ends them: an exit, an exception, a signal."""
    codes = ["raise SystemExit(3)", "raise ValueError('no')", "pass", "import time; time.sleep(60)"]
    processes = [start_python(["-c", code], tmp_path, dict(os.environ)) for code in codes]
    processes[-1].kill()
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [3, 1, 0, -signal.SIGKILL]
    assert outputs[1][1].endswith("ValueError: no\n")


def test_a_script_has_its_own_folder_environment_and_time_zone(tmp_path):
    """As if it had been started with them."""
    code = "import os, time; print(os.getcwd(), sorted(os.environ), time.tzname[0])"
    done = run_python(["-c", code], tmp_path, {"TZ": "XYZ-3", "PATH": os.environ["PATH"]})
    assert done.stdout == f"{tmp_path} ['PATH', 'TZ'] XYZ\n"
