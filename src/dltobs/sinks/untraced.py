"""Keeps our own requests out of the traces that instrumentations of HTTP libraries make."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from opentelemetry import context
from opentelemetry.context import _SUPPRESS_HTTP_INSTRUMENTATION_KEY, _SUPPRESS_INSTRUMENTATION_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """No instrumentation of an HTTP library makes a span of our own requests."""
    suppressed = context.get_current()
    for key in (_SUPPRESS_INSTRUMENTATION_KEY, _SUPPRESS_HTTP_INSTRUMENTATION_KEY):
        suppressed = context.set_value(key, True, suppressed)  # noqa: FBT003 - the signature is OpenTelemetry's
    token = context.attach(suppressed)
    try:
        yield
    finally:
        context.detach(token)
