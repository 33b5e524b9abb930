"""The files of a spool: names that tell what is inside and who has it, contents that prove themselves whole.

| name | meaning |
|---|---|
| `<time>.<kind>.<destination>.<items>.<id>.ready` | waits to be sent |
| `….<owner>.sending` | a process has claimed it |
| `….<owner>.part` | a process is writing it |

The first line of a file is a JSON object, the rest the payload, whose length and SHA-256 stand in that line.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import socket
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dltobs import _platform

READY, SENDING, PART = ".ready", ".sending", ".part"
STALE_AFTER = 600
"""Seconds after which what a process has claimed is free again; one delivery takes some ten."""

_FORMAT = 1
_ID = re.compile(r"[0-9a-f]{32}")
_STEM = (
    r"(?P<created>\d{20})\.(?P<kind>[a-z_]+)\.(?P<target>[0-9a-f]{32})"
    r"\.(?P<items>\d{1,9})\.(?P<id>[0-9a-f]{32})"
)
_OWNER = r"(?P<host>[0-9a-f]{12})-(?P<pid>\d{1,10})-(?P<token>[0-9a-f]{8})-(?P<at>\d{1,20})"
_NAME = re.compile(rf"(?P<stem>{_STEM})(?:\.{_OWNER})?(?P<suffix>\.(?:ready|sending|part))")


class CorruptError(Exception):
    """A file is not what its name promises."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that has a file: on which host, since when (nanoseconds), and a word of its own."""

    host: str
    pid: int
    token: str
    at: int

    @property
    def is_gone(self) -> bool:
        """Whether it has died, or has had the file for so long that it does not matter.

        Of another host or container only the time tells.
        """
        if abs(time.time_ns() - self.at) > STALE_AFTER * 1_000_000_000:
            return True  # either way: a clock may have been put right since
        if self.host != _host():
            return False
        if self.pid == os.getpid():
            return self.token != _token()
        return not _platform.is_running(self.pid)


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, as its name describes it; `size` in bytes."""

    name: str
    stem: str
    suffix: str
    kind: str
    target: str
    items: int
    entry_id: str
    size: int
    owner: Owner | None


def fingerprint(address: str) -> str:
    """What a destination is known by again: of its scheme, host, port and path, not of what is secret in it.

    The user, password and query of a URL do not count, so a key may change. The path of a webhook is secret,
    but too long to be found by trying.
    """
    parts = urlsplit(address if "://" in address else f"//{address}")
    place = f"{parts.scheme}|{parts.netloc.rpartition('@')[2].lower()}|{parts.path.rstrip('/')}"
    return hashlib.sha256(place.encode()).hexdigest()[:32]


def id_of(name: str) -> str:
    """An id as it stands in the name of a file: 32 hexadecimal digits."""
    return name if _ID.fullmatch(name) else hashlib.sha256(name.encode()).hexdigest()[:32]


def stem_of(kind: str, target: str, items: int, entry_id: str) -> str:
    """The first part of the name of a new file."""
    return f"{time.time_ns():020d}.{kind}.{target}.{items}.{entry_id}"


def own_name(stem: str, suffix: str) -> str:
    """The name of a file that this process has."""
    return f"{stem}.{_host()}-{os.getpid()}-{_token()}-{time.time_ns()}{suffix}"


def parsed(name: str, size: int) -> Entry | None:
    """What a name says; None for a file that is not of a spool."""
    found = _NAME.fullmatch(name)
    if found is None or (found["suffix"] == READY) is not (found["host"] is None):
        return None
    owner = None
    if found["host"] is not None:
        owner = Owner(found["host"], int(found["pid"]), found["token"], int(found["at"]))
    return Entry(
        name,
        found["stem"],
        found["suffix"],
        found["kind"],
        found["target"],
        int(found["items"]),
        found["id"],
        size,
        owner,
    )


def packed(stem: str, payload: bytes) -> bytes:
    """The content of a file."""
    head = {"format": _FORMAT, "name": stem, "bytes": len(payload), "sha256": _sha256(payload)}
    return json.dumps(head, separators=(",", ":")).encode() + b"\n" + payload


def unpacked(entry: Entry, content: bytes) -> bytes:
    """The payload.

    Raises:
        CorruptError: The content is not whole, or is that of another file.
    """
    line, _, payload = content.partition(b"\n")
    try:
        head: Any = json.loads(line)
        expected = head["format"], head["name"], head["bytes"], head["sha256"]
    except (ValueError, KeyError, TypeError):
        raise CorruptError from None
    if expected != (_FORMAT, entry.stem, len(payload), _sha256(payload)):
        raise CorruptError
    return payload


def write(path: Path, content: bytes) -> None:
    """Write a new file, readable by its owner only, down to the disk."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _platform.NO_FOLLOW | _platform.BINARY
    descriptor = os.open(path, flags, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def read(path: Path) -> bytes:
    """The content of a regular file.

    Raises:
        CorruptError: It is something else.
    """
    # not blocking: it might be a pipe that nobody writes to
    flags = os.O_RDONLY | _platform.NO_FOLLOW | _platform.NO_WAIT
    try:
        descriptor = os.open(path, flags | _platform.BINARY)
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link
            raise CorruptError from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CorruptError
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


_known_host: str | None = None
_known_token: tuple[int, str] | None = None


def _host() -> str:
    """This host, and its space of process ids: two containers may have one name, and each a process 1."""
    global _known_host  # noqa: PLW0603 - it does not change
    if _known_host is None:
        try:
            space = str(Path("/proc/self/ns/pid").readlink())
        except OSError:
            space = ""
        _known_host = _sha256(f"{socket.gethostname()}|{space}".encode())[:12]
    return _known_host


def _token() -> str:
    """A word that tells this process from an earlier one with its id."""
    global _known_token  # noqa: PLW0603 - a forked child gets its own
    if _known_token is None or _known_token[0] != os.getpid():
        _known_token = os.getpid(), secrets.token_hex(4)
    return _known_token[1]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
