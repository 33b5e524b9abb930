"""Has the tracer provider decided before Prefect opens the span of a flow, so that runs are below it.

Prefect opens a span for each flow and task run and makes it current. Ours would come with the first run of a
pipeline: too late for the flow that it is in, whose span has been started without a provider by then.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from dltobs._arrivals import Arrival
from dltobs._context.environment import carrier_of, parent_context

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Token
    from types import ModuleType

    from dltobs._warnings import Warner

_MAX_FLOWS = 50
"""Flow runs that may have tasks in other processes at the same time."""

_MODULE, _CLASS = "prefect.telemetry.run_telemetry", "RunTelemetry"


class FlowSpans:
    """Follows Prefect's starts of spans.

    Args:
        before: Called before each of them, with or without a span: flow and task runs begin there.
        warner: Told of what goes wrong.
        has_spans: Whether tracing is not off: `TRACEPARENT` counts then.
    """

    def __init__(self, before: Callable[[], None], warner: Warner, *, has_spans: bool) -> None:
        self._before = before
        self._warner = warner
        self._has_spans = has_spans
        self._arrival = Arrival(_MODULE, self._wrap)
        self._kind: Any = None
        self._originals: dict[str, Any] = {}
        self._wrappers: dict[str, Any] = {}
        self.traces: dict[str, dict[str, str]] = {}
        """The trace context of the last flow runs, by their id, as W3C headers."""

    def attach(self) -> None:
        """Wrap the two functions, now or when Prefect imports them for its first flow."""
        self._arrival.await_()

    def detach(self) -> None:
        """Put Prefect's functions back, unless somebody has replaced ours."""
        self._arrival.cancel()
        for name, original in self._originals.items():
            if vars(self._kind).get(name) is self._wrappers[name]:
                setattr(self._kind, name, original)
        self._originals, self._wrappers = {}, {}

    def _wrap(self, module: ModuleType) -> None:
        self._kind = kind = getattr(module, _CLASS, None)
        for name, wrapped in (("start_span", self._sync), ("async_start_span", self._async)):
            original = getattr(kind, name, None)
            if original is not None:
                self._originals[name], self._wrappers[name] = original, wrapped(original)
                setattr(kind, name, self._wrappers[name])

    def _sync(self, original: Any) -> Any:
        @functools.wraps(original)
        def start_span(*args: Any, **kwargs: Any) -> Any:
            token = self._enter()
            try:
                return original(*args, **kwargs)
            finally:
                self._leave(token, args, kwargs)

        return start_span

    def _async(self, original: Any) -> Any:
        @functools.wraps(original)
        async def async_start_span(*args: Any, **kwargs: Any) -> Any:
            token = self._enter()
            try:
                return await original(*args, **kwargs)
            finally:
                self._leave(token, args, kwargs)

        return async_start_span

    def _enter(self) -> Token[Any] | None:
        """Get ready, and make whoever has started this process (`TRACEPARENT`) the parent of a root span."""
        try:
            self._before()
            parent = parent_context() if self._has_spans else None
            if parent is not None:
                from opentelemetry import context

                return context.attach(parent)
        except Exception as error:  # noqa: BLE001 - never into the flow
            self._warner.internal_error("prefect", error)
        return None

    def _leave(self, token: Token[Any] | None, args: Any, kwargs: Any) -> None:
        if token is not None:
            from opentelemetry import context

            context.detach(token)
        try:
            telemetry, run = args[0], kwargs["run"] if "run" in kwargs else args[1]
            if telemetry.span is None or not hasattr(run, "flow_id"):
                return
            self.traces[str(run.id)] = carrier_of(telemetry.span)
            for oldest in list(self.traces)[:-_MAX_FLOWS]:
                self.traces.pop(oldest, None)  # another thread may do the same
        except Exception as error:  # noqa: BLE001 - never into the flow
            self._warner.internal_error("prefect", error)
