"""Span exporters that redact what they send and know what became of it."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import requests
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util import BoundedList
from opentelemetry.trace import Link
from opentelemetry.trace.status import Status

from dltobs._redaction import WITHHELD
from dltobs.sinks.delivery import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from dltobs._redaction import Redactor
    from dltobs.sinks.delivery import Delivery

SCOPE = "dltobs"
"""The instrumentation scope of our own spans, which were made of redacted events."""

_IDENTITIES = frozenset(
    {
        "dlt.pipeline.name", "dlt.transaction_id", "dlt.step", "dlt.load_id", "dlt.destination.name",
        "dlt.destination.type", "dlt.dataset.name", "dlt.outcome", "error.type", "exception.type",
        "service.name", "deployment.environment.name", "telemetry.sdk.name", "telemetry.sdk.language",
        "telemetry.sdk.version", "telemetry.distro.name", "telemetry.distro.version",
    }
)  # fmt: skip


class Answer(NamedTuple):
    """How a back end answered the last request: what went wrong, and how many items it refused."""

    error: str | None = None
    rejected: int = 0


class RedactingExporter(SpanExporter):
    """Redacts spans, whoever made them, and counts what the inner exporter got through.

    Args:
        exporter: What sends.
        redactor: Takes the secrets out of names, attributes, events, links, status and resource.
        delivery: The counters.
        last_answer: What the back end said to the last export.
    """

    def __init__(
        self,
        exporter: SpanExporter,
        redactor: Redactor,
        delivery: Delivery,
        last_answer: Callable[[], Answer] = Answer,
    ) -> None:
        self._exporter = exporter
        self._redactor = redactor
        self._delivery = delivery
        self._last_answer = last_answer
        self._resources: dict[int, tuple[Resource, Resource]] = {}
        self._closed = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send the spans, redacted. A span that cannot be redacted goes without its texts."""
        clean = [self._clean(span) for span in spans]
        try:
            with _quiet():
                result = self._exporter.export(clean)
        except Exception as error:  # noqa: BLE001 - the batch processor would log it with its stack trace
            return self._failed(len(spans), reason_of(error))
        answer = self._last_answer()
        if result is not SpanExportResult.SUCCESS or (answer.error and not answer.rejected):
            # the HTTP exporter takes a redirect, which it does not follow, for success
            return self._failed(len(spans), answer.error or "export failed")
        self._delivery.delivered(len(spans) - answer.rejected)
        self._delivery.dropped(answer.rejected, answer.error or "rejected")
        return result

    def abandon(self) -> None:
        """Count what has neither been delivered nor refused as lost."""
        self._delivery.abandon(self._last_answer().error or "not sent before the deadline")

    def _failed(self, count: int, reason: str) -> SpanExportResult:
        self._delivery.dropped(count, reason)
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Close the inner exporter; a retry that waits gives up."""
        if not self._closed.is_set():
            self._closed.set()
            with _quiet():
                self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Nothing is buffered here."""
        return self._exporter.force_flush(timeout_millis)

    def _clean(self, span: ReadableSpan) -> ReadableSpan:
        try:
            return _rebuilt(span, self._redactor, self._resource(span.resource))
        except Exception:  # noqa: BLE001 - the span must appear all the same
            withholding: Any = _Withholding()
            resource = Resource(_attributes(span.resource.attributes, withholding))
            return _rebuilt(span, withholding, resource)

    def _resource(self, resource: Resource) -> Resource:
        """The resource without secrets; there are few, and each is on every span."""
        original, clean = self._resources.get(id(resource), (None, None))
        if original is not resource or clean is None:
            attributes = _attributes(resource.attributes, self._redactor)
            same = attributes is resource.attributes
            clean = resource if same else Resource(attributes, resource.schema_url)
            self._resources = {id(resource): (resource, clean)}
        return clean


class _Withholding:
    """Stands in for a redactor that fails."""

    def text(self, _: str) -> str:
        return WITHHELD

    def redact(self, value: Mapping[str, Any]) -> dict[str, Any]:
        return {key: WITHHELD if isinstance(item, str) else item for key, item in value.items()}


def _rebuilt(span: ReadableSpan, redactor: Redactor, resource: Resource) -> ReadableSpan:
    """The span without secrets: the same object where it has none."""
    scope = span.instrumentation_scope
    name = span.name if scope is not None and scope.name == SCOPE else redactor.text(span.name)
    own_attributes = span.attributes or {}  # made anew at each access
    attributes = _attributes(own_attributes, redactor)
    events = [_event(event, redactor) for event in span.events]
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


def _attributes(attributes: Mapping[str, Any], redactor: Redactor) -> Mapping[str, Any]:
    open_to_all = {key: value for key, value in attributes.items() if key not in _IDENTITIES}
    clean = redactor.redact(open_to_all)
    if clean.keys() == open_to_all.keys() and all(clean[key] is open_to_all[key] for key in clean):
        return attributes
    return {**clean, **{key: value for key, value in attributes.items() if key in _IDENTITIES}}


def _event(event: Event, redactor: Redactor) -> Event:
    name, attributes = redactor.text(event.name), _attributes(event.attributes or {}, redactor)
    if name is event.name and attributes is event.attributes:
        return event
    return Event(name, attributes, event.timestamp)


def _link(link: Link, redactor: Redactor) -> Link:
    attributes = _attributes(link.attributes or {}, redactor)
    return link if attributes is link.attributes else Link(link.context, attributes)


class ListeningSession(requests.Session):
    """An HTTP session that remembers how the collector answered: the exporter keeps that to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = Answer()

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Send, and listen."""
        try:
            response = super().request(*args, **kwargs)
        except Exception as error:
            self.answer = Answer(reason_of(error))
            raise
        self.answer = _answer(response)
        return response


def _answer(response: requests.Response) -> Answer:
    if not response.ok or response.is_redirect:
        return Answer(f"HTTP {response.status_code} {response.reason or ''}".strip())
    if response.headers.get("content-type") != "application/x-protobuf" or not response.content:
        return Answer()
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    try:
        partial = ExportTraceServiceResponse.FromString(response.content).partial_success
    except Exception:  # noqa: BLE001 - the collector took the spans; its thanks need not be well-formed
        return Answer()
    return (
        Answer(partial.error_message or None, partial.rejected_spans) if partial.rejected_spans else Answer()
    )


_exporting = threading.local()


class _WhileOurs(logging.Filter):
    """Drops what the exporters' loggers say while an exporter of ours sends: our warning says it once."""

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002 - the signature is logging's
        return not getattr(_exporting, "on", False)


_FILTER = _WhileOurs()
_EXPORTER_LOGGERS = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.common.http",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    for name in _EXPORTER_LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)
    _exporting.on = True
    try:
        yield
    finally:
        _exporting.on = False


def stop_listening() -> None:
    """Take the filters off the exporters' loggers."""
    for name in _EXPORTER_LOGGERS:
        logging.getLogger(name).removeFilter(_FILTER)
