"""What stands behind the global meter provider during one set-up: readers, and exporters that redact."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics
from opentelemetry.sdk.environment_variables import OTEL_METRIC_EXPORT_INTERVAL, OTEL_METRIC_EXPORT_TIMEOUT
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation

from dltobs._deadline import run_within
from dltobs.sinks.exporters import IDENTITIES, SCOPE, Counted, Withholding, clean_attributes, clean_resource
from dltobs.sinks.forwarding import OwnMeterProvider
from dltobs.sinks.otlp import metric_exporter, number_of, resource_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.sdk.metrics.export import Metric, ResourceMetrics, ScopeMetrics

    from dltobs._redaction import Redactor
    from dltobs._resolution import MetricTarget
    from dltobs._settings import Settings
    from dltobs.sinks.answers import Ear
    from dltobs.sinks.delivery import Delivery

_CLOSING_MILLIS = 100
"""For an export that a reader began by itself, and for the end of its thread, which may hang in one."""


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
        self._counted = Counted(delivery, ear)
        self._process = os.getpid()
        self._is_refusing = False

    def refuse(self) -> None:
        """Take points from now on and do nothing with them; an export that is under way goes on."""
        self._is_refusing = True

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        """Send the points, redacted. If that fails, they go without texts."""
        count = sum(
            len(metric.data.data_points)
            for resource in metrics_data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        )
        if not count or self._is_refusing or self._process != os.getpid():
            return MetricExportResult.SUCCESS
        self._delivery.submitted(count)

        def send() -> bool:
            clean = self._clean(metrics_data)
            result = self._exporter.export(clean, timeout_millis=timeout_millis, **kwargs)
            return result is MetricExportResult.SUCCESS

        is_taken = self._counted.send(count, send)
        return MetricExportResult.SUCCESS if is_taken else MetricExportResult.FAILURE

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Nothing is buffered here."""
        return self._exporter.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        """Close the inner exporter; what is still on its way is lost."""
        self.refuse()
        self._counted.close(lambda: self._exporter.shutdown(timeout_millis=timeout_millis))

    def _clean(self, data: MetricsData) -> MetricsData:
        try:
            return _rebuilt(data, self._redactor)
        except Exception:  # noqa: BLE001 - the numbers must appear all the same
            withholding: Any = Withholding()
            return _rebuilt(data, withholding)


def _rebuilt(data: MetricsData, redactor: Redactor) -> MetricsData:
    def of_resource(one: ResourceMetrics) -> ResourceMetrics:
        scopes = [of_scope(scope) for scope in one.scope_metrics]
        return replace(one, resource=clean_resource(one.resource, redactor), scope_metrics=scopes)

    def of_scope(one: ScopeMetrics) -> ScopeMetrics:
        kept = IDENTITIES if one.scope.name == SCOPE else frozenset()
        return replace(one, metrics=[of_metric(metric, kept) for metric in one.metrics])

    def of_metric(one: Metric, kept: frozenset[str]) -> Metric:
        points: Any = [of_point(point, kept) for point in one.data.data_points]
        return replace(one, data=replace(one.data, data_points=points))

    def of_point(one: Any, kept: frozenset[str]) -> Any:
        changed: dict[str, Any] = {"attributes": clean_attributes(one.attributes or {}, redactor, kept)}
        if getattr(one, "exemplars", None):
            changed["exemplars"] = [of_exemplar(exemplar) for exemplar in one.exemplars]
        return replace(one, **changed)

    def of_exemplar(one: Any) -> Any:
        return replace(one, filtered_attributes=clean_attributes(one.filtered_attributes or {}, redactor))

    return MetricsData(resource_metrics=[of_resource(one) for one in data.resource_metrics])


class OwnMetrics:
    """Our readers behind the global provider: `install()` at the first run, `close()` in the end.

    Args:
        settings: Of the set-up.
        target: Says which exporters.
        redactor: For everything that is exported.
        deliveries: The counters by exporter: `otlp_metrics`, `console_metrics`.

    Raises:
        ConfigurationError: The exporter refuses its settings, which it reads from `OTEL_*`.
    """

    def __init__(
        self,
        settings: Settings,
        target: MetricTarget,
        redactor: Redactor,
        deliveries: Mapping[str, Delivery],
    ) -> None:
        self._resource = resource_of(settings)
        self._deliveries = [deliveries[f"{name}_metrics"] for name in target.exporters]

        def exporters() -> list[RedactingMetricExporter]:
            made = [metric_exporter(name, target.protocol, settings, redactor) for name in target.exporters]
            return [
                RedactingMetricExporter(exporter, redactor, delivery, ear)
                for delivery, (exporter, ear) in zip(self._deliveries, made, strict=True)
            ]

        self._make: Callable[[], list[RedactingMetricExporter]] = exporters
        self._exporters = exporters()
        self._readers: list[PeriodicExportingMetricReader] = []
        self._inner: MeterProvider | None = None
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._is_flushed = False

    def install(self) -> metrics.MeterProvider:
        """Set the global provider, if it is not ours already, and put this set-up behind it.

        In a forked child the sums and connections are the parent's, so it gets new ones.
        """
        if self._process != os.getpid():
            self._lock = threading.Lock()
            self._process, self._inner, self._exporters = os.getpid(), None, self._make()
        with self._lock:  # runs may start in several threads
            provider = metrics.get_meter_provider()
            if not isinstance(provider, OwnMeterProvider):
                provider = OwnMeterProvider()
                metrics.set_meter_provider(provider)
            if self._inner is None:
                self._readers = [
                    PeriodicExportingMetricReader(
                        exporter,
                        export_interval_millis=number_of(OTEL_METRIC_EXPORT_INTERVAL, 60_000),
                        export_timeout_millis=number_of(OTEL_METRIC_EXPORT_TIMEOUT, 30_000),
                    )
                    for exporter in self._exporters
                ]
                self._inner = MeterProvider(self._readers, self._resource, shutdown_on_exit=False)
                provider.switch(self._inner)
            return provider

    def flush(self, timeout: float) -> bool:
        """Collect and export within `timeout` seconds. True: everything was delivered."""
        in_time = run_within(timeout, *(reader.force_flush for reader in self._readers))
        self._is_flushed = in_time
        # each is asked, also after one that lost something
        delivered = [delivery.everything_delivered() for delivery in self._deliveries]
        return in_time and all(delivered)

    def close(self) -> None:
        """Take the provider away; what is on its way is lost, what comes later is not collected."""
        provider = metrics.get_meter_provider()
        if isinstance(provider, OwnMeterProvider) and provider.inner is self._inner:
            provider.switch(None)
        for exporter in self._exporters:
            exporter.refuse()
        # a reader may have begun an export of its own just after the flush
        deadline = time.monotonic() + (_CLOSING_MILLIS / 1000 if self._is_flushed else 0)
        while any(one.pending for one in self._deliveries) and time.monotonic() < deadline:
            time.sleep(0.005)
        for exporter in self._exporters:
            exporter.shutdown()
        for reader in self._readers:
            reader.shutdown(timeout_millis=_CLOSING_MILLIS)
