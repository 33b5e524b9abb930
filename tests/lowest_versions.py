"""Run a subset of the tests with the lowest versions that pyproject.toml allows, on the oldest and the newest Python.

Usage: python tests/lowest_versions.py. The interpreters are those that uv finds, and pyenv's where it is there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

OLDEST = (3, 10)
PROJECT = Path(__file__).parent.parent
# direct dependencies of the tests below; the group `test` has more, whose lower bounds say nothing about dltobs
TEST_PACKAGES = ["dlt[duckdb]", "hypothesis>=6.100", "pytest>=8", "pytest-timeout>=2.3", "pytest-xdist>=3.6"]
TESTS = ["test_smoke.py", "test_automaton.py", "test_logs_json.py", "test_logs_loguru.py", "test_spans.py", "test_sentry.py"]  # fmt: skip


def main() -> None:
    """Test each interpreter in an environment of its own; exit with 1 if a test fails."""
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    if shutil.which("pyenv"):  # its commands run only the versions that are named here
        versions = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True, check=True)
        environment["PYENV_VERSION"] = ":".join(versions.stdout.split())
    uv = str(Path(sys.executable).with_name("uv"))
    listed = subprocess.run(
        [uv, "python", "list", "--only-installed", "--output-format", "json"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    found = {}
    for one in json.loads(listed.stdout):
        version = one["version_parts"]["major"], one["version_parts"]["minor"]
        if one["implementation"] == "cpython" and one["variant"] == "default" and version >= OLDEST:
            found[version] = one["path"]
    failed = False
    for version in sorted({min(found), max(found)}):
        folder = PROJECT / f".venv-lowest-{version[0]}.{version[1]}"
        python = str(folder / "bin" / "python")
        print(f"Python {version[0]}.{version[1]}, lowest direct versions", flush=True)
        subprocess.run(
            [uv, "venv", "--quiet", "--clear", "--python", found[version], str(folder)],
            env=environment,
            check=True,
        )
        subprocess.run(
            [uv, "pip", "install", "--quiet", "--python", python, "--resolution", "lowest-direct",
             "--editable", f"{PROJECT}[grpc]", *TEST_PACKAGES],
            env=environment, check=True,
        )  # fmt: skip
        tested = subprocess.run(
            [python, "-m", "pytest", "--quiet", "--numprocesses", "2", "-m", "not long", *(f"tests/{name}" for name in TESTS)],
            cwd=PROJECT, check=False,
        )  # fmt: skip
        failed = failed or tested.returncode != 0
    sys.exit(failed)


if __name__ == "__main__":
    main()
