"""How exporters reach their back ends: protocols, TLS, compression, headers, several at once, Sentry's intake."""

from __future__ import annotations

import ssl

import grpc
import pytest
import trustme
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import dltobs
from dltobs import BackendStatus, ConfigurationError, _state
from dltobs.sinks.otlp import sentry_intake
from grpc_server import GrpcServer
from scripts import run_script
from servers import OtlpServer

TRACES_PATH = "/api/42/integration/otlp/v1/traces"


@pytest.fixture(scope="module")
def authority():
    """An authority that nobody knows."""
    return trustme.CA()


@pytest.fixture
def ca_file(authority, tmp_path):
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture
def https(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    server = OtlpServer(context)
    yield server
    server.close()


@pytest.fixture
def grpc_server():
    server = GrpcServer()
    yield server
    server.close()


@pytest.fixture
def warnings(caplog):
    return lambda: [record.getMessage() for record in caplog.records if record.levelno >= 30]


def run(pipeline, **settings):
    """One run under dltobs; gives the numbers of spans and points that were delivered."""
    dltobs.configure(**settings)
    pipeline().run([{"id": 1}], table_name="orders")
    dltobs.shutdown()
    return {name: one.delivered for name, one in dltobs.status().items()}


@pytest.mark.parametrize("compression", ["gzip", "deflate", "none", ""])
def test_http_compresses_as_it_is_told(monkeypatch, otlp, pipeline, compression):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
    delivered = run(pipeline, otlp_endpoint=otlp.url)
    assert (len(otlp.spans), len(otlp.points)) == (delivered["otlp"], delivered["otlp_metrics"])
    named = None if compression in {"none", ""} else compression
    assert {request.headers.get("content-encoding") for request in otlp.all_requests} == {named}


def test_each_signal_may_be_compressed_in_its_own_way(monkeypatch, otlp, pipeline):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "gzip")
    run(pipeline, otlp_endpoint=otlp.url)
    assert otlp.requests[0].headers["content-encoding"] == "gzip"
    assert "content-encoding" not in otlp.metric_requests[0].headers


@pytest.mark.parametrize("compression", ["gzip", "none", ""])
def test_grpc_compresses_as_it_is_told(monkeypatch, grpc_server, pipeline, compression):
    """The SDK's own exporter takes neither `none`, nor a variable that is empty."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
    delivered = run(pipeline, otlp_endpoint=grpc_server.url, otlp_protocol="grpc")
    assert len(grpc_server.spans) == delivered["otlp"] >= 4
    assert len(grpc_server.points) == delivered["otlp_metrics"] > 0


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_an_unknown_compression_is_an_error(monkeypatch, otlp, protocol):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli")
    with pytest.raises(ConfigurationError, match="brotli"):
        dltobs.configure(otlp_endpoint=otlp.url, otlp_protocol=protocol)


@pytest.mark.parametrize("bundle", [None, "public.pem"])
def test_https_is_verified_by_the_authority_that_the_variable_names(
    monkeypatch, https, ca_file, tmp_path, pipeline, bundle
):
    """Also where requests is told of others: its own variable would win against that of a session."""
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    if bundle is not None:
        trustme.CA().cert_pem.write_to_path(str(tmp_path / bundle))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / bundle))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", ca_file)
    delivered = run(pipeline, otlp_endpoint=https.url)
    assert len(https.spans) == delivered["otlp"] >= 4
    assert len(https.points) == delivered["otlp_metrics"] > 0


@pytest.mark.usefixtures("time_to_keep")
def test_a_certificate_that_nobody_vouches_for_is_a_loss(https, pipeline, warnings):
    delivered = run(pipeline, otlp_endpoint=https.url, flush_timeout=3)
    assert delivered == {"otlp": 0, "otlp_metrics": 0}
    assert https.all_requests == []
    assert [message.split(":")[0] for message in sorted(warnings())] == ["otlp", "otlp_metrics"]
    assert dltobs.status()["otlp"].last_error.startswith("certificate not trusted: ")


def test_https_with_a_certificate_of_the_client(monkeypatch, authority, ca_file, tmp_path, pipeline):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    server = OtlpServer(context)
    issued = authority.issue_cert("client")
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "client.pem"))
    issued.private_key_pem.write_to_path(str(tmp_path / "client.key"))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", ca_file)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", str(tmp_path / "client.pem"))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_KEY", str(tmp_path / "client.key"))
    delivered = run(pipeline, otlp_endpoint=server.url)
    server.close()
    assert len(server.spans) == delivered["otlp"] >= 4


def test_grpc_over_tls(monkeypatch, authority, ca_file, pipeline):
    issued = authority.issue_cert("localhost")
    credentials = grpc.ssl_server_credentials(
        [(issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())]
    )
    server = GrpcServer(credentials)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", ca_file)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=data")
    delivered = run(pipeline, otlp_endpoint=server.url, otlp_protocol="grpc")
    server.close()
    assert len(server.spans) == delivered["otlp"] >= 4
    assert len(server.points) == delivered["otlp_metrics"] > 0
    assert server.metadata[0]["x-team"] == "data"


def test_what_a_collector_rejects_over_grpc_is_counted(grpc_server, pipeline, warnings):
    """The SDK's own exporter does not look at the answer."""
    grpc_server.rejected = 1
    run(pipeline, otlp_endpoint=grpc_server.url, otlp_protocol="grpc")
    status = dltobs.status()
    address = grpc_server.url.removeprefix("http://")
    assert {name: one.dropped for name, one in status.items()} == {"otlp": 1, "otlp_metrics": 1}
    assert status["otlp"].delivered == len(grpc_server.spans) - 1
    assert sorted(warnings()) == [
        f"otlp: 1 span could not be delivered: rejected; address {address}",
        f"otlp_metrics: 1 point could not be delivered: rejected; address {address}",
    ]


