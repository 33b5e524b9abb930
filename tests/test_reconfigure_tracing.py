"""`configure()` with other settings in the middle of a run: nothing of the run is lost, doubled or torn apart."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import dlt
import pytest
from dlt.common.destination.exceptions import DestinationTransientException
from dlt.pipeline.exceptions import PipelineStepFailed
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import dltobs
from dltobs import BackendStatus, _state
from dltobs._context.current import current_run
from dltobs._runs import step_reader
from scripts import PRELUDE, run_script
from servers import OtlpServer, attributes_of


@pytest.fixture
def other():
    server = OtlpServer()
    yield server
    server.close()


def reconfiguring(configure, *, before=1, after=1, fails=False):
    """A resource that calls `configure` between two of its rows, with a span of its own around each."""

    @dlt.resource(name="orders")
    def rows():
        tracer = trace.get_tracer("shop")
        for number in range(before):
            with tracer.start_as_current_span("ask before"):
                yield {"id": number}
        configure()
        for number in range(after):
            with tracer.start_as_current_span("ask after"):
                yield {"id": before + number}
        if fails:
            raise ValueError("no such order")

    return rows()


def spans_of(*servers):
    return [span for server in servers for span in server.spans]


def assert_is_one_tree(spans, root_name):
    """One trace, one root, no orphan, nothing twice, every span with an end."""
    assert len({span.span_id for span in spans}) == len(spans)
    assert len({span.trace_id for span in spans}) == 1
    (root,) = [span for span in spans if not span.parent_span_id]
    assert root.name == root_name
    assert {span.parent_span_id for span in spans if span is not root} <= {span.span_id for span in spans}
    assert all(0 < span.start_time_unix_nano <= span.end_time_unix_nano for span in spans)
    assert root.trace_id.hex() == attributes_of(root)["dlt.transaction_id"]
    return root


def names_of(spans):
    """How many there are of each name, without the parts that are dlt's own tables."""
    return Counter(span.name for span in spans if "_dlt" not in span.name)


WHOLE = Counter(
    ["run shop", "extract", "normalize", "load", "extract orders", "normalize orders", "load orders"]
)


def points_of(*servers):
    """The value of each counter and the count of each histogram, by what tells them apart."""
    found = Counter()
    for server in servers:
        for point in server.points:
            key = tuple(
                str(point.attributes[name])
                for name in ("dlt.step", "dlt.outcome", "dlt.job.state")
                if name in point.attributes
            )
            is_histogram = point.name.endswith("duration")
            found[(point.name, *key)] += point.data.count if is_histogram else int(point.value)
    return found


def assert_counted_once(points, rows):
    """What one run of 'orders' is in metrics."""
    assert points["dlt.runs", "run", "ok"] == points["dlt.run.duration", "run", "ok"] == 1
    for step in ("extract", "normalize", "load"):
        assert points["dlt.step.duration", step] == 1
        assert points["dlt.rows", step] == rows
    assert points["dlt.jobs", "completed"] == 2  # one of them is dlt's own
    assert sum(count for key, count in points.items() if key[0] == "dlt.runs") == 1


@pytest.mark.parametrize("times", [1, 3])
def test_a_run_goes_on_at_the_new_endpoint(otlp, other, pipeline, times):
    """However often: its spans are one tree, its numbers are counted once, its thread is left as it was."""
    dltobs.configure(otlp_endpoint=otlp.url)

    def configure():
        for number in range(times):
            dltobs.configure(otlp_endpoint=other.url, environment=f"number {number}")

    pipeline().run(reconfiguring(configure))
    assert current_run.get() is None
    assert not trace.get_current_span().get_span_context().is_valid
    dltobs.shutdown()
    spans = spans_of(otlp, other)
    root = assert_is_one_tree(spans, "run shop")
    assert attributes_of(root)["dlt.outcome"] == "ok"
    assert names_of(spans) == WHOLE + Counter(["ask before", "ask after"])
    assert {span.name for span in otlp.spans} == {"ask before"}  # what had ended before
    assert_counted_once(points_of(otlp, other), rows=2)
    assert not otlp.points
    assert dltobs.status() == {
        "otlp": BackendStatus(len(other.spans)),
        "otlp_metrics": BackendStatus(len(other.points)),
    }


