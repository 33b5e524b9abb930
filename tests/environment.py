"""Removes the environment of whoever runs the tests: imported before dlt, which reads it."""

from __future__ import annotations

import os

_NEEDED = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TEMP",
    "TMP",
    "TZ",
    "SYSTEMROOT",
    "PYTEST",
    "PYTHON",
    "COV_",
    "COVERAGE",
    "DLTOBS_BUGSINK_VENV",
)
"""What the names of the variables begin with that are kept."""

IN_CI = bool(os.environ.get("CI"))
"""Whether there is time for more examples of what hypothesis tries."""

for _name in list(os.environ):
    if not _name.startswith(_NEEDED):
        del os.environ[_name]
os.environ["HOME"] = "/nonexistent"
