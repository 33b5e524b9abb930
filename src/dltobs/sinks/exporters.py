"""A span exporter that redacts what it sends, and what every exporter of ours needs to know its success."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util import BoundedList
from opentelemetry.trace import Link
from opentelemetry.trace.status import Status

from dltobs._patterns import WITHHELD
from dltobs.sinks.answers import Answer, Ear, listening
from dltobs.sinks.delivery import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dltobs._redaction import Redactor
    from dltobs.sinks.delivery import Delivery

SCOPE = "dltobs"
"""The instrumentation scope of our own spans, which were made of redacted events."""

IDENTITIES = frozenset(
    {
        "dlt.pipeline.name", "dlt.transaction_id", "dlt.step", "dlt.load_id", "dlt.destination.name",
        "dlt.destination.type", "dlt.dataset.name", "dlt.outcome", "dlt.job.state", "dlt.time.basis",
        "error.type", "exception.type",
        "service.name", "deployment.environment.name", "telemetry.sdk.name", "telemetry.sdk.language",
        "telemetry.sdk.version", "telemetry.distro.name", "telemetry.distro.version",
    }
)  # fmt: skip
"""Attributes of our spans, metrics and of the resource that are names and ids of ours."""


class Counted:
    """Sends batches through one exporter, and counts what became of their items.

    Args:
        delivery: The counters.
        ear: Hears what the back end says to an export.
    """

    def __init__(self, delivery: Delivery, ear: Ear) -> None:
        self._delivery = delivery
        self._ear = ear
        self._closed = threading.Event()
        self._last_error: str | None = None

    @property
    def is_closed(self) -> bool:
        """Whether nothing is to be sent any more; what was on its way has been counted."""
        return self._closed.is_set()

    def send(self, count: int, export: Callable[[], bool]) -> bool:
        """Send `count` items by calling `export`, which says whether it succeeded. True: they were taken."""
        self._ear.answer = Answer()
        try:
            with listening(self._ear):
                succeeded = export()
        except Exception as error:  # noqa: BLE001 - the SDK would log it with its stack trace
            return self._failed(count, reason_of(error))
        answer = self._ear.answer
        if not succeeded or (answer.error and not answer.rejected):
            # the HTTP exporter takes a redirect, which it does not follow, for success
            return self._failed(count, answer.error or "export failed")
        self._last_error = None
        self._delivery.delivered(count - answer.rejected)
        self._delivery.dropped(answer.rejected, answer.error or "rejected")
        return True

    def _failed(self, count: int, reason: str) -> bool:
        self._last_error = reason
        self._delivery.dropped(count, reason)
        return False

    def close(self, shutdown: Callable[[], object]) -> None:
        """Shut the exporter down, so that a retry that waits gives up; what is on its way is lost."""
        if not self._closed.is_set():
            self._closed.set()
            # what has no answer yet waits in most cases for what the batch before has failed of
            reason = self._ear.answer.error or self._last_error or "not sent before the deadline"
            self._delivery.abandon(reason)
            with listening(Ear()):
                shutdown()


class RedactingExporter(SpanExporter):
    """Redacts spans, whoever made them, and counts what the inner exporter got through.

    Args:
        exporter: What sends.
        redactor: Takes the secrets out of names, attributes, events, links, status and resource.
        delivery: The counters.
        resource: Stands on every span in the place of the one that the provider was built with, which cannot
            be changed and may be that of an earlier set-up.
        ear: Hears what the back end says to an export.
    """

    def __init__(
        self, exporter: SpanExporter, redactor: Redactor, delivery: Delivery, resource: Resource, ear: Ear
    ) -> None:
        self._exporter = exporter
        self._redactor = redactor
        self._resource = resource
        self._counted = Counted(delivery, ear)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send the spans, redacted. A span that cannot be redacted goes without its texts."""

        def send() -> bool:
            return self._exporter.export(self._clean(spans)) is SpanExportResult.SUCCESS

        is_taken = not self._counted.is_closed and self._counted.send(len(spans), send)
        return SpanExportResult.SUCCESS if is_taken else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Close the inner exporter; what is still on its way is lost."""
        self._counted.close(self._exporter.shutdown)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Nothing is buffered here."""
        return self._exporter.force_flush(timeout_millis)

    def _clean(self, spans: Sequence[ReadableSpan]) -> list[ReadableSpan]:
        withholding: Any = Withholding()
        try:
            resource = clean_resource(self._resource, self._redactor)
        except Exception:  # noqa: BLE001 - the spans must appear all the same
            resource = clean_resource(self._resource, withholding)
        clean = []
        for span in spans:
            try:
                clean.append(_rebuilt(span, self._redactor, resource))
            except Exception:  # noqa: BLE001 - as above
                clean.append(_rebuilt(span, withholding, resource))
        return clean


