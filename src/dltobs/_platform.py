"""Hide what POSIX has and Windows has not: `fork`, `flock`, signals, files that only their owner can read.

What stands in their place on Windows does less, or nothing; README (Limits) says what that means for users.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

IS_POSIX = os.name == "posix"

BINARY: int = getattr(os, "O_BINARY", 0)
"""Flag of `os.open()`: line ends are written as they are."""
NO_FOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
"""Flag of `os.open()`: a symbolic link is an error."""
NO_WAIT: int = getattr(os, "O_NONBLOCK", 0)
"""Flag of `os.open()`: a pipe that nobody writes to is opened at once."""


def _nothing() -> None:
    """Do nothing."""


def register_at_fork(
    *,
    before: Callable[[], None] = _nothing,
    after_in_parent: Callable[[], None] = _nothing,
    after_in_child: Callable[[], None] = _nothing,
) -> None:
    """Have functions called around each fork, as `os.register_at_fork()` does."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=before, after_in_parent=after_in_parent, after_in_child=after_in_child)


def make_private(descriptor: int) -> None:
    """Let only its owner read an open file. An error is ignored: it may be somebody else's file."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            os.fchmod(descriptor, 0o600)


def is_running(pid: int) -> bool:
    """Return whether a process of this host may be running. On Windows asking would end it: always True."""
    if IS_POSIX:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass
    return True


if sys.platform == "win32":
    import msvcrt

    def try_lock(descriptor: int) -> bool:  # noqa: ARG001 - as on POSIX
        """Return True: folders, for which this is used, cannot be locked."""
        return True

    def unlock(descriptor: int) -> None:
        """Do nothing."""

    def try_lock_file(descriptor: int) -> bool:
        """Lock the first byte of an open file without waiting. False: another process has it."""
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def unlock_file(descriptor: int) -> None:
        """Unlock it."""
        with contextlib.suppress(OSError):  # the lock was not had in time
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def try_lock(descriptor: int) -> bool:
        """Lock an open file or folder without waiting. False: another process has it.

        Where the file system has no locks, everybody gets them.
        """
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def unlock(descriptor: int) -> None:
        """Unlock it, also for children that have inherited it."""
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)

    try_lock_file, unlock_file = try_lock, unlock
