"""Locks between processes, which the system takes back when their process dies.

Where there are none (Windows but for `locked_file`, file systems that know no `flock`) everybody gets them at
once.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PAUSE = 0.002
"""Seconds."""


def take(descriptor: int) -> bool:
    """Lock an open file or folder, without waiting. False: somebody else has it."""
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def give_back(descriptor: int) -> None:
    """Unlock and close it. A child that was forked meanwhile holds nothing, though it has the descriptor."""
    try:
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(folder: Path, timeout: float) -> Iterator[None]:
    """Keep others who ask out of a folder; no file is made for it.

    Args:
        folder: One that cannot be opened is not locked.
        timeout: Seconds, after which the block runs without the lock.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        yield
        return
    try:
        end = time.monotonic() + timeout
        while not take(descriptor) and time.monotonic() < end:
            time.sleep(_PAUSE)
        yield
    finally:
        give_back(descriptor)


if sys.platform == "win32":
    import msvcrt

    def _lock_file(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock_file(descriptor: int) -> None:
        with contextlib.suppress(OSError):  # it was not had in time
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
        os.close(descriptor)

else:
    _lock_file, _unlock_file = take, give_back


@contextlib.contextmanager
def locked_file(path: str, timeout: float) -> Iterator[None]:
    """Keep others who ask out, by a file that is there for its lock alone; on Windows, too.

    Args:
        path: Of that file, which is made where there is none.
        timeout: Seconds, after which the block runs without the lock.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        end = time.monotonic() + timeout
        while not _lock_file(descriptor) and time.monotonic() < end:
            time.sleep(_PAUSE)
        yield
    finally:
        _unlock_file(descriptor)
