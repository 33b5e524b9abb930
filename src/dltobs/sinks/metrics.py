"""Runs, steps, rows, bytes, jobs and schema changes as OpenTelemetry metrics.

| metric | kind, unit | attributes beside `dlt.pipeline.name` and `dlt.destination.type` |
|---|---|---|
| `dlt.run.duration` | histogram, s | `dlt.step` (the method that was called), `dlt.outcome`, `error.type` |
| `dlt.runs` | counter, {run} | as `dlt.run.duration` |
| `dlt.step.duration` | histogram, s | `dlt.step`, `error.type` |
| `dlt.rows` | counter, {row} | `dlt.step` |
| `dlt.bytes` | counter, By | `dlt.step` |
| `dlt.jobs` | counter, {job} | `dlt.job.state` |
| `dlt.schema.changes` | counter, {change} | `dlt.schema.change.kind` |

`error.type` is there after a failure. No attribute grows with the data: there are no tables, resources, load
ids or tags among them. A lost run is counted by the run that notices it, and has no duration.
Rows and bytes are without dlt's own tables, those of `load` of the completed jobs.
"""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from typing import TYPE_CHECKING, Any

from dltobs._events import RunFinished, RunLost, RunStarted, StepFinished
from dltobs._settings import otel
from dltobs._version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.metrics import MeterProvider

    from dltobs._events import Event, Failure, Run
    from dltobs._redaction.redactor import Redactor
    from dltobs._settings.resolution import MetricTarget
    from dltobs._settings.settings import Settings
    from dltobs.sinks.delivery import Delivery
    from dltobs.sinks.meter_provider import OwnMetrics

BOUNDARIES = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800)
"""Seconds: runs take from less than one to hours. OpenTelemetry's default ends at 10,000 milliseconds."""


class MetricSink:
    """Records what ended. OpenTelemetry is imported once there is a provider to tell.

    The provider is decided when a run starts, or goes on from an earlier set-up: the application's, if it has
    set one by then; else ours, where there is a target; else there are no metrics.

    Args:
        settings: Of the set-up.
        redactor: For what our provider exports, whoever made it.
        target: Where ours sends to; None: there is no provider of ours.
        deliveries: The counters by exporter.

    Raises:
        ConfigurationError: An exporter refuses its settings.
    """

    def __init__(
        self,
        settings: Settings,
        redactor: Redactor,
        target: MetricTarget | None,
        deliveries: Mapping[str, Delivery],
    ) -> None:
        self._own: OwnMetrics | None = None
        self._provider: MeterProvider | None = None
        self._instruments: _Instruments | None = None
        self._is_decided = False
        if target is not None:
            from dltobs.sinks.meter_provider import OwnMetrics

            self._own = OwnMetrics(settings, target, redactor, deliveries)

    def emit(self, event: Event) -> None:
        """Record a step or run that ended."""
        if isinstance(event, RunStarted) or not self._is_decided:
            self._decide()
        if self._instruments is None:
            return
        if isinstance(event, StepFinished):
            _record_step(self._instruments, event)
        elif isinstance(event, RunFinished):
            _record_run(self._instruments, event)
        elif isinstance(event, RunLost):
            lost = {"dlt.step": event.method, "dlt.outcome": event.outcome, "error.type": "lost"}
            self._instruments.runs.add(1, {**_identity(event.run), **lost})

    @property
    def has_points(self) -> bool:
        """Whether a run of this process may have been recorded by our own provider."""
        return self._own is not None and self._own.is_installed

    def flush(self, timeout: float) -> bool:
        """Export what our own provider has collected. The application flushes its own."""
        return self._own is None or self._own.flush(timeout)

    def keep(self, timeout: float) -> None:
        """Put into the spool what the last flush did not get through, within `timeout` seconds or less."""
        if self._own is not None:
            self._own.keep(timeout)

    def close(self) -> None:
        """Take our readers away."""
        if self._own is not None:
            self._own.close()

    def take_over(self, other: MetricSink) -> None:
        """Have what is recorded from now on go here, also by other libraries, if it went to the other one."""
        if other.has_points:
            self._decide()

    def _decide(self) -> None:
        self._is_decided = True
        provider: MeterProvider | None = None
        if otel.application_has_meter_provider():
            provider = import_module("opentelemetry.metrics").get_meter_provider()
        elif self._own is not None:
            provider = self._own.install()
        if provider is not self._provider:
            self._provider = provider
            self._instruments = None if provider is None else _Instruments(provider)


class _Instruments:
    def __init__(self, provider: MeterProvider) -> None:
        meter = provider.get_meter("dltobs", __version__)
        self.run_duration = meter.create_histogram(
            "dlt.run.duration", "s", "Duration of a run", explicit_bucket_boundaries_advisory=BOUNDARIES
        )
        self.step_duration = meter.create_histogram(
            "dlt.step.duration", "s", "Duration of a step", explicit_bucket_boundaries_advisory=BOUNDARIES
        )
        self.runs = meter.create_counter("dlt.runs", "{run}", "Runs that ended")
        self.rows = meter.create_counter("dlt.rows", "{row}", "Rows that a step wrote or loaded")
        self.bytes = meter.create_counter("dlt.bytes", "By", "Bytes of the files that a step wrote or loaded")
        self.jobs = meter.create_counter("dlt.jobs", "{job}", "Load jobs by the state that they ended in")
        self.schema_changes = meter.create_counter(
            "dlt.schema.changes", "{change}", "Changes that a load made to the schema of the destination"
        )


def _record_run(instruments: _Instruments, event: RunFinished) -> None:
    outermost = next((step for step in reversed(event.steps) if step.depth == 0), None)
    failure = None if event.failed_step is None else event.failed_step.failure
    attributes = {
        **_identity(event.run),
        **({} if outermost is None else {"dlt.step": outermost.step}),
        "dlt.outcome": event.outcome,
        **_error(failure),
    }
    instruments.runs.add(1, attributes)
    instruments.run_duration.record(_seconds(event), attributes)


def _record_step(instruments: _Instruments, event: StepFinished) -> None:
    if event.step == "run":
        return  # the duration of the run
    attributes = {**_identity(event.run), "dlt.step": event.step}
    instruments.step_duration.record(_seconds(event), {**attributes, **_error(event.failure)})
    rows, size = event.rows, event.bytes
    if event.step == "load":
        loaded = [job for job in event.load_jobs if job.state == "completed" and not job.internal]
        rows, size = sum(job.rows or 0 for job in loaded), sum(job.bytes or 0 for job in loaded)
        for state, count in Counter(job.state for job in event.load_jobs).items():
            instruments.jobs.add(count, {**_identity(event.run), "dlt.job.state": state})
        for kind, count in Counter(change.kind for change in event.schema_changes).items():
            instruments.schema_changes.add(count, {**_identity(event.run), "dlt.schema.change.kind": kind})
    if rows:
        instruments.rows.add(rows, attributes)
    if size:
        instruments.bytes.add(size, attributes)


def _identity(run: Run) -> dict[str, Any]:
    if run.destination_type is None:
        return {"dlt.pipeline.name": run.pipeline}
    return {"dlt.pipeline.name": run.pipeline, "dlt.destination.type": run.destination_type}


def _error(failure: Failure | None) -> dict[str, Any]:
    return {} if failure is None else {"error.type": failure.error_type}


def _seconds(event: StepFinished | RunFinished) -> float:
    return max((event.finished_at - event.started_at).total_seconds(), 0.0)
