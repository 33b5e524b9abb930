"""Which run, and which step of it, the current code belongs to.

The value lives in a `ContextVar`, so pipelines in different threads never see each other, and a
thread that is started with a copy of the context keeps it (see `_propagation`).
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple

from opentelemetry import trace


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


def current_correlation() -> Correlation | None:
    """The ids of the current context, or None outside of any run and any span.

    `trace_id` and `span_id` are those of OpenTelemetry's current span, whoever started it; where there
    is none, the trace id of a run is its transaction id.
    """
    run = current_run.get()
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        if run is None:
            return None
        return Correlation(*run, run.transaction_id, None)
    trace_id, span_id = f"{span.trace_id:032x}", f"{span.span_id:016x}"
    if run is None:
        return Correlation(None, None, None, trace_id, span_id)
    return Correlation(*run, trace_id, span_id)
