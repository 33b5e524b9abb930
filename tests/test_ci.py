"""What has to pass before a change lands is checked in a folder that is called as `git clone` calls it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / ".ci" / "run"
MAKE = '#!/bin/sh\necho "$@" >>"$CALLS"\npwd >>"$FOLDERS"\ntest ! -e uncommitted || exit 1\ntest "$1" != "$FAILS"\n'

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.mark.parametrize("fails", ["nothing", "test"])
def test_it_checks_what_is_committed_in_a_clone_that_is_called_dltobs(tmp_path, fails):
    """It fails where a check does, and leaves nothing behind."""
    checkout, programs, temporary = (tmp_path / name for name in ("checkout", "bin", "temporary"))
    (checkout / ".ci").mkdir(parents=True)
    shutil.copy(RUN, checkout / ".ci" / "run")
    programs.mkdir()
    temporary.mkdir()
    (programs / "make").write_text(MAKE)
    (programs / "make").chmod(0o755)
    git = ["git", "-C", str(checkout), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "x"]):
        subprocess.run([*git, *command], check=True)
    (checkout / "uncommitted").touch()
    calls, folders = tmp_path / "calls", tmp_path / "folders"
    environment = {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "TMPDIR": str(temporary),
        "CALLS": str(calls),
        "FOLDERS": str(folders),
        "FAILS": fails,
    }
    done = subprocess.run([checkout / ".ci" / "run"], env=environment, check=False)
    assert done.returncode == (fails == "test")
    (folder,) = {Path(line) for line in folders.read_text().splitlines()}
    assert folder.name == "dltobs"
    assert folder != checkout
    assert "test" in calls.read_text().splitlines()
    assert not list(temporary.iterdir())
