"""Notices runs whose process died without a word: by the markers that they left behind.

A run is lost if its marker is there and its process is not. Within the same boot of the kernel and the same
process-id namespace that is asked of the kernel. Elsewhere (a pod that was moved, a container that was
made anew, two hosts that share a volume) nobody can be asked, and host names prove nothing: there the time
of the file is the sign of life, which a thread renews while the run is on. It is compared with the time of a
file that has just been written beside it, so that only the clock of the file system counts.

A marker is claimed by renaming it, so that of two processes one reports. The claim bears the id of the
claimer's run: if that dies, too, before it has reported, the next run claims again.
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dltobs._describe import text_of
from dltobs._events import Run, RunLost
from dltobs._process.fork_safe import fork_safe
from dltobs._process.identity import is_alive, own_process
from dltobs._runs.marker_files import FOLDER, SUFFIX, Marker, is_id, read, write

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from dltobs._warnings import Warner

BEAT = 15.0
"""Seconds between two signs of life."""
SILENCE = 120.0
"""Seconds without a sign of life after which a process that cannot be asked is dead: 8 missed beats. (NFS may
show a time that is a minute old.)"""
_KEPT = 86_400.0
"""Seconds for which a torn or foreign file is left alone."""
_MAX_FILES = 1000
"""Of a folder, that are looked at."""
_CLAIM = ".claimed-"
_ID_LENGTH = 32


@dataclass(slots=True)
class _Open:
    path: Path
    marker: Marker


class _Found(NamedTuple):
    """A marker of a dead process."""

    path: Path
    marker: Marker
    last_seen: float


class RunMarkers:
    """Writes, renews and takes away the markers of this process, and finds those of dead ones.

    Args:
        warner: Told once where markers cannot be written.
    """

    def __init__(self, warner: Warner) -> None:
        self._warner = warner
        self._open: dict[str, _Open] = {}
        self._claims: set[Path] = set()
        """On lost runs of which the sinks are being told."""
        self._beating: int | None = None
        """The process in which the thread of the heart beat runs."""
        self._is_over = fork_safe(threading.Event())
        """No run follows: the thread of the heart beat is not needed any more."""

    def redirect(self, warner: Warner) -> None:
        """Tell somebody else of what goes wrong."""
        self._warner = warner

    def begin(self, run: Run, method: str, started_at: datetime, folder: str) -> None:
        """A run begins: leave its marker."""
        marker = Marker(
            transaction_id=run.transaction_id,
            pipeline=run.pipeline,
            method=method,
            started_at=started_at,
            process=own_process(),
            destination_name=run.destination_name,
            destination_type=run.destination_type,
            dataset=run.dataset,
            first_run=run.first_run,
        )
        path = Path(folder) / FOLDER / f"{run.transaction_id}{SUFFIX}"
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            write(path, marker)
        except OSError as error:
            self._warn(path, error)
            return
        self._open[run.transaction_id] = _Open(path, marker)
        self._beat()

    def step(self, run: Run, step: str, trace_id: str | None, span_id: str | None, *, sampled: bool) -> None:
        """A run is in another step now; the ids of its first one are those of the root span."""
        found = self._open.get(run.transaction_id)
        if found is None or found.marker.process.pid != os.getpid():
            return
        marker = replace(found.marker, step=step)
        if marker.span_id is None and span_id is not None:
            marker = replace(marker, trace_id=trace_id, span_id=span_id, is_sampled=sampled)
        found.marker = marker
        try:
            # dlt wipes the folder when it resets the pipeline, and makes it anew; where it is gone, somebody
            # has dropped the pipeline
            if found.path.parent.parent.exists():
                found.path.parent.mkdir(mode=0o700, exist_ok=True)
                write(found.path, marker)
        except OSError as error:
            self._warn(found.path, error)

    def end(self, transaction_id: str) -> None:
        """A run has been reported: take its marker away."""
        found = self._open.pop(transaction_id, None)
        if found is None or found.marker.process.pid != os.getpid():
            return
        with contextlib.suppress(OSError):  # it will be reported as lost, which is the best that is left
            found.path.unlink(missing_ok=True)

    def end_all(self, but: Container[str] = ()) -> None:
        """The process ends, and its runs have been reported, or are being reported, `but` these."""
        for claim in list(self._claims):
            self._release(claim)
        for transaction_id in [one for one in list(self._open) if one not in but]:
            self.end(transaction_id)

    def close(self) -> None:
        """No run follows."""
        self._is_over.set()

    def _release(self, claim: Path) -> None:
        self._claims.discard(claim)
        with contextlib.suppress(OSError):
            claim.unlink()

    def lost(self, run: Run) -> Iterator[RunLost]:
        """Claim the earlier runs of the pipeline that are lost, and give them one by one.

        The claim on each ends when the next one is asked for.
        """
        own = self._open.get(run.transaction_id)
        if own is None:
            return
        for found in self._dead(own):
            lost_id = found.marker.transaction_id
            claim = own.path.with_name(f"{lost_id}{_CLAIM}{run.transaction_id}")
            try:
                found.path.rename(claim)
            except OSError:  # somebody else was first
                continue
            self._claims.add(claim)
            yield _lost(found, run.transaction_id)
            self._release(claim)

    def _dead(self, own: _Open) -> list[_Found]:
        try:
            now = own.path.stat().st_mtime
            with os.scandir(own.path.parent) as entries:
                names = [entry.name for entry, _ in zip(entries, range(_MAX_FILES), strict=False)]
        except OSError:
            return []
        dead = []
        for name in sorted(names):
            path = own.path.with_name(name)
            lost_id, claimer = _parts(name)
            found = read(path) if lost_id is not None else None
            if found is None or found[0].transaction_id != lost_id:
                _sweep(path, now)
            elif (
                found[0].pipeline == own.marker.pipeline
                and self._is_dead(*found, own, now)
                and not (claimer is not None and self._is_on(own.path.with_name(claimer + SUFFIX), own, now))
            ):
                dead.append(_Found(path, *found))
        return sorted(dead, key=lambda one: one.marker.started_at)

    def _is_on(self, path: Path, own: _Open, now: float) -> bool:
        found = read(path)
        return found is not None and not self._is_dead(*found, own, now)

    def _is_dead(self, marker: Marker, changed: float, own: _Open, now: float) -> bool:
        alive = is_alive(marker.process, own.marker.process)
        # one that lies in the future was written by a clock that has been put back since
        return abs(now - changed) > SILENCE if alive is None else not alive

    def _warn(self, path: Path, error: OSError) -> None:
        self._warner.warn(
            "run markers",
            f"no marker of the run can be left in {path.parent}: {text_of(error.strerror)}; "
            "should the process die without a word, the next run cannot report it as lost",
            reason="write",
        )

    def _beat(self) -> None:
        """Have a thread give signs of life while a run is on. Threads do not survive a fork."""
        if self._beating == os.getpid():
            return
        self._beating = os.getpid()
        self._is_over = fork_safe(threading.Event())
        inherited = [one for one, run in self._open.items() if run.marker.process.pid != os.getpid()]
        for transaction_id in inherited:  # they are the parent's
            del self._open[transaction_id]
        try:
            threading.Thread(
                target=self._renew, args=(self._is_over,), name="dltobs-markers", daemon=True
            ).start()
        except RuntimeError:  # the process exits
            self._beating = None

    def _renew(self, is_over: threading.Event) -> None:
        while True:
            if is_over.wait(BEAT):
                return
            if not self._open:
                self._beating = None
                # a run may have begun meanwhile, and relied on us
                if not self._open:
                    return
                self._beating = os.getpid()
            for found in list(self._open.values()):
                with contextlib.suppress(OSError):
                    os.utime(found.path)


def _parts(name: str) -> tuple[str | None, str | None]:
    """The id of the run, and that of the run that has claimed it, in the name of a marker."""
    if name.endswith(SUFFIX):
        lost_id, claimer = name[: -len(SUFFIX)], None
    else:
        lost_id, _, claimer = name.partition(_CLAIM)
    is_ours = is_id(lost_id, _ID_LENGTH) and (claimer is None or is_id(claimer, _ID_LENGTH))
    return (lost_id, claimer) if is_ours else (None, None)


def _sweep(path: Path, now: float) -> None:
    """Take a torn or foreign file away once it is old: nobody is writing it any more."""
    with contextlib.suppress(OSError):
        if now - path.lstat().st_mtime > _KEPT:
            path.unlink()


def _lost(found: _Found, noticed_by: str) -> RunLost:
    marker = found.marker
    now = datetime.now(timezone.utc)
    try:
        seen = datetime.fromtimestamp(found.last_seen, timezone.utc)
    except (OverflowError, ValueError, OSError):
        seen = now
    run = Run(
        marker.pipeline,
        marker.transaction_id,
        marker.destination_name,
        marker.destination_type,
        marker.dataset,
        marker.first_run,
        working_dir=str(found.path.parent.parent),
    )
    return RunLost(
        run=run,
        method=marker.method,
        step=marker.step,
        started_at=marker.started_at,
        # clocks may have been set in between
        last_seen_at=max(min(seen, now), marker.started_at),
        noticed_at=now,
        host=marker.process.host,
        pid=marker.process.pid,
        noticed_by=noticed_by,
        trace_id=marker.trace_id,
        span_id=marker.span_id,
        is_sampled=marker.is_sampled,
    )
