"""A span exporter that redacts what it sends."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from dltobs._cut import TEXT
from dltobs._spool.files import id_of
from dltobs.sinks.answers import Ear
from dltobs.sinks.clean import Encodable, Withholding, clean_resource, clean_scope, clean_span, texts_in
from dltobs.sinks.counted import Counted
from dltobs.sinks.otlp import address_of
from dltobs.sinks.undelivered import Stored, Undelivered

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan

    from dltobs._redaction.redactor import Redactor
    from dltobs.sinks.delivery import Delivery


class RedactingExporter(SpanExporter):
    """Redacts spans, whoever made them, and counts what the inner exporter got through.

    In a forked child it makes another inner exporter: on the connections of its parent's two processes would
    talk at once.

    Args:
        make: Makes what sends, and tells the ear that it is given what the back end says to an export.
        redactor: Takes the secrets out of names, attributes, events, links, status and resource.
        delivery: The counters.
        resource: Stands on every span in the place of the one that the provider was built with, which cannot
            be changed and may be that of an earlier set-up.
    """

    def __init__(
        self,
        make: Callable[[Ear], tuple[SpanExporter, Ear]],
        redactor: Redactor,
        delivery: Delivery,
        resource: Resource,
    ) -> None:
        self._make = make
        self._exporter, self._ear = make(Ear())
        self._process = os.getpid()
        self._inherited: list[SpanExporter] = []
        limits = SpanLimits()
        lengths = frozenset(filter(None, (limits.max_attribute_length, limits.max_span_attribute_length)))
        self._redactor: Any = _CutAware(redactor, lengths) if lengths else redactor
        self._may_glance = not lengths
        self._resource = resource
        self._delivery = delivery
        self.undelivered = Undelivered(self._store, delivery.discard)
        self._counted = Counted(delivery, self._ear, self.undelivered)

    @property
    def address(self) -> str:
        """Where the spans go to."""
        return address_of(self._exporter)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send the spans, redacted. A span that cannot be redacted goes without its texts."""

        def send() -> bool:
            self._renew()
            clean = self._clean(spans)
            try:
                if self._exporter.export(clean) is SpanExportResult.SUCCESS:
                    return True
            except UnicodeError:  # the exporter for HTTP only logs it
                pass
            # one text of anybody's takes the whole batch with it
            encodable = _encodable(clean)
            is_other = any(one is not other for one, other in zip(encodable, clean, strict=True))
            return is_other and self._exporter.export(encodable) is SpanExportResult.SUCCESS

        is_taken = not self._counted.is_closed and self._counted.send(len(spans), spans, send)
        if is_taken:
            self._delivery.recovered()
        return SpanExportResult.SUCCESS if is_taken else SpanExportResult.FAILURE

    def _store(self, spans: Sequence[ReadableSpan]) -> Stored | None:
        """Keep the request that would have been sent; redacted anew, as more secrets may be known by now."""
        if self._delivery.route is None:
            return None
        from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

        clean = self._clean(spans)
        try:
            try:
                payload = encode_spans(clean).SerializeToString()
            except UnicodeError:
                clean = _encodable(clean)
                payload = encode_spans(clean).SerializeToString()
        except Exception:  # noqa: BLE001 - one span, of any library, must not take the others with it
            clean = [span for span in clean if _can_be_encoded(span)]
            payload = encode_spans(clean).SerializeToString()
        known = [f"{span.context.trace_id:x}{span.context.span_id:x}" for span in clean if span.context]
        entry_id = id_of(",".join(known))
        is_kept = bool(clean) and self._delivery.keep(payload, len(clean), entry_id)
        return Stored(len(clean), entry_id) if is_kept else None

    def shutdown(self) -> None:
        """Close the inner exporter; what is still on its way is kept or lost."""
        self._counted.close(self._shutdown)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Nothing is buffered here."""
        return self._exporter.force_flush(timeout_millis)

    def _renew(self) -> None:
        """In a forked child: make what sends anew. The batch processor calls this for one thread at a time.

        The parent's is left alone, and not even freed: a gRPC channel ends its connection when it is.
        """
        if self._process != os.getpid():
            exporter, _ = self._make(self._ear)
            self._inherited.append(self._exporter)
            self._exporter, self._process = exporter, os.getpid()

    def _shutdown(self) -> None:
        if self._process == os.getpid():
            self._exporter.shutdown()

    def _clean(self, spans: Sequence[ReadableSpan]) -> list[ReadableSpan]:
        withholding: Any = Withholding()
        try:
            resource = clean_resource(self._resource, self._redactor)
        except Exception:  # noqa: BLE001 - the spans must appear all the same
            resource = clean_resource(self._resource, withholding)
        if self._may_glance and self._is_clean(spans, resource):
            return list(spans)
        clean: list[ReadableSpan] = []
        for span in spans:
            try:
                clean.append(clean_span(span, self._redactor, resource))
            except Exception:  # noqa: BLE001 - as above
                clean.append(clean_span(span, withholding, resource))
        return clean

    def _is_clean(self, spans: Sequence[ReadableSpan], resource: Resource) -> bool:
        """Whether all can go as they are: one scan for a whole batch."""
        resources = {id(span.resource): span.resource for span in spans}.values()
        scopes = {id(span.instrumentation_scope): span.instrumentation_scope for span in spans}.values()
        try:
            return (
                all(one is resource or one == resource for one in resources)
                and all(one is None or clean_scope(one, self._redactor) is one for one in scopes)
                and self._redactor.is_clean([texts_in(span) for span in spans], TEXT)
            )
        except Exception:  # noqa: BLE001 - then each span is looked at by itself
            return False


def _encodable(spans: Sequence[ReadableSpan]) -> list[ReadableSpan]:
    encodable: Any = Encodable()
    return [clean_span(span, encodable, clean_resource(span.resource, encodable)) for span in spans]


def _can_be_encoded(span: ReadableSpan) -> bool:
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

    try:
        encode_spans([span]).SerializeToString()
    except Exception:  # noqa: BLE001 - a number or text that protobuf does not take
        return False
    return True


class _CutAware:
    """A redactor for attributes that OpenTelemetry has cut to a length, perhaps in the middle of a secret."""

    def __init__(self, redactor: Redactor, lengths: frozenset[int]) -> None:
        self.text = redactor.text
        self._redactor = redactor
        self._lengths = lengths

    def redact(self, value: Mapping[str, Any], limit: int | None = None) -> dict[str, Any]:
        clean = self._redactor.redact(value, limit)
        return {key: self._without_ends(item, value.get(key)) for key, item in clean.items()}

    def _without_ends(self, clean: Any, original: Any) -> Any:
        if isinstance(original, str):
            return self._redactor.cut_text(clean) if len(original) in self._lengths else clean
        if isinstance(original, Sequence) and isinstance(clean, Sequence) and not isinstance(clean, str):
            return tuple(map(self._without_ends, clean, original))
        return clean
