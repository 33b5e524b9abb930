"""A folder of deliveries that a back end did not take, shared by processes, within a size.

Every file is written under another name and renamed; a process claims a file by renaming it, so only one has
it, and what a dead process had claimed is taken back. So each delivery is sent at least once, and once it has
been acknowledged never again.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dltobs._spool.files import (
    PART,
    READY,
    SENDING,
    CorruptError,
    Entry,
    fingerprint,
    id_of,
    own_name,
    packed,
    parsed,
    read,
    stem_of,
    unpacked,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dltobs._warnings import Warner

_CORRUPT = "corrupt"
_TRIES = 3
"""To take away a file, which others may give another name meanwhile."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A delivery that this process has taken, to be given up by `Spool.done()` or `Spool.release()`."""

    entry: Entry
    name: str
    payload: bytes


class Spool:
    """What a back end did not take. Nothing is created before there is something to keep; nothing raises.

    Args:
        folder: Made with mode 0700 where it is missing; files in it have 0600.
        max_bytes: The size of all files together; the oldest go first.
        warner: Told once of each kind of trouble.
        evicted: Told the kind and the number of items of what went for the size.
    """

    def __init__(
        self, folder: Path, max_bytes: int, warner: Warner, evicted: Callable[[str, int], None]
    ) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        self._warner = warner
        self._evicted = evicted

    def keep(
        self, kind: str, target: str, payload: bytes, *, items: int = 1, entry_id: str | None = None
    ) -> bool:
        """Keep a delivery for a later run. It takes the place of one of the same kind and id.

        Args:
            kind: The name of the back end (`otlp`, `sentry`, `slack`, …): what sends it later.
            target: Its address. Only a fingerprint is kept, so that nothing is sent to another one.
            payload: What is to be sent, without secrets: neither it nor the address may hold a credential
                that is needed for sending; the run that sends it uses its own.
            items: How many spans, events, messages it holds.
            entry_id: What the back end may know it again by; random by default.

        Returns:
            Whether it was kept; False, and one warning, where the disk is full or read-only.
        """
        entry_id = id_of(entry_id or uuid.uuid4().hex)
        stem = stem_of(kind, fingerprint(target), items, entry_id)
        content = packed(stem, payload)
        if len(content) > self._max_bytes:
            self._warner.warn("spool", f"spool: {kind}: {len(content)} bytes are more than spool_max_bytes")
            return False
        part = self.folder / own_name(stem, PART)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                write(part, content)
                part.rename(self.folder / f"{stem}{READY}")
            except BaseException:
                with contextlib.suppress(OSError):
                    part.unlink()
                raise
        except OSError as error:
            self._warn(error, "what back ends do not take is lost")
            return False
        self._make_room(stem, kind, entry_id)
        return True

    def discard(self, kind: str, entry_id: str) -> None:
        """Take away what has been delivered after all."""
        entry_id = id_of(entry_id)
        for _ in range(_TRIES):
            found = [one for one in self._scan() if (one.kind, one.entry_id) == (kind, entry_id)]
            # also where somebody has claimed it: he would leave it to a later run, if his attempt failed
            if all(self._unlink(one.name) for one in found if one.suffix != PART):
                return

    def entries(self) -> list[Entry]:
        """All deliveries, oldest first; what dead processes had claimed is free again."""
        found = []
        for entry in self._scan():
            if entry.owner is not None and entry.owner.is_gone:
                if entry.suffix == PART:
                    self._unlink(entry.name)
                    continue
                with contextlib.suppress(OSError):
                    (self.folder / entry.name).rename(self.folder / f"{entry.stem}{READY}")
                    found.append(parsed(f"{entry.stem}{READY}", entry.size) or entry)
            elif entry.suffix != PART:
                found.append(entry)
        return found

    def claim(self, entry: Entry) -> Claim | None:
        """Take a delivery; None where somebody else has it, or it is corrupt and has been set aside."""
        if entry.suffix != READY:
            return None
        name = own_name(entry.stem, SENDING)
        try:
            (self.folder / entry.name).rename(self.folder / name)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                self._warn(error, "what is in it is not sent")
            return None
        try:
            return Claim(entry, name, unpacked(entry, read(self.folder / name)))
        except CorruptError:
            self._set_aside(name, entry)
        except FileNotFoundError:
            pass  # somebody has discarded it
        except OSError as error:
            self._warn(error, "what is in it is not sent")
            self._rename(name, entry.name)
        return None

    def done(self, claim: Claim) -> None:
        """Take away what was acknowledged, or refused for good."""
        if not self._unlink(claim.name):
            # slower than a claim may be: somebody has taken it back, and may be sending it
            for entry in self._scan():
                if entry.stem == claim.entry.stem:
                    self._unlink(entry.name)

    def release(self, claim: Claim) -> None:
        """Leave it to a later run."""
        self._rename(claim.name, claim.entry.name)

    def _scan(self) -> list[Entry]:
        """Our files, oldest first; others are none of our business."""
        found = []
        try:
            with os.scandir(self.folder) as files:
                for file in files:
                    with contextlib.suppress(OSError):
                        entry = parsed(file.name, file.stat(follow_symlinks=False).st_size)
                        if entry is not None:
                            found.append(entry)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._warn(error, "what is in it is not sent")
        return sorted(found, key=lambda entry: entry.name)

    def _make_room(self, stem: str, kind: str, entry_id: str) -> None:
        """Take away what the new file stands for, and the oldest until all fit; set aside before the rest."""
        corrupt = self._set_aside_files()
        entries = self._scan()
        total = sum(size for _, size in corrupt) + sum(entry.size for entry in entries)
        for entry in entries:
            is_earlier = (entry.kind, entry.entry_id) == (kind, entry_id) and entry.stem != stem
            if is_earlier and entry.suffix == READY and self._unlink(entry.name):
                total -= entry.size
        for path, size in corrupt:
            if total > self._max_bytes:
                total -= size
                with contextlib.suppress(OSError):
                    path.unlink()
        for entry in entries:
            if total <= self._max_bytes:
                break
            if entry.suffix == READY and entry.stem != stem and self._unlink(entry.name):
                total -= entry.size
                self._evicted(entry.kind, entry.items)

    def _set_aside_files(self) -> list[tuple[Path, int]]:
        with contextlib.suppress(OSError), os.scandir(self.folder / _CORRUPT) as files:
            return [
                (self.folder / _CORRUPT / file.name, file.stat(follow_symlinks=False).st_size)
                for file in files
            ]
        return []

    def _set_aside(self, name: str, entry: Entry) -> None:
        self._warner.warn(
            f"spool, {entry.kind}",
            f"spool: a file of {entry.kind} is corrupt; it is kept in {self.folder / _CORRUPT}",
            reason="corrupt",
        )
        with contextlib.suppress(OSError):
            (self.folder / _CORRUPT).mkdir(mode=0o700, exist_ok=True)
            (self.folder / name).rename(self.folder / _CORRUPT / entry.name)

    def _unlink(self, name: str) -> bool:
        try:
            (self.folder / name).unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            self._warn(error, "it may send something twice")
            return False
        return True

    def _rename(self, name: str, new: str) -> None:
        try:
            (self.folder / name).rename(self.folder / new)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._warn(error, "what is in it is sent later")

    def _warn(self, error: OSError, consequence: str) -> None:
        reason = (error.strerror or type(error).__name__).lower()
        self._warner.warn("spool", f"spool: {self.folder}: {reason}; {consequence}", reason=reason)
