"""Keeps, beside a pipeline's packages, the spans in which they were made, for later traces to link to.

A package that one trace extracts may be normalized and loaded by others: after a failure, or where the
steps are called one by one, in one process or several. dlt keeps the package in the pipeline's working
directory until it is loaded, and so do we with the span's ids.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dltobs._context.current import current_correlation, current_span_is_sampled
from dltobs._describe import text_of
from dltobs._events import SpanLink
from dltobs._small_files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dltobs._warnings import Warner

FILE_NAME = "dltobs_span_links.json"
"""In the working directory: `{load_id: [[trace_id, span_id, is_sampled], …]}`, the oldest package first."""

PACKAGE_STATES = {
    "extract": frozenset({"extracted"}),
    "normalize": frozenset({"normalized"}),
    "load": frozenset({"loaded", "aborted"}),
}
"""The states in which a step leaves the packages that it has done; of others it has only seen the files."""

_MAX_PACKAGES = 256
_MAX_TRACES = 8
"""Of a package; one that is tried again and again has many."""
_MAX_LOAD_ID = 128
_HEX = frozenset("0123456789abcdef")


class SpanLinks:
    """Reads and writes the file of one pipeline after the other; keeps nothing in memory.

    Args:
        warner: Told, once, that the file cannot be written.
    """

    def __init__(self, warner: Warner) -> None:
        self._warner = warner

    def pass_on(
        self, folder: str, load_ids: Sequence[str], done: Sequence[str], *, is_last: bool
    ) -> tuple[SpanLink, ...]:
        """Read what earlier traces left for a step, and leave something for later ones.

        Args:
            folder: The pipeline's working directory.
            load_ids: The packages that the step had to do with.
            done: Those that it has done.
            is_last: Whether they are done for good: they are forgotten then. Else the current span is kept as
                the one that made them; of several spans of a trace, the last.

        Returns:
            The spans of other traces that made the packages, in order of time; none without tracing.
        """
        path = Path(folder) / FILE_NAME
        known = before = _read(path)
        current = current_correlation()
        trace_id, span_id = (None, None) if current is None else (current.trace_id, current.span_id)
        has_span = trace_id is not None and span_id is not None
        if is_last:
            known = {load_id: links for load_id, links in before.items() if load_id not in set(done)}
        elif has_span and done:
            known = dict(before)
            for load_id in done:
                link = SpanLink(str(trace_id), str(span_id), load_id, current_span_is_sampled())
                others = [one for one in known.pop(load_id, ()) if one.trace_id != trace_id]
                known[load_id] = [*others, link][-_MAX_TRACES:]
            # packages that somebody dropped are never loaded
            known = dict(list(known.items())[-_MAX_PACKAGES:])
        if known != before:
            self._write(path, known)
        if not has_span:
            return ()
        found = (link for load_id in dict.fromkeys(load_ids) for link in before.get(load_id, ()))
        return tuple(link for link in found if link.trace_id != trace_id)

    def _write(self, path: Path, known: dict[str, list[SpanLink]]) -> None:
        try:
            if not known:
                path.unlink(missing_ok=True)
                return
            content = {
                load_id: [[one.trace_id, one.span_id, one.is_sampled] for one in links]
                for load_id, links in known.items()
            }
            write_json(path, content)
        except OSError as error:
            self._warner.warn(
                "span links",
                f"the spans of pending packages cannot be kept in {path}: {text_of(error.strerror)}; "
                "runs that load them later will not link to them",
                reason="write",
            )


def _read(path: Path) -> dict[str, list[SpanLink]]:
    """What the file says; what is torn or not ours is not there."""
    links = {load_id: _links(load_id, spans) for load_id, spans in read_json(path).items()}
    return {load_id: found for load_id, found in links.items() if found}


def _links(load_id: str, spans: Any) -> list[SpanLink]:
    if not isinstance(spans, list) or len(load_id) > _MAX_LOAD_ID:
        return []
    return [SpanLink(span[0], span[1], load_id, span[2]) for span in spans[:_MAX_TRACES] if _is_span(span)]


def _is_span(span: Any) -> bool:
    return (
        isinstance(span, list)
        and len(span) == 3  # noqa: PLR2004 - trace id, span id, flag
        and _is_id(span[0], 32)
        and _is_id(span[1], 16)
        and isinstance(span[2], bool)
    )


def _is_id(value: Any, length: int) -> bool:
    return isinstance(value, str) and len(value) == length and set(value) <= _HEX and set(value) != {"0"}
