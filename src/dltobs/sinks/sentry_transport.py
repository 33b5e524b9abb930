"""Sentry's transport, with an ear for what became of each event."""

from __future__ import annotations

import gzip
import os
import threading
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from sentry_sdk.consts import EndpointType
from sentry_sdk.envelope import Envelope, Item, PayloadRef
from sentry_sdk.transport import HttpTransport
from sentry_sdk.worker import BackgroundWorker

from dltobs.sinks.reasons import reason_of
from dltobs.sinks.route import Route, Verdict
from dltobs.sinks.undelivered import Stored, Undelivered
from dltobs.sinks.untraced import untraced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dltobs.sinks.delivery import Delivery

_HTTP_OK = range(200, 300)
_HTTP_ERRORS = range(500, 600)
_HTTP_LATER = frozenset({408, 429})
_RATE_LIMITED = "rate-limited by the server"
_KEPT_ITEMS = frozenset({"event", "transaction"})
"""A check-in counts when it arrives: late, it would be one of another run."""


class CountingTransport(HttpTransport):
    """Sentry's HTTP transport, whose requests are not traced and whose losses are counted.

    The SDK drops an event in silence when the server answers an error; here it goes into the spool, unless
    the server refuses it for good. In a forked child it begins anew: connections and queue are the parent's.
    """

    TIMEOUT = 10
    delivery: Delivery
    _pool: Any
    _worker: Any
    _auth: Any

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._undelivered = Undelivered(self._store, self.delivery.discard)
        self._captured = threading.local()
        self._current: list[Any] | None = None  # what the worker's only thread sends
        self._process = os.getpid()
        self._renewed: dict[int, tuple[Any, Any]] = {}
        self.delivery.address = self._auth.get_api_url(EndpointType.ENVELOPE)
        self.delivery.route = Route(str(options["dsn"]), self._undelivered.rescue, self._resend)

    def capture_envelope(self, envelope: Any) -> None:
        """Queue an envelope."""
        self._renew()
        self.delivery.submitted(1)
        self._undelivered.queued(envelope)
        self._captured.envelope = envelope
        try:
            super().capture_envelope(envelope)
        finally:
            self._captured.envelope = None

    def on_dropped_event(self, reason: str) -> None:
        """The SDK gives an event up: `network`, `status_503`, `full_queue`, …."""
        refused = getattr(self._captured, "envelope", None)
        if refused is not None:  # the queue is full; the thread is the pipeline's, which does not write files
            self._undelivered.gone(refused)
            self.delivery.dropped(1, _in_words(reason))
        elif reason != "network":  # that one is dealt with where the exception is known
            kind, _, status = reason.partition("_")
            self._failed(_in_words(reason), is_refusal=kind == "status" and _is_refusal(int(status)))

    def _send_request(self, *args: Any, **kwargs: Any) -> None:
        try:
            with untraced():
                super()._send_request(*args, **kwargs)
        except Exception as error:
            self._failed(reason_of(error))
            raise

    def _send_envelope(self, envelope: Any) -> None:
        if self.delivery.is_abandoned:  # it has been counted
            return
        self._current = [envelope]
        self._undelivered.sending(self._current)
        try:
            super()._send_envelope(envelope)
            self._failed(_RATE_LIMITED)  # of which the SDK is silent for some kinds of items
        finally:
            self._current = None

    def _request(self, method: str, endpoint_type: Any, body: Any, headers: Any) -> Any:
        """Send what the worker has at hand, and see whether it was taken."""
        response = self._post(method, endpoint_type, body, headers)
        current = self._current
        if response.status in _HTTP_OK and current is not None:
            self._current = None
            self.delivery.recovered()
            with self.delivery.ending():
                self._undelivered.answered(current, is_taken=True)
                self.delivery.delivered(1)
        return response

    def _post(self, method: str, endpoint_type: Any, body: Any, headers: Any) -> Any:
        """Send once: urllib3 would follow a redirect with our key, and log each try again."""
        self._renew()
        url = self._auth.get_api_url(endpoint_type)
        return self._pool.request(method, url, body=body, headers=headers, retries=False, redirect=False)

    def _renew(self) -> None:
        if self._process == os.getpid():
            return
        fresh = self._make_pool(), BackgroundWorker(queue_size=self.options["transport_queue_size"])
        # two threads get the same, and wait for no lock, which a fork might have taken along
        self._pool, self._worker = self._renewed.setdefault(os.getpid(), fresh)
        self._process = os.getpid()

    def _failed(self, reason: str, *, is_refusal: bool = False) -> None:
        current, self._current = self._current, None
        if current is None:  # that has been dealt with
            return
        with self.delivery.ending() as is_counted:
            kept = 0
            if is_refusal:
                self._undelivered.answered(current, is_taken=False)
            elif is_counted:
                kept = self._undelivered.keep(current)
            self.delivery.kept(kept, reason)
            self.delivery.dropped(1 - kept, reason)

    def _store(self, envelopes: Sequence[Any]) -> Stored | None:
        """Keep envelopes, each for itself, under the id of its event."""
        kept, entry_id = 0, ""
        for envelope in envelopes:
            if not any(item.type in _KEPT_ITEMS for item in envelope.items):
                continue
            # the context of a trace, which says how it was sampled, names the key of the DSN
            headers = {name: envelope.headers[name] for name in ("event_id",) if name in envelope.headers}
            clean = Envelope(headers=headers, items=[self._redacted(item) for item in envelope.items])
            payload = clean.serialize()
            entry_id = str(headers.get("event_id") or "")
            kept += self.delivery.keep(payload, 1, entry_id or None)
        return Stored(kept, entry_id) if kept else None

    def _resend(self, payload: bytes) -> Verdict:
        """Send an envelope from the spool, redacted anew; the time of sending is that of today."""
        if self._check_disabled("error"):
            return Verdict(reason=_RATE_LIMITED)
        envelope = Envelope.deserialize(payload)
        sent_at = datetime.now(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")
        clean = Envelope(headers={**envelope.headers, "sent_at": sent_at})
        for item in envelope.items:
            clean.add_item(self._redacted(item))
        headers = {
            "Content-Type": "application/x-sentry-envelope",
            "Content-Encoding": "gzip",
            "User-Agent": str(self._auth.client),
            "X-Sentry-Auth": str(self._auth.to_header()),
        }
        body = gzip.compress(clean.serialize())
        try:
            with untraced():
                response = self._post("POST", EndpointType.ENVELOPE, body, headers)
        except Exception as error:  # noqa: BLE001 - whatever it is, it was not sent
            return Verdict(reason=reason_of(error))
        try:
            self._update_rate_limits(response)
            if response.status in _HTTP_OK:
                return Verdict(is_taken=True)
            return Verdict(
                is_refused=_is_refusal(response.status),
                reason=f"HTTP {response.status}",
                may_be_its_own=response.status == _HTTP_ERRORS[0],
            )
        finally:
            response.close()

    def _redacted(self, item: Any) -> Any:
        """Secrets may be known by now that were not when the event was kept."""
        before_send = self.options.get("before_send") if self.options else None
        event = item.get_event()
        if event is None or before_send is None:
            return item
        return Item(payload=PayloadRef(json=before_send(event, {})), type=item.type)


def transport_class(delivery: Delivery) -> type[CountingTransport]:
    """A transport class, as the client wants it, that counts for this back end."""
    return type("BoundTransport", (CountingTransport,), {"delivery": delivery})


def _is_refusal(status: int) -> bool:
    return status not in _HTTP_ERRORS and status not in _HTTP_LATER


def _in_words(reason: str) -> str:
    kind, _, status = reason.partition("_")
    if kind == "status":
        return f"HTTP {status}"
    return {"full_queue": "queue full", "self_rate_limits": _RATE_LIMITED}.get(reason, reason)
