"""A run that went wrong as one event in Sentry, and its check-ins, through a client of its own."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

from sentry_sdk import Client

from dltobs._alerts.fingerprint import NAMES
from dltobs._alerts.links import publish
from dltobs._events import RunFinished, RunLost, RunStarted, UncaughtError
from dltobs._redaction.patterns import WITHHELD
from dltobs.sinks.sentry_crons import check_in_of
from dltobs.sinks.sentry_event import report
from dltobs.sinks.sentry_lost import lost_report
from dltobs.sinks.sentry_scrub import OURS, scrub
from dltobs.sinks.sentry_tags import default_release, process_tags
from dltobs.sinks.sentry_transport import transport_class
from dltobs.sinks.sentry_uncaught import uncaught_report

if TYPE_CHECKING:
    from dltobs._events import Event
    from dltobs._redaction.redactor import Redactor
    from dltobs._settings.settings import Settings
    from dltobs.sinks.delivery import Delivery

_UNSUCCESSFUL = frozenset({"failed", "terminated"})
_LONGEST_TEXT = 100_000


class SentrySink:
    """Reports each run that went wrong, once, from the deepest step that failed; checks in for each run.

    An uncaught exception outside of any run is reported as well.

    The client is private: no integration of the SDK is installed, and the application's own client,
    scopes and hooks are neither used nor changed.

    Args:
        settings: The DSN, environment, release, tags and monitor.
        redactor: What each event passes last, in `before_send`.
        delivery: The counters.
    """

    def __init__(self, settings: Settings, redactor: Redactor, delivery: Delivery) -> None:
        self._settings = settings
        self._tags = {**process_tags(), **settings.tags}
        self._redactor = redactor
        self._delivery = delivery
        self._failures: dict[str, int] = {}
        self._client = Client(
            dsn=settings.sentry_dsn,
            environment=settings.sentry_environment or settings.environment,
            # an empty one: for None the SDK runs git
            release=settings.sentry_release or default_release() or "",
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
            max_value_length=_LONGEST_TEXT,  # older SDKs cut texts after 1024 characters
            server_name=platform.node() or None,
        )

    def emit(self, event: Event) -> None:
        """Check in where a run starts and ends, and report one that went wrong."""
        if isinstance(event, RunLost):
            self._publish(event, self._capture(lost_report(event, self._own_tags())))
        elif isinstance(event, UncaughtError):
            self._capture(uncaught_report(event, self._redactor, self._own_tags()))
        if not isinstance(event, (RunStarted, RunFinished)):
            return
        try:
            if isinstance(event, RunFinished):
                made = report(event, self._redactor, self._own_tags(), self._attempt(event))
                self._publish(event, self._capture(made))
        finally:
            # a run that has ended must not look as if it were still on, whatever its report met
            self._capture(check_in_of(event, self._settings))

    def flush(self, timeout: float) -> bool:
        """Wait until everything has been sent, at most `timeout` seconds. True: it was delivered."""
        self._client.flush(timeout=timeout)
        return self._delivery.everything_delivered()

    def close(self) -> None:
        """Stop the client; what is still queued is counted as lost."""
        self._delivery.abandon("not sent before the deadline")
        self._client.close(timeout=0)

    def _own_tags(self) -> dict[str, str]:
        """Those of the process and the user: without secrets before Sentry's limits cut one in half."""
        try:
            return self._redactor.redact(self._tags)
        except Exception:  # noqa: BLE001 - the event must go out all the same
            return dict.fromkeys(self._tags, WITHHELD)

    @staticmethod
    def _publish(event: RunFinished | RunLost, sent: str | None) -> None:
        if sent is not None:
            publish(event.run.transaction_id, "sentry", sent)

    def _attempt(self, event: RunFinished) -> int | None:
        """Which attempt it is of a retry loop; None if it did not fail.

        Outside of a loop that we know of: which one of the runs of its pipeline that have failed in a row.
        """
        pipeline = event.run.pipeline
        if event.run.attempt is not None:
            self._failures.pop(pipeline, None)
            told = event.outcome in _UNSUCCESSFUL or event.earlier_attempts
            return event.run.attempt if told else None
        if event.outcome == "lost":
            return None  # it was a run of another process
        if event.outcome not in _UNSUCCESSFUL:
            self._failures.pop(pipeline, None)
            return None
        self._failures[pipeline] = self._failures.get(pipeline, 0) + 1
        return self._failures[pipeline]

    def _capture(self, event: Any) -> str | None:
        """Send an event, if there is one; gives its id."""
        if event is None:
            return None
        # without a scope: those of the application would bring its data, argv among them
        sent: str | None = self._client.capture_event(event, {}, scope=None)
        if sent is None:
            self._delivery.submitted(1)
            self._delivery.dropped(1, "refused by the client")
        return sent

    def _before_send(self, event: Any, _hint: Any) -> Any:
        """The last thing before the wire: no argv, no modules, no secret."""
        event.pop("modules", None)
        if isinstance(event.get("extra"), dict):
            event["extra"].pop("sys.argv", None)
        if not event.get("release"):
            event.pop("release", None)
        clean = scrub(event, self._redactor, OURS)
        if "fingerprint" in event:
            names = event["fingerprint"][:NAMES]
            clean["fingerprint"] = [*names, *clean["fingerprint"][NAMES:]]
        return clean
