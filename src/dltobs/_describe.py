"""Turns live exceptions into text and frozen values: no locals, no references that keep them alive."""

from __future__ import annotations

import builtins
import os
import sysconfig
import traceback
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dltobs._events import ExceptionInfo, Frame

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_MAX_CHAIN = 20
_MAX_FRAMES = 100
_REMOTE_TRACEBACKS = {"concurrent.futures.process._RemoteTraceback", "multiprocessing.pool.RemoteTraceback"}
"""Stand as the cause of an exception that comes from another process: its traceback, as text."""
_GROUP: Any = getattr(builtins, "BaseExceptionGroup", ())
"""No class has it as its base with Python 3.10, which has no groups."""
GROUP_TYPES = frozenset({"BaseExceptionGroup", "ExceptionGroup"})
"""The types of groups that say no more than that something went wrong in them."""


def read(value: object, name: str) -> Any:
    """An attribute of foreign code's: None where there is none, and where it cannot be read."""
    try:
        return getattr(value, name, None)
    except Exception:  # noqa: BLE001 - foreign code
        return None


def type_name(kind: type[BaseException] | type) -> str:
    """The class's name with its module, as `error.type` of OpenTelemetry wants it; builtins without."""
    module = read(kind, "__module__")
    if not isinstance(module, str) or module in {"builtins", "__main__"}:
        return kind.__qualname__
    return f"{module}.{kind.__qualname__}"


def is_of_dlt(error: BaseException) -> bool:
    """Whether dlt has defined the class of an exception, so that its attributes mean what they do there."""
    return type_name(type(error)).startswith("dlt.")


def text_of(value: object) -> str:
    """`str(value)`, also of objects of foreign code that cannot even print themselves."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - foreign code
        return f"<unprintable {type(value).__name__}>"


def chain_of(error: BaseException, until: BaseException | None = None) -> Iterator[BaseException]:
    """The exception, and those it came from, in the reverse of the order in which Python prints them.

    A group comes from the first exception in it. What another process has left of its traceback is no
    exception that anybody raised, and left out.

    Args:
        error: The outermost exception.
        until: The exception that was being handled when all this began: as the implicit context of others
            it has nothing to do with them. It counts where somebody names it the cause, or raises it again.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen and len(seen) < _MAX_CHAIN:
        seen.add(id(current))
        yield current
        named = _named_cause(current)
        if named is None:
            named = _context_of(current, until)
        current = None if named is None or _is_remote_traceback(named) else named


