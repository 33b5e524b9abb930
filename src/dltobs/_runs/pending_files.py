"""Keeps, beside a pipeline's packages, how many rows and bytes are in the files that normalize wrote.

dlt tells it at the end of normalize only. A package may be loaded by a later run, in this process or another
one: after a load that failed, or where the steps are called one by one. It waits in the pipeline's working
directory, and so do the numbers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from dltobs._describe import text_of
from dltobs._runs.jobs import WrittenFile
from dltobs._small_files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from dltobs._warnings import Warner

FILE_NAME = "dltobs_pending_files.json"
"""In the working directory: `{load_id: {job_id: [rows, bytes]}}`."""

_MAX_SIZE = 4 * 1024 * 1024
"""Bytes of the file: some 50,000 jobs. A package for which there is no room is not remembered."""
_MAX_NUMBER = 2**63 - 1

Packages: TypeAlias = "Mapping[str, Mapping[str, WrittenFile]]"
"""By load id, then by the id of the job that loads the file."""


class PendingFiles:
    """Reads and writes the file of one pipeline after the other; keeps nothing in memory.

    Args:
        warner: Told, once, that the file cannot be written.
    """

    def __init__(self, warner: Warner) -> None:
        self._warner = warner

    def keep(self, folder: str, written: Packages, pending: Collection[str]) -> None:
        """Leave, at the end of a run, what later ones will ask for.

        Nothing is written where the run has loaded what it wrote.

        Args:
            folder: The pipeline's working directory.
            written: What the run has written.
            pending: The packages that wait there now; others are forgotten.
        """
        path = Path(folder) / FILE_NAME
        before = known_files(folder)
        known = {**before, **written}
        kept: dict[str, Mapping[str, WrittenFile]] = {}
        size = 0
        for load_id in (one for one in pending if one in known):
            length = len(json.dumps({load_id: known[load_id]}))
            if size + length <= _MAX_SIZE:
                kept[load_id] = known[load_id]
                size += length
        if kept == before:
            return
        try:
            if kept:
                write_json(path, kept)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            self._warner.warn(
                "pending files",
                f"the sizes of pending packages cannot be kept in {path}: {text_of(error.strerror)}; "
                "of runs that load them later the rows will not be known",
                reason="write",
            )


def known_files(folder: str) -> Packages:
    """What earlier runs have left; what is torn or not ours is not there."""
    content = read_json(Path(folder) / FILE_NAME, _MAX_SIZE)
    packages = {load_id: _files(files) for load_id, files in content.items()}
    return {load_id: files for load_id, files in packages.items() if files}


def _files(files: Any) -> dict[str, WrittenFile]:
    if not isinstance(files, dict):
        return {}
    return {job_id: WrittenFile(*numbers) for job_id, numbers in files.items() if _is_pair(numbers)}


def _is_pair(numbers: Any) -> bool:
    return (
        isinstance(numbers, list)
        and len(numbers) == 2  # noqa: PLR2004 - rows, bytes
        and all(type(one) is int and 0 <= one <= _MAX_NUMBER for one in numbers)
    )
