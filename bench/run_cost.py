"""What dltobs costs a run of 50 tables with everything on, and dlt's own JSON and Sentry beside it."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from backends import back_end
from measure import Figure

_SCRIPT = str(Path(__file__).with_name("run_of_tables.py"))
_TABLES = 50
_FEW_ROUNDS, _FEW_TABLES = 2, 5
"""So that a quick look is quick."""
_HOWS = ("plain", "dltobs", "counted", "dlt")
_WHAT = "a run of 50 tables into DuckDB at INFO, with spans, metrics, JSON console, file, Sentry"


def own_code_in_run(rounds: int) -> Figure:
    """The time that threads spend in dltobs' code and its exporters', over the run without dltobs."""
    runs = _runs(rounds)
    return Figure(
        title=f"CPU time in the code of dltobs and of its exporters in {_WHAT}, over the run without dltobs",
        subject="dltobs' own code",
        peer="run without dltobs",
        goal=0.01,
        unit="a run",
        seconds={
            "dltobs' own code": [own for _, own in runs["counted"]],
            "run without dltobs": [run for run, _ in runs["plain"]],
        },
    )


def run_with_everything_on(rounds: int) -> Figure:
    """The whole run's CPU time, with dltobs and without; dlt's own JSON and Sentry beside it."""
    runs = _runs(rounds)
    return Figure(
        title=f"CPU time of {_WHAT}, flushing included, against the run without dltobs",
        subject="run with dltobs",
        peer="run without dltobs",
        goal=1.01,
        unit="a run",
        seconds=_whole(runs),
    )


def run_with_dlts_json_and_sentry(rounds: int) -> Figure:
    """The same for what dlt brings along."""
    return Figure(
        title="CPU time of the same run with dlt's own JSON and Sentry, against the run without",
        subject="run with dlt's JSON and Sentry",
        peer="run without dltobs",
        goal=None,
        unit="a run",
        seconds=_whole(_runs(rounds)),
    )


def _whole(runs: dict[str, list[tuple[float, float]]]) -> dict[str, list[float]]:
    names = {
        "dltobs": "run with dltobs",
        "plain": "run without dltobs",
        "dlt": "run with dlt's JSON and Sentry",
    }
    return {name: [run for run, _ in runs[how]] for how, name in names.items()}


@functools.cache
def _runs(rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds of each kind of run, and those counted in it; the kinds take turns, as in `side_by_side`."""
    found: dict[str, list[tuple[float, float]]] = {how: [] for how in _HOWS}
    tables = _TABLES if rounds > _FEW_ROUNDS else _FEW_TABLES
    with back_end() as port:
        for number in range(rounds):
            shift = number % len(_HOWS)
            for how in (*_HOWS[shift:], *_HOWS[:shift]):
                found[how].append(_run(how, tables, port))
    return found


def _run(how: str, tables: int, port: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, _SCRIPT, how, str(tables), str(port), folder],
            check=True,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={"PATH": os.environ.get("PATH", ""), "HOME": folder},
        )
    run, own = done.stdout.split()[-2:]
    return float(run), float(own)
