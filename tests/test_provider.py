"""The tracer provider that dltobs builds, and what its exporters let out."""

from __future__ import annotations

import threading
from concurrent import futures

import dlt
import grpc
import pytest
import requests
from dlt.pipeline.exceptions import PipelineStepFailed
from opentelemetry import metrics, trace
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.instrumentation.urllib3 import URLLib3Instrumentor
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Link, SpanContext, TraceFlags

import dltobs
from conftest import SECRET
from dltobs import Redactor, _state
from dltobs.sinks import exporters
from scripts import run_script
from servers import OtlpServer, Server, attributes_of

TOKEN = "pl4nted-secret-value"
"""A secret that is well-formed in a trace state."""


@pytest.fixture(autouse=True)
def _steps_alone(monkeypatch):
    """Four spans a run, sent when it is over; those of jobs have tests of their own."""
    monkeypatch.setenv("DLTOBS__MAX_JOB_SPANS", "0")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")  # no tick, however long a run takes


@dlt.resource
def broken():
    yield {"id": 1}
    raise ValueError("no such order")


@pytest.fixture
def instrumented():
    """The user's instrumentation of HTTP clients."""
    instrumentors = (RequestsInstrumentor(), URLLib3Instrumentor())
    for instrumentor in instrumentors:
        instrumentor.instrument()
    yield
    for instrumentor in instrumentors:
        instrumentor.uninstrument()


def run_once(pipeline, name="shop"):
    pipeline(name).run([{"id": 1}], table_name="orders")


def user_span(name="user", **attributes):
    """A span of another library, through the global provider."""
    with trace.get_tracer("library").start_as_current_span(name, attributes=attributes) as span:
        pass
    return span


