"""A collector that speaks gRPC, on loopback."""

from __future__ import annotations

from concurrent import futures

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from servers import points_of


class GrpcServer:
    """A collector for both signals that keeps its requests.

    `rejected` is what it says it did not take; it is unavailable for spans `failures` times.
    """

    def __init__(self, credentials: grpc.ServerCredentials | None = None, port: int = 0) -> None:
        self.traces = []
        self.metrics = []
        self.metadata = []
        self.rejected = 0
        self.failures = 0
        outer = self

        class Traces(trace_service_pb2_grpc.TraceServiceServicer):
            def Export(self, request, context):  # noqa: N802 - the name is gRPC's
                if outer.failures:
                    outer.failures -= 1
                    context.abort(grpc.StatusCode.UNAVAILABLE, "no")
                outer.traces.append(request)
                outer.metadata.append(dict(context.invocation_metadata()))
                response = trace_service_pb2.ExportTraceServiceResponse()
                response.partial_success.rejected_spans = outer.rejected
                return response

        class Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
            def Export(self, request, context):  # noqa: N802 - as above
                outer.metrics.append(request)
                response = metrics_service_pb2.ExportMetricsServiceResponse()
                response.partial_success.rejected_data_points = outer.rejected
                return response

        self.server = grpc.server(futures.ThreadPoolExecutor(4))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(), self.server)
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(Metrics(), self.server)
        if credentials is None:
            self.url = f"http://127.0.0.1:{self.server.add_insecure_port(f'127.0.0.1:{port}')}"
        else:
            self.url = f"https://localhost:{self.server.add_secure_port('localhost:0', credentials)}"
        self.server.start()

    @property
    def spans(self):
        return [
            span
            for request in self.traces
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def points(self):
        return points_of(self.metrics)

    def close(self) -> None:
        self.server.stop(0).wait()
