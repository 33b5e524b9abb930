"""Hook calls of a load of 10,000 jobs, replayed into delivered spans, against the SDK's own spans.

The load is a real one, recorded once: the calls of dlt's trace hooks, and the jobs that dlt ran in threads.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

import dlt
from backends import back_end
from big_load import SETTINGS, normalized
from dlt.common.configuration.container import Container
from dlt.common.destination.client import RunnableLoadJob
from dlt.pipeline import trace as dlt_trace
from material import secrets
from measure import Figure, prepared, side_by_side
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NonRecordingSpan, SpanContext, set_span_in_context

import dltobs
from dltobs import _state

if TYPE_CHECKING:
    from collections.abc import Sequence

_BATCH = 512
"""Spans of a request, as in the SDK's batch processor."""
_FEW_ROUNDS, _FEW_JOBS = 2, 500
"""So that a quick look is quick: recording takes as long as the load does."""


class _Call(NamedTuple):
    """A call of a hook; None: of the method in which a job runs."""

    hook: str | None
    arguments: tuple[Any, ...]


class _Recorder:
    """Stands among dlt's tracking modules and remembers."""

    def __init__(self) -> None:
        self.calls: list[_Call] = []

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda *arguments: self.calls.append(_Call(name, arguments))


class _Collector(SpanProcessor):
    """Keeps what ended."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


def replayed_load(rounds: int) -> Figure:
    jobs = 10_000 if rounds > _FEW_ROUNDS else _FEW_JOBS
    # the folder stays for the rounds: a run leaves a marker in its working directory
    with (
        ExitStack() as stack,
        tempfile.TemporaryDirectory() as folder,
        back_end() as port,
        mock.patch.dict(os.environ, DLT_DATA_DIR=folder),
    ):
        calls = _recorded(jobs, folder)
        # dltobs wraps the method in which jobs run; here there is nothing in it
        stack.enter_context(mock.patch.object(RunnableLoadJob, "run_managed", _nothing))
        endpoint = f"http://127.0.0.1:{port}"
        spans = _delivered_spans(calls, endpoint, jobs)
        count = len(spans)
        seconds = side_by_side(
            {
                "dltobs, delivered": prepared(
                    partial(_configured, endpoint, jobs), partial(_replay, calls, at_least=jobs), count
                ),
                "SDK: start, end and encode": prepared(lambda: None, lambda _: _sdk(spans), count),
                "SDK, delivered by its batch processor": prepared(
                    lambda: None, lambda _: _sdk_delivered(spans, endpoint), count
                ),
            },
            rounds,
        )
    return Figure(
        title=f"Hook calls of a load of {jobs:,} jobs replayed into {count:,} spans, redacted and delivered "
        "to a collector on loopback, against the SDK's start, end and encode of the same spans",
        subject="dltobs, delivered",
        peer="SDK: start, end and encode",
        goal=1.3,
        unit="a span",
        seconds=seconds,
        details={"jobs": jobs, "spans": count, "calls": len(calls), "secrets": 10},
    )


def _nothing(*_: Any) -> None:
    """Stands for what a job does."""


def _recorded(jobs: int, folder: str) -> list[_Call]:
    recorder = _Recorder()
    original = RunnableLoadJob.run_managed

    def run_managed(job: Any, *arguments: Any) -> None:
        original(job, *arguments)
        recorder.calls.append(_Call(None, (job, None, None)))

    with mock.patch.dict(os.environ, SETTINGS):
        Container.reset_main_thread()
        pipeline = normalized(folder, jobs)
        modules = [recorder]
        with (
            mock.patch.object(dlt_trace, "TRACKING_MODULES", modules),
            mock.patch.object(RunnableLoadJob, "run_managed", run_managed),
        ):
            pipeline.load()
        Container.reset_main_thread()
    return recorder.calls


def _configured(endpoint: str, jobs: int) -> Any:
    """A fresh set-up, whose making does not count, and its hooks."""
    dltobs.configure(
        otlp_endpoint=endpoint, max_job_spans=2 * jobs, metrics="off", console="off", excepthook=False
    )
    assert _state.runtime is not None
    _state.runtime.redactor.add(*secrets(10))
    return dlt_trace.TRACKING_MODULES[-1]


def _replay(calls: Sequence[_Call], hooks: Any, *, at_least: int) -> None:
    for hook, arguments in calls:
        if hook is None:
            RunnableLoadJob.run_managed(*arguments)
        else:
            getattr(hooks, hook)(*arguments)
    dltobs.shutdown()
    status = dltobs.status()["otlp"]
    if status.delivered < at_least or status.dropped:
        message = f"not delivered: {status}"
        raise RuntimeError(message)


def _delivered_spans(calls: Sequence[_Call], endpoint: str, jobs: int) -> list[ReadableSpan]:
    """What arrives at the exporter: its names, parents, attributes and events are the peers' material."""
    spans: list[ReadableSpan] = []
    export = OTLPSpanExporter.export

    def exporting(exporter: Any, batch: Sequence[ReadableSpan]) -> Any:
        spans.extend(batch)
        return export(exporter, batch)

    with mock.patch.object(OTLPSpanExporter, "export", exporting):
        _replay(calls, _configured(endpoint, jobs), at_least=jobs)
    return spans


def _sdk(spans: Sequence[ReadableSpan]) -> None:
    collector = _Collector()
    _make(spans, collector)
    for first in range(0, len(collector.spans), _BATCH):
        encode_spans(collector.spans[first : first + _BATCH]).SerializeToString()


def _sdk_delivered(spans: Sequence[ReadableSpan], endpoint: str) -> None:
    exporter = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces")
    # by default it would drop most of them
    processor = BatchSpanProcessor(exporter, max_queue_size=len(spans) + _BATCH, max_export_batch_size=_BATCH)
    _make(spans, processor).shutdown()


def _context_of(parent: SpanContext | None) -> Context:
    """As for ours: a child asks its parent whether it is sampled."""
    return Context() if parent is None else set_span_in_context(NonRecordingSpan(parent), Context())


def _span_id(context: SpanContext | None) -> int:
    return 0 if context is None else context.span_id


def _make(spans: Sequence[ReadableSpan], processor: SpanProcessor) -> TracerProvider:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("bench", dlt.__version__)
    parents = {_span_id(like.parent): _context_of(like.parent) for like in spans}
    for like in spans:
        span = tracer.start_span(
            like.name, parents[_span_id(like.parent)], attributes=like.attributes, start_time=like.start_time
        )
        for event in like.events:
            span.add_event(event.name, event.attributes, event.timestamp)
        span.end(like.end_time)
    return provider