@pytest.mark.parametrize("variables", [{}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_without_an_exporter_there_is_no_provider_and_no_traffic(tmp_path, variables):
    """Not even to the default endpoint of OpenTelemetry."""
    result = run_script(
        """
        import socket
        def refuse(self, address):
            print("connects to", address)
            raise OSError
        socket.socket.connect = refuse
        import dltobs
        from opentelemetry import trace
        dltobs.configure()
        pipeline().run([{"id": 1}], table_name="orders")
        print(type(trace.get_tracer_provider()).__name__, dict(dltobs.status()))
        """,
        tmp_path,
        **variables,
    )
    assert result.stdout.splitlines() == ["ProxyTracerProvider {}"], result.stderr


def test_the_console_exporter_prints_spans_to_stdout(tmp_path):
    result = run_script(
        """
        import dltobs
        dltobs.configure()
        pipeline().run([{"id": 1}], table_name="orders")
        dltobs.shutdown()
        print(dltobs.status()["console"].delivered, file=sys.stderr)
        """,
        tmp_path,
        OTEL_TRACES_EXPORTER="console",
        DLTOBS__MAX_JOB_SPANS="0",
    )
    assert '"name": "run shop"' in result.stdout
    assert result.stderr == "4\n"


def test_two_exporters_are_served_and_counted_each(tmp_path, otlp):
    result = run_script(
        """
        import dltobs
        dltobs.configure()
        pipeline().run([{"id": 1}], table_name="orders")
        dltobs.shutdown()
        print({name: status.delivered for name, status in dltobs.status().items()}, file=sys.stderr)
        """,
        tmp_path,
        OTEL_TRACES_EXPORTER="otlp,console",
        OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url,
        OTEL_METRICS_EXPORTER="none",
        DLTOBS__MAX_JOB_SPANS="0",
    )
    assert result.stderr == "{'otlp': 4, 'console': 4}\n"
    assert len(otlp.spans) == 4
    assert '"name": "run shop"' in result.stdout


@pytest.mark.parametrize("order", ["before configure", "after configure"])
def test_the_provider_of_the_application_is_used_if_it_is_set_before_the_first_run(tmp_path, otlp, order):
    """Nothing goes to our own endpoint then."""
    steps = ["application()", "dltobs.configure()"]
    result = run_script(
        f"""
        import dltobs
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor, ConsoleSpanExporter

        def application():
            provider = TracerProvider()
            provider.add_span_processor(SimpleSpanProcessor(
                ConsoleSpanExporter(formatter=lambda span: span.name + "\\n")))
            trace.set_tracer_provider(provider)

        {"; ".join(steps if order.startswith("before") else reversed(steps))}
        pipeline().run([{{"id": 1}}], table_name="orders")
        dltobs.shutdown()
        trace.get_tracer("user").start_span("still works").end()
        """,
        tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url,
        DLTOBS__MAX_JOB_SPANS="0",
    )
    assert result.stdout.split("\n")[:-1] == ["extract", "normalize", "load", "run shop", "still works"], (
        result.stderr
    )
    assert otlp.requests == []


def test_otel_sdk_disabled_disables(monkeypatch, otlp, pipeline):
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    dltobs.configure(otlp_endpoint=otlp.url)
    run_once(pipeline)
    dltobs.shutdown()
    assert otlp.requests == []


def test_the_sampler_counts(monkeypatch, otlp, pipeline):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    dltobs.configure(otlp_endpoint=otlp.url)
    run_once(pipeline)
    dltobs.shutdown()
    assert otlp.requests == []
    assert dltobs.status()["otlp"] == dltobs.BackendStatus()


def test_resource_attributes_headers_and_the_path_count(monkeypatch, otlp, pipeline):
    """The base URL gets the path of the signal, the signal's own URL is used as it is."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=data,service.version=7")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"authorization=Bearer%20{SECRET.replace('%', '%25')}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"{otlp.url}/base/")
    dltobs.configure(service_name="shop", environment="test")
    run_once(pipeline)
    dltobs.shutdown()
    (request,) = otlp.requests
    assert request.path == "/base/v1/traces"
    assert request.headers["authorization"] == f"Bearer {SECRET}"
    resource = otlp.resources[0]
    expected = {
        "service.name": "shop",
        "deployment.environment.name": "test",
        "team": "data",
        "service.version": "7",
        "telemetry.distro.name": "dltobs",
    }
    assert expected.items() <= resource.items()


def test_the_token_of_a_header_is_a_known_secret(monkeypatch, otlp):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=hunter22%2Fx")
    dltobs.configure(otlp_endpoint=otlp.url)
    assert _state.runtime is not None
    assert _state.runtime.redactor.text("sent hunter22/x") == "sent ***"


def test_a_new_service_name_is_on_the_spans_of_the_new_set_up(otlp, pipeline):
    """Though OpenTelemetry's global provider, which bears it, cannot be exchanged."""
    dltobs.configure(otlp_endpoint=otlp.url, service_name="old", environment="test")
    run_once(pipeline)
    dltobs.configure(otlp_endpoint=otlp.url, service_name="new")
    run_once(pipeline)
    user_span()
    dltobs.shutdown()
    assert [resource["service.name"] for resource in otlp.resources] == ["old", "new"]
    assert "deployment.environment.name" not in otlp.resources[1]


def test_after_shutdown_the_global_provider_exports_nothing(otlp, pipeline):
    dltobs.configure(otlp_endpoint=otlp.url)
    run_once(pipeline)
    dltobs.shutdown()
    before = len(otlp.requests)
    provider = trace.get_tracer_provider()
    user_span()
    assert isinstance(provider, TracerProvider)
    assert provider.force_flush()
    assert len(otlp.requests) == before


def test_what_other_libraries_put_on_spans_is_clean_on_the_wire(monkeypatch, otlp, pipeline):
    """Name, attributes of every type, events, links and status."""
    monkeypatch.setenv("API_KEY", SECRET)
    dltobs.configure(otlp_endpoint=otlp.url)

    @dlt.resource
    def orders(api_key: str = dlt.secrets.value):
        link = Link(SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1)), {"via": api_key})
        tracer = trace.get_tracer("library")
        with tracer.start_as_current_span(f"GET {api_key}", links=[link]) as span:
            span.set_attributes(
                {
                    "url.full": f"https://shop.example/?token={api_key}",
                    "several": [api_key, "plain"],
                    "raw": api_key.encode(),
                    "service.name": api_key,
                    "number": 7,
                    "flag": True,
                    "ratio": 0.5,
                }
            )
            span.add_event(f"sent {api_key}", {"body": api_key})
            span.record_exception(ValueError(api_key))
            span.set_status(trace.StatusCode.ERROR, f"401 for {api_key}")
        yield {"id": 1}

    pipeline().run(orders())
    dltobs.shutdown()
    assert SECRET.encode() not in otlp.raw
    span = otlp.named("GET ***")
    attributes = attributes_of(span)
    assert attributes["url.full"] == "https://shop.example/?token=***"
    assert [value.string_value for value in attributes["several"].values] == ["***", "plain"]
    assert (attributes["number"], attributes["flag"], attributes["ratio"]) == (7, True, 0.5)
    assert span.status.message == "401 for ***"
    assert span.events[0].name == "sent ***"
    assert attributes_of(span.links[0]) == {"via": "***"}
    assert span.links[0].span_id == (2).to_bytes(8, "big")
    assert span.parent_span_id == otlp.named("extract").span_id


