"""Loads ledger entries on a thread of its own: in order, one at a time, nobody waits for ever."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dltobs._aside import LeftWaitingError, load_aside
from dltobs._borrowed import borrowed
from dltobs._describe import root_cause, text_of
from dltobs._lent_folders import lent, sweep
from dltobs.sinks.ledger_beginnings import Beginnings
from dltobs.sinks.ledger_columns import hints

if TYPE_CHECKING:
    from dltobs._aside import Target
    from dltobs.sinks.delivery import Delivery
    from dltobs.sinks.ledger_tables import Rows

_MAX_WAITING = 1000
"""Entries in the queue."""
_MAX_PENDING = 100
"""Packages that wait in a working directory for a destination that is down."""
_NAME_LENGTH = 100
_ROOT = "ledger"
_FOLDER = "dltobs_ledger"
"""Name of the working directory and of the schema."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """The rows of the beginning or the end of a run, and where to."""

    transaction_id: str
    is_end: bool
    target: Target
    dataset: str
    rows: Rows


class LedgerWriter:
    """Queues entries and loads them.

    The thread lives as long as there is something to load, so there is none to stop or to miss after a fork.

    Args:
        delivery: The counters.
        folder: Where what could not be loaded waits, for each pipeline in a folder of its own. If it cannot
            be written, that is the working directory of the pipeline.
    """

    def __init__(self, delivery: Delivery, folder: Path) -> None:
        self._delivery = delivery
        self._folder = folder
        self._is_swept = False
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._condition = threading.Condition()
        self._waiting: deque[Entry] = deque()
        self._is_working = self._is_closed = False
        self._is_slow = False
        """Whether somebody has waited in vain, and nothing has been loaded since."""

    def write(self, entry: Entry) -> None:
        """Queue an entry. It never waits: if the queue is full, the entry is lost and counted."""
        if self._process != os.getpid():
            self._begin()  # the queue and its thread are those of the process we were forked from
        with self._condition:
            if entry.is_end:
                # the beginning of a run that has ended tells nothing more
                begun = [one for one in self._waiting if one.transaction_id == entry.transaction_id]
                for one in begun:
                    self._waiting.remove(one)
            else:
                begun = []
            self._delivery.submitted(1 - len(begun))
            is_full = len(self._waiting) >= _MAX_WAITING
            if not is_full and not self._is_closed:
                self._waiting.append(entry)
                self._start()
                return
        self._delivery.dropped(1, "queue full" if is_full else "shut down")

    def wait(self, timeout: float) -> bool:
        """Wait until the queue is empty, at most `timeout` seconds. True: it is.

        After a wait in vain nobody waits again until something has been loaded.
        """
        if self._process != os.getpid():
            return True
        with self._condition:
            is_idle = self._condition.wait_for(self._is_idle, 0.0 if self._is_slow else max(timeout, 0.0))
            self._is_slow = not is_idle
            return is_idle

    def flush(self, timeout: float) -> bool:
        """As `wait()`, whatever was before."""
        if self._process != os.getpid():
            return True
        deadline = time.monotonic() + timeout
        with self._condition:
            self._is_slow = False
            is_ours = bool(self._waiting) and not self._is_working
            self._is_working = self._is_working or is_ours
        if is_ours:
            # no thread could be started, as the process exits
            self._work()
        return self.wait(deadline - time.monotonic())

    def close(self) -> None:
        """Load nothing any more; what was waiting is lost."""
        if self._process == os.getpid():
            with self._condition:
                self._is_closed = True
                self._waiting.clear()
                self._condition.notify_all()

    def _is_idle(self) -> bool:
        return not self._waiting and not self._is_working

    def _start(self) -> None:
        if self._is_working:
            return
        self._is_working = True
        try:
            threading.Thread(target=self._work, name="dltobs-ledger", daemon=True).start()
        except RuntimeError:  # at exit some versions of Python start none; the flush will load it
            self._is_working = False

    def _work(self) -> None:
        while True:
            with self._condition:
                if not self._waiting:
                    self._is_working = False
                    self._condition.notify_all()
                    return
                entry = self._waiting.popleft()
            try:
                self._load(entry)
            except LeftWaitingError as error:
                # in the folder that is lent again first, from where the next entry's load takes it along
                self._delivery.kept(1, reason(error))
            except BaseException as error:  # noqa: BLE001 - a signal that dlt has seen raises an interrupt here
                self._delivery.dropped(1, reason(error))
            self._is_slow = False

    def _load(self, entry: Entry) -> None:
        if not self._is_swept:
            self._is_swept = True
            sweep(self._folder)
        with lent(self._roots(entry)) as folder, borrowed(entry.target) as target:
            own, arguments = replace(target, folder=str(folder)), (hints(), entry.rows, _MAX_PENDING)
            if _can_delete(target):
                beginnings = Beginnings(folder)
                beginnings.note(entry.transaction_id)
                loaded = load_aside(own, _FOLDER, entry.dataset, *arguments, beginnings.delete)
            else:
                loaded = load_aside(own, _FOLDER, entry.dataset, *arguments)
        if loaded.loaded > 1:
            # entries of earlier tries, which have been told to be kept
            self._delivery.submitted(loaded.loaded - 1)
        self._delivery.delivered(loaded.loaded)
        if loaded.failed:
            self._delivery.dropped(loaded.failed, "the destination has refused it")

    def _roots(self, entry: Entry) -> list[Path]:
        """Each is for one pipeline, destination and dataset; those of `dev_mode`, ever new, share one."""
        target = entry.target
        own = Path(target.folder).absolute()
        parts = (
            str(own),
            target.destination.destination_type,
            target.destination.destination_name,
            "" if target.is_dev else entry.dataset,
        )
        key = hashlib.sha256("|".join(parts).encode(errors="surrogateescape")).hexdigest()[:16]
        name = f"{target.pipeline[:_NAME_LENGTH]}-{key}"
        return [root / name for root in (self._folder, own / _ROOT)]


def _can_delete(target: Target) -> bool:
    """Whether rows can be deleted there without a table format of its own, as they can in SQL databases."""
    strategies = target.destination.capabilities().supported_merge_strategies or ()
    return "delete-insert" in strategies


def reason(error: BaseException) -> str:
    """Why an entry could not be loaded: the root cause in one line, the same for the same trouble."""
    cause = root_cause(error)
    lines = text_of(cause).strip().splitlines() or [""]
    return f"{type(cause).__name__}: {lines[0]}"