def test_what_the_second_try_delivers_over_grpc_is_delivered(grpc_server, pipeline, warnings):
    grpc_server.failures = 1
    run(pipeline, otlp_endpoint=grpc_server.url, otlp_protocol="grpc", flush_timeout=10)
    assert dltobs.status()["otlp"] == BackendStatus(len(grpc_server.spans))
    assert grpc_server.spans
    assert warnings() == []


def test_each_signal_may_have_its_own_collector(monkeypatch, otlp, grpc_server, pipeline):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{otlp.url}/v1/traces")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", grpc_server.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc")
    delivered = run(pipeline)
    assert len(otlp.spans) == delivered["otlp"] >= 4
    assert len(grpc_server.points) == delivered["otlp_metrics"] > 0
    assert otlp.metric_requests == grpc_server.traces == []


@pytest.mark.parametrize(
    ("dsn", "url"),
    [
        (
            "https://abc@o1.ingest.us.sentry.io/42",
            "https://o1.ingest.us.sentry.io/api/42/integration/otlp/v1/traces",
        ),
        (
            "http://abc@sentry.local:9000/prefix/7",
            "http://sentry.local:9000/prefix/api/7/integration/otlp/v1/traces",
        ),
        ("https://abc:old@host/1/", "https://host/api/1/integration/otlp/v1/traces"),
    ],
)
def test_the_intake_of_sentry_follows_from_the_dsn(dsn, url):
    assert sentry_intake(dsn) == (url, "sentry sentry_key=abc")


def sentry_server():
    server = OtlpServer()
    return server, f"http://publickey00@127.0.0.1:{server.port}/42"


def test_spans_go_to_a_collector_and_to_sentry(monkeypatch, otlp, pipeline):
    """The token of the collector stays with the collector."""
    server, dsn = sentry_server()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20collectors-token")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    delivered = run(pipeline, otlp_endpoint=otlp.url, sentry_dsn=dsn, sentry_traces=True)
    server.close()
    assert delivered["sentry_traces"] == delivered["otlp"] == len(otlp.spans) == len(server.spans) >= 4
    assert {span.span_id for span in server.spans} == {span.span_id for span in otlp.spans}
    (request,) = [one for one in server.requests if "otlp" in one.path]
    assert request.path == TRACES_PATH
    assert request.headers["x-sentry-auth"] == "sentry sentry_key=publickey00"
    assert request.headers["content-type"] == "application/x-protobuf"
    assert request.headers["content-encoding"] == "gzip"
    assert b"collectors-token" not in server.raw
    assert otlp.requests[0].headers["authorization"] == "Bearer collectors-token"
    assert "x-sentry-auth" not in otlp.requests[0].headers
    assert server.metric_requests == []