@pytest.mark.parametrize("place", ["name", "attribute", "key", "event", "event attribute", "link", "status"])
def test_a_secret_in_one_place_of_one_span_is_found(otlp, pipeline, place):
    """The other spans of the batch have none, so that one scan is for all of them."""
    dltobs.configure(otlp_endpoint=otlp.url)
    run_once(pipeline)
    _state.runtime.redactor.add(TOKEN)

    def at(where):
        return f"a {TOKEN if place == where else 'b'} c"

    link = Link(SpanContext(1, 2, is_remote=True), {"via": at("link")})
    with trace.get_tracer("library").start_as_current_span(at("name"), links=[link]) as span:
        span.set_attributes({"one": at("attribute"), at("key"): 1})
        span.add_event(at("event"), {"two": at("event attribute")})
        span.set_status(trace.StatusCode.ERROR, at("status"))
    dltobs.shutdown()
    assert len(otlp.requests) == 1
    assert TOKEN.encode() not in otlp.raw
    assert otlp.raw.count(b"a *** c") == 1
    assert otlp.named("run shop")


def test_a_batch_without_a_secret_is_looked_at_once(monkeypatch, otlp, pipeline):
    """With events and links in it, too."""
    looked_at = []
    monkeypatch.setattr(exporters, "clean_span", lambda span, *_: looked_at.append(span) or span)
    dltobs.configure(otlp_endpoint=otlp.url)
    run_once(pipeline)
    link = Link(SpanContext(1, 2, is_remote=True), {"via": "a"})
    with trace.get_tracer("library").start_as_current_span("get", links=[link]) as span:
        span.add_event("sent", {"body": "b"})
    dltobs.shutdown()
    assert otlp.named("get").events
    assert otlp.named("load").events
    assert not looked_at


def test_a_secret_in_a_resource_attribute_is_clean_on_the_wire(monkeypatch, otlp, pipeline):
    """One that dlt resolves only after the provider has been built."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "note=hunter22,other=x")
    monkeypatch.setenv("API_KEY", "hunter22")
    dltobs.configure(otlp_endpoint=otlp.url)

    @dlt.resource
    def orders(api_key: str = dlt.secrets.value):
        yield {"id": 1}

    run_once(pipeline, "before")
    pipeline().run(orders())
    dltobs.shutdown()
    assert {resource["note"] for resource in otlp.resources} == {"***"}
    assert {resource["other"] for resource in otlp.resources} == {"x"}


def test_ids_numbers_and_our_own_words_are_unaltered_whatever_is_secret(monkeypatch, otlp, pipeline):
    """`duckdb`, `123456`, the pipeline's name and a step's are somebody's passwords."""
    for number, secret in enumerate(("duckdb", "123456", "extract", "shop_pipeline", "ValueError")):
        monkeypatch.setenv(f"API_KEY_{number}", secret)
    dltobs.configure(otlp_endpoint=otlp.url)

    @dlt.resource
    def orders():
        for number in range(5):
            _ = dlt.secrets[f"api_key_{number}"]  # dlt resolves it
        yield {"id": 1}
        user_span("numbers", number=123456, text="pays 123456 by duckdb")
        raise ValueError("123456")

    with pytest.raises(PipelineStepFailed):
        pipeline("shop_pipeline").run(orders())
    dltobs.shutdown()
    root = attributes_of(otlp.named("run shop_pipeline"))
    assert root["dlt.destination.type"] == "dlt.destinations.duckdb"
    assert root["dlt.pipeline.name"] == "shop_pipeline"
    assert root["error.type"] == "ValueError"
    assert attributes_of(otlp.named("extract"))["dlt.step"] == "extract"
    numbers = attributes_of(otlp.named("numbers"))
    assert numbers["number"] == 123456
    assert numbers["text"] == "pays *** by ***"
    assert attributes_of(otlp.named("run shop_pipeline").events[0])["exception.message"] == "***"


