"""What dltobs adds to the start of a script that uses dlt anyway.

Whole processes, from the start of the interpreter to its end, so `shutdown()` is included.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from measure import Figure, child_process, side_by_side

_RESOLUTION = """
import dlt
from dlt.common.configuration import configspec, resolve_configuration
from dlt.common.configuration.specs import BaseConfiguration

@configspec
class Empty(BaseConfiguration):
    {body}

resolve_configuration(Empty())
"""
_IN_A_SECTION = _RESOLUTION.format(body='__section__ = "empty"')
"""Asks dlt's providers for the section, and so starts dlt's runtime, as `dlt.pipeline()` does."""
_WITHOUT_SECTION = _RESOLUTION.format(body="pass")
"""Has nothing to ask for: dlt's runtime is not started, which no script that runs a pipeline is spared."""
_DLTOBS = """
import dltobs
dltobs.configure(log_file="dlt.jsonl")
"""


def start_up(rounds: int) -> Figure:
    """Against a script whose first resolution starts dlt's runtime."""
    return _figure(
        _IN_A_SECTION,
        "import dltobs and configure(log_file=...) before import dlt and the resolution of an empty "
        "configuration with a section, against these two alone",
        rounds,
    )


def start_up_without_runtime(rounds: int) -> Figure:
    """Against a script that does not start dlt's runtime, so that the start counts as dltobs' own."""
    return _figure(
        _WITHOUT_SECTION,
        "The same against import dlt and the resolution of a configuration without fields and section, "
        "which does not even start dlt's runtime",
        rounds,
    )


def _figure(dlt_alone: str, title: str, rounds: int) -> Figure:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # neither the user's configuration nor their environment: both would be resolved as well
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": name,
            "DLT_DATA_DIR": str(folder / "data"),
            "RUNTIME__DLTHUB_TELEMETRY": "false",
        }
        codes = {"dltobs and dlt": _DLTOBS + dlt_alone, "dlt": dlt_alone, "no-op": "pass"}
        contenders = {key: child_process(_command(code), environment, folder) for key, code in codes.items()}
        seconds = side_by_side(contenders, rounds)
    return Figure(
        title=title,
        subject="dltobs and dlt",
        peer="dlt",
        goal=1.08,
        unit="a process",
        seconds=seconds,
        details={"included": codes},
    )


def _command(code: str) -> list[str]:
    # isolated: no variable of Python's, no package of the user's, nothing from the current folder
    return [sys.executable, "-I", "-c", code]
