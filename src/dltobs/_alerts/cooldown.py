"""Keeps one failure that comes again and again from being told each time, and counts it instead.

What has been told is kept in one file for all pipelines, as hashes: a pipeline is often a new process each
time. The file is not in the pipeline's working directory, as it is also written after the run has ended, when
the caller may be deleting that directory. Processes that fail at the same moment take turns; where the file
system knows no locks the last one wins, and something may be told twice or counted once too little.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from dltobs._describe import text_of
from dltobs._locks import locked
from dltobs._process.fork_safe import fork_safe
from dltobs._small_files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dltobs._warnings import Warner

FILE_NAME = "alerts.json"
"""In the folder: `{key: [since, was_told, muted, on_its_way]}`, as in `_Entry`."""

_ON_ITS_WAY = 120.0
"""Seconds for which an alert counts as told before it is delivered; its process may have died since."""
_MAX_ENTRIES = 1000
_LATEST = 1e11
"""Seconds since the epoch, which a `datetime` still holds."""
_LOCK_TIMEOUT = 0.5
"""Seconds."""


def key_of(*fingerprint: str) -> str:
    """The key of a failure: a hash of its fingerprint, 32 hex digits."""
    whole = "\0".join(fingerprint)
    return hashlib.blake2b(whole.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to tell a failure. `more` equal ones were not told since `since`, in seconds since the epoch."""

    key: str
    at: float
    more: int = 0
    since: float | None = None


class _Entry(NamedTuple):
    """Times are seconds since the epoch.

    `since` is when the failure was told last or, as long as `was_told` is False, when it came first;
    `muted` are those that came since and were not told; `on_its_way` is when one was given leave.
    """

    since: float
    was_told: bool
    muted: int
    on_its_way: float | None

    @property
    def last(self) -> float:
        """When it came to anything last."""
        return self.since if self.on_its_way is None else max(self.since, self.on_its_way)


class Cooldown:
    """Gives leave to tell a failure, once in a while.

    Args:
        seconds: For how long an equal failure is not told again; 0: it always is.
        folder: Where the file is; made with mode 0700 when there is something to write.
        warner: Told, once, that the file cannot be written.
    """

    def __init__(self, seconds: float, folder: Path, warner: Warner) -> None:
        self._seconds = seconds
        self._path = folder / FILE_NAME
        self._warner = warner
        self._lock = fork_safe(threading.Lock())
        self._patience = _LOCK_TIMEOUT

    def hurry(self) -> None:
        """Wait for no lock any more: the end of the process is near."""
        self._patience = 0.0

    def ask(self, key: str, now: float | None = None) -> Permit | None:
        """Leave to tell a failure now; None: it has been told, and this one is counted.

        Whoever gets leave calls `told()` or `lost()` in the end.

        Args:
            key: Of `key_of()`.
            now: Seconds since the epoch.
        """
        if self._seconds <= 0:
            return Permit(key, time.time() if now is None else now)
        with self._changing() as known:
            # not before: what others told while this one waited for its turn is no future
            now = time.time() if now is None else now
            before = known.get(key)
            # one that lies in the future was written by a clock that has been put back since
            if before is None or before.since > now:
                before = _Entry(now, was_told=False, muted=0, on_its_way=None)
            is_told = before.was_told and now - before.since < self._seconds
            is_coming = before.on_its_way is not None and 0 <= now - before.on_its_way < _ON_ITS_WAY
            is_muted = is_told or is_coming
            known[key] = before._replace(
                muted=before.muted + 1, on_its_way=before.on_its_way if is_muted else now
            )
        if is_muted:
            return None
        return Permit(key, now, before.muted, before.since if before.muted else None)

    def told(self, permit: Permit) -> None:
        """The alert was delivered: from its time on, equal ones are counted."""
        if self._seconds > 0:
            with self._changing() as known:
                entry = known.get(permit.key)
                muted = 0 if entry is None else max(entry.muted - permit.more - 1, 0)
                known[permit.key] = _Entry(permit.at, was_told=True, muted=muted, on_its_way=None)

    def lost(self, permit: Permit) -> None:
        """The alert was not delivered: the next equal failure is told, and tells of this one."""
        if self._seconds > 0:
            with self._changing() as known:
                if (entry := known.get(permit.key)) is not None:
                    known[permit.key] = entry._replace(on_its_way=None)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, _Entry]]:
        """The entries of the file, written when the block ends; one thread of one process at a time."""
        # bounded: a signal handler may have interrupted the thread that holds it
        is_locked = self._lock.acquire(timeout=_LOCK_TIMEOUT)
        try:
            # an error here is that of the write below
            with contextlib.suppress(OSError):
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(self._path.parent, self._patience):
                known = dict(_read(self._path))
                yield known
                for key in sorted(known, key=lambda key: known[key].last)[:-_MAX_ENTRIES]:
                    del known[key]
                write_json(self._path, known)
        except OSError as error:
            self._warner.warn(
                "alert cooldown",
                f"what has been told cannot be kept in {self._path}: {text_of(error.strerror)}; "
                "the same failure will be told again",
                reason="write",
            )
        finally:
            if is_locked:
                self._lock.release()


def _read(path: Path) -> Iterator[tuple[str, _Entry]]:
    """What the file says; what is not ours is not there."""
    for key, raw in read_json(path).items():
        if len(key) != 32 or not isinstance(raw, list) or len(raw) != len(_Entry._fields):  # noqa: PLR2004 - hex digits
            continue
        since, was_told, muted, on_its_way = raw
        if (
            _is_time(since)
            and isinstance(was_told, bool)
            and isinstance(muted, int)
            and muted >= 0
            and (on_its_way is None or _is_time(on_its_way))
        ):
            yield key, _Entry(since, was_told, muted, on_its_way)


def _is_time(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and 0 <= value < _LATEST