def test_a_redactor_that_fails_lets_spans_out_without_their_texts(monkeypatch, otlp, pipeline):
    dltobs.configure(otlp_endpoint=otlp.url)

    def fail(self, *args):
        raise RuntimeError("broken redactor")

    @dlt.resource
    def orders():
        user_span(f"GET {SECRET}", url=SECRET, several=[SECRET], number=7)
        yield {"id": 1}
        raise ValueError(SECRET)

    monkeypatch.setattr(Redactor, "text", fail)
    monkeypatch.setattr(Redactor, "redact", fail)
    with pytest.raises(PipelineStepFailed):
        pipeline().run(orders())
    dltobs.shutdown()
    assert SECRET.encode() not in otlp.raw
    root = otlp.named("run shop")
    assert attributes_of(root)["error.type"] == "ValueError"
    assert attributes_of(root.events[0])["exception.message"] == "[withheld]"
    foreign = attributes_of(otlp.named("[withheld]"))
    assert foreign["url"] == "[withheld]"
    assert foreign["number"] == 7
    assert root.trace_id.hex() == attributes_of(root)["dlt.transaction_id"]


def test_our_own_requests_are_not_traced_by_the_users_instrumentation(instrumented, otlp, sentry, pipeline):
    """Neither those to the collector nor those to Sentry; the user's own are, below their step."""
    shop = Server()
    dltobs.configure(otlp_endpoint=otlp.url, sentry_dsn=sentry.dsn, max_job_spans=0)

    @dlt.resource
    def orders():
        requests.post(f"{shop.url}/orders?api_key={SECRET}", timeout=10)
        yield {"id": 1}
        raise ValueError("no such order")

    with pytest.raises(PipelineStepFailed):
        pipeline("first").run(orders())
    with pytest.raises(PipelineStepFailed):
        pipeline().run(orders())
    dltobs.shutdown()
    shop.close()
    assert len(sentry.events) == 2
    foreign = [span for span in otlp.spans if span.name == "POST"]
    assert len(foreign) == 2
    assert {span.parent_span_id for span in foreign} == {
        span.span_id for span in otlp.spans if span.name == "extract"
    }
    assert SECRET.encode() not in otlp.raw
    assert len(otlp.spans) == 6
    assert otlp.metric_requests
    for server in (otlp, sentry):
        assert all("traceparent" not in request.headers for request in server.all_requests)


