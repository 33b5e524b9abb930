"""Prints uncaught exceptions without secrets, in the main thread and in others, and logs them."""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from dltobs._cut import TEXT
from dltobs._describe import printed, text_of, type_name
from dltobs._ipython import ShellHook
from dltobs._redaction.patterns import WITHHELD
from dltobs._runs.open_run import run_ended_by
from dltobs._runs.uncaught import ended_run_of, uncaught_error
from dltobs._stderr import CapturedStderr
from dltobs.logs.records import CORRELATION_ATTRIBUTE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from dltobs._dispatch import Dispatcher
    from dltobs._redaction.redactor import Redactor
    from dltobs._runs.open_run import EndedRun
    from dltobs.logs.output import LogOutput

    ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]

_TELLING = 30
"""Characters of an exception's text by which its printed form is recognised; more may be wrapped."""


@dataclass(frozen=True)
class _Crash:
    """An uncaught exception: its thread, and the line that Python prints above the stack trace.

    `is_ignored`: it ends nothing, as Python goes on.
    """

    info: ExcInfo
    thread: str
    heading: str = ""
    is_ignored: bool = False

    @property
    def trace(self) -> str:
        """What Python prints."""
        return "".join(self.parts)

    @property
    def parts(self) -> list[str]:
        """The same in parts; a message is one of them."""
        return [self.heading, *traceback.format_exception(*self.info)]


class ExceptHook:
    """Stands before `sys.excepthook`, `threading.excepthook`, `sys.unraisablehook` and what IPython has.

    A hook of the application that was there before is called as before; what it writes to stderr is
    captured and redacted. Where it has printed the stack trace itself, as the hooks of the interpreter do at
    the end of every chain, nothing is printed twice.

    Args:
        redactor: Takes the secrets out.
        log: Says whether the console is JSON, and writes the line of the exception; None: there is no log.
        dispatcher: Gets what has come out of dlt outside of any run; None: nobody is told.
    """

    def __init__(
        self, redactor: Redactor, log: LogOutput | None = None, dispatcher: Dispatcher | None = None
    ) -> None:
        self._shell_hook = ShellHook(redactor)
        self.redirect(redactor, log, dispatcher)
        self._attached = False

    def redirect(self, redactor: Redactor, log: LogOutput | None, dispatcher: Dispatcher | None) -> None:
        """Use other parts from now on; the arguments are those of the class."""
        self._dispatcher = dispatcher
        self._redactor = redactor
        self._log = log
        self._shell_hook.redirect(redactor)

    def attach(self) -> None:
        """Put the hooks in place."""
        self._previous = sys.excepthook
        self._previous_thread = threading.excepthook
        # bound methods are made anew at each access; detach() must know the very object
        self._hook, self._thread_hook = self._uncaught, self._uncaught_in_thread
        sys.excepthook, threading.excepthook = self._hook, self._thread_hook
        self._previous_unraisable, self._unraisable_hook = sys.unraisablehook, self._unraisable
        sys.unraisablehook = self._unraisable_hook
        self._shell_hook.attach()
        self._attached = True

    def detach(self) -> None:
        """Put the previous hooks back; where somebody has come after us, only do nothing from now on."""
        if not self._attached:
            return
        self._attached = False
        self._shell_hook.detach()
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
        crash = _Crash((kind, error, trace), threading.current_thread().name)
        if self._previous is sys.__excepthook__:
            self._tell(crash)
        else:
            self._call(lambda: self._previous(kind, error, trace), crash)

    def _uncaught_in_thread(self, args: threading.ExceptHookArgs) -> None:
        if not self._attached or args.exc_type is SystemExit or args.exc_value is None:
            self._previous_thread(args)
            return
        thread = "unknown" if args.thread is None else args.thread.name
        name = threading.get_ident() if args.thread is None else thread
        info = (args.exc_type, args.exc_value, args.exc_traceback)
        crash = _Crash(info, thread, f"Exception in thread {name}:\n")
        if self._previous_thread is threading.__excepthook__:
            self._tell(crash)
        else:
            self._call(lambda: self._previous_thread(args), crash)

    def _unraisable(self, args: sys.UnraisableHookArgs) -> None:
        """An exception that Python cannot raise: in `__del__`, or where a generator is thrown away."""
        if not self._attached or args.exc_value is None:
            self._previous_unraisable(args)
            return
        info = (args.exc_type, args.exc_value, args.exc_traceback)
        crash = _Crash(info, threading.current_thread().name, _ignored_in(args), is_ignored=True)
        if self._previous_unraisable is sys.__unraisablehook__:
            self._tell(crash)
        else:
            self._call(lambda: self._previous_unraisable(args), crash)

    def _call(self, hook: Callable[[], object], crash: _Crash) -> None:
        """Call a hook of the application, then print and log the exception and what that hook has written."""
        try:
            captured = CapturedStderr()
        except Exception:  # noqa: BLE001 - streams and handlers of foreign code
            self._tell(crash)
            return
        is_told = False

        def tell() -> None:
            nonlocal is_told
            written = captured.end()
            if not is_told:
                is_told = True
                self._tell(crash, written)

        try:
            with _before_exit(tell):
                try:
                    hook()
                except Exception as error:  # noqa: BLE001 - Python would print it unredacted
                    kind, text = type_name(type(error)), text_of(error)
                    with suppress(Exception):  # there may be no stderr
                        sys.stderr.write(f"Error in a hook for uncaught exceptions: {kind}: {text}\n")
        finally:
            # also where a hook ends the process by SystemExit
            tell()

    def _tell(self, crash: _Crash, written: str = "") -> None:
        """Print and log an exception, with what a hook has written; tell the sinks if no run has."""
        error = crash.info[1]
        run = None
        try:
            run = ended_run_of(error)
            if self._log is None or not self._log.console_is_json:
                _print(self._text(crash, written))
            # the hooks at the end of a chain print the stack trace, which the line holds already
            elif written and (rest := written.replace(crash.trace, "").strip()):
                self._log.write_to_console(_record_of(rest, crash.thread))
            if self._log is not None:
                # a line of a run tells the very exception that ended it, and nothing of one that wraps that
                told_by = run_ended_by(error)
                pointer = None if told_by is None or not told_by.is_error else _pointer(crash, told_by)
                self._log.write_uncaught(_record(crash, run), pointer)
        except Exception:  # noqa: BLE001 - an error in the hook would print the exception unredacted
            _print(f"{WITHHELD}\n")
        with suppress(Exception):  # exceptions and pipelines are foreign code; sinks have been warned of
            if run is None and not crash.is_ignored and self._dispatcher is not None:
                event = uncaught_error(error, self._redactor.text)
                if event is not None:
                    self._dispatcher.emit(event)

    def _text(self, crash: _Crash, written: str) -> str:
        """What is printed on a console for people."""
        kind, error, _ = crash.info
        # others print it in their own way: rich in a frame, logging under a message
        telling = ("Traceback", kind.__name__, text_of(error)[:_TELLING])
        if written and all(part in written for part in telling):
            return self._redactor.text(written, TEXT)
        parts = crash.parts
        trace = printed(parts, self._redactor.text)
        clean = f"{self._redactor.text(written, TEXT)}{self._redactor.text(trace)}"
        if clean != "".join(parts) or not _is_coloured():
            return clean
        # only where there is no secret: codes of colours could stand in the middle of it
        return f"{crash.heading}{''.join(traceback.format_exception(*crash.info, colorize=True))}"  # type: ignore[call-overload]


