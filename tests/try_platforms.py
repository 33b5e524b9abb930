"""Check that dltobs can be installed from wheels alone wherever dlt can: on musl (Alpine), ARM, macOS, Windows.

Usage: python tests/try_platforms.py. uv resolves the dependencies for each platform; nothing is installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"
PLATFORMS = [
    "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "x86_64-unknown-linux-musl",
    "aarch64-unknown-linux-musl", "x86_64-apple-darwin", "aarch64-apple-darwin", "x86_64-pc-windows-msvc",
    "aarch64-pc-windows-msvc",
]  # fmt: skip
PYTHONS = ["3.10", "3.12", "3.14"]


def main() -> None:
    """Print a line for each platform and Python; exit with 1 where dlt has wheels for all it needs and dltobs has not."""
    (dlt,) = (
        line.split('"')[1] for line in PYPROJECT.read_text().splitlines() if line.startswith('    "dlt>=')
    )
    missing = False
    for platform, python in product(PLATFORMS, PYTHONS):
        ours = _resolve(str(PYPROJECT), None, platform, python)
        theirs = ours if ours is None else _resolve("-", dlt, platform, python)
        missing = missing or (ours is not None and theirs is None)
        print(platform, python, "ok" if ours is None else "not for dlt either" if theirs else ours)
    sys.exit(missing)


def _resolve(source: str, requirement: str | None, platform: str, python: str) -> str | None:
    """Return what is wrong, or None where every dependency has a wheel."""
    uv = Path(sys.executable).with_name("uv")
    done = subprocess.run(
        [uv, "pip", "compile", "--quiet", source, "--only-binary", ":all:", "--python-platform", platform,
         "--python-version", python],
        input=requirement, env={**os.environ, "UV_PYTHON_DOWNLOADS": "never"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return None if done.returncode == 0 else done.stderr.strip()


if __name__ == "__main__":
    main()