def test_two_first_runs_at_once_install_one_provider(monkeypatch, otlp, pipeline):
    """Else the spans of one of them are in a queue that nobody exports."""
    from dltobs.sinks import provider

    installed = []
    original = provider.OwnTracing.install
    barrier = threading.Barrier(2, timeout=30)

    def install(self):
        installed.append(self)
        return original(self)

    monkeypatch.setattr(provider.OwnTracing, "install", install)
    dltobs.configure(otlp_endpoint=otlp.url)

    def work(name):
        one = pipeline(name)
        barrier.wait()
        one.run([{"id": 1}], table_name="orders")

    threads = [threading.Thread(target=work, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    dltobs.shutdown()
    assert len(installed) == 1
    assert len(otlp.spans) == 8


@pytest.mark.parametrize("size", ["100", "0", "many", ""])
def test_variables_of_the_batch_processor_neither_fail_nor_lose(monkeypatch, otlp, pipeline, caplog, size):
    """OpenTelemetry raises for some of them at the first run."""
    for name in ("OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_SCHEDULE_DELAY", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"):
        monkeypatch.setenv(name, size)
    dltobs.configure(otlp_endpoint=otlp.url)
    run_once(pipeline)
    dltobs.shutdown()
    assert dltobs.status()["otlp"] == dltobs.BackendStatus(delivered=4)
    assert [record for record in caplog.records if record.levelname != "INFO"] == []


def test_a_full_queue_is_counted_and_spares_our_own_spans(monkeypatch, otlp, pipeline, caplog):
    """A user's instrumentation makes more spans than the queue holds, while the collector is slow."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "20")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    dltobs.configure(otlp_endpoint=otlp.url)
    otlp.delay = 0.3

    @dlt.resource
    def orders():
        for _ in range(200):
            user_span()
        yield {"id": 1}

    pipeline().run(orders())
    status = dltobs.status()["otlp"]
    assert status.dropped > 0
    assert status.last_error == "queue full"
    dltobs.shutdown()
    status = dltobs.status()["otlp"]
    assert status.delivered + status.dropped == 204
    assert status.delivered == len(otlp.spans)
    assert {"extract", "normalize", "load", "run shop"} <= {span.name for span in otlp.spans}
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [f"otlp: 1 span could not be delivered: queue full; address {otlp.url}/v1/traces"]


class GrpcCollector(trace_service_pb2_grpc.TraceServiceServicer):
    """A collector that speaks gRPC."""

    def __init__(self):
        self.requests = []
        self.metadata = []
        self.code = None
        self.server = grpc.server(futures.ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def Export(self, request, context):  # noqa: N802 - the name is gRPC's
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        if self.code is not None:
            context.abort(self.code, "no")
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def grpc_collector():
    collector = GrpcCollector()
    yield collector
    collector.server.stop(0).wait()


def test_grpc_delivers(monkeypatch, grpc_collector, pipeline):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=data")
    dltobs.configure(otlp_endpoint=f"http://127.0.0.1:{grpc_collector.port}", otlp_protocol="grpc")
    run_once(pipeline)
    dltobs.shutdown()
    (request,) = grpc_collector.requests
    (resource,) = request.resource_spans
    assert [span.name for span in resource.scope_spans[0].spans] == [
        "extract", "normalize", "load", "run shop",
    ]  # fmt: skip
    assert grpc_collector.metadata[0]["x-team"] == "data"
    assert dltobs.status()["otlp"] == dltobs.BackendStatus(delivered=4)


@pytest.mark.parametrize(
    ("code", "settings", "status", "sentence"),
    [
        (
            grpc.StatusCode.UNAUTHENTICATED,
            {},
            {"dropped": 4},
            (
                "could not be delivered: gRPC UNAUTHENTICATED; address {}; "
                "look at the headers in OTEL_EXPORTER_OTLP_HEADERS"
            ),
        ),
        (
            grpc.StatusCode.UNAVAILABLE,
            {"flush_timeout": 3},
            {"spooled": 4},
            "kept in the spool (gRPC UNAVAILABLE); address {}",
        ),
    ],
)
@pytest.mark.usefixtures("time_to_keep")
def test_grpc_names_the_status_that_it_got(
    grpc_collector, pipeline, caplog, code, settings, status, sentence
):
    """One that ends it at once, and one that is tried again until the deadline."""
    grpc_collector.code = code
    dltobs.configure(
        otlp_endpoint=f"http://127.0.0.1:{grpc_collector.port}",
        otlp_protocol="grpc",
        metrics="off",
        **settings,
    )
    run_once(pipeline)
    dltobs.shutdown()
    assert dltobs.status()["otlp"] == dltobs.BackendStatus(**status, last_error=f"gRPC {code.name}")
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= 30]
    assert warnings == ["otlp: 4 spans " + sentence.format(f"127.0.0.1:{grpc_collector.port}")]


def test_tracing_on_without_an_exporter_gives_ids_and_sends_nothing(pipeline):
    """For the trace ids of log lines and Sentry."""
    dltobs.configure(tracing="on")
    seen = []

    @dlt.resource
    def orders():
        seen.append(trace.get_current_span().get_span_context())
        yield {"id": 1}

    one = pipeline()
    one.run(orders())
    assert format(seen[0].trace_id, "032x") == one.last_trace.transaction_id
    assert dltobs.status() == {}


def test_spans_between_two_set_ups_go_nowhere_and_count_nowhere(otlp, pipeline):
    other = OtlpServer()
    dltobs.configure(otlp_endpoint=otlp.url)
    run_once(pipeline)
    dltobs.shutdown()
    user_span("between")
    dltobs.configure(otlp_endpoint=other.url)
    run_once(pipeline, "second")
    dltobs.shutdown()
    assert "between" not in {span.name for server in (otlp, other) for span in server.spans}
    assert dltobs.status()["otlp"] == dltobs.BackendStatus(delivered=4)
    other.close()


def test_a_value_that_opentelemetry_has_cut_in_a_secret_keeps_no_half_of_it(monkeypatch, otlp, pipeline):
    """Its limit cuts when the attribute is set, long before anything is redacted."""
    monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "24")
    monkeypatch.setenv("API_KEY", SECRET)

    @dlt.resource
    def rows(api_key: str = dlt.secrets.value):
        with trace.get_tracer("user").start_as_current_span("get") as span:
            span.set_attribute("url.full", f"http://h/{api_key}")
            span.set_attribute("short", "http://h/")
        yield {"id": 1}

    dltobs.configure(otlp_endpoint=otlp.url, console="off")
    pipeline().run(rows())
    dltobs.shutdown()
    attributes = attributes_of(otlp.named("get"))
    assert attributes == {"url.full": "http://h/***", "short": "http://h/"}


@pytest.mark.parametrize(("key", "state"), [("vendor", "vendor=a***b,other=1"), (TOKEN, "other=1")])
def test_a_secret_in_the_trace_state_is_clean_on_the_wire(monkeypatch, otlp, pipeline, key, state):
    """It comes from whoever started us and stands on every span; what we pass on to our own children keeps it."""
    monkeypatch.setenv("API_KEY", TOKEN)
    given = f"{key}=a{TOKEN}b,other=1"
    context = trace.SpanContext(
        int("1" * 32, 16), int("2" * 16, 16), is_remote=True,
        trace_flags=trace.TraceFlags(1), trace_state=trace.TraceState.from_header([given]),
    )  # fmt: skip
    seen = []

    @dlt.resource
    def orders():
        tracer = trace.get_tracer("user")
        tracer.start_span("linked", links=[trace.Link(context)]).end()
        seen.append(dltobs.propagation_env()["TRACESTATE"])
        yield {"id": 1}

    dltobs.configure(otlp_endpoint=otlp.url)
    dlt.secrets["api_key"]
    with trace.use_span(trace.NonRecordingSpan(context)):
        pipeline().run(orders())
    dltobs.shutdown()
    assert TOKEN.encode() not in otlp.raw
    assert {span.trace_state for span in otlp.spans} == {state}
    (linked,) = [span for span in otlp.spans if span.name == "linked"]
    assert linked.links[0].trace_id == b"\x11" * 16
    assert seen == [given]


def test_a_secret_in_an_instrumentation_scope_is_clean_on_the_wire(monkeypatch, otlp, pipeline):
    """Name, version, schema URL and attributes, of spans and of metrics; of those the description, too."""
    monkeypatch.setenv("API_KEY", TOKEN)
    dltobs.configure(otlp_endpoint=otlp.url)
    dlt.secrets["api_key"]
    scope = f"library {TOKEN}", TOKEN, None, f"https://schemas.example/?token={TOKEN}", {"key": TOKEN}

    @dlt.resource
    def orders():
        trace.get_tracer(*scope).start_span("user").end()
        counter = metrics.get_meter(*scope).create_counter("calls", "{call}", f"with {TOKEN}")
        counter.add(1)
        yield {"id": 1}

    pipeline().run(orders())
    dltobs.shutdown()
    assert TOKEN.encode() not in otlp.raw
    (span,) = [
        (scope.scope, scope.schema_url)
        for request in otlp.requests
        for resource in ExportTraceServiceRequest.FromString(request.body).resource_spans
        for scope in resource.scope_spans
        if scope.scope.name != "dltobs"
    ]
    assert (span[0].name, span[0].version) == ("library ***", "***")
    assert attributes_of(span[0]) == {"key": "***"}
    assert span[1] == "https://schemas.example/?token=***"
    assert "calls" in {point.name for point in otlp.points}
