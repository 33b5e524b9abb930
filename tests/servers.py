"""Back ends on loopback: an OTLP collector and a Sentry, which keep every byte that they get."""

from __future__ import annotations

import gzip
import json
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable


class Request:
    """One request as it came: path, headers (lower case) and body, decompressed."""

    def __init__(self, path: str, headers: dict[str, str], body: bytes) -> None:
        self.path = path
        self.headers = headers
        self.body = body


class Server:
    """An HTTP server on loopback, on a free port if none is given.

    Set `status` to the code to answer with, `delay` to seconds to wait before, `headers` to add some. Clear
    `gate`, and nobody is answered until it is set again. With a TLS context it speaks HTTPS.
    """

    content_type = "application/json"
    content = b"{}"

    def __init__(self, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.requests: list[Request] = []
        self.status = 200
        self.delay = 0.0
        self.gate = threading.Event()
        self.gate.set()
        self.headers: dict[str, str] = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                elif self.headers.get("content-encoding") == "deflate":
                    body = zlib.decompress(body)
                headers = {key.lower(): value for key, value in self.headers.items()}
                server.received(Request(self.path, headers, body))
                server.gate.wait(60)
                time.sleep(server.delay)
                try:
                    self.send_response(server.status_for(self.path))
                    self.send_header("content-type", server.content_type)
                    for key, value in server.headers.items():
                        self.send_header(key, value)
                    self.send_header("content-length", str(len(server.content)))
                    self.end_headers()
                    self.wfile.write(server.content)
                except OSError:
                    pass  # the client has given up

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self._scheme = "http" if tls is None else "https"
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def received(self, request: Request) -> None:
        self.requests.append(request)

    def status_for(self, path: str) -> int:
        return self.status

    @property
    def all_requests(self) -> list[Request]:
        return self.requests

    @property
    def raw(self) -> bytes:
        """Every byte of every body and header value."""
        return b"\n".join(
            part
            for request in self.all_requests
            for part in (request.body, request.path.encode(), json.dumps(request.headers).encode())
        )

    def close(self) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()


class OtlpServer(Server):
    """A collector: `spans` are those of all requests, in order, `points` those of metrics.

    What comes for metrics is kept in `metric_requests` and answered with `metric_status`, so that tests of
    spans need not know of it.
    """

    content_type = "application/x-protobuf"
    content = ExportTraceServiceResponse().SerializeToString()

    def __init__(self, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.metric_requests: list[Request] = []
        self.metric_status = 200
        super().__init__(tls, port)

    def received(self, request: Request) -> None:
        is_metrics = request.path.endswith("/v1/metrics")
        (self.metric_requests if is_metrics else self.requests).append(request)

    def status_for(self, path: str) -> int:
        return self.metric_status if path.endswith("/v1/metrics") else self.status

    @property
    def all_requests(self) -> list[Request]:
        return [*self.requests, *self.metric_requests]

    @property
    def points(self) -> list[Point]:
        return points_of(ExportMetricsServiceRequest.FromString(one.body) for one in self.metric_requests)

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for resource in self._resource_spans()
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def resources(self) -> list[dict[str, Any]]:
        return [attributes_of(resource.resource) for resource in self._resource_spans()]

    def _resource_spans(self) -> list[Any]:
        return [
            resource
            for request in self.requests
            if request.path.endswith("/v1/traces")
            for resource in ExportTraceServiceRequest.FromString(request.body).resource_spans
        ]

    def named(self, name: str) -> Any:
        """The one span of that name."""
        found = [span for span in self.spans if span.name == name]
        assert len(found) == 1, [span.name for span in self.spans]
        return found[0]


class Point(NamedTuple):
    """A data point: that of a counter has an int for value, that of a histogram its sum."""

    name: str
    unit: str
    attributes: dict[str, Any]
    value: float
    data: Any
    resource: dict[str, Any]
    scope: str


def points_of(requests: Iterable[Any]) -> list[Point]:
    """The points of export requests, in order."""
    found = []
    for request in requests:
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    data = getattr(metric, metric.WhichOneof("data"))
                    for point in data.data_points:
                        is_histogram = metric.WhichOneof("data") == "histogram"
                        value = point.sum if is_histogram else getattr(point, point.WhichOneof("value"))
                        attributes = attributes_of(point)
                        place = attributes_of(resource.resource), scope.scope.name
                        found.append(Point(metric.name, metric.unit, attributes, value, point, *place))
    return found


def attributes_of(item: Any) -> dict[str, Any]:
    """The attributes of a protobuf span, event, link or resource as a dict."""
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value")
        for pair in item.attributes
    }


class SentryServer(Server):
    """A Sentry: `events` are the event items of all envelopes, in order."""

    content = b'{"id":"0"}'

    @property
    def dsn(self) -> str:
        return f"http://publickey00@127.0.0.1:{self.port}/42"

    @property
    def items(self) -> list[tuple[dict[str, Any], Any]]:
        """Header and payload of each item of each envelope."""
        found = []
        for request in self.requests:
            if not request.path.endswith("/envelope/"):
                continue
            _, *rest = request.body.split(b"\n")
            lines = iter(rest)
            found += [(json.loads(line), json.loads(next(lines))) for line in lines if line.strip()]
        return found

    @property
    def events(self) -> list[dict[str, Any]]:
        return [payload for header, payload in self.items if header["type"] == "event"]
