"""Rebuilds without secrets what OpenTelemetry exports: spans, and the parts that they share with metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, TraceState
from opentelemetry.trace.status import Status

from dltobs._cut import TEXT
from dltobs._redaction.encodings import without_surrogates
from dltobs._redaction.patterns import WITHHELD

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dltobs._redaction.redactor import Redactor

SCOPE = "dltobs"
"""The instrumentation scope of our own spans, which were made of redacted events."""

IDENTITIES = frozenset(
    {
        "dlt.pipeline.name", "dlt.transaction_id", "dlt.step", "dlt.load_id", "dlt.destination.name",
        "dlt.destination.type", "dlt.dataset.name", "dlt.outcome", "dlt.job.state", "dlt.time.basis",
        "dlt.attempt.state", "dlt.failure.kind", "dlt.schema.change.kind",
        "error.type", "exception.type",
        "service.name", "deployment.environment.name", "telemetry.sdk.name", "telemetry.sdk.language",
        "telemetry.sdk.version", "telemetry.distro.name", "telemetry.distro.version",
    }
)  # fmt: skip
"""Attributes of our spans, metrics and of the resource that are names and ids of ours."""


class Withholding:
    """Stands in for a redactor that fails."""

    def text(self, _: str, limit: int | None = None) -> str:  # noqa: ARG002 - the redactor's
        """Nothing of the text."""
        return WITHHELD

    def redact(self, value: Mapping[str, Any], limit: int | None = None) -> dict[str, Any]:  # noqa: ARG002
        """Numbers and truth values alone."""
        return {key: self._withheld(item) for key, item in value.items()}

    def _withheld(self, value: Any) -> Any:
        if isinstance(value, (str, bytes)):
            return WITHHELD
        # attributes may be sequences of one primitive type
        return tuple(map(self._withheld, value)) if isinstance(value, Sequence) else value


class Encodable:
    """Stands in for a redactor where a text holds lone surrogates, which UTF-8 has no place for."""

    def text(self, text: str, limit: int | None = None) -> str:  # noqa: ARG002 - the redactor's
        """The text without them; the same object where there are none."""
        clean = without_surrogates(text)
        return text if clean == text else clean

    def redact(self, value: Mapping[str, Any], limit: int | None = None) -> dict[str, Any]:  # noqa: ARG002
        """The same for all texts of attributes."""
        return {self.text(key): self._encodable(item) for key, item in value.items()}

    def _encodable(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        # attributes may be sequences of one primitive type
        if not isinstance(value, Sequence) or isinstance(value, bytes):
            return value
        items = tuple(map(self._encodable, value))
        return value if all(item is own for item, own in zip(items, value, strict=True)) else items


def clean_resource(resource: Resource, redactor: Redactor) -> Resource:
    """The resource without secrets."""
    attributes = clean_attributes(resource.attributes, redactor, IDENTITIES)
    return resource if attributes is resource.attributes else Resource(attributes, resource.schema_url)


def clean_scope(scope: InstrumentationScope, redactor: Redactor) -> InstrumentationScope:
    """The scope without secrets: the same object where it has none, or is ours."""
    if scope.name == SCOPE:
        return scope
    texts = scope.name, scope.version or "", scope.schema_url or ""
    name, version, schema_url = map(redactor.text, texts)
    own_attributes = scope.attributes or {}
    attributes = clean_attributes(own_attributes, redactor)
    if (name, version, schema_url) == texts and attributes is own_attributes:
        return scope
    return InstrumentationScope(name, version or None, schema_url or None, attributes)


def texts_in(span: ReadableSpan) -> tuple[Any, ...]:
    """All that `clean_span()` would look at, but for scope and resource, which many spans share."""
    events, links = span.events, span.links
    state = None if span.context is None else span.context.trace_state
    return (
        dict(state) if state else None,
        span.name,
        span.attributes,
        span.status.description,
        [(event.name, dict(event.attributes or ())) for event in events] if events else None,
        [(dict(link.attributes or ()), dict(link.context.trace_state)) for link in links] if links else None,
    )


def clean_span(span: ReadableSpan, redactor: Redactor, resource: Resource) -> ReadableSpan:
    """The span without secrets: the same object where it has none."""
    scope = span.instrumentation_scope
    is_ours = scope is not None and scope.name == SCOPE
    kept = IDENTITIES if is_ours else frozenset()
    clean_of_scope = None if scope is None else clean_scope(scope, redactor)
    name = span.name if is_ours else redactor.text(span.name, TEXT)
    own_attributes = span.attributes or {}  # made anew at each access
    attributes = clean_attributes(own_attributes, redactor, kept)
    context = None if span.context is None else _context(span.context, redactor)
    events = [_event(event, redactor, kept) for event in span.events]
    links = [_link(link, redactor) for link in span.links]
    description = span.status.description or ""
    clean_description = redactor.text(description, TEXT) if description else ""
    if (
        name is span.name
        and context is span.context
        and clean_of_scope is scope
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
        context=context,
        parent=span.parent,
        resource=resource,
        attributes=bounded,
        events=_bounded(events, span.dropped_events),
        links=_bounded(links, span.dropped_links),
        kind=span.kind,
        status=Status(span.status.status_code, clean_description or None),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=clean_of_scope,
    )


def _bounded(items: Sequence[Any], dropped: int) -> BoundedList[Any]:
    bounded: BoundedList[Any] = BoundedList.from_seq(max(len(items), 1), items)
    bounded.dropped = dropped
    return bounded


def clean_attributes(
    attributes: Mapping[str, Any], redactor: Redactor, kept: frozenset[str] = frozenset()
) -> Mapping[str, Any]:
    """Return the attributes without secrets, cut to `TEXT`, but for the `kept` ones.

    It is the same object where nothing has changed.
    """
    open_to_all = {key: value for key, value in attributes.items() if key not in kept}
    clean = redactor.redact(open_to_all, TEXT)
    if clean.keys() == open_to_all.keys() and all(clean[key] is open_to_all[key] for key in clean):
        return attributes
    return {**clean, **{key: value for key, value in attributes.items() if key in kept}}


def _event(event: Event, redactor: Redactor, kept: frozenset[str]) -> Event:
    name, attributes = (
        redactor.text(event.name, TEXT),
        clean_attributes(event.attributes or {}, redactor, kept),
    )
    if name is event.name and attributes is event.attributes:
        return event
    return Event(name, attributes, event.timestamp)


def _link(link: Link, redactor: Redactor) -> Link:
    attributes = clean_attributes(link.attributes or {}, redactor)
    context = _context(link.context, redactor)
    if attributes is link.attributes and context is link.context:
        return link
    return Link(context, attributes)


def _context(context: SpanContext, redactor: Redactor) -> SpanContext:
    """The context with a clean trace state; a member whose key holds a secret is left out."""
    if not context.trace_state:
        return context
    state = dict(context.trace_state)
    clean = redactor.redact(state)
    if clean == state:
        return context
    members = [(key, clean[key]) for key in state if key in clean]
    return SpanContext(
        context.trace_id, context.span_id, context.is_remote, context.trace_flags, TraceState(members)
    )
