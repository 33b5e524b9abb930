"""Turns live exceptions into text and frozen values: no locals, no references that keep them alive."""

from __future__ import annotations

import os
import sysconfig
import traceback
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from dltobs._events import ExceptionInfo, Frame

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_MAX_CHAIN = 20
_MAX_FRAMES = 100
_REMOTE_TRACEBACKS = {"concurrent.futures.process._RemoteTraceback", "multiprocessing.pool.RemoteTraceback"}
"""Stand as the cause of an exception that comes from another process: its traceback, as text."""


def type_name(kind: type[BaseException] | type) -> str:
    """The class's name with its module, as `error.type` of OpenTelemetry wants it; builtins without."""
    if kind.__module__ in {"builtins", "__main__"}:
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def text_of(value: object) -> str:
    """`str(value)`, also of objects of foreign code that cannot even print themselves."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - foreign code
        return f"<unprintable {type(value).__name__}>"


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """The exception, and those it came from, in the reverse of the order in which Python prints them."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen and len(seen) < _MAX_CHAIN:
        seen.add(id(current))
        yield current
        if current.__cause__ is not None:
            current = current.__cause__
        else:
            current = None if current.__suppress_context__ else current.__context__


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """The exception, and what really caused it, the root cause last.

    dlt's own wrappers are unwrapped (`PipelineStepFailed`, `ResourceExtractionError`, …), and beyond them
    only what somebody named the cause (`raise … from …`): the implicit context of a library's exception is
    its inner working.
    """
    seen: set[int] = set()
    inner: object = error
    while isinstance(inner, BaseException) and id(inner) not in seen:
        if type_name(type(inner)) in _REMOTE_TRACEBACKS:
            return
        seen.add(id(inner))
        yield inner
        error, inner = inner, inner.__cause__
        if inner is None and type(error).__module__.split(".")[0] == "dlt":
            # a load job's own error is an attribute; its exception is raised elsewhere
            inner = getattr(error, "client_exception", None)
            if inner is None and not error.__suppress_context__:
                inner = error.__context__


def root_cause(error: BaseException) -> BaseException:
    """The exception that says what really happened: the last of `causes_of`."""
    *_, root = causes_of(error)
    return root


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


def stacktrace(error: BaseException) -> str:
    """The whole chain as Python prints it, without locals."""
    return "".join(traceback.TracebackException.from_exception(error, capture_locals=False).format())


def shortened(text: str, length: int) -> str:
    """The beginning and the end of a long text, which is without secrets: a cut could hide half of one."""
    if len(text) <= length:
        return text
    half = length // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"


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