def causes_of(error: BaseException, until: BaseException | None = None) -> Iterator[BaseException]:
    """The exception, and what really caused it, the root cause last.

    dlt's own wrappers are unwrapped (`PipelineStepFailed`, `ResourceExtractionError`, …), and groups. Beyond
    them only what somebody named the cause (`raise … from …`) is one: the implicit context of a library's
    exception is its inner working.

    Args:
        error: The outermost exception.
        until: The exception that was being handled when all this began, as for `chain_of`.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        cause = _named_cause(current)
        if cause is None and is_of_dlt(current):
            # a load job's own error is an attribute; its exception is raised elsewhere
            inner = read(current, "client_exception")
            cause = inner if isinstance(inner, BaseException) else _context_of(current, until)
        current = None if cause is None or _is_remote_traceback(cause) else cause


def root_cause(error: BaseException, until: BaseException | None = None) -> BaseException:
    """The exception that says what really happened: the last of `causes_of`."""
    *_, root = causes_of(error, until)
    return root


def _named_cause(error: BaseException) -> BaseException | None:
    """The first exception of a group; else what the one who raised it named the cause."""
    if issubclass(type(error), _GROUP):
        members = read(error, "exceptions")
        if isinstance(members, tuple) and members and isinstance(members[0], BaseException):
            return members[0]
    cause = read(error, "__cause__")
    return cause if isinstance(cause, BaseException) else None


def _context_of(error: BaseException, until: BaseException | None) -> BaseException | None:
    """The exception that was being handled when this one was raised, unless it was when all began."""
    context = read(error, "__context__")
    if context is until or read(error, "__suppress_context__"):
        return None
    return context if isinstance(context, BaseException) else None


def _is_remote_traceback(error: BaseException) -> bool:
    return type_name(type(error)) in _REMOTE_TRACEBACKS


def describe(error: BaseException) -> ExceptionInfo:
    """One exception with its frames, without those it came from."""
    summary = traceback.StackSummary.extract(
        traceback.walk_tb(error.__traceback__), limit=-_MAX_FRAMES, lookup_lines=True
    )
    modules = [frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__)]
    frames = tuple(
        Frame(
            path=entry.filename,
            line=entry.lineno or 0,
            function=entry.name,
            module=str(module or ""),
            source=entry.line or "",
            in_app=_is_in_app(entry.filename),
        )
        for entry, module in zip(summary, modules[-len(summary) :], strict=True)
    )
    return ExceptionInfo(type_name(type(error)), text_of(error), frames)


def describe_stack(top: FrameType | None) -> tuple[tuple[Frame, ...], str]:
    """The stack of a thread that is on, outermost call first: as frames, and as Python prints it."""
    stack = list(traceback.walk_stack(top))[:_MAX_FRAMES][::-1]
    summary = traceback.StackSummary.extract(iter(stack), lookup_lines=True)
    frames = tuple(
        Frame(
            path=entry.filename,
            line=entry.lineno or 0,
            function=entry.name,
            module=str(frame.f_globals.get("__name__") or ""),
            source=entry.line or "",
            in_app=_is_in_app(entry.filename),
        )
        for entry, (frame, _) in zip(summary, stack, strict=True)
    )
    return frames, "".join(summary.format())


def stacktrace(error: BaseException, until: BaseException | None = None) -> str:
    """The whole chain as Python prints it, without locals, and without what `until` brings (`chain_of`)."""
    try:
        told = traceback.TracebackException.from_exception(error, capture_locals=False)
        _leave_out(until, told, error)
        return "".join(told.format())
    except Exception:  # noqa: BLE001 - foreign code: Python reads attributes of the exceptions
        return "\n".join(_plain_trace(one) for one in reversed(list(chain_of(error, until))))


def _leave_out(until: BaseException | None, told: traceback.TracebackException, error: BaseException) -> None:
    """Take an exception out of what is to be printed, wherever it is an implicit context."""
    pairs: list[tuple[Any, Any]] = [] if until is None else [(told, error)]
    while pairs:
        node, one = pairs.pop()
        if one.__context__ is until:
            node.__context__ = None
        inner = [(node.__cause__, one.__cause__), (node.__context__, one.__context__)]
        if getattr(node, "exceptions", None):  # of a group
            inner += zip(node.exceptions, one.exceptions, strict=False)
        pairs += [(printed, live) for printed, live in inner if printed is not None and live is not None]


def _plain_trace(error: BaseException) -> str:
    """One exception as Python prints it, if nothing can be read of it but its text."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    return f"Traceback (most recent call last):\n{frames}{type_name(type(error))}: {text_of(error)}\n"


def shortened(text: str, length: int) -> str:
    """The beginning and the end of a long text, which is without secrets: a cut could hide half of one."""
    if len(text) <= length:
        return text
    half = length // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"


def without_frames(message: str) -> str:
    """Return the exception at the end of a stack trace, which dlt keeps as the message of a failed job."""
    _, is_trace, rest = message.rpartition("\n  File ")
    if not is_trace:
        return message
    lines = rest.split("\n")[1:]
    while lines and lines[0].startswith("  "):
        del lines[0]
    return "\n".join(lines).strip() or message


@cache
def _is_in_app(path: str) -> bool:
    """Whether a file is the user's: not the standard library, not an installed package."""
    if path.startswith("<") or not path:
        return False
    parts = path.replace(os.sep, "/").split("/")
    if "site-packages" in parts or "dist-packages" in parts:
        return False
    folders = {sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib")}
    # a virtual environment names its own folder there, but runs the files of the interpreter it came from
    folders.add(str(Path(os.__file__).parent))
    return not any(path.startswith(folder + os.sep) for folder in folders)
