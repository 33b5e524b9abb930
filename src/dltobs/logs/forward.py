"""Takes log records of worker processes to the loguru of the process that started them.

A worker that was not forked knows none of the sinks that the user has added to loguru. So it sends its
records, redacted, through a pipe, and a thread of the parent hands them to the sinks there.
"""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import select
import threading
from typing import TYPE_CHECKING, Any

from dltobs.logs.handlers import SafeHandler
from dltobs.logs.loguru import log, stand_in_for
from dltobs.logs.records import redacted_copy

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.synchronize import Lock

    from dltobs._redaction.redactor import Redactor
    from dltobs._warnings import Warner

    Outlet = tuple[Connection, Lock]
    """What a worker writes to, and what keeps its messages apart from those of other workers."""

_TURN_TIMEOUT = 1.0
"""Seconds to wait for other workers; one that was killed while it wrote never lets go."""
_DRAIN_TIMEOUT = 2.0
"""Seconds for the last records after the workers have ended."""


class ForwardingHandler(SafeHandler):
    """Sends each record, redacted, to the parent process.

    Args:
        outlet: Where to.
        redactor: Takes the secrets out, before anything leaves the worker.
        warner: Told of errors.
    """

    subject = "loguru"

    def __init__(self, outlet: Outlet, *, redactor: Redactor, warner: Warner) -> None:
        super().__init__(warner)
        self._connection, self._turn = outlet
        self._redactor = redactor
        self._is_stuck = False

    def emit(self, record: logging.LogRecord) -> None:
        """Send the record; never raises. To a parent that has ceased to read, nothing is sent any more."""
        if self._is_stuck:
            return
        try:
            message = _pickled(redacted_copy(record, self._redactor), stand_in_for(record, self._redactor))
            self._send(message)
        except Exception as error:  # noqa: BLE001 - logging's own rule: a handler does not raise
            self._is_stuck = isinstance(error, OSError)
            self.handleError(record)

    def _send(self, message: bytes) -> None:
        if not self._turn.acquire(timeout=_TURN_TIMEOUT):
            raise TimeoutError
        try:
            if not _has_room(self._connection):
                raise TimeoutError
            self._connection.send_bytes(message)
        finally:
            self._turn.release()


class Inbox:
    """The parent's end: hands what the workers of one pool send to loguru.

    Args:
        warner: Told of errors.
    """

    def __init__(self, warner: Warner) -> None:
        self._warner = warner
        self._reader, self._writer = multiprocessing.Pipe(duplex=False)
        self._turn = multiprocessing.get_context("spawn").Lock()
        self._thread = threading.Thread(target=self._read, name="dltobs-worker-logs", daemon=True)
        self._thread.start()

    @property
    def outlet(self) -> Outlet:
        """What the workers write to; it can be pickled only while one of them is started."""
        return self._writer, self._turn

    def close(self) -> None:
        """Hand over what is left, once the workers have ended."""
        # the pipe ends when its last writer is closed; should anybody have inherited one, the wait is bounded
        self._writer.close()
        self._thread.join(_DRAIN_TIMEOUT)

    def _read(self) -> None:
        while True:
            try:
                message = self._reader.recv_bytes()
            except (EOFError, OSError):
                self._reader.close()
                return
            try:
                attributes, stand_in = pickle.loads(message)  # noqa: S301 - our own children wrote it
                log(logging.makeLogRecord(attributes), stand_in)
            except Exception as error:  # noqa: BLE001 - a sink of the user's may raise; the next record counts
                self._warner.internal_error("loguru", error)


def _has_room(connection: Connection) -> bool:
    """Wait until the pipe takes something, where the system can tell."""
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLOUT)
    return bool(poll.poll(_TURN_TIMEOUT * 1000))


def _pickled(record: logging.LogRecord, stand_in: Any) -> bytes:
    try:
        return pickle.dumps((record.__dict__, stand_in))
    except Exception:  # noqa: BLE001 - a type of somebody's own among the extra fields
        plain = {k: v for k, v in record.__dict__.items() if isinstance(v, (str, int, float, type(None)))}
        return pickle.dumps((plain, None))