def test_sentry_alone_is_an_exporter(pipeline):
    """Metrics it does not take: without a collector there are none."""
    server, dsn = sentry_server()
    delivered = run(pipeline, sentry_dsn=dsn, sentry_traces=True)
    server.close()
    assert delivered["sentry_traces"] == len(server.spans) >= 4
    assert delivered.keys() == {"sentry_traces", "sentry"}


def test_the_authority_of_the_collector_is_not_that_of_sentry(
    monkeypatch, authority, https, ca_file, tmp_path, pipeline
):
    """Else a private one would cut Sentry off: requests' own variable stands for the public ones here."""
    others = trustme.CA()
    others.cert_pem.write_to_path(str(tmp_path / "public.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    others.issue_cert("127.0.0.1").configure_cert(context)
    server = OtlpServer(context)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", ca_file)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "public.pem"))
    run(pipeline, sentry_dsn=f"{server.url.replace('//', '//key@')}/42", sentry_traces=True)
    server.close()
    assert len(server.spans) == dltobs.status()["sentry_traces"].delivered >= 4


@pytest.mark.usefixtures("time_to_keep")
def test_a_back_end_that_is_down_takes_nothing_from_the_other(otlp, pipeline, warnings):
    otlp.status = 500
    server, dsn = sentry_server()
    run(pipeline, otlp_endpoint=otlp.url, sentry_dsn=dsn, sentry_traces=True, metrics="off")
    server.close()
    status = dltobs.status()
    count = len(server.spans)
    assert status["sentry_traces"] == BackendStatus(count)
    assert status["otlp"] == BackendStatus(spooled=count, last_error="HTTP 500 Internal Server Error")
    assert len(warnings()) == 1


def test_sentry_traces_needs_a_dsn(monkeypatch):
    monkeypatch.setenv("DLTOBS__SENTRY_TRACES", "true")
    with pytest.raises(ConfigurationError, match=r"sentry_traces.*DLTOBS__SENTRY_TRACES.*sentry_dsn") as info:
        dltobs.configure()
    assert "SENTRY_DSN" in str(info.value)


def test_sentry_traces_counts_with_a_dsn_of_sentrys_own_variable(monkeypatch, pipeline):
    server, dsn = sentry_server()
    monkeypatch.setenv("SENTRY_DSN", dsn)
    run(pipeline, sentry_traces="true")
    server.close()
    assert server.spans


def test_tracing_off_is_off_for_sentry_too(pipeline):
    server, dsn = sentry_server()
    delivered = run(pipeline, sentry_dsn=dsn, sentry_traces=True, tracing="off")
    server.close()
    assert "sentry_traces" not in delivered
    assert server.spans == []


def test_sentry_traces_beside_the_provider_of_the_application_is_a_warning(pipeline, warnings):
    """What it exports is its own affair."""
    trace.set_tracer_provider(TracerProvider())
    server, dsn = sentry_server()
    run(pipeline, sentry_dsn=dsn, sentry_traces=True)
    server.close()
    assert server.spans == []
    assert len([message for message in warnings() if message.startswith("sentry_traces does nothing")]) == 1


@pytest.mark.parametrize(
    ("variable", "value", "setting"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "tracing"),
        ("OTEL_METRICS_EXPORTER", "prometheus", "metrics"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "thrift", "otlp_protocol"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "thrift", "otlp_protocol"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "not a url", "otlp_endpoint"),
    ],
)
def test_an_unknown_name_is_an_error_that_says_where_it_came_from(
    monkeypatch, otlp, variable, value, setting
):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.url)
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=variable) as info:
        dltobs.configure()
    assert str(info.value).startswith(setting)
    assert _state.runtime is None


@pytest.mark.parametrize(
    "variable", ["OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"]
)
def test_grpc_without_its_extra_names_the_command_that_installs_it(tmp_path, otlp, variable):
    result = run_script(
        """
        import importlib.util
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *rest: None if "grpc" in name else find(name, *rest)
        import dltobs
        try:
            dltobs.configure()
        except dltobs.ConfigurationError as error:
            print(error)
        """,
        tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url,
        **{variable: "grpc"},
    )
    assert "pip install 'dltobs[grpc]'" in result.stdout, result.stderr
    assert variable in result.stdout
