"""Sentry's transport, with an ear for what became of each event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import context
from opentelemetry.context import (
    _SUPPRESS_HTTP_INSTRUMENTATION_KEY,
    _SUPPRESS_INSTRUMENTATION_KEY,
)
from sentry_sdk.transport import HttpTransport

from dltobs.sinks.delivery import reason_of

if TYPE_CHECKING:
    from dltobs.sinks.delivery import Delivery

_HTTP_OK = range(200, 300)


class CountingTransport(HttpTransport):
    """Sentry's HTTP transport, whose requests are not traced and whose losses are counted.

    The SDK drops an event in silence when the server answers an error.
    """

    TIMEOUT = 10
    delivery: Delivery
    _pool: Any
    _auth: Any

    def capture_envelope(self, envelope: Any) -> None:
        """Queue an envelope."""
        self.delivery.submitted(1)
        super().capture_envelope(envelope)

    def on_dropped_event(self, reason: str) -> None:
        """The SDK gives an event up: `network`, `status_503`, `full_queue`, …."""
        if reason != "network":  # that one is counted where the exception is known
            self.delivery.dropped(1, _in_words(reason))

    def _send_request(self, *args: Any, **kwargs: Any) -> None:
        token = context.attach(
            context.set_value(
                _SUPPRESS_HTTP_INSTRUMENTATION_KEY,
                True,  # noqa: FBT003 - the signature is OpenTelemetry's
                context.set_value(_SUPPRESS_INSTRUMENTATION_KEY, True),  # noqa: FBT003
            )
        )
        try:
            super()._send_request(*args, **kwargs)
        except Exception as error:
            self.delivery.dropped(1, reason_of(error))
            raise
        finally:
            context.detach(token)

    def _send_envelope(self, envelope: Any) -> None:
        if not self.delivery.is_abandoned:  # else it has been counted
            super()._send_envelope(envelope)

    def _request(self, method: str, endpoint_type: Any, body: Any, headers: Any) -> Any:
        """Send once: urllib3 would follow a redirect with our key, and log each try again."""
        url = self._auth.get_api_url(endpoint_type)
        return self._pool.request(method, url, body=body, headers=headers, retries=False, redirect=False)

    def _handle_response(self, response: Any, *args: Any, **kwargs: Any) -> None:
        super()._handle_response(response, *args, **kwargs)
        if response.status in _HTTP_OK:
            self.delivery.delivered(1)


def transport_class(delivery: Delivery) -> type[CountingTransport]:
    """A transport class, as the client wants it, that counts for this back end."""
    return type("BoundTransport", (CountingTransport,), {"delivery": delivery})


def _in_words(reason: str) -> str:
    kind, _, status = reason.partition("_")
    if kind == "status":
        return f"HTTP {status}"
    return {"full_queue": "queue full", "self_rate_limits": "rate-limited by the server"}.get(reason, reason)
