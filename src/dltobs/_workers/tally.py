"""Takes what worker processes have delivered and lost to the counters of the process that started them."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
from typing import TYPE_CHECKING

from dltobs._platform import IS_POSIX

if TYPE_CHECKING:
    from collections.abc import Iterable
    from multiprocessing.connection import Connection

    from dltobs.sinks.delivery import Delivery

_ATOMIC_SIZE = 4000
"""Bytes that a pipe takes in one piece from several writers, a little below POSIX's least `PIPE_BUF`."""
_ERROR_LENGTH = 120


class Tally:
    """A pipe into which each worker writes one message, when it ends.

    A forked worker inherits it, others are sent its end (see `parent`). The parent looks into it once the
    workers of a pool have ended, and at its own end, so it never waits. Nor does a worker: where the pipe is
    full, as after a thousand children of the application's own, its counts are lost.
    """

    def __init__(self) -> None:
        self._reader, self.writer = multiprocessing.Pipe(duplex=False)
        # the flag belongs to the open pipe, so workers have it, too
        if IS_POSIX:
            os.set_blocking(self.writer.fileno(), False)
        self._process = os.getpid()

    def collect(self, deliveries: Iterable[Delivery]) -> None:
        """Add what the workers have told to the counters of the same names."""
        if self._process != os.getpid():  # a forked child; the messages are for its parent
            return
        by_name = {delivery.name: delivery for delivery in deliveries}
        while self._reader.poll():
            message = json.loads(self._reader.recv_bytes())
            for name, delivered, dropped, spooled, last_error in message:
                if name in by_name:
                    by_name[name].absorb(delivered, dropped, spooled, last_error)

    def close(self) -> None:
        """Close both ends."""
        for end in (self._reader, self.writer):
            with contextlib.suppress(OSError):
                end.close()


def report(writer: Connection, deliveries: Iterable[Delivery]) -> None:
    """Write, in a worker, what its own counters say, if it has sent anything.

    Raises:
        OSError: The pipe is full, or the parent has gone.
    """
    told = [
        (
            one.name,
            one.status.delivered,
            one.status.dropped,
            one.status.spooled,
            (one.status.last_error or "")[:_ERROR_LENGTH] or None,
        )
        for one in deliveries
        if one.status.delivered or one.status.dropped or one.status.spooled
    ]
    if not told:
        return
    message = json.dumps(told).encode()
    if len(message) <= _ATOMIC_SIZE:
        writer.send_bytes(message)
