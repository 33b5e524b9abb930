"""Killed at random moments, every run is accounted for once; `make torture` does it with many more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_runs_that_are_killed_at_random_moments_are_accounted_for():
    """Each process is gone in time, as PID 1, too; each run has one outcome.

    In time here is before the lock is free that a sink waits for, however slow the machine is.
    """
    script = Path(__file__).with_name("torture.py")
    done = subprocess.run(
        [sys.executable, str(script), "--runs", "25", "--limit", "12"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "terminated" in done.stdout
