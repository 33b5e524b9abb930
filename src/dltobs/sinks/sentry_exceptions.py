"""Exceptions and stack frames as Sentry wants them, with the lines of the user's code around each frame."""

from __future__ import annotations

import contextlib
import linecache
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dltobs._cut import MESSAGE, TEXT
from dltobs._describe import GROUP_TYPES
from dltobs._events import ExceptionInfo
from dltobs.sinks.source_lines import SourceLines

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dltobs._events import Failure, Frame
    from dltobs._redaction.redactor import Redactor

_CONTEXT_LINES = 5
"""Before and after, as Sentry's own SDK has it."""
_LINE_LENGTH = 500


def exceptions_of(failure: Failure, redactor: Redactor) -> list[dict[str, Any]]:
    """Return the exceptions as Sentry wants them: the one it began with first, each naming what it led to.

    Sentry takes the last one for the title of the issue. The exceptions of a group name the group.
    """
    source = SourceLines(redactor)
    described: list[dict[str, Any]] = []

    def add(chain: Iterable[ExceptionInfo], parent: int | None, member: int | None) -> None:
        groups = []
        for info in chain:
            number = len(described)
            mechanism = _mechanism(info, number, parent, member)
            described.append({**_exception(info, redactor, source), "mechanism": mechanism})
            if info.others:
                groups.append((number, info))
            parent, member = number, 0 if _is_group(info) else None
        for number, info in groups:
            for index, other in enumerate(info.others, 1):
                add(other, number, index)

    add(_without_wrappers(failure), None, None)
    return described[::-1]


def _mechanism(info: ExceptionInfo, number: int, parent: int | None, member: int | None) -> dict[str, Any]:
    """Return how an exception came about, as Sentry's own SDK tells it.

    Args:
        info: The exception.
        number: Its own number.
        parent: The number of the exception that it led to, or of its group.
        member: Which exception of the group it is; None if its parent is no group.
    """
    mechanism: dict[str, Any] = {"type": "dlt", "handled": False, "exception_id": number}
    if parent is not None:
        mechanism.update(type="chained", parent_id=parent)
    if member is not None:
        mechanism["source"] = f"exceptions[{member}]"
    if _is_group(info):
        mechanism["is_exception_group"] = True
    return mechanism


def _is_group(info: ExceptionInfo) -> bool:
    return bool(info.others) or info.type in GROUP_TYPES


def _without_wrappers(failure: Failure) -> list[ExceptionInfo]:
    """The chain without the exceptions that wrap what happened: dlt's, and groups of one.

    Their texts are context. Their frames go before those of the first one that is left, which makes its
    stack whole: from the step of the pipeline to the line that raised.
    """
    chain = list(failure.chain)
    if all(info.type != failure.error_type for info in chain):
        # the exception of a load job was raised in a thread of its own
        chain.append(ExceptionInfo(failure.error_type, failure.message, ()))
    outer: Sequence[Frame] = ()
    root = (failure.error_type, failure.message)
    while len(chain) > 1 and _is_wrapper(chain[0]) and (chain[0].type, chain[0].message) != root:
        outer = _joined(outer, chain.pop(0).frames)
    chain[0] = replace(chain[0], frames=tuple(_joined(outer, chain[0].frames)))
    return chain


def _is_wrapper(info: ExceptionInfo) -> bool:
    return info.type.startswith("dlt.") or (info.type in GROUP_TYPES and not info.others)


def _joined(outer: Sequence[Frame], inner: Sequence[Frame]) -> Sequence[Frame]:
    """The frames of an exception after those of the one that was raised when it was caught."""
    if outer and inner and (outer[-1].path, outer[-1].function) == (inner[0].path, inner[0].function):
        outer = outer[:-1]  # the function that caught the one and raised the other
    return (*outer, *inner)


def _exception(info: ExceptionInfo, redactor: Redactor, source: SourceLines) -> dict[str, Any]:
    module, _, name = info.type.rpartition(".")
    described: dict[str, Any] = {"type": name, "module": module or None, "value": info.message}
    if info.frames:
        described["stacktrace"] = {"frames": [_frame(frame, redactor, source) for frame in info.frames]}
    return described


def _frame(frame: Frame, redactor: Redactor, source: SourceLines) -> dict[str, Any]:
    described: dict[str, Any] = {
        "filename": _short(frame.path, frame.module),
        "abs_path": frame.path,
        "function": frame.function,
        "module": frame.module,
        "lineno": frame.line,
        "context_line": frame.source,
        "in_app": frame.in_app,
    }
    if frame.in_app and frame.source:
        with contextlib.suppress(Exception):  # the source and the redactor may fail; the frame tells enough
            described.update(_source_context(frame, redactor, source))
    return described


def _source_context(frame: Frame, redactor: Redactor, source: SourceLines) -> dict[str, Any]:
    """The lines around a frame, redacted as one text: a secret may stand on several lines.

    Nothing where the file is not the one that ran: it was edited since, or cannot be read.
    """
    lines, number = source.of(frame.path), frame.line - 1
    if not 0 <= number < len(lines):
        return {}
    if redactor.text(linecache.getline(frame.path, frame.line).strip(), MESSAGE) != frame.source:
        return {}
    first = max(number - _CONTEXT_LINES, 0)
    block = lines[first : number + 1 + _CONTEXT_LINES]
    clean = [line[:_LINE_LENGTH] for line in redactor.text("\n".join(block), TEXT).split("\n")]
    if len(clean) != len(block):
        return {}  # what was taken out reached over a line's end
    position = number - first
    return {
        "pre_context": clean[:position],
        "context_line": clean[position],
        "post_context": clean[position + 1 :],
    }


def _short(path: str, module: str) -> str:
    """The path from the package on, as Sentry shows it; the file's name where that is unknown."""
    parts = path.replace("\\", "/").split("/")
    depth = module.count(".") + 1 + (parts[-1] == "__init__.py")
    return "/".join(parts[-depth:])
