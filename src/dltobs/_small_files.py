"""Small files that are written whole or not at all, and read without trust."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import threading
from typing import TYPE_CHECKING, Any

from dltobs import _platform

if TYPE_CHECKING:
    from pathlib import Path

_MAX_SIZE = 256 * 1024
"""Bytes of a document that are read; a larger file is not one of ours."""
_NO_SURPRISE = _platform.NO_WAIT | _platform.NO_FOLLOW
"""A FIFO would keep us waiting; a link leads to what somebody else has put there."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all.

    Raises:
        OSError: It cannot be written; nothing has changed.
    """
    new = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    new.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        os.replace(new, path)  # noqa: PTH105 - its name says what matters
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        raise


def read_regular(path: Path, limit: int) -> tuple[bytes, float]:
    """The first `limit` bytes of a regular file, and when it was last changed (seconds since the epoch).

    Raises:
        OSError: There is no such file, or it is no regular one.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | _NO_SURPRISE), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            message = "not a regular file"
            raise OSError(message)
        return file.read(limit), found.st_mtime


def write_json(path: Path, content: object) -> None:
    """Put a document where another one may stand; readers see the one or the other.

    Raises:
        OSError: It cannot be written. What stood there still stands.
    """
    write_whole(path, json.dumps(content).encode())


def read_json(path: Path, limit: int = _MAX_SIZE) -> dict[str, Any]:
    """The object that a file of at most `limit` bytes holds; empty where there is none, or it is torn."""
    try:
        content = json.loads(read_regular(path, limit)[0])
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