def test_the_same_endpoint_gets_everything_once(otlp, pipeline):
    dltobs.configure(otlp_endpoint=otlp.url)
    pipeline().run(reconfiguring(lambda: dltobs.configure(otlp_endpoint=otlp.url, environment="b")))
    dltobs.shutdown()
    assert_is_one_tree(otlp.spans, "run shop")
    assert names_of(otlp.spans) == WHOLE + Counter(["ask before", "ask after"])
    assert_counted_once(points_of(otlp), rows=2)
    resources = {span.name: resource for span, resource in spans_with_resources(otlp)}
    assert "deployment.environment.name" not in resources["ask before"]
    assert {resources[name]["deployment.environment.name"] for name in ("ask after", "run shop")} == {"b"}


def spans_with_resources(server):
    return [
        (span, attributes_of(one.resource))
        for one in server._resource_spans()
        for scope in one.scope_spans
        for span in scope.spans
    ]


def test_a_run_that_fails_afterwards_fails_once(otlp, other, sentry, pipeline):
    """In spans, in metrics and in Sentry."""
    dltobs.configure(otlp_endpoint=otlp.url, sentry_dsn=sentry.dsn)
    failing = reconfiguring(
        lambda: dltobs.configure(otlp_endpoint=other.url, sentry_dsn=sentry.dsn), fails=True
    )
    with pytest.raises(PipelineStepFailed):
        pipeline().run(failing)
    dltobs.shutdown()
    root = assert_is_one_tree(spans_of(otlp, other), "run shop")
    assert attributes_of(root)["dlt.outcome"] == "failed"
    points = points_of(otlp, other)
    assert (points["dlt.runs", "run", "failed"], points["dlt.step.duration", "extract"]) == (1, 1)
    assert len(sentry.events) == 1


def test_what_has_ended_is_the_old_endpoint_s_and_what_ends_later_the_new_one_s(otlp, other, pipeline):
    """A load job reconfigures: each step is told where it ended, and each job with all its tries."""
    dltobs.configure(otlp_endpoint=otlp.url)
    tries = []

    @dlt.destination(name="flaky", batch_size=0)
    def flaky(items, table):
        tries.append(table["name"])
        if len(tries) == 1:
            raise DestinationTransientException("busy")
        dltobs.configure(otlp_endpoint=other.url)

    pipeline(destination=flaky()).run([{"id": 1}], table_name="orders")
    dltobs.shutdown()
    assert len(tries) == 2
    spans = spans_of(otlp, other)
    assert_is_one_tree(spans, "run shop")
    assert names_of(spans) == WHOLE
    assert names_of(other.spans) == Counter(["run shop", "load", "load orders"])
    job = other.named("load orders")
    attempts = [attributes_of(event) for event in job.events if event.name == "attempt"]
    assert [(one["dlt.attempt.number"], one["dlt.attempt.state"]) for one in attempts] == [
        (1, "retry"),
        (2, "completed"),
    ]
    assert attributes_of(job)["dlt.job.retry_count"] == 1
    assert points_of(otlp) == {
        ("dlt.step.duration", "extract"): 1,
        ("dlt.step.duration", "normalize"): 1,
        ("dlt.rows", "extract"): 1,
        ("dlt.rows", "normalize"): 1,
        **{key: value for key, value in points_of(otlp).items() if key[0] == "dlt.bytes"},
    }
    points = points_of(other)
    assert (points["dlt.runs", "run", "ok"], points["dlt.step.duration", "load"]) == (1, 1)
    assert (points["dlt.rows", "load"], points["dlt.jobs", "completed"]) == (1, 2)


def test_a_package_of_a_step_that_was_reconfigured_is_linked_to(otlp, other, pipeline):
    dltobs.configure(otlp_endpoint=otlp.url)
    one = pipeline()
    one.extract(reconfiguring(lambda: dltobs.configure(otlp_endpoint=other.url)))
    dltobs.configure(otlp_endpoint=other.url, environment="b")
    one.normalize()
    one.load()
    dltobs.shutdown()
    extract, normalize = other.named("extract shop"), other.named("normalize shop")
    (link,) = normalize.links
    assert (link.trace_id, link.span_id) == (extract.trace_id, extract.span_id)
    assert {link.trace_id for link in other.named("load shop").links} == {
        extract.trace_id,
        normalize.trace_id,
    }


