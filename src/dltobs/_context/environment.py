"""Carries the trace context between processes on different hosts: in environment variables.

The names are those of the W3C headers in capitals, as OpenTelemetry's specification has it: `TRACEPARENT`,
`TRACESTATE` and `BAGGAGE`. They are read here, and written into a copy; our own environment never changes.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING

from dltobs import _state
from dltobs._warnings import Warner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.context import Context
    from opentelemetry.propagators.composite import CompositePropagator
    from opentelemetry.sdk.trace.sampling import Sampler
    from opentelemetry.trace import Link, Span

_TRACEPARENT, _TRACESTATE, _BAGGAGE = VARIABLES = ("TRACEPARENT", "TRACESTATE", "BAGGAGE")
_SHOWN = 80
"""Characters of a malformed value in the warning."""
_COMPLAINING = {
    "opentelemetry.trace.span": _TRACESTATE,
    "opentelemetry.trace.propagation.tracecontext": _TRACESTATE,
    "opentelemetry.baggage": _BAGGAGE,
    "opentelemetry.baggage.propagation": _BAGGAGE,
}
"""The loggers to which OpenTelemetry writes malformed values as they are."""


def propagation_env() -> dict[str, str]:
    """A copy of the environment that makes a child process part of the current trace.

    `TRACEPARENT`, `TRACESTATE` and `BAGGAGE` in it are those of OpenTelemetry's current context; what this
    process was started with itself is left out. Whoever understands them continues the trace: another
    pipeline under dltobs, or any program with OpenTelemetry.

    ```python
    import subprocess
    import sys

    import dltobs

    command = [sys.executable, "-c", "print('a child of the current span')"]
    subprocess.run(command, env=dltobs.propagation_env(), check=True)
    ```
    """
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment |= {name.upper(): value for name, value in current_carrier().items()}
    return environment


def current_carrier() -> dict[str, str]:
    """The current trace context and baggage as W3C headers; empty where there is neither."""
    carrier: dict[str, str] = {}
    # where nobody has imported OpenTelemetry there is no context, and we need not import it to know
    if "opentelemetry.context" in sys.modules:
        _propagator().inject(carrier)
    return carrier


def carrier_of(span: Span) -> dict[str, str]:
    """The trace context of a span as W3C headers; empty for one that records nothing."""
    from opentelemetry.trace import set_span_in_context

    carrier: dict[str, str] = {}
    _propagator().inject(carrier, set_span_in_context(span))
    return carrier


def context_of(carrier: dict[str, str]) -> Context:
    """The context that a carrier holds; what is malformed in it is left out."""
    from opentelemetry.context import Context

    return _propagator().extract(carrier, Context())


def root_parent(sampler: Sampler | None) -> tuple[Context | None, list[Link]]:
    """Return the context in which a root span starts (None: the current one), and the links that it gets.

    A current span that is not sampled counts as none, and is linked, where nobody has decided so: it comes
    from a no-op provider, as in a tool whose own tracing is off. Somebody has decided where it belongs to the
    trace of `TRACEPARENT`, and where our sampler would not sample that trace either.

    Args:
        sampler: That of our provider; None where spans go through the application's, whose sampler decides.
    """
    from opentelemetry import context, trace

    span = trace.get_current_span()
    current = span.get_span_context()
    if sampler is None or not current.is_valid or current.trace_flags.sampled or span.is_recording():
        return parent_context(), []
    from opentelemetry.sdk.trace.sampling import Decision

    from_environment = _from_environment()
    caller = trace.get_current_span(from_environment or context.Context()).get_span_context()
    root = trace.set_span_in_context(trace.INVALID_SPAN, context.Context())
    decision = sampler.should_sample(root, current.trace_id, "dltobs").decision
    if decision is not Decision.RECORD_AND_SAMPLE or caller.trace_id == current.trace_id:
        return None, []
    no_parent = trace.set_span_in_context(trace.INVALID_SPAN)
    parent = no_parent if from_environment is None else _laid_over(no_parent, from_environment)
    return parent, [trace.Link(current)]


def parent_context() -> Context | None:
    """The context in which whoever started this process wants its runs; None where nobody says, or a span is
    current already.

    A malformed `TRACEPARENT` is one warning, and ignored; likewise what is malformed in the other two.
    """  # noqa: D205 - one sentence
    from opentelemetry import context, trace

    if trace.get_current_span().get_span_context().is_valid:
        return None
    extracted = _from_environment()
    current = context.get_current()
    return extracted if extracted is None or not current else _laid_over(current, extracted)


def _from_environment() -> Context | None:
    return _extracted(*(os.environ.get(name, "").strip() for name in VARIABLES))


def _laid_over(current: Context, extracted: Context) -> Context:
    """The application's own context, in which there is no span, with what the environment says beside."""
    from opentelemetry import baggage, trace

    both = trace.set_span_in_context(trace.get_current_span(extracted), current)
    own = baggage.get_all(current)
    for name, value in baggage.get_all(extracted).items():
        if name not in own:
            both = baggage.set_baggage(name, value, both)
    return both


@functools.lru_cache(maxsize=8)
def _extracted(traceparent: str, tracestate: str, baggage: str) -> Context | None:
    """The context in these values. It is made once, so a malformed one is told once."""
    from opentelemetry import trace

    carrier = {"traceparent": traceparent, "tracestate": tracestate, "baggage": baggage}
    with _overhearing() as malformed:
        context = context_of({name: value for name, value in carrier.items() if value})
    running = _state.runtime
    warner = Warner(_state.current_redactor()) if running is None else running.warner
    for name in sorted(malformed):
        warner.warn(
            name, f"the environment variable {name} is malformed; what cannot be read of it is left out"
        )
    if traceparent and not trace.get_current_span(context).get_span_context().is_valid:
        clean = warner.clean(traceparent)  # before it is cut, perhaps in the middle of a secret
        shown = clean if len(clean) <= _SHOWN else f"{clean[:_SHOWN]}…"
        warner.warn(
            _TRACEPARENT,
            f"the environment variable {_TRACEPARENT} is ignored: {shown!r} is no W3C trace context "
            "(00-<32 hex digits>-<16 hex digits>-<2 hex digits>); the run begins a trace of its own",
        )
    return context or None


@functools.cache
def _propagator() -> CompositePropagator:
    """W3C's two, whatever the application has set for its HTTP headers."""
    from opentelemetry.baggage.propagation import W3CBaggagePropagator
    from opentelemetry.propagators.composite import CompositePropagator
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])


@contextlib.contextmanager
def _overhearing() -> Iterator[set[str]]:
    """Have no value in the log that OpenTelemetry complains of in this thread; gives the variables' names."""
    malformed: set[str] = set()
    thread = threading.get_ident()

    def take(record: logging.LogRecord) -> bool:
        if threading.get_ident() != thread:
            return True
        malformed.add(_COMPLAINING[record.name])
        return False

    for name in _COMPLAINING:
        logging.getLogger(name).addFilter(take)
    try:
        yield malformed
    finally:
        for name in _COMPLAINING:
            logging.getLogger(name).removeFilter(take)
