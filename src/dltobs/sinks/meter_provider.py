"""What stands behind the global meter provider during one set-up: readers, and exporters that redact."""

from __future__ import annotations

import functools
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics
from opentelemetry.sdk.environment_variables import OTEL_METRIC_EXPORT_INTERVAL, OTEL_METRIC_EXPORT_TIMEOUT
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricsData, PeriodicExportingMetricReader

from dltobs._process.deadline import run_within
from dltobs._process.fork_safe import fork_safe
from dltobs.sinks.forwarding import OwnMeterProvider
from dltobs.sinks.metric_exporters import RedactingMetricExporter
from dltobs.sinks.otlp import address_of, metric_exporter, number_of, resource_of
from dltobs.sinks.reasons import without_secrets
from dltobs.sinks.resend import Resender
from dltobs.sinks.route import Route

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.sdk.metrics.export import MetricExporter

    from dltobs._redaction.redactor import Redactor
    from dltobs._settings.resolution import MetricTarget
    from dltobs._settings.settings import Settings
    from dltobs.sinks.answers import Ear
    from dltobs.sinks.delivery import Delivery

_CLOSING_MILLIS = 100
"""For what is put into the spool, and for the end of a reader's thread, which may hang in an export."""


class Reader(PeriodicExportingMetricReader):
    """A reader whose points get into the spool though an export hangs and they would have to wait for it."""

    def __init__(self, exporter: RedactingMetricExporter, interval: float, timeout: float) -> None:
        self._ours = exporter
        self._turn = fork_safe(threading.Condition())
        self._is_exporting = False
        self._waiting = 0
        super().__init__(exporter, export_interval_millis=interval, export_timeout_millis=timeout)

    def keep(self, timeout: float) -> None:
        """Have what waits, and what comes, put into the spool; an export that is under way goes on."""
        self._ours.keep()
        with self._turn:
            self._turn.notify_all()
            self._turn.wait_for(lambda: not self._waiting, timeout)

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Collect and export, and wait for what waits for its turn. False: it waits still."""
        super().force_flush(timeout_millis)
        with self._turn:
            return self._turn.wait_for(lambda: not self._waiting and self._may_go_on(), timeout_millis / 1000)

    def _may_go_on(self) -> bool:
        return self._ours.is_keeping or not self._is_exporting

    def _receive_metrics(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> None:
        self._ours.collected(metrics_data)
        with self._turn:
            self._waiting += 1
            self._turn.wait_for(self._may_go_on)
            is_kept = self._ours.is_keeping
            if not is_kept:
                self._waiting -= 1
                self._is_exporting = True
        try:
            if is_kept:
                self._ours.export(metrics_data)
            else:
                super()._receive_metrics(metrics_data, timeout_millis=timeout_millis, **kwargs)
        finally:
            with self._turn:
                if is_kept:
                    self._waiting -= 1
                else:
                    self._is_exporting = False
                self._turn.notify_all()


def _connected(
    make: Callable[[], tuple[MetricExporter, Ear]],
    redactor: Redactor,
    delivery: Delivery,
    *,
    is_remote: bool,
) -> RedactingMetricExporter:
    """An exporter of ours, to which the spool knows the way."""
    exporter, ear = make()
    ours = RedactingMetricExporter(exporter, redactor, delivery, ear)
    if is_remote:
        again = Resender(make, MetricsData(resource_metrics=[]))
        delivery.address = without_secrets(address_of(exporter))
        delivery.route = Route(address_of(exporter), ours.undelivered.rescue, again)
    return ours


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
            return [
                _connected(
                    functools.partial(metric_exporter, name, target.protocol, settings, redactor),
                    redactor,
                    delivery,
                    is_remote=name != "console",
                )
                for delivery, name in zip(self._deliveries, target.exporters, strict=True)
            ]

        self._make: Callable[[], list[RedactingMetricExporter]] = exporters
        self._exporters = exporters()
        self._readers: list[Reader] = []
        self._inner: MeterProvider | None = None
        self._process = os.getpid()
        self._lock = fork_safe(threading.Lock())
        self._is_flushed = False
        self._deadline = 0.0
        """Of the last flush."""

    def install(self) -> metrics.MeterProvider:
        """Set the global provider, if it is not ours already, and put this set-up behind it.

        In a forked child the sums and connections are the parent's, so it gets new ones.
        """
        if self._process != os.getpid():
            self._process, self._inner, self._exporters = os.getpid(), None, self._make()
        with self._lock:  # runs may start in several threads
            provider = metrics.get_meter_provider()
            if not isinstance(provider, OwnMeterProvider):
                provider = OwnMeterProvider()
                metrics.set_meter_provider(provider)
            if self._inner is None:
                self._readers = [
                    Reader(
                        exporter,
                        number_of(OTEL_METRIC_EXPORT_INTERVAL, 60_000),
                        number_of(OTEL_METRIC_EXPORT_TIMEOUT, 30_000),
                    )
                    for exporter in self._exporters
                ]
                self._inner = MeterProvider(self._readers, self._resource, shutdown_on_exit=False)
                provider.switch(self._inner)
            return provider

    @property
    def is_installed(self) -> bool:
        """Whether runs of this process are recorded; in a forked child not before a run of its own."""
        return self._inner is not None and self._process == os.getpid()

    def flush(self, timeout: float) -> bool:
        """Collect and export within `timeout` seconds. True: everything was delivered."""
        self._deadline = time.monotonic() + timeout
        self._is_flushed = False  # whoever waits for this may be told of the deadline before we are
        # in a forked child, the readers of its parent may be in the middle of an export for ever
        readers = self._readers if self._process == os.getpid() else []
        in_time = run_within(timeout, *(reader.force_flush for reader in readers))
        self._is_flushed = in_time
        # each is asked, also after one that lost something
        delivered = [delivery.everything_delivered() for delivery in self._deliveries]
        return in_time and all(delivered)

    def keep(self, timeout: float) -> None:
        """Put into the spool what the last flush did not get through.

        It takes `timeout` seconds at most, and no more than `close()` would give to it.
        """
        if self.is_installed and not self._is_flushed:
            # whoever is interrupted by a signal may hold the lock of a reader
            run_within(min(timeout, 2 * _CLOSING_MILLIS / 1000), self._keep)

    def _keep(self) -> None:
        # the sums may not even have been collected; where an export hangs, it holds a reader's lock
        deadline = time.monotonic() + _CLOSING_MILLIS / 1000
        for reader in self._readers:
            reader.keep(max(deadline - time.monotonic(), 0.0))
        run_within(_CLOSING_MILLIS / 1000, *(reader.force_flush for reader in self._readers))

    def close(self) -> None:
        """Take the provider away; what is on its way is lost, what comes later is not collected."""
        provider = metrics.get_meter_provider()
        if isinstance(provider, OwnMeterProvider) and provider.inner is self._inner:
            provider.switch(None)
        # of delta temporality, what was recorded after the flush, too
        if not (self._is_flushed and all(exporter.is_cumulative for exporter in self._exporters)):
            self._keep()
        for exporter in self._exporters:
            exporter.refuse()
        # a reader may have begun an export of its own just after the flush, which has its time, too
        deadline = max(time.monotonic() + _CLOSING_MILLIS / 1000, self._deadline) if self._is_flushed else 0
        while any(one.pending for one in self._deliveries) and time.monotonic() < deadline:
            time.sleep(0.005)
        for exporter in self._exporters:
            exporter.shutdown()
        for reader in self._readers:
            reader.shutdown(timeout_millis=_CLOSING_MILLIS)