def test_runs_in_other_threads_go_on_as_well(otlp, other, pipeline):
    """One of them reconfigures while the other one is in its own extract."""
    dltobs.configure(otlp_endpoint=otlp.url)
    is_on, may_go_on = threading.Event(), threading.Event()

    def wait():
        is_on.set()
        may_go_on.wait(30)

    def configure():
        is_on.wait(30)
        dltobs.configure(otlp_endpoint=other.url)

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(pipeline("first").run, reconfiguring(wait))
        second = threads.submit(pipeline("second").run, reconfiguring(configure))
        second.result(60)
        may_go_on.set()
        first.result(60)
    dltobs.shutdown()
    spans = spans_of(otlp, other)
    by_trace = {span.trace_id: [one for one in spans if one.trace_id == span.trace_id] for span in spans}
    roots = {min(tree, key=lambda span: len(span.parent_span_id)).name: tree for tree in by_trace.values()}
    assert roots.keys() == {"run first", "run second"}
    for name, tree in roots.items():
        assert_is_one_tree(tree, name)
        assert len(tree) == 4 + 6 + 2
    points = points_of(otlp, other)
    assert (points["dlt.runs", "run", "ok"], points["dlt.rows", "load"]) == (2, 4)


@pytest.mark.parametrize(("before", "after"), [("off", "auto"), ("auto", "off")])
def test_metrics_that_are_switched_in_a_run_count_what_follows(otlp, pipeline, before, after):
    """On: the steps that end from then on, and the run. Off: nothing any more."""
    dltobs.configure(otlp_endpoint=otlp.url, metrics=before)
    pipeline().run(reconfiguring(lambda: dltobs.configure(otlp_endpoint=otlp.url, metrics=after)))
    dltobs.shutdown()
    assert_is_one_tree(otlp.spans, "run shop")
    if after == "off":
        assert otlp.points == []
    else:
        assert_counted_once(points_of(otlp), rows=2)


def test_tracing_that_is_switched_on_in_a_run_begins_with_the_next_one(otlp, pipeline):
    """Half a tree would be no tree."""
    dltobs.configure(otlp_endpoint=otlp.url, tracing="off")
    pipeline().run(reconfiguring(lambda: dltobs.configure(otlp_endpoint=otlp.url), before=0, after=0))
    pipeline("next").run([{"id": 1}], table_name="orders")
    dltobs.shutdown()
    assert_is_one_tree(otlp.spans, "run next")
    assert {point.attributes["dlt.pipeline.name"] for point in otlp.points} == {"shop", "next"}


def test_tracing_that_is_switched_off_in_a_run_ends_its_spans(otlp, pipeline):
    dltobs.configure(otlp_endpoint=otlp.url)
    pipeline().run(reconfiguring(lambda: dltobs.configure(otlp_endpoint=otlp.url, tracing="off"), after=0))
    assert not trace.get_current_span().get_span_context().is_valid
    pipeline("next").run([{"id": 1}], table_name="orders")
    dltobs.shutdown()
    assert_is_one_tree(otlp.spans, "run shop")
    assert names_of(otlp.spans) == Counter(["run shop", "extract", "ask before"])
    assert points_of(otlp)["dlt.runs", "run", "ok"] == 2


def test_under_the_providers_of_the_application_nothing_is_lost_or_doubled(pipeline):
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([reader]))
    dltobs.configure()
    pipeline().run(reconfiguring(lambda: dltobs.configure(environment="b")))
    dltobs.shutdown()
    spans = exporter.get_finished_spans()
    assert names_of(spans) == WHOLE + Counter(["ask before", "ask after"])
    assert len({span.context.trace_id for span in spans}) == 1
    assert len([span for span in spans if span.parent is None]) == 1
    assert all(span.end_time for span in spans)
    (scope,) = reader.get_metrics_data().resource_metrics[0].scope_metrics
    counts = {metric.name: list(metric.data.data_points) for metric in scope.metrics}
    assert [point.value for point in counts["dlt.runs"]] == [1]
    assert sorted(point.count for point in counts["dlt.step.duration"]) == [1, 1, 1]


def test_the_attempts_of_a_later_run_are_heard_and_nothing_stays_attached(otlp, pipeline):
    from dlt.common.destination.client import RunnableLoadJob

    original = RunnableLoadJob.run_managed
    dltobs.configure(otlp_endpoint=otlp.url)
    pipeline("first").run(reconfiguring(lambda: dltobs.configure(otlp_endpoint=otlp.url, environment="b")))
    tries = []

    @dlt.destination(name="flaky", batch_size=0)
    def flaky(items, table):
        tries.append(table["name"])
        if len(tries) == 1:
            raise DestinationTransientException("busy")

    pipeline(destination=flaky()).run([{"id": 1}], table_name="orders")
    dltobs.shutdown()
    (job,) = [span for span in otlp.spans if attributes_of(span).get("dlt.job.retry_count") == 1]
    assert len([event for event in job.events if event.name == "attempt"]) == 2
    assert RunnableLoadJob.run_managed is original
    assert _state.runtime is None