class Withholding:
    """Stands in for a redactor that fails."""

    def text(self, _: str) -> str:
        """Nothing of the text."""
        return WITHHELD

    def redact(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """Numbers and truth values alone."""
        return {key: self._withheld(item) for key, item in value.items()}

    def _withheld(self, value: Any) -> Any:
        if isinstance(value, (str, bytes)):
            return WITHHELD
        # attributes may be sequences of one primitive type
        return tuple(map(self._withheld, value)) if isinstance(value, Sequence) else value


def clean_resource(resource: Resource, redactor: Redactor) -> Resource:
    """The resource without secrets."""
    attributes = clean_attributes(resource.attributes, redactor, IDENTITIES)
    return resource if attributes is resource.attributes else Resource(attributes, resource.schema_url)


def _rebuilt(span: ReadableSpan, redactor: Redactor, resource: Resource) -> ReadableSpan:
    """The span without secrets: the same object where it has none."""
    scope = span.instrumentation_scope
    is_ours = scope is not None and scope.name == SCOPE
    kept = IDENTITIES if is_ours else frozenset()
    name = span.name if is_ours else redactor.text(span.name)
    own_attributes = span.attributes or {}  # made anew at each access
    attributes = clean_attributes(own_attributes, redactor, kept)
    events = [_event(event, redactor, kept) for event in span.events]
    links = [_link(link, redactor) for link in span.links]
    description = span.status.description or ""
    clean_description = redactor.text(description)
    if (
        name is span.name
        and resource is span.resource
        and attributes is own_attributes
        and clean_description is description
        and all(clean is event for clean, event in zip(events, span.events, strict=True))
        and all(clean is link for clean, link in zip(links, span.links, strict=True))
    ):
        return span
    bounded = BoundedAttributes(attributes=attributes)
    bounded.dropped = span.dropped_attributes
    return ReadableSpan(
        name=name,
        context=span.context,
        parent=span.parent,
        resource=resource,
        attributes=bounded,
        events=_bounded(events, span.dropped_events),
        links=_bounded(links, span.dropped_links),
        kind=span.kind,
        status=Status(span.status.status_code, clean_description or None),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=scope,
    )


def _bounded(items: Sequence[Any], dropped: int) -> BoundedList[Any]:
    bounded: BoundedList[Any] = BoundedList.from_seq(max(len(items), 1), items)
    bounded.dropped = dropped
    return bounded


def clean_attributes(
    attributes: Mapping[str, Any], redactor: Redactor, kept: frozenset[str] = frozenset()
) -> Mapping[str, Any]:
    """The attributes without secrets but for the `kept` ones: the same object where there are none."""
    open_to_all = {key: value for key, value in attributes.items() if key not in kept}
    clean = redactor.redact(open_to_all)
    if clean.keys() == open_to_all.keys() and all(clean[key] is open_to_all[key] for key in clean):
        return attributes
    return {**clean, **{key: value for key, value in attributes.items() if key in kept}}


def _event(event: Event, redactor: Redactor, kept: frozenset[str]) -> Event:
    name, attributes = redactor.text(event.name), clean_attributes(event.attributes or {}, redactor, kept)
    if name is event.name and attributes is event.attributes:
        return event
    return Event(name, attributes, event.timestamp)


def _link(link: Link, redactor: Redactor) -> Link:
    attributes = clean_attributes(link.attributes or {}, redactor)
    return link if attributes is link.attributes else Link(link.context, attributes)
