"""The trace context in environment variables: of whoever started us, and for whom we start."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import dlt
import pytest
from opentelemetry import baggage, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import SpanContext
from tenacity import Retrying

import dltobs
from dltobs._context import environment
from dltobs._context.environment import VARIABLES, parent_context
from scripts import run_script
from servers import attributes_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TOKEN = "pl4nted-secret-value"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.fixture(autouse=True)
def _no_context(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    environment._extracted.cache_clear()


def run_once(pipeline, name="shop"):
    pipeline(name).run([{"id": 1}], table_name="orders")


def warnings_of(caplog):
    return [record.message for record in caplog.records if record.name == "dltobs"]


@pytest.fixture
def dltobs_log(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("dltobs"), "propagate", True)
    return caplog


def test_a_run_is_a_child_of_whoever_started_the_process(otlp, pipeline, monkeypatch):
    """The trace id is then that of the parent; the tracestate is passed on, the baggage is there."""
    monkeypatch.setenv("TRACEPARENT", TRACEPARENT)
    monkeypatch.setenv("TRACESTATE", "vendor=1")
    monkeypatch.setenv("BAGGAGE", "tenant=acme")
    seen = {}

    @dlt.resource
    def orders():
        seen["baggage"] = baggage.get_baggage("tenant")
        seen["environment"] = dltobs.propagation_env()
        yield {"id": 1}

    dltobs.configure(otlp_endpoint=otlp.url)
    pipeline().run(orders())
    run_once(pipeline, "next")
    dltobs.shutdown()
    for name in ("shop", "next"):
        root = otlp.named(f"run {name}")
        assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, SPAN)
        assert root.trace_state == "vendor=1"
        assert attributes_of(root)["dlt.transaction_id"] != TRACE
    steps = [span for span in otlp.spans if span.name == "extract"]
    assert {span.trace_id.hex() for span in steps} == {TRACE}
    assert seen["baggage"] == "acme"
    (extract,) = [span for span in steps if span.parent_span_id == otlp.named("run shop").span_id]
    assert seen["environment"]["TRACEPARENT"] == f"00-{TRACE}-{extract.span_id.hex()}-01"
    assert seen["environment"]["TRACESTATE"] == "vendor=1"
    assert seen["environment"]["BAGGAGE"] == "tenant=acme"
    assert os.environ["TRACEPARENT"] == TRACEPARENT
    assert baggage.get_baggage("tenant") is None  # nothing stays attached


def test_a_current_span_comes_first(otlp, pipeline, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", TRACEPARENT)
    dltobs.configure(otlp_endpoint=otlp.url)
    with TracerProvider().get_tracer("app").start_as_current_span("outer") as outer:
        run_once(pipeline)
    dltobs.shutdown()
    root = otlp.named("run shop")
    assert root.trace_id == outer.get_span_context().trace_id.to_bytes(16, "big")
    assert root.parent_span_id == outer.get_span_context().span_id.to_bytes(8, "big")


def test_the_caller_s_decision_not_to_sample_counts(otlp, pipeline, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", f"00-{TRACE}-{SPAN}-00")
    dltobs.configure(otlp_endpoint=otlp.url)
    run_once(pipeline)
    dltobs.shutdown()
    assert not otlp.spans


def unsampled(trace_id=0xA1, *, is_remote=True):
    """A span that records nothing, as a tool makes whose own tracing is off."""
    return trace.NonRecordingSpan(SpanContext(trace_id, 0xB2, is_remote=is_remote))


@pytest.mark.parametrize("is_remote", [True, False])
@pytest.mark.parametrize("provider", ["none", "no-op"])
def test_a_span_of_a_tool_whose_tracing_is_off_does_not_swallow_the_run(otlp, pipeline, is_remote, provider):
    """The run begins a trace of its own, with a link; so does the next one, for which our provider is there."""
    if provider == "no-op":
        trace.set_tracer_provider(trace.NoOpTracerProvider())
    dltobs.configure(otlp_endpoint=otlp.url)
    tool = trace.get_tracer("tool")  # before there is a provider, as most tools do
    for _ in range(2):
        with (
            trace.use_span(unsampled(is_remote=is_remote)),
            tool.start_as_current_span("task"),
        ):
            run_once(pipeline)
            correlation = trace.get_current_span().get_span_context()
            assert correlation.trace_id == 0xA1
    dltobs.shutdown()
    roots = [span for span in otlp.spans if span.name == "run shop"]
    assert [bool(root.parent_span_id) for root in roots] == [False, False]
    assert [[link.trace_id[-1] for link in root.links] for root in roots] == [[0xA1], [0xA1]]
    transactions = [attributes_of(root)["dlt.transaction_id"] for root in roots]
    assert [root.trace_id.hex() for root in roots] == transactions
    steps = [span for span in otlp.spans if span.name in {"extract", "normalize", "load"}]
    assert {step.trace_id for step in steps} == {root.trace_id for root in roots}
    assert len(steps) == 6


def test_a_retry_loop_in_a_tool_whose_tracing_is_off_is_a_trace_of_its_own(otlp, pipeline):
    dltobs.configure(otlp_endpoint=otlp.url)
    with trace.use_span(unsampled()):
        for attempt in Retrying(**dltobs.tenacity_callbacks()):
            with attempt:
                run_once(pipeline)
    dltobs.shutdown()
    (loop,) = [span for span in otlp.spans if span.name.startswith("retry ")]
    assert [link.trace_id[-1] for link in loop.links] == [0xA1]
    assert otlp.named("run shop").trace_id == loop.trace_id


def test_a_tool_whose_tracing_is_off_leaves_the_caller_in_force(otlp, pipeline, monkeypatch):
    """The one who started the process; its decision not to sample as well, though somebody has made it current."""
    monkeypatch.setenv("TRACEPARENT", TRACEPARENT)
    dltobs.configure(otlp_endpoint=otlp.url)
    with trace.use_span(unsampled()):
        run_once(pipeline)
    monkeypatch.setenv("TRACEPARENT", f"00-{TRACE}-{SPAN}-00")
    with trace.use_span(unsampled()):
        run_once(pipeline, "undone")
    with trace.use_span(unsampled(int(TRACE, 16))):
        run_once(pipeline, "undone")
    dltobs.shutdown()
    root = otlp.named("run shop")
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, SPAN)
    assert [link.trace_id[-1] for link in root.links] == [0xA1]
    assert not [span for span in otlp.spans if span.name == "run undone"]


def test_what_a_sampler_has_decided_not_to_sample_is_not_sampled(otlp, pipeline, monkeypatch):
    """Ours, by the variables of OpenTelemetry, or that of the application's provider."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.0")
    dltobs.configure(otlp_endpoint=otlp.url)
    run_once(pipeline)
    with trace.get_tracer("user").start_as_current_span("user"):
        run_once(pipeline)
    dltobs.shutdown()
    assert not otlp.spans