def test_a_sink_that_reconfigures_in_a_hook_costs_no_span_and_no_point(otlp, other, pipeline):
    """The event that it was given has reached the others already; the next one goes to the new set-up."""

    class Reconfiguring:
        def emit(self, event):
            if isinstance(event, dltobs.StepFinished) and event.step == "normalize":
                dltobs.configure(otlp_endpoint=other.url)

        def flush(self, timeout):
            return True

        def close(self):
            pass

    dltobs.configure(otlp_endpoint=otlp.url, sinks=[Reconfiguring()])
    pipeline().run([{"id": 1}], table_name="orders")
    dltobs.shutdown()
    spans = spans_of(otlp, other)
    assert_is_one_tree(spans, "run shop")
    assert names_of(spans) == WHOLE
    assert_counted_once(points_of(otlp, other), rows=1)


def test_a_hook_that_is_on_while_the_set_up_changes_tells_the_new_one(monkeypatch, otlp, other, pipeline):
    """As where another thread calls configure() while dlt ends a step in this one."""
    original = step_reader.detail_of

    def detail_of(step, info):
        if step == "normalize":
            dltobs.configure(otlp_endpoint=other.url)
        return original(step, info)

    monkeypatch.setattr(step_reader, "detail_of", detail_of)
    dltobs.configure(otlp_endpoint=otlp.url)
    pipeline().run([{"id": 1}], table_name="orders")
    dltobs.shutdown()
    assert_is_one_tree(spans_of(otlp, other), "run shop")
    assert names_of(otlp.spans) == Counter(["extract", "extract orders"])
    assert names_of(spans_of(otlp, other)) == WHOLE
    assert_counted_once(points_of(otlp, other), rows=1)


def test_what_other_libraries_count_goes_on_at_the_new_endpoint(otlp, other, pipeline):
    """From the moment of configure() on, not from the next event of the run."""

    def configure():
        asked = metrics.get_meter("library").create_counter("asked")
        asked.add(1)
        dltobs.configure(otlp_endpoint=other.url)
        asked.add(10)

    dltobs.configure(otlp_endpoint=otlp.url)
    pipeline().run(reconfiguring(configure))
    dltobs.shutdown()
    counted = [[one.value for one in server.points if one.name == "asked"] for server in (otlp, other)]
    assert counted == [[1], [10]]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_workers_of_the_run_and_of_later_ones_use_the_new_settings(tmp_path, otlp, other, method):
    """Their spans, exported from processes of their own, go to the new endpoint, below the right step."""
    result = run_script(
        """
        import dltobs
        import dlt.normalize.normalize as normalize
        from opentelemetry import trace

        original = normalize.w_normalize_files

        def instrumented(*args, **options):
            with trace.get_tracer("library").start_as_current_span("user work"):
                return original(*args, **options)

        normalize.w_normalize_files = instrumented

        if __name__ == "__main__":
            dltobs.configure(otlp_endpoint=os.environ["OLD"], service_name="old")

            def rows(configure):
                def data():
                    yield {"id": 1}
                    configure()
                return [dlt.resource(data, name="one"), dlt.resource([{"id": 1}], name="two")]

            def reconfigure():
                dltobs.configure(otlp_endpoint=os.environ["NEW"], service_name="new")

            pipeline("before").run(rows(lambda: None))
            pipeline("during").run(rows(reconfigure))
            pipeline("after").run(rows(lambda: None))
        """,
        tmp_path,
        prelude=PRELUDE,
        OLD=otlp.url,
        NEW=other.url,
        NORMALIZE__WORKERS="2",
        NORMALIZE__START_METHOD=method,
    )
    assert result.returncode == 0, result.stderr
    assert "dltobs" not in result.stderr
    for server, name, service, runs in ((otlp, "run before", "old", 1), (other, "run after", "new", 2)):
        assert server.named(name)
        workers = [(span, at) for span, at in spans_with_resources(server) if span.name == "user work"]
        assert {at["service.name"] for _, at in workers} == {service}
        steps = {span.span_id: span.trace_id for span in server.spans if span.name == "normalize"}
        assert len(steps) == runs
        assert {span.parent_span_id for span, _ in workers} == steps.keys()
    assert points_of(otlp, other)["dlt.runs", "run", "ok"] == 3
    ids = [span.span_id for span in spans_of(otlp, other)]
    assert len(ids) == len(set(ids))
