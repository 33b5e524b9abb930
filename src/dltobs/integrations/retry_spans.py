"""The spans of a retry loop: one for the loop, and one below it for each attempt."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

from dltobs import _state

if TYPE_CHECKING:
    from collections.abc import Iterator


class Failed(NamedTuple):
    """Why an attempt failed: type of the root cause, and type and message in one line, without secrets."""

    error_type: str
    reason: str


class LoopSpans:
    """A span for the loop, and one below it for each attempt, which is the current one while it is on."""

    def __init__(self, tracer: Any, name: str, context: Any, links: list[Any]) -> None:
        self._tracer, self._name, self._context, self._links = tracer, name, context, links
        self._parent: Any = None
        self._attempt: Any = None
        self._token: Any = None

    @classmethod
    def prepare(cls, name: str) -> LoopSpans | None:
        """For a loop that begins in the current context; None where there is no tracing."""
        running = _state.runtime
        sinks = () if running is None else running.sinks
        sink: Any = next((one for one in sinks if hasattr(one, "tracer")), None)
        tracer = None if sink is None else sink.tracer()
        if sink is None or tracer is None:
            return None
        from opentelemetry import context

        parent, links = sink.parent()
        return cls(tracer, f"retry {name}", parent or context.get_current(), links)

    def begin_attempt(self, number: int) -> None:
        """Make a span for an attempt the current one."""
        from opentelemetry import context, trace

        if self._parent is None:
            self._parent = self._tracer.start_span(self._name, context=self._context, links=self._links)
        below = trace.set_span_in_context(self._parent)
        attributes = {"dlt.retry.attempt": number}
        self._attempt = self._tracer.start_span(f"attempt {number}", context=below, attributes=attributes)
        self._token = context.attach(trace.set_span_in_context(self._attempt))

    def end_attempt(self, failed: Failed | None) -> None:
        """Let it be the current one no longer; called where it began."""
        from opentelemetry import context

        if self._token is not None:
            context.detach(self._token)
            self._token = None
        self._end_attempt(failed)

    def end(self, failed: Failed | None, attempts: int) -> None:
        """End the loop's, and that of an attempt that is on."""
        self._end_attempt(None)
        if self._parent is not None:
            self._parent.set_attribute("dlt.retry.attempts", attempts)
            _end(self._parent, failed)

    @contextlib.contextmanager
    def inside(self, *, of_loop: bool) -> Iterator[None]:
        """Give what is logged here the ids of the loop, or of its last attempt, whose span may have ended."""
        from opentelemetry import context, trace

        span = self._parent if of_loop else self._attempt
        token = context.attach(trace.set_span_in_context(span))
        try:
            yield
        finally:
            context.detach(token)

    def _end_attempt(self, failed: Failed | None) -> None:
        if self._attempt is not None and self._attempt.is_recording():
            _end(self._attempt, failed)


def _end(span: Any, failed: Failed | None) -> None:
    from dltobs.sinks.span_error import set_error

    if failed is not None:
        span.set_attribute("error.type", failed.error_type)
        set_error(span, failed.reason)
    span.end()