def test_what_the_application_s_sampler_has_decided_counts(pipeline):
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=ParentBased(ALWAYS_ON))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    dltobs.configure()
    with trace.use_span(unsampled()):
        run_once(pipeline)
    dltobs.shutdown()
    assert exporter.get_finished_spans() == ()


@pytest.mark.parametrize(
    "value",
    ["garbage", f"00-{TRACE}-{SPAN}", f"00-{'0' * 32}-{SPAN}-01", f"ff-{TRACE}-{SPAN}-01", "x" * 5000],
)
def test_a_malformed_traceparent_is_ignored_with_one_warning(otlp, pipeline, monkeypatch, dltobs_log, value):
    monkeypatch.setenv("TRACEPARENT", value)
    monkeypatch.setenv("TRACESTATE", "vendor=1")
    dltobs.configure(otlp_endpoint=otlp.url)
    run_once(pipeline)
    run_once(pipeline, "next")
    dltobs.shutdown()
    root = otlp.named("run shop")
    assert not root.parent_span_id
    assert root.trace_id.hex() == attributes_of(root)["dlt.transaction_id"]
    assert not root.trace_state
    (warning,) = warnings_of(dltobs_log)
    assert warning.startswith("the environment variable TRACEPARENT is ignored: ")
    assert len(warning) < 300


def test_an_empty_traceparent_is_none(otlp, pipeline, monkeypatch, dltobs_log):
    monkeypatch.setenv("TRACEPARENT", " ")
    dltobs.configure(otlp_endpoint=otlp.url)
    run_once(pipeline)
    dltobs.shutdown()
    assert not otlp.named("run shop").parent_span_id
    assert not warnings_of(dltobs_log)


def test_baggage_alone_leaves_the_run_its_own_trace(otlp, pipeline, monkeypatch):
    monkeypatch.setenv("BAGGAGE", "tenant=acme")
    dltobs.configure(otlp_endpoint=otlp.url)
    run_once(pipeline)
    dltobs.shutdown()
    root = otlp.named("run shop")
    assert root.trace_id.hex() == attributes_of(root)["dlt.transaction_id"]


def test_without_tracing_the_environment_is_not_read(pipeline, monkeypatch, dltobs_log):
    """Lines bear the transaction id, by which the run is found again."""
    monkeypatch.setenv("TRACEPARENT", "garbage")
    dltobs.configure(tracing="off")
    run_once(pipeline)
    assert not warnings_of(dltobs_log)


