"""The greatest resident size of a process that runs 10,000 load jobs, with dltobs and without it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from backends import back_end
from measure import Figure, side_by_side

JOBS = 10_000
_SCRIPT = str(Path(__file__).with_name("big_load.py"))
_MOST_ROUNDS = 3
"""A run takes a minute, and sizes vary far less than times do."""


def memory_of_10000_jobs(rounds: int) -> Figure:
    """Whole processes: extract, normalize and load."""
    return memory_of(JOBS, min(rounds, _MOST_ROUNDS))


def memory_of(jobs: int, rounds: int) -> Figure:
    with back_end() as port:
        contenders = {
            "with dltobs": partial(_peak, jobs, f"http://127.0.0.1:{port}"),
            "dlt alone": partial(_peak, jobs),
        }
        sizes = side_by_side(contenders, rounds, warm_up=False)
    return Figure(
        title=f"Peak resident size of a process that loads {jobs:,} jobs, a span each, against dlt alone",
        subject="with dltobs",
        peer="dlt alone",
        goal=1.05,
        unit="a process",
        seconds=sizes,
        quantity="bytes",
        details={"jobs": jobs},
    )


def _peak(jobs: int, *endpoint: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, _SCRIPT, str(jobs), folder, *endpoint]
        done = subprocess.run(command, check=True, cwd=folder, capture_output=True, text=True)
    return float(done.stdout.split()[-1])
