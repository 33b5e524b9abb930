"""Makes OpenTelemetry's exporters from the settings and from what they read for themselves of `OTEL_*`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from opentelemetry.sdk.resources import Resource

from dltobs._settings import otel
from dltobs._version import __version__
from dltobs.exceptions import ConfigurationError
from dltobs.sinks.answers import Ear, HearsGrpc, ListeningSession, listening

if TYPE_CHECKING:
    from collections.abc import Callable

    import requests
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.trace.export import SpanExporter

    from dltobs._redaction.redactor import Redactor
    from dltobs._settings.settings import Settings

T = TypeVar("T")

_SENTRY_TAKES = frozenset(
    {"accept", "accept-encoding", "connection", "content-encoding", "content-type", "user-agent"}
)


def span_exporter(
    name: str, settings: Settings, redactor: Redactor, ear: Ear | None = None
) -> tuple[SpanExporter, Ear]:
    """The span exporter `otlp`, `sentry_traces` or `console`, and the ear for its answers: new by default.

    Raises:
        ConfigurationError: It refuses its settings.
    """
    setting = {"otlp": "otlp_endpoint", "sentry_traces": "sentry_traces"}.get(name, "tracing")
    return _checked(lambda ear: _span_exporter(name, settings, ear), setting, redactor, ear)


def metric_exporter(
    name: str, protocol: str, settings: Settings, redactor: Redactor
) -> tuple[MetricExporter, Ear]:
    """The metric exporter `otlp` or `console`, and the ear for its answers.

    Raises:
        ConfigurationError: It refuses its settings.
    """
    setting = "otlp_endpoint" if name == "otlp" else "metrics"
    return _checked(lambda ear: _metric_exporter(name, protocol, settings, ear), setting, redactor)


def address_of(exporter: Any) -> str:
    """Where an exporter sends to, as it has made it out of its argument and the variables."""
    return str(getattr(exporter, "_endpoint", "") or "")


def resource_of(settings: Settings) -> Resource:
    """Resource attributes: those of `OTEL_RESOURCE_ATTRIBUTES`, and ours."""
    attributes: dict[str, str] = {
        "service.name": settings.service_name,
        "telemetry.distro.name": "dltobs",
        "telemetry.distro.version": __version__,
    }
    if settings.environment is not None:
        attributes["deployment.environment.name"] = settings.environment
    return _HashedOnce(Resource.create(attributes))


class _HashedOnce(Resource):
    """A resource that reckons its hash, over its JSON, once: the encoder asks for it with each span."""

    def __init__(self, like: Resource) -> None:
        super().__init__(like.attributes, like.schema_url)
        self._hash = super().__hash__()

    def __hash__(self) -> int:
        return self._hash


def number_of(variable: str, default: int) -> int:
    """A variable that OpenTelemetry reads as a number, raising for some wrong values and logging others."""
    try:
        number = int(os.environ.get(variable, ""))
    except ValueError:
        return default
    return number if number > 0 else default


def _checked(
    make: Callable[[Ear], T], setting: str, redactor: Redactor, ear: Ear | None = None
) -> tuple[T, Ear]:
    """An exporter and its ear. What it only logs while it is made would go wrong at each export."""
    ear = Ear() if ear is None else ear
    ear.complaints.clear()
    problem = None
    try:
        with listening(ear):
            exporter = make(ear)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a setting that it refuses
        problem = f"{type(error).__name__}: {error}"
    else:
        if not ear.complaints:
            return exporter, ear
    for complaint in ear.complaints:
        is_headers = complaint.name == "opentelemetry.util.re"  # it shows the header with its value
        problem = problem or ("the headers cannot be read" if is_headers else complaint.getMessage())
    raise ConfigurationError(
        setting,
        source="environment variables OTEL_EXPORTER_OTLP_*",
        problem=f"the exporter refuses them ({redactor.text(problem or '')})",
        expected="values as in OpenTelemetry's specification; headers are name=value pairs, URL-encoded",
    )


def _span_exporter(name: str, settings: Settings, ear: Ear) -> SpanExporter:
    """An exporter. Headers, TLS, compression and time-out are read from `OTEL_*` by itself."""
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter(out=sys.stdout)
    if name == "otlp" and settings.otlp_protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        spans: SpanExporter = _listening_grpc(GrpcExporter, otel.TRACES, settings.otlp_endpoint, ear)
        return spans
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    if name == "sentry_traces":
        url, auth = sentry_intake(settings.sentry_dsn or "")
        return OTLPSpanExporter(endpoint=url, session=_SentrySession(ear, auth))
    url_or_none = _signal_url(settings.otlp_endpoint, "traces")
    return OTLPSpanExporter(endpoint=url_or_none, session=ListeningSession(ear))


def _metric_exporter(name: str, protocol: str, settings: Settings, ear: Ear) -> MetricExporter:
    """An exporter, as `_span_exporter`; the temporality that a collector wants it reads as well."""
    if name == "console":
        from opentelemetry.sdk.metrics.export import ConsoleMetricExporter

        return ConsoleMetricExporter(out=sys.stdout)
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (
            OTLPMetricExporter as GrpcExporter,
        )

        points: MetricExporter = _listening_grpc(GrpcExporter, otel.METRICS, settings.otlp_endpoint, ear)
        return points
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    url = _signal_url(settings.otlp_endpoint, "metrics")
    return OTLPMetricExporter(endpoint=url, session=ListeningSession(ear))


def _listening_grpc(exporter: type[Any], signal: otel.Signal, endpoint: str | None, ear: Ear) -> Any:
    from grpc import Compression

    # the exporter refuses `none`, which the specification has, and takes an empty variable for a value
    asked = next(filter(None, map(otel.value_of, signal.compressions)), "none").lower()
    known = {"none": Compression.NoCompression, "gzip": Compression.Gzip}
    kind = type(exporter.__name__, (HearsGrpc, exporter), {"ear": ear})
    return kind(endpoint=endpoint, compression=known.get(asked))


def _signal_url(endpoint: str | None, signal: str) -> str | None:
    """The URL for a signal below a collector's base URL; None leaves it to `OTEL_*`."""
    if endpoint is None:
        return None
    return f"{endpoint.rstrip('/')}/v1/{signal}"


def sentry_intake(dsn: str) -> tuple[str, str]:
    """The URL of Sentry's OTLP intake for spans and the value of its `x-sentry-auth`, from a DSN.

    The form of both is that of https://docs.sentry.io/concepts/otlp/.
    """
    parts = urlsplit(dsn)
    path, _, project = parts.path.rstrip("/").rpartition("/")
    host = parts.netloc.rpartition("@")[2]
    url = f"{parts.scheme}://{host}{path}/api/{project}/integration/otlp/v1/traces"
    return url, f"sentry sentry_key={parts.username or ''}"


class _SentrySession(ListeningSession):
    """Speaks to Sentry alone: what `OTEL_*` says of headers and certificates is meant for the collector.

    Its token must not reach Sentry, and its private authority did not sign Sentry's certificate.
    """

    def __init__(self, ear: Ear, auth: str) -> None:
        super().__init__(ear)
        self._auth = auth

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Send what the protocol needs, and the key of the DSN."""
        for name in [name for name in self.headers if name.lower() not in _SENTRY_TAKES]:
            del self.headers[name]
        given = kwargs.get("headers") or {}
        headers = {name: value for name, value in given.items() if name.lower() in _SENTRY_TAKES}
        headers["x-sentry-auth"] = self._auth
        self.cert = None
        return super().request(*args, **{**kwargs, "headers": headers, "verify": True, "cert": None})
