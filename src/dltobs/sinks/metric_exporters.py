"""A metric exporter that redacts what it sends."""

from __future__ import annotations

import os
import threading
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    MetricExporter,
    MetricExportResult,
    MetricsData,
)
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation
from opentelemetry.sdk.resources import Resource

from dltobs._process.fork_safe import fork_safe
from dltobs.sinks.clean import (
    IDENTITIES,
    SCOPE,
    Encodable,
    Withholding,
    clean_attributes,
    clean_resource,
    clean_scope,
)
from dltobs.sinks.counted import Counted
from dltobs.sinks.undelivered import Stored, Undelivered

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from opentelemetry.sdk.metrics.export import Metric, ResourceMetrics, ScopeMetrics

    from dltobs._redaction.redactor import Redactor
    from dltobs.sinks.answers import Ear
    from dltobs.sinks.delivery import Delivery

_IMPOSSIBLE = "cannot be encoded"


class RedactingMetricExporter(MetricExporter):
    """Redacts metrics, whoever made them, and counts the points that the inner exporter got through.

    After `shutdown()` it takes points and does nothing with them: a reader exports once more when it ends,
    what has been exported by the flush before. Likewise in a forked child, where the SDK starts the thread of
    the reader again, with the parent's points.

    Args:
        exporter: What sends.
        redactor: Takes the secrets out of attributes and the resource.
        delivery: The counters.
        ear: Hears what the back end says to an export.
    """

    def __init__(self, exporter: MetricExporter, redactor: Redactor, delivery: Delivery, ear: Ear) -> None:
        # the reader takes both from its exporter, by these names
        aggregations = exporter._preferred_aggregation or {}  # noqa: SLF001
        super().__init__(
            preferred_temporality=exporter._preferred_temporality,  # noqa: SLF001
            preferred_aggregation={
                kind: aggregation
                for kind, aggregation in aggregations.items()
                # the default anyway; named by an exporter, older SDKs ignore the boundaries of instruments
                if type(aggregation) is not ExplicitBucketHistogramAggregation
            },
        )
        self._exporter = exporter
        self._redactor = redactor
        self._delivery = delivery
        self._ear = ear
        self.undelivered = Undelivered(self._store, delivery.discard)
        self._counted = Counted(delivery, ear, self.undelivered)
        self._process = os.getpid()
        self._is_refusing = self.is_keeping = False
        temporality = self._preferred_temporality or {}
        self.is_cumulative = AggregationTemporality.DELTA not in temporality.values()
        self._id = uuid.uuid4().hex
        self._kept_until = 0
        self._lock = fork_safe(threading.Lock())

    def refuse(self) -> None:
        """Take points from now on and do nothing with them; an export that is under way goes on."""
        self._is_refusing = True

    def keep(self) -> None:
        """Put points into the spool from now on; an export that is under way goes on."""
        self.is_keeping = True

    def collected(self, metrics_data: MetricsData) -> None:
        """Count points that will be exported: of delta temporality, no later export contains them."""
        if not self.is_cumulative:
            self._delivery.submitted(self._countable(metrics_data))

    def _countable(self, metrics_data: MetricsData) -> int:
        is_ours = not self._is_refusing and self._process == os.getpid()
        return _points_in(metrics_data) if is_ours else 0

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        """Send the points, redacted. If that fails, they go without texts. `collected()` comes before."""
        count = self._countable(metrics_data)
        if not count:
            return MetricExportResult.SUCCESS
        turn = self._delivery.replacing(count) if self.is_cumulative else 0
        if self.is_keeping:
            self._counted.keep(count, [metrics_data], turn)
            return MetricExportResult.SUCCESS

        def send() -> bool:
            data = self._encodable(metrics_data)
            left_out = count - _points_in(data)
            result = MetricExportResult.SUCCESS
            if left_out < count:
                result = self._exporter.export(data, timeout_millis=timeout_millis, **kwargs)
            is_taken, answer = result is MetricExportResult.SUCCESS, self._ear.answer
            if left_out and is_taken and (answer.rejected or not answer.error):
                # counted as what a back end does not want of a request that it takes
                reason, rejected = answer.error or _IMPOSSIBLE, answer.rejected + left_out
                self._ear.answer = answer._replace(error=reason, rejected=rejected)
            return is_taken

        is_taken = self._counted.send(count, [metrics_data], send, turn)
        if is_taken and self.is_cumulative:
            with self._lock:
                if 0 < self._kept_until <= _end_of(metrics_data):
                    self._kept_until = 0
                    self._delivery.discard(self._id)  # these sums contain those
        if is_taken:
            # only now: what has been discarded must not be sent
            self._delivery.recovered()
        return MetricExportResult.SUCCESS if is_taken else MetricExportResult.FAILURE

    def _store(self, batch: Sequence[MetricsData]) -> Stored | None:
        """Keep an export that was not taken, with its own times.

        A cumulative sum contains all earlier ones since the process began, so the latest takes the place of
        those before it, whichever comes here first; of delta temporality each counts.
        """
        if self._delivery.route is None:
            return None
        (data,) = batch
        if not self.is_cumulative:
            return self._stored(data, uuid.uuid4().hex)
        with self._lock:
            if _end_of(data) < self._kept_until:
                return Stored(_points_in(data), "superseded")
            stored = self._stored(data, self._id)
            if stored is not None:
                self._kept_until = _end_of(data)
            return stored

    def _stored(self, data: MetricsData, entry_id: str) -> Stored | None:
        from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics

        data = self._encodable(data)
        items = _points_in(data)
        payload = encode_metrics(data).SerializeToString()
        is_kept = items > 0 and self._delivery.keep(payload, items, entry_id)
        return Stored(items, entry_id) if is_kept else None

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Nothing is buffered here."""
        return self._exporter.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        """Close the inner exporter; what is still on its way is kept or lost."""
        self.refuse()
        self._counted.close(lambda: self._exporter.shutdown(timeout_millis=timeout_millis))

    def _encodable(self, data: MetricsData) -> MetricsData:
        """The points without secrets, and without those that would take all the others with them."""
        clean = self._clean(data)
        # only what is sent to a back end, which the spool knows the way to, becomes protobuf
        if self._delivery.route is None or _can_be_encoded(clean):
            return clean
        return _encodable(clean)

    def _clean(self, data: MetricsData) -> MetricsData:
        try:
            return _rebuilt(data, self._redactor)
        except Exception:  # noqa: BLE001 - the numbers must appear all the same
            withholding: Any = Withholding()
            return _rebuilt(data, withholding)


def _points_of(data: MetricsData) -> Iterator[Any]:
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                yield from metric.data.data_points


def _points_in(data: MetricsData) -> int:
    return sum(1 for _ in _points_of(data))


def _end_of(data: MetricsData) -> int:
    """When the points were collected, in nanoseconds since the epoch."""
    return max((point.time_unix_nano for point in _points_of(data)), default=0)


def _can_be_encoded(data: MetricsData) -> bool:
    from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics

    try:
        encode_metrics(data)
    except Exception:  # noqa: BLE001 - a number, say, that protobuf has no place for
        return False
    return True


def _encodable(data: MetricsData) -> MetricsData:
    """The metrics without the points that cannot be encoded."""

    def of_scope(one: ScopeMetrics, resource: ResourceMetrics) -> ScopeMetrics:
        def may_go(metric: Metric) -> bool:
            alone = replace(resource, scope_metrics=[replace(one, metrics=[metric])])
            return _can_be_encoded(MetricsData(resource_metrics=[alone]))

        def rest_of(metric: Metric) -> Metric:
            points = [point for point in metric.data.data_points if may_go(_with_points(metric, [point]))]
            return _with_points(metric, points)

        found = [metric if may_go(metric) else rest_of(metric) for metric in one.metrics]
        return replace(one, metrics=[metric for metric in found if metric.data.data_points])

    return MetricsData(
        resource_metrics=[
            replace(one, scope_metrics=[of_scope(scope, one) for scope in one.scope_metrics])
            for one in data.resource_metrics
        ]
    )


def _with_points(metric: Metric, points: Any) -> Metric:
    return replace(metric, data=replace(metric.data, data_points=points))


def _rebuilt(data: MetricsData, redactor: Redactor) -> MetricsData:
    encodable: Any = Encodable()

    def text(own: str) -> str:
        return str(encodable.text(redactor.text(own)))

    def attributes(own: Any, kept: frozenset[str] = frozenset()) -> Any:
        return encodable.redact(clean_attributes(own or {}, redactor, kept))

    def of_resource(one: ResourceMetrics) -> ResourceMetrics:
        scopes = [of_scope(scope) for scope in one.scope_metrics]
        resource = _encodable_resource(clean_resource(one.resource, redactor))
        return replace(one, resource=resource, scope_metrics=scopes)

    def of_scope(one: ScopeMetrics) -> ScopeMetrics:
        kept = IDENTITIES if one.scope.name == SCOPE else frozenset()
        return replace(
            one,
            scope=clean_scope(clean_scope(one.scope, redactor), encodable),
            metrics=[of_metric(metric, kept) for metric in one.metrics],
            schema_url=text(one.schema_url) if one.schema_url else one.schema_url,
        )

    def of_metric(one: Metric, kept: frozenset[str]) -> Metric:
        changed = _with_points(one, [of_point(point, kept) for point in one.data.data_points])
        # the name is what the metric is known by, and OpenTelemetry takes only identifiers
        return replace(changed, description=text(one.description or ""))

    def of_point(one: Any, kept: frozenset[str]) -> Any:
        changed: dict[str, Any] = {"attributes": attributes(one.attributes, kept)}
        if getattr(one, "exemplars", None):
            changed["exemplars"] = [of_exemplar(exemplar) for exemplar in one.exemplars]
        return replace(one, **changed)

    def of_exemplar(one: Any) -> Any:
        return replace(one, filtered_attributes=attributes(one.filtered_attributes))

    return MetricsData(resource_metrics=[of_resource(one) for one in data.resource_metrics])


def _encodable_resource(resource: Resource) -> Resource:
    """The resource without lone surrogates, which the environment may hold, also where names stay."""
    texts = Encodable()
    attributes, schema_url = texts.redact(resource.attributes), texts.text(resource.schema_url)
    if attributes == dict(resource.attributes) and schema_url == resource.schema_url:
        return resource
    return Resource(attributes, schema_url)
