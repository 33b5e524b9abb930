"""Which run, and which step of it, the current code belongs to.

The value lives in a `ContextVar`, so pipelines in different threads never see each other, and a
thread that is started with a copy of the context keeps it (see `propagation`).
"""

from __future__ import annotations

import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext


class RunContext(NamedTuple):
    """The run that is on in the current context, and its innermost step."""

    pipeline: str
    step: str
    transaction_id: str


class Correlation(NamedTuple):
    """The ids by which a log line is joined with its run and its trace.

    Field names are those of the JSON line. Ids are lower-case hex: 32 digits for `transaction_id` and
    `trace_id`, 16 for `span_id`. What is not known is None.
    """

    pipeline: str | None
    step: str | None
    transaction_id: str | None
    trace_id: str | None
    span_id: str | None


current_run: ContextVar[RunContext | None] = ContextVar("dltobs_run", default=None)

inside_hook: ContextVar[bool] = ContextVar("dltobs_inside_hook", default=False)
"""True while a hook of ours is on: a pipeline that a sink runs is not observed."""

hooked_pipeline: ContextVar[Any] = ContextVar("dltobs_hooked_pipeline", default=None)
"""dlt's live pipeline while a hook of ours is on, for the sink that writes where that pipeline writes."""

_last: tuple[RunContext | None, object, Correlation | None] = (None, None, None)
"""The last answer and what it was made of: many lines are logged within one span."""


def current_correlation() -> Correlation | None:
    """The ids of the current context, or None outside of any run and any span.

    `trace_id` and `span_id` are those of OpenTelemetry's current span, whoever started it; where there
    is none, the trace id of a run is its transaction id.
    """
    global _last  # noqa: PLW0603 - replaced as a whole, so threads see one answer or the other
    # where nobody has imported OpenTelemetry there is no span, and we need not import it to know
    context = sys.modules.get("opentelemetry.context")
    # contexts are immutable: the same one holds the same span
    run, current = current_run.get(), None if context is None else context.get_current()
    last = _last
    if last[0] is run and last[1] is current:
        return last[2]
    span = None
    if current:  # an empty context holds none
        from opentelemetry.trace import get_current_span

        span = get_current_span(current).get_span_context()
    correlation = _correlation(run, span)
    _last = (run, current, correlation)
    return correlation


def _correlation(run: RunContext | None, span: SpanContext | None) -> Correlation | None:
    if span is None or not span.is_valid:
        return None if run is None else Correlation(*run, run.transaction_id, None)
    trace_id, span_id = f"{span.trace_id:032x}", f"{span.span_id:016x}"
    if run is None:
        return Correlation(None, None, None, trace_id, span_id)
    return Correlation(*run, trace_id, span_id)


def current_span_is_sampled() -> bool:
    """Whether the current span is recorded somewhere."""
    # where nobody has imported OpenTelemetry there is no span
    trace = sys.modules.get("opentelemetry.trace")
    return trace is not None and bool(trace.get_current_span().get_span_context().trace_flags.sampled)
