"""Write log lines to a file that several processes share, and rotate it by size.

A line is one `write` to a descriptor that appends: the system puts lines of several processes and threads one
after another without a lock. Only rotation takes one, without waiting: who does not get it goes on writing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from dltobs import _locks, _platform
from dltobs.logs.handlers import FormattingHandler

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator
    from pathlib import Path

    from dltobs._warnings import Warner

_MODE = 0o600
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | _platform.BINARY
_APPENDS_ARE_ATOMIC = _platform.IS_POSIX
"""Elsewhere (Windows) each line takes a lock, and the file is open only while it is written."""
_LOCK_TIMEOUT = 1.0
"""Seconds to wait for that lock; then the line is written without it."""


class FileHandler(FormattingHandler):
    """A rotating file that only its owner can read, into which several processes may write.

    Where somebody moves or deletes the file, the next line goes into a new one.

    Args:
        path: Of the file. Rotated files are `<path>.1` (the newest), `<path>.2`, ….
        formatter: Makes the lines.
        max_bytes: Size that the file may reach; a longer line has a file of its own.
        backup_count: How many rotated files are kept; with 0 rotation empties the file.
        warner: Told of errors.
    """

    subject = "log file"

    def __init__(
        self,
        path: Path,
        formatter: logging.Formatter,
        *,
        max_bytes: int,
        backup_count: int,
        warner: Warner | None = None,
    ) -> None:
        super().__init__(formatter, warner)
        self.path = path
        self._path = os.fspath(path)
        self._max_bytes = max_bytes
        self._backup_count = backup_count
        self._descriptor: int | None = None
        self._identity: tuple[int, int] | None = None
        """Device and inode of the open file."""
        self._locked: int | None = None
        """Descriptor that holds the lock during a rotation."""

    def check(self) -> None:
        """Open the file once.

        Raises:
            OSError: The path cannot be written.
        """
        os.close(os.open(self._path, _FLAGS, _MODE))

    def emit(self, record: logging.LogRecord) -> None:
        """Append the line."""
        try:
            line = f"{self.format(record)}\n".encode("utf-8", "replace")
            if _APPENDS_ARE_ATOMIC:
                self._append(line)
            else:
                with _locks.locked_file(f"{self._path}.lock", _LOCK_TIMEOUT):
                    try:
                        self._append(line)
                    finally:
                        self._close_file()  # Windows renames no open file
        except Exception:  # noqa: BLE001 - logging's own rule: a handler does not raise
            self.handleError(record)

    def close(self) -> None:
        """Close the file; a line that comes later opens it again."""
        lock = self.lock
        if lock is None or lock.acquire(timeout=_LOCK_TIMEOUT):  # a disk that hangs holds up no exit
            try:
                self._close_file()
            except OSError as error:
                self.warn(error)
            finally:
                if lock is not None:
                    lock.release()
        super().close()

    def _at_fork_reinit(self) -> None:
        """In a forked child: let go of a lock that the parent holds. Closing a copy does not release it."""
        super()._at_fork_reinit()  # type: ignore[misc]  # not in typeshed
        locked, self._locked = self._locked, None
        if locked is not None:
            with contextlib.suppress(OSError):
                os.close(locked)

    def _append(self, line: bytes) -> None:
        descriptor, size = self._opened()
        if size and size + len(line) > self._max_bytes:
            try:
                self._rotate(len(line))
            except OSError as error:  # the line counts more than the size
                self.warn(error)
            descriptor, _ = self._opened()
        written = os.write(descriptor, line)
        while written < len(line):
            try:
                count = os.write(descriptor, line[written:])
                if not count:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # noqa: TRY301 - as the system does
            except OSError:
                self._cut_off(line[:written])
                raise
            written += count

    def _opened(self) -> tuple[int, int]:
        """Descriptor and size of the file that the path names now; it is opened where it is not yet."""
        descriptor = self._descriptor
        if descriptor is not None:
            found = self._found(descriptor)
            if found is not None and self._is_at_path(found):
                return descriptor, found.st_size
            self._close_file()
        descriptor = os.open(self._path, _FLAGS, _MODE)
        found = os.fstat(descriptor)
        self._descriptor, self._identity = descriptor, (found.st_dev, found.st_ino)
        if stat.S_ISREG(found.st_mode) and stat.S_IMODE(found.st_mode) != _MODE:
            _platform.make_private(descriptor)
        return descriptor, found.st_size

    def _found(self, descriptor: int) -> os.stat_result | None:
        """What the descriptor refers to. None: somebody has closed it; by now it may be another file's."""
        try:
            found = os.fstat(descriptor)
        except OSError:
            return None
        return found if (found.st_dev, found.st_ino) == self._identity else None

    def _is_at_path(self, found: os.stat_result) -> bool:
        try:
            there = os.stat(self._path)  # noqa: PTH116 - a Path costs more, for each line
        except FileNotFoundError:
            return False
        except OSError:  # as after a change of user: what is open can still be written
            return True
        return (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino)

    def _close_file(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None and self._found(descriptor) is not None:
            os.close(descriptor)

    def _rotate(self, needed: int) -> None:
        """Rotate, unless another process does so at this moment, or has just done so."""
        with self._rotation_lock() as is_ours:
            if not is_ours or os.stat(self._path).st_size + needed <= self._max_bytes:  # noqa: PTH116 - a name
                return
            if not self._backup_count:
                os.truncate(self._path, 0)
                return
            self._close_file()
            names = [self._path, *(f"{self._path}.{number + 1}" for number in range(self._backup_count))]
            for newer, older in zip(names[-2::-1], names[:0:-1], strict=True):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(newer, older)  # noqa: PTH105 - names, not paths

    @contextlib.contextmanager
    def _rotation_lock(self) -> Iterator[bool]:
        """Lock the file that the path names. False: another process has the lock, or has moved the file."""
        if not _APPENDS_ARE_ATOMIC:  # whoever writes has a lock
            yield True
            return
        self._locked = os.open(self._path, _FLAGS, _MODE)
        try:
            yield _locks.take(self._locked) and self._is_at_path(os.fstat(self._locked))
        finally:
            locked, self._locked = self._locked, None
            if locked is not None:
                _locks.give_back(locked)

    def _cut_off(self, fragment: bytes) -> None:
        """Remove the first part of a line that had no room, so that the next one begins at a line's start."""
        with contextlib.suppress(OSError), open(self._path, "r+b") as file:  # noqa: PTH123 - a name
            start = file.seek(0, os.SEEK_END) - len(fragment)
            file.seek(start)
            if file.read() == fragment:  # nobody has written behind it
                file.truncate(start)
