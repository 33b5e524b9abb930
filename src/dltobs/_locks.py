"""Locks between processes, which the system takes back when their process dies.

Where there are none (Windows but for `locked_file`, file systems that know no `flock`) everybody gets them at
once.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from dltobs import _platform

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PAUSE = 0.002
"""Seconds."""


def take(descriptor: int) -> bool:
    """Lock an open file or folder, without waiting. False: somebody else has it."""
    return _platform.try_lock(descriptor)


def give_back(descriptor: int) -> None:
    """Unlock and close it. A child that was forked meanwhile holds nothing, though it has the descriptor."""
    try:
        _platform.unlock(descriptor)
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
        while not _platform.try_lock_file(descriptor) and time.monotonic() < end:
            time.sleep(_PAUSE)
        yield
    finally:
        _platform.unlock_file(descriptor)
        os.close(descriptor)
