"""A failed run as one event in Sentry, through a client of its own."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

from sentry_sdk import Client

from dltobs._events import RunFinished
from dltobs._patterns import WITHHELD
from dltobs.sinks.sentry_event import report
from dltobs.sinks.sentry_transport import transport_class

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dltobs._events import Event
    from dltobs._redaction import Redactor
    from dltobs._settings import Settings
    from dltobs.sinks.delivery import Delivery

_IDENTITIES = (
    "event_id", "timestamp", "platform", "level", "logger", "release", "environment", "sdk", "transaction",
    "fingerprint",
)  # fmt: skip
_IDENTITY_TAGS = (
    "dlt.pipeline.name", "dlt.step", "dlt.transaction_id", "dlt.load_id", "dlt.destination.name",
    "dlt.destination.type", "dlt.dataset.name", "dlt.outcome", "dlt.terminal", "error.type",
)  # fmt: skip
_EXCEPTION = ("type", "module", "mechanism")
_BREADCRUMB = ("timestamp", "level", "type")
_TRACE_CONTEXT = ("trace_id", "span_id", "op", "status")
_DLT_CONTEXT = (
    "pipeline", "step", "transaction_id", "load_id", "destination", "destination_type", "dataset",
    "pending_packages", "partially_loaded_packages", "steps",
)  # fmt: skip


class SentrySink:
    """Reports each run that failed, once, from the deepest step that failed.

    The client is private: no integration of the SDK is installed, and the application's own client,
    scopes and hooks are neither used nor changed.

    Args:
        settings: The DSN, environment and release.
        redactor: What each event passes last, in `before_send`.
        delivery: The counters.
    """

    def __init__(self, settings: Settings, redactor: Redactor, delivery: Delivery) -> None:
        self._tags = settings.tags
        self._redactor = redactor
        self._delivery = delivery
        self._client = Client(
            dsn=settings.sentry_dsn,
            environment=settings.sentry_environment or settings.environment,
            release=settings.sentry_release,
            transport=transport_class(delivery),
            before_send=self._before_send,
            default_integrations=False,
            auto_enabling_integrations=False,
            include_local_variables=False,
            include_source_context=False,
            send_client_reports=False,
            auto_session_tracking=False,
            shutdown_timeout=0,
            spotlight=False,
            sample_rate=1.0,
            server_name=platform.node() or None,
        )

    def emit(self, event: Event) -> None:
        """Send the failed run."""
        if isinstance(event, RunFinished) and event.outcome == "failed" and event.failed_step is not None:
            # without a scope: those of the application would bring its data, argv among them
            sent = self._client.capture_event(report(event, event.failed_step, self._tags), {}, scope=None)
            if sent is None:
                self._delivery.submitted(1)
                self._delivery.dropped(1, "refused by the client")

    def flush(self, timeout: float) -> bool:
        """Wait until everything has been sent, at most `timeout` seconds. True: it was delivered."""
        self._client.flush(timeout=timeout)
        return self._delivery.everything_delivered()

    def close(self) -> None:
        """Stop the client; what is still queued is counted as lost."""
        self._delivery.abandon("not sent before the deadline")
        self._client.close(timeout=0)

    def _before_send(self, event: Any, _hint: Any) -> Any:
        """The last thing before the wire: no argv, no modules, no secret."""
        event.pop("modules", None)
        if isinstance(event.get("extra"), dict):
            event["extra"].pop("sys.argv", None)
        try:
            clean = self._redactor.redact(event)
        except Exception:  # noqa: BLE001 - a failure must be reported all the same
            clean = _withheld(event)
        _keep(event, clean)
        return clean


def _keep(event: dict[str, Any], clean: dict[str, Any]) -> None:
    """Put our names and ids back as they were: they are no secrets, whatever they look like."""
    _copy(event, clean, _IDENTITIES)
    _copy(event.get("tags"), clean.get("tags"), _IDENTITY_TAGS)
    for name, kept in (("trace", _TRACE_CONTEXT), ("dlt", _DLT_CONTEXT)):
        _copy((event.get("contexts") or {}).get(name), (clean.get("contexts") or {}).get(name), kept)
    for name, names in (("exception", _EXCEPTION), ("breadcrumbs", _BREADCRUMB)):
        source, target = ((one.get(name) or {}).get("values") or () for one in (event, clean))
        for before, after in zip(source, target, strict=False):
            _copy(before, after, names)


def _copy(source: Any, target: Any, names: Iterable[str]) -> None:
    if isinstance(source, dict) and isinstance(target, dict):
        target.update((name, source[name]) for name in names if name in source)


def _withheld(value: Any) -> Any:
    """The same shape with every text withheld; the names in it are ours or Sentry's."""
    if isinstance(value, dict):
        return {key: _withheld(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_withheld(item) for item in value]
    return WITHHELD if isinstance(value, (str, bytes)) else value
