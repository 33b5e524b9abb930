"""The marker of a run: a small file in the pipeline's working directory for as long as the run is on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

from dltobs._process.identity import ProcessIdentity
from dltobs._small_files import read_regular, write_whole

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = "dltobs_runs"
"""In the working directory of the pipeline."""
SUFFIX = ".json"
_VERSION = 1
_MAX_SIZE = 16 * 1024
_YEARS = range(1971, 2200)
"""Those of which OpenTelemetry has a number of nanoseconds."""
_LARGEST_PID = 2**31 - 1
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class Marker:
    """What a run has left of itself. `started_at` is an aware time; `step` None before the first one."""

    transaction_id: str
    pipeline: str
    method: str
    started_at: datetime
    process: ProcessIdentity
    step: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    is_sampled: bool = True
    destination_name: str | None = None
    destination_type: str | None = None
    dataset: str | None = None
    first_run: bool = False


def write(path: Path, marker: Marker) -> None:
    """Write a marker, whole or not at all, for its owner only.

    Raises:
        OSError: It cannot be written.
    """
    content = {"version": _VERSION, **asdict(marker), "started_at": marker.started_at.isoformat()}
    write_whole(path, json.dumps(content).encode())


def read(path: Path) -> tuple[Marker, float] | None:
    """A marker and when its process last gave a sign of life, by the clock of the file system (epoch, s).

    None: it is torn, not ours or not there.
    """
    try:
        content, changed = read_regular(path, _MAX_SIZE)
        found = json.loads(content)
    except (OSError, ValueError, RecursionError):
        return None
    try:
        return (_marker(found), changed) if found.pop("version") == _VERSION else None
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _marker(found: dict[str, Any]) -> Marker:
    process = found.pop("process")
    at = datetime.fromisoformat(found.pop("started_at"))
    marker = Marker(started_at=at, process=ProcessIdentity(**process), **found)
    _check(
        marker, optional={"step", "trace_id", "span_id", "destination_name", "destination_type", "dataset"}
    )
    _check(marker.process, optional={"boot", "namespace", "start"})
    if at.tzinfo is None or at.year not in _YEARS or not is_id(marker.transaction_id, 32):
        raise ValueError
    if not 0 < marker.process.pid <= _LARGEST_PID:
        raise ValueError
    for value, length in ((marker.trace_id, 32), (marker.span_id, 16)):
        if value is not None and not is_id(value, length):
            raise ValueError
    return marker


_TYPES = {"pid": int, "start": int, "is_sampled": bool, "first_run": bool}


def _check(value: Any, optional: set[str]) -> None:
    for one in fields(value):
        given = getattr(value, one.name)
        if one.name in {"process", "started_at"} or (given is None and one.name in optional):
            continue
        # a bool is an int
        if type(given) is not _TYPES.get(one.name, str):
            raise TypeError
        if isinstance(given, str):
            given.encode()  # a lone surrogate could not be exported


def is_id(value: str, length: int) -> bool:
    """Whether a text is an id of so many lower-case hexadecimal digits."""
    return len(value) == length and set(value) <= _HEX and set(value) != {"0"}
