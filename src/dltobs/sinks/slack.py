"""Tells people of failures, successes and schema changes, through an incoming webhook of Slack."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from dltobs._alerts.cooldown import Cooldown, Permit, key_of
from dltobs._alerts.fingerprint import fingerprint_of, lost_fingerprint, uncaught_fingerprint
from dltobs._alerts.links import published
from dltobs._events import RunFinished, RunLost, StepFinished, UncaughtError
from dltobs.sinks.slack_alert import (
    Alert,
    is_recovered,
    kind_of,
    lost_alert,
    more_since,
    run_alert,
    schema_alert,
    trace_url,
    uncaught_alert,
)
from dltobs.sinks.slack_blocks import plain_payload, rich_payload
from dltobs.sinks.slack_sender import Message, SlackSender

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dltobs._events import Event
    from dltobs._settings.settings import Settings
    from dltobs._warnings import Warner
    from dltobs.sinks.delivery import Delivery

_SUCCESS = "success"


class SlackSink:
    """Sends one message for each run and each load of which `slack_on` wants to know.

    Args:
        settings: The webhook, what to tell, the cooldown, the template of links to traces.
        warner: Its redactor is what texts of the settings pass.
        delivery: The counters.
        folder: Where the cooldown keeps what has been told.
    """

    def __init__(self, settings: Settings, warner: Warner, delivery: Delivery, folder: Path) -> None:
        self._settings = settings
        self._warner = warner
        self._delivery = delivery
        self._cooldown = Cooldown(settings.alert_cooldown, folder, warner)
        self._sender = SlackSender(str(settings.slack_incoming_hook), delivery)

    def emit(self, event: Event) -> None:
        """Queue a message."""
        if isinstance(event, StepFinished):
            if event.schema_changes and "schema_change" in self._settings.slack_on:
                self._send(event, lambda: schema_alert(event), None)
        elif isinstance(event, RunLost):
            if event.outcome in self._settings.slack_on:
                self._send_failure(event, lambda: lost_alert(event))
        elif isinstance(event, UncaughtError):
            if "failure" in self._settings.slack_on:
                self._send_failure(event, lambda: uncaught_alert(event))
        elif isinstance(event, RunFinished):
            self._send_end(event)

    def flush(self, timeout: float) -> bool:
        """Wait until everything has been sent, at most `timeout` seconds. True: it was delivered."""
        return self._sender.flush(timeout) and self._delivery.everything_delivered()

    def close(self) -> None:
        """Send nothing any more; what is still queued is counted as lost."""
        self._cooldown.hurry()
        self._delivery.abandon("not sent before the deadline")
        self._sender.close()

    def _send_end(self, event: RunFinished) -> None:
        kind = kind_of(event)
        if is_recovered(event) and kind not in self._settings.slack_on:
            kind = _SUCCESS
        if kind not in self._settings.slack_on:
            return
        if kind == _SUCCESS:
            self._send(event, lambda: run_alert(event), None)
        else:
            self._send_failure(event, lambda: run_alert(event))

    def _send_failure(
        self, event: RunFinished | RunLost | UncaughtError, make: Callable[[], Alert | None]
    ) -> None:
        """Send a message, unless it has been sent within the cooldown."""
        permit = self._permit(event)
        if permit is not None:
            self._send(event, make, permit)

    def _permit(self, event: RunFinished | RunLost | UncaughtError) -> Permit | None:
        """Leave to tell a failure; None: it is counted, and told with the next one."""
        try:
            if isinstance(event, UncaughtError):
                fingerprint = uncaught_fingerprint(event)
            elif isinstance(event, RunLost):
                fingerprint = lost_fingerprint(event)
            elif is_recovered(event):
                fingerprint = ["recovered", *fingerprint_of(event.earlier_attempts[-1])]
            else:
                fingerprint = fingerprint_of(event)
            # what another channel or environment has been told is not known in this one
            channel = str(self._settings.slack_incoming_hook), self._settings.environment or ""
            return self._cooldown.ask(key_of(*channel, *fingerprint))
        except Exception as error:  # noqa: BLE001 - better told twice than never
            self._warner.internal_error("alert cooldown", error)
            return Permit("", 0.0)

    def _send(
        self,
        event: StepFinished | RunFinished | RunLost | UncaughtError,
        make: Callable[[], Alert | None],
        permit: Permit | None,
    ) -> None:
        try:
            made = make()
            if made is None:
                return
            alert = self._completed(made, event, permit)
        except Exception as error:  # noqa: BLE001 - a message is not lost for its form
            self._warner.internal_error("slack", error)
            name = event.name if isinstance(event, UncaughtError) else event.run.pipeline
            alert = Alert(f"{name}: {_word_for(event)} (the details could not be put into words)")
        plain = plain_payload(alert)
        try:
            rich = rich_payload(alert)
        except Exception as error:  # noqa: BLE001 - as above
            self._warner.internal_error("slack", error)
            rich = None
        self._sender.send(Message(rich, plain, lambda was_delivered: self._ended(permit, was_delivered)))

    def _completed(
        self, alert: Alert, event: StepFinished | RunFinished | RunLost | UncaughtError, permit: Permit | None
    ) -> Alert:
        """The alert with what is not in its event: settings, and what other back ends know it by."""
        clean = self._warner.clean
        settings = self._settings
        environment = settings.environment
        url, of_run = None, []
        if not isinstance(event, UncaughtError):
            url, run = trace_url(settings.trace_url_template, event), event.run
            of_run = [
                *((name.capitalize(), known) for name, known in published(run.transaction_id).items()),
                ("Run", run.transaction_id),
                *((name, label) for name, label in run.surroundings.items() if name.endswith(".name")),
            ]
        footer = [
            *of_run,
            *((clean(name), clean(value)) for name, value in settings.tags.items()),
        ]
        now = datetime.now(timezone.utc)
        return dataclasses.replace(
            alert,
            facts=((("Environment", clean(environment)),) if environment else ()) + alert.facts,
            note="" if permit is None else more_since(permit.more, permit.since, now),
            links=(("Trace", clean(url)),) if url else (),
            footer=tuple(footer),
        )

    def _ended(self, permit: Permit | None, was_delivered: bool) -> None:  # noqa: FBT001 - a callback
        if permit is None or not permit.key:
            return
        try:
            (self._cooldown.told if was_delivered else self._cooldown.lost)(permit)
        except Exception as error:  # noqa: BLE001 - the messages behind it are waiting
            self._warner.internal_error("alert cooldown", error)


def _word_for(event: StepFinished | RunFinished | RunLost | UncaughtError) -> str:
    if isinstance(event, StepFinished):
        return "schema changes"
    return "uncaught exception" if isinstance(event, UncaughtError) else event.outcome
