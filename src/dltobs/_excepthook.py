"""Prints uncaught exceptions without secrets, in the main thread and in others."""

from __future__ import annotations

import io
import logging
import sys
import threading
from typing import TYPE_CHECKING, Any

from dltobs._describe import text_of, type_name
from dltobs._redaction import WITHHELD

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from dltobs._redaction import Redactor


class ExceptHook:
    """Stands before `sys.excepthook` and `threading.excepthook`.

    A hook that was there before is called as before, with `sys.stderr` swapped for a buffer: what it writes is
    redacted on the way. Where it wrote the stack trace itself, as the ones of the interpreter do at the
    end of every chain, nothing is printed twice.

    Args:
        redactor: Takes the secrets out.
        formatter: Gives what renders the exception as one line; None prints it as Python does.
    """

    def __init__(self, redactor: Redactor, formatter: Callable[[], logging.Formatter | None]) -> None:
        self._redactor = redactor
        self._formatter_now = formatter
        self._attached = False

    def attach(self) -> None:
        """Put the hooks in place."""
        self._previous = sys.excepthook
        self._previous_thread = threading.excepthook
        # bound methods are made anew at each access; detach() must know the very object
        self._hook, self._thread_hook = self._uncaught, self._uncaught_in_thread
        sys.excepthook, threading.excepthook = self._hook, self._thread_hook
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

    def _report(
        self,
        previous: Callable[[], object],
        standard: Callable[[], object],
        info: tuple[type[BaseException], BaseException, TracebackType | None],
        thread: str,
    ) -> None:
        if sys.stderr is None:  # pythonw, daemons
            previous()
            return
        written = _captured(previous)
        trace = _captured(standard)
        formatter = self._formatter_now()
        if formatter is None:
            self._write(self._clean(written if trace in written else f"{written}{trace}"))
            return
        # the hooks at the end of a chain print the trace, which the line already holds
        rest = written.replace(trace, "").strip()
        if rest:
            self._write(_line(formatter, _record(rest, thread)))
        self._write(_line(formatter, _uncaught_record(info, thread)))

    def _clean(self, text: str) -> str:
        try:
            return self._redactor.text(text)
        except Exception:  # noqa: BLE001 - an error in the hook would print the exception unredacted
            return f"{WITHHELD}\n"

    def _write(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except Exception:  # noqa: BLE001, S110 - stderr is closed: there is nowhere left to say so
            pass


def _line(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    try:
        return f"{formatter.format(record)}\n"
    except Exception:  # noqa: BLE001 - an error in the hook would print the exception unredacted
        return f"{WITHHELD}\n"


def _captured(write: Callable[[], object]) -> str:
    """What a function writes to stderr. Whatever it raises is lost, as the exception matters more."""
    stderr, buffer = sys.stderr, _Buffer()
    sys.stderr = buffer
    try:
        write()
    except Exception:  # noqa: BLE001 - Python would print it together with the exception, unredacted
        buffer.write(f"Error in a hook for uncaught exceptions: {_last_error()}\n")
    finally:
        if sys.stderr is buffer:
            sys.stderr = stderr
    return buffer.getvalue()


class _Buffer(io.StringIO):
    """A stderr that reports no file descriptor and no terminal."""

    encoding = "utf-8"
    errors = "backslashreplace"


def _last_error() -> str:
    kind, error, _ = sys.exc_info()
    return f"{kind.__name__ if kind else ''}: {text_of(error)}"


def _record(message: str, thread: str) -> logging.LogRecord:
    record = logging.LogRecord("stderr", logging.ERROR, "", 0, message, None, None, None)
    record.threadName = thread
    return record


def _uncaught_record(info: Any, thread: str) -> logging.LogRecord:
    kind, error, trace = info
    last = trace
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
        (kind, error, trace),
        "" if code is None else code.co_name,
    )
    record.threadName = thread
    return record
