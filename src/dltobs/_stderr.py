"""Captures what one thread writes to stderr, while the other threads go on writing there."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
from typing import Any

from dltobs._process.fork_safe import fork_safe

_NAMES = ("stderr", "__stderr__")
_swapping = fork_safe(threading.RLock())
"""Held while streams are exchanged, not while a thread is captured: another one may be at the same time."""


class CapturedStderr:
    """Captures what the current thread writes to stderr, from now until `end()`.

    `sys.stderr`, `sys.__stderr__` and the handlers of `logging` that have kept one of them get a stand-in.
    What other threads write goes through it to the stream at once.
    """

    def __init__(self) -> None:
        with _swapping:
            self._begin()

    def end(self) -> str:
        """Put the streams back, and return what was captured since the last call."""
        with _swapping:
            return self._end()

    def _begin(self) -> None:
        self._buffer = _Bytes()
        text = _Text(self._buffer, "utf-8", "backslashreplace", newline="", write_through=True)
        self._before = [getattr(sys, name, None) for name in _NAMES]
        self._stand_ins = {id(one): _StandIn(one, text) for one in self._before if one is not None}
        self._handlers = [
            (handler, stream)
            for handler in _stream_handlers()
            if id(stream := getattr(handler, "stream", None)) in self._stand_ins
        ]
        for name, stream in zip(_NAMES, self._before, strict=True):
            if stream is not None:
                setattr(sys, name, self._stand_ins[id(stream)])
        for handler, stream in self._handlers:
            _set_stream(handler, self._stand_ins[id(stream)])

    def _end(self) -> str:
        for stand_in in self._stand_ins.values():
            stand_in.release()
        for handler, stream in self._handlers:
            if getattr(handler, "stream", None) is self._stand_ins[id(stream)]:
                _set_stream(handler, _without_ended(stream))
        for name, stream in zip(_NAMES, self._before, strict=True):
            # not where somebody has set another one since
            if stream is not None and getattr(sys, name, None) is self._stand_ins[id(stream)]:
                setattr(sys, name, _without_ended(stream))
        text = self._buffer.getvalue().decode("utf-8", "replace")
        self._buffer.seek(0)
        self._buffer.truncate()
        return text


class _Bytes(io.BytesIO):
    def close(self) -> None:
        """Stay open: the interpreter prints an exception raw where stderr is closed."""


class _Text(io.TextIOWrapper):
    def close(self) -> None:
        """Stay open, likewise."""


class _StandIn:
    """Is the buffer for the thread that has made it, and the stream for all others."""

    def __init__(self, stream: Any, buffer: io.TextIOWrapper) -> None:
        self.stream = stream
        self._own = buffer
        self._thread: int | None = threading.get_ident()

    @property
    def is_ended(self) -> bool:
        """Whether it is the stream for all threads."""
        return self._thread is None

    def release(self) -> None:
        """Be the stream for all threads: somebody may have kept this object."""
        self._thread = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own if threading.get_ident() == self._thread else self.stream, name)


def _without_ended(stream: Any) -> Any:
    """Return the stream behind the stand-ins of threads that have ended their capture meanwhile."""
    while isinstance(stream, _StandIn) and stream.is_ended:
        stream = stream.stream
    return stream


def _stream_handlers() -> list[logging.StreamHandler[Any]]:
    """All handlers of the process that write to a stream."""
    loggers = [logging.root, *logging.Logger.manager.loggerDict.copy().values()]
    handlers = {handler for logger in loggers for handler in getattr(logger, "handlers", ())}
    return [handler for handler in handlers if isinstance(handler, logging.StreamHandler)]


def _set_stream(handler: logging.StreamHandler[Any], stream: Any) -> None:
    # not by `setStream`, which waits for the handler's lock; one that cannot be set is looked up
    with contextlib.suppress(Exception):
        handler.stream = stream