def test_the_environment_for_a_child_is_a_copy(monkeypatch):
    """Without a current span it names none, although we have a parent ourselves."""
    monkeypatch.setenv("TRACEPARENT", TRACEPARENT)
    monkeypatch.setenv("TRACESTATE", "vendor=1")
    monkeypatch.setenv("BAGGAGE", "tenant=acme")
    before = dict(os.environ)
    environment = dltobs.propagation_env()
    assert environment == {name: value for name, value in before.items() if name not in VARIABLES}
    environment["MORE"] = "1"
    assert dict(os.environ) == before


def test_the_environment_for_a_child_names_the_current_span_alone(monkeypatch):
    """What it does not have is not left over from our own parent."""
    monkeypatch.setenv("TRACEPARENT", TRACEPARENT)
    monkeypatch.setenv("TRACESTATE", "vendor=1")
    monkeypatch.setenv("BAGGAGE", "tenant=acme")
    with TracerProvider().get_tracer("app").start_as_current_span("outer") as span:
        environment = dltobs.propagation_env()
    context = span.get_span_context()
    # the flags depend on the version of the SDK
    assert environment["TRACEPARENT"].startswith(f"00-{context.trace_id:032x}-{context.span_id:016x}-0")
    assert environment.keys() & set(VARIABLES) == {"TRACEPARENT"}


def test_a_child_process_is_part_of_the_trace(tmp_path, otlp):
    """A pipeline that runs another one in a process of its own."""
    result = run_script(
        """
        import subprocess
        import dltobs
        dltobs.configure()
        name = sys.argv[1] if len(sys.argv) > 1 else "outer"
        @dlt.resource
        def orders():
            if name == "outer":
                command = [sys.executable, "script.py", "inner"]
                subprocess.run(command, env=dltobs.propagation_env(), check=True)
            yield {"id": 1}
        pipeline(name).run(orders())
        """,
        tmp_path,
        DLTOBS__OTLP_ENDPOINT=otlp.url,
        DLTOBS__METRICS="off",
    )
    assert result.returncode == 0, result.stderr
    outer, inner = otlp.named("run outer"), otlp.named("run inner")
    assert inner.trace_id == outer.trace_id
    extract = next(span for span in otlp.spans if span.span_id == inner.parent_span_id)
    assert (extract.name, extract.parent_span_id) == ("extract", outer.span_id)


def test_the_import_and_the_call_load_no_opentelemetry(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, dltobs; dltobs.propagation_env(); print('opentelemetry' in sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "False\n"


def test_the_example_in_the_docstring_runs(tmp_path):
    _, _, rest = (dltobs.propagation_env.__doc__ or "").partition("```python\n")
    code = "\n".join(line.removeprefix("    ") for line in rest.partition("```")[0].splitlines())
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "a child of the current span\n"), done.stderr


def test_there_is_no_parent_without_variables():
    assert parent_context() is None
    assert not trace.get_current_span().get_span_context().is_valid


def test_the_warning_of_a_malformed_traceparent_cuts_no_secret_in_half(
    pipeline, monkeypatch, otlp, dltobs_log
):
    monkeypatch.setenv("API_KEY", TOKEN)
    monkeypatch.setenv("TRACEPARENT", "x" * (80 - len(TOKEN) // 2) + TOKEN)
    dltobs.configure(otlp_endpoint=otlp.url)
    dlt.secrets["api_key"]
    run_once(pipeline)
    (warning,) = warnings_of(dltobs_log)
    assert "xxx***" in warning
    assert TOKEN[:4] not in warning


@pytest.mark.parametrize(
    ("variable", "value"),
    [("TRACESTATE", f"{TOKEN}=== ,"), ("BAGGAGE", f"a b;=,{TOKEN}"), ("BAGGAGE", f"{TOKEN}é=1")],
)
def test_what_opentelemetry_says_of_the_other_two_shows_no_value(tmp_path, otlp, variable, value):
    """Its own warning would hold the value; ours names the variable, once."""
    result = run_script(
        """
        import dltobs

        dltobs.configure()
        dlt.secrets["api_key"]
        for name in ("shop", "next"):
            pipeline(name).run([{"id": 1}], table_name="orders")
        """,
        tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url,
        API_KEY=TOKEN,
        TRACEPARENT=TRACEPARENT,
        **{variable: value},
    )
    assert result.returncode == 0, result.stderr
    assert TOKEN not in result.stderr + result.stdout
    assert result.stderr.count(f"the environment variable {variable} is malformed") == 1
    assert otlp.named("run shop").trace_id.hex() == TRACE
