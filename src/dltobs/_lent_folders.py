"""Lends numbered folders to processes and threads: each to one at a time, first the one where work was left.

A folder `3` is lent to whoever holds the lock on the file `3.lock`, which the system takes back when the
process dies. That file is empty but while the folder is lent, and after a loan that has not ended well.
Where there are no locks, folders are shared, as dlt's own are.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from typing import TYPE_CHECKING

from dltobs import _locks, _platform

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_FOLDERS = 32
_SUFFIX = ".lock"
_KEPT = 90 * 86_400.0
"""Seconds."""


@contextlib.contextmanager
def lent(roots: Sequence[Path]) -> Iterator[Path]:
    """Have a folder for oneself.

    Args:
        roots: Where it may be; the first one that can be written to is taken. It is made with mode 0700 where
            it is missing, as are the two above it.

    Raises:
        OSError: None can, or all folders are lent.
    """
    folder, lock = _take(roots)
    try:
        yield folder
        os.ftruncate(lock, 0)
    finally:
        _locks.give_back(lock)


def sweep(parent: Path) -> None:
    """Delete the roots below a folder of which nothing has been lent for 90 days: nobody will come back."""
    with contextlib.suppress(OSError):
        for root in parent.iterdir():
            used = [lock.stat().st_mtime for lock in root.glob(f"*{_SUFFIX}")]
            if used and max(used) < time.time() - _KEPT:
                shutil.rmtree(root, ignore_errors=True)


def _take(roots: Sequence[Path]) -> tuple[Path, int]:
    reason = OSError("no folder")
    for root in roots:
        try:
            for one in (*reversed(root.parents[:2]), root):
                one.mkdir(mode=0o700, parents=True, exist_ok=True)
            left = [number for number in range(_FOLDERS) if _has_work(root, number)]
            for number in dict.fromkeys((*left, *range(_FOLDERS))):
                lock = _lock(root / f"{number}{_SUFFIX}")
                if lock is not None:
                    return root / str(number), lock
            reason = OSError("too many processes at once")
        except OSError as error:
            reason = error
    raise reason


def _has_work(root: Path, number: int) -> bool:
    try:
        return (root / f"{number}{_SUFFIX}").stat().st_size > 0
    except OSError:
        return False


def _lock(path: Path) -> int | None:
    """The descriptor of a lock that is ours now; None: somebody has it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | _platform.NO_FOLLOW, 0o600)
    try:
        if not _locks.take(lock):
            os.close(lock)
            return None
        os.write(lock, b"1")
    except OSError:
        _locks.give_back(lock)
        raise
    return lock
