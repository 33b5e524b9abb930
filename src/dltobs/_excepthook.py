"""Prints uncaught exceptions without secrets, in the main thread and in others."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from dltobs._describe import text_of, type_name
from dltobs._redaction.patterns import WITHHELD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from dltobs._redaction.redactor import Redactor

    ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]

_PATIENCE = 5.0
"""Seconds that a thread waits while the hooks of another thread are running."""

_TELLING = 30
"""Characters of an exception's text by which its printed form is recognised; more may be wrapped."""


class ExceptHook:
    """Stands before `sys.excepthook`, `threading.excepthook` and `sys.unraisablehook`.

    A hook that was there before is called as before, with stderr swapped for a buffer: what it writes is
    redacted on the way. Where it wrote the stack trace itself, as the ones of the interpreter do at the
    end of every chain, nothing is printed twice.

    Args:
        redactor: Takes the secrets out.
        formatter: Gives what renders the exception as one line; None prints it as Python does.
    """

    def __init__(self, redactor: Redactor, formatter: Callable[[], logging.Formatter | None]) -> None:
        self.redirect(redactor, formatter)
        self._attached = False
        self._turn = threading.RLock()

    def redirect(self, redactor: Redactor, formatter: Callable[[], logging.Formatter | None]) -> None:
        """Use another redactor and formatter from now on; the arguments are those of the class."""
        self._redactor = redactor
        self._formatter_now = formatter

    def attach(self) -> None:
        """Put the hooks in place."""
        self._previous = sys.excepthook
        self._previous_thread = threading.excepthook
        # bound methods are made anew at each access; detach() must know the very object
        self._hook, self._thread_hook = self._uncaught, self._uncaught_in_thread
        sys.excepthook, threading.excepthook = self._hook, self._thread_hook
        self._previous_unraisable, self._unraisable_hook = sys.unraisablehook, self._unraisable
        sys.unraisablehook = self._unraisable_hook
        self._attached = True

    def detach(self) -> None:
        """Put the previous hooks back; where somebody has come after us, only do nothing from now on."""
        if not self._attached:
            return
        self._attached = False
        if sys.excepthook is self._hook:
            sys.excepthook = self._previous
        if threading.excepthook is self._thread_hook:
            threading.excepthook = self._previous_thread
        if sys.unraisablehook is self._unraisable_hook:
            sys.unraisablehook = self._previous_unraisable

    def _uncaught(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not self._attached:
            self._previous(kind, error, trace)
            return
        self._report(
            lambda: self._previous(kind, error, trace),
            lambda: sys.__excepthook__(kind, error, trace),
            (kind, error, trace),
            threading.current_thread().name,
        )

    def _uncaught_in_thread(self, args: threading.ExceptHookArgs) -> None:
        if not self._attached or args.exc_type is SystemExit or args.exc_value is None:
            self._previous_thread(args)
            return
        self._report(
            lambda: self._previous_thread(args),
            lambda: threading.__excepthook__(args),
            (args.exc_type, args.exc_value, args.exc_traceback),
            "unknown" if args.thread is None else args.thread.name,
        )

    def _unraisable(self, args: sys.UnraisableHookArgs) -> None:
        """An exception that Python cannot raise: in `__del__`, or where a generator is thrown away."""
        if not self._attached or args.exc_value is None:
            self._previous_unraisable(args)
            return
        self._report(
            lambda: self._previous_unraisable(args),
            lambda: sys.__unraisablehook__(args),
            (args.exc_type, args.exc_value, args.exc_traceback),
            threading.current_thread().name,
        )

    def _report(
        self, previous: Callable[[], object], standard: Callable[[], object], info: ExcInfo, thread: str
    ) -> None:
        # one at a time, as stderr is swapped; a hook may be waiting for the thread that crashes now, though
        if not self._turn.acquire(timeout=_PATIENCE):
            self._print("", "", info, thread)
            return
        written = trace = ""
        stderr = getattr(sys, "stderr", None)
        try:
            with _captured_stderr() as take:
                try:
                    with _before_exit(lambda: self._print(take(), "", info, thread, stderr)):
                        _call(previous)
                finally:
                    written = take()
                    _call(standard)
                    trace = take()
        except Exception:  # noqa: BLE001, S110 - a stream of foreign code; what has been captured is printed
            pass
        finally:
            # also where a hook ends the process by SystemExit
            self._print(written, trace, info, thread)
            self._turn.release()

    def _print(
        self, written: str, trace: str, info: ExcInfo, thread: str, stderr: TextIO | None = None
    ) -> None:
        stderr = stderr or getattr(sys, "stderr", None)
        try:
            text = self._rendered(written, trace, info, thread)
        except Exception:  # noqa: BLE001 - an error in the hook would print the exception unredacted
            text = f"{WITHHELD}\n"
        if stderr is None:
            return
        try:
            stderr.write(text)
            stderr.flush()
        except Exception:  # noqa: BLE001, S110 - stderr is closed: there is nowhere left to say so
            pass

    def _rendered(self, written: str, trace: str, info: ExcInfo, thread: str) -> str:
        formatter = self._formatter_now()
        if formatter is None:
            # others print it in their own way: rich in a frame, logging under a message
            trace = trace or "".join(traceback.format_exception(*info))
            parts = ("Traceback", info[0].__name__, text_of(info[1])[:_TELLING])
            has_trace = all(part in written for part in parts)
            return self._redactor.text(written if has_trace else f"{written}{trace}")
        # the hooks at the end of a chain print the trace, which the line already holds
        rest = written.replace(trace, "").strip()
        lines = [formatter.format(_record(rest, thread))] if rest else []
        lines.append(formatter.format(_uncaught_record(info, thread)))
        return "".join(f"{line}\n" for line in lines)


class _Bytes(io.BytesIO):
    def close(self) -> None:
        """Stay open: the interpreter prints the exception raw where stderr is closed."""


class _Stream(io.TextIOWrapper):
    def close(self) -> None:
        """Stay open, likewise."""


@contextmanager
def _before_exit(write: Callable[[], None]) -> Iterator[None]:
    """Write what has been captured if a hook ends the process at once, as some do after a crash."""
    original = os._exit

    def _exit(status: int) -> NoReturn:
        write()
        original(status)

    os._exit = _exit
    try:
        yield
    finally:
        if os._exit is _exit:
            os._exit = original


@contextmanager
def _captured_stderr() -> Iterator[Callable[[], str]]:
    """Swap stderr for a buffer, also under the handlers of `logging`; gives what takes the text out of it."""
    buffer = _Bytes()
    stream = _Stream(buffer, "utf-8", "backslashreplace", newline="", write_through=True)

    def take() -> str:
        text = buffer.getvalue().decode("utf-8", "replace")
        buffer.seek(0)
        buffer.truncate()
        return text

    before = getattr(sys, "stderr", None), sys.__stderr__
    handlers = [(handler, handler.stream) for handler in _handlers_on(before)]
    sys.stderr = sys.__stderr__ = stream  # type: ignore[misc]
    try:
        for handler, _ in handlers:
            handler.setStream(stream)
        yield take
    finally:
        for handler, original in handlers:
            if handler.stream is stream:
                handler.setStream(original)
        if sys.stderr is stream:
            sys.stderr = before[0]
        sys.__stderr__ = before[1]  # type: ignore[misc]


def _handlers_on(streams: tuple[Any, ...]) -> list[logging.StreamHandler[Any]]:
    """The handlers that write to one of these streams, which they have kept since they were made."""
    known = [logging.root, *logging.Logger.manager.loggerDict.copy().values()]
    handlers = {handler for logger in known for handler in getattr(logger, "handlers", ())}
    return [
        handler
        for handler in handlers
        if isinstance(handler, logging.StreamHandler)
        and handler.stream is not None
        and any(handler.stream is stream for stream in streams)
    ]


def _call(hook: Callable[[], object]) -> None:
    """Call a hook; what it raises is printed, and lost, as the exception matters more."""
    try:
        hook()
    except Exception as error:  # noqa: BLE001 - Python would print it together with the exception, unredacted
        sys.stderr.write(
            f"Error in a hook for uncaught exceptions: {type_name(type(error))}: {text_of(error)}\n"
        )


def _record(message: str, thread: str) -> logging.LogRecord:
    record = logging.LogRecord("stderr", logging.ERROR, "", 0, message, None, None, None)
    # nobody knows where it was written
    record.__dict__.update(threadName=thread, filename=None, lineno=None, funcName=None)
    return record


def _uncaught_record(info: ExcInfo, thread: str) -> logging.LogRecord:
    kind, error, last = info
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    code = None if last is None else last.tb_frame.f_code
    record = logging.LogRecord(
        "dltobs.excepthook",
        logging.CRITICAL,
        "" if code is None else code.co_filename,
        0 if last is None else last.tb_lineno,
        "Uncaught exception: %s: %s",
        (type_name(kind), text_of(error)),
        info,
        "" if code is None else code.co_name,
    )
    record.threadName = thread
    return record