def _print(text: str) -> None:
    stderr = getattr(sys, "stderr", None)
    if stderr is None:
        return
    try:
        stderr.write(text)
        stderr.flush()
    except Exception:  # noqa: BLE001, S110 - stderr is closed: there is nowhere left to say so
        pass


def _is_coloured() -> bool:
    """Whether Python itself would print a stack trace in colour."""
    if sys.version_info >= (3, 13):
        try:
            from _colorize import can_colorize

            try:
                return bool(can_colorize(file=sys.stderr))
            except TypeError:  # the first releases of 3.13
                return bool(can_colorize())
        except Exception:  # noqa: BLE001 - the module is not public
            return False
    return False


@contextmanager
def _before_exit(tell: Callable[[], None]) -> Iterator[None]:
    """Tell of the exception if a hook ends the process at once, as some do after a crash."""
    original, thread = os._exit, threading.get_ident()

    def _exit(status: int) -> NoReturn:
        if not is_over and threading.get_ident() == thread:
            tell()
        original(status)

    is_over = False
    os._exit = _exit
    try:
        yield
    finally:
        is_over = True
        if os._exit is _exit:
            os._exit = original


def _ignored_in(args: sys.UnraisableHookArgs) -> str:
    """The first line of what Python prints of an exception that it cannot raise."""
    message = args.err_msg or "Exception ignored in"
    if args.object is None:
        return f"{message}:\n"
    try:
        return f"{message}: {args.object!r}\n"
    except Exception:  # noqa: BLE001 - foreign code
        return f"{message}: <object repr() failed>\n"


def _record_of(written: str, thread: str) -> logging.LogRecord:
    record = logging.LogRecord("stderr", logging.ERROR, "", 0, written, None, None, None)
    # nobody knows where it was written
    record.__dict__.update(threadName=thread, filename=None, lineno=None, funcName=None)
    return record


def _record(crash: _Crash, run: EndedRun | None) -> logging.LogRecord:
    """The line of an uncaught exception, with its stack trace and the ids of the run that it has ended."""
    return _made(crash, run, "Uncaught %s", (type_name(crash.info[0]),), crash.info)


def _pointer(crash: _Crash, run: EndedRun) -> logging.LogRecord:
    """The line in the place of that one, where the line of the run has the exception."""
    names = (type_name(crash.info[0]), run.ids.pipeline)
    return _made(crash, run, "Uncaught %s, which ended the run of %s: see the line of that run", names, None)


def _made(
    crash: _Crash, run: EndedRun | None, message: str, names: tuple[object, ...], info: ExcInfo | None
) -> logging.LogRecord:
    last = crash.info[2]
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    code = None if last is None else last.tb_frame.f_code
    path, line = ("", 0) if last is None or code is None else (code.co_filename, last.tb_lineno)
    function = "" if code is None else code.co_name
    record = logging.LogRecord(
        "dltobs.excepthook", logging.CRITICAL, path, line, message, names, info, function
    )
    record.threadName = crash.thread
    if run is not None:
        ids = {name: value for name, value in run.ids._asdict().items() if value is not None}
        record.__dict__.update(ids, **{CORRELATION_ATTRIBUTE: tuple(run.ids)})
    return record
