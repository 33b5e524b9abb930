"""Hears how a collector answers, which OpenTelemetry's exporters keep to themselves or only log."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import requests

from dltobs.sinks.delivery import reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_HTTP_OK = range(200, 300)


class Answer(NamedTuple):
    """How a back end answered the last request: what went wrong, and how many items it refused."""

    error: str | None = None
    rejected: int = 0


class Ear:
    """Keeps the last answer, and what the exporter complained of."""

    def __init__(self) -> None:
        self.answer = Answer()
        self.complaints: list[logging.LogRecord] = []

    def hear(self, record: logging.LogRecord) -> None:
        """Take a log record of the exporter. The one for gRPC names the status code in it."""
        self.complaints.append(record)
        arguments: tuple[Any, ...] = record.args if isinstance(record.args, tuple) else ()
        for argument in arguments:
            if type(argument).__name__ == "StatusCode":
                self.answer = Answer(f"gRPC {argument.name}")


class ListeningSession(requests.Session):
    """An HTTP session that tells an ear how the collector answered."""

    def __init__(self, ear: Ear) -> None:
        super().__init__()
        self.ear = ear

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Send, and listen."""
        try:
            response = super().request(*args, **kwargs)
        except Exception as error:
            self.ear.answer = Answer(reason_of(error))
            raise
        self.ear.answer = _answer(response)
        return response


def _answer(response: requests.Response) -> Answer:
    if response.status_code not in _HTTP_OK:
        return Answer(f"HTTP {response.status_code} {response.reason or ''}".strip())
    if response.headers.get("content-type") != "application/x-protobuf" or not response.content:
        return Answer()
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    try:
        partial = ExportTraceServiceResponse.FromString(response.content).partial_success
    except Exception:  # noqa: BLE001 - the collector took the spans; its thanks need not be well-formed
        return Answer()
    return (
        Answer(partial.error_message or None, partial.rejected_spans) if partial.rejected_spans else Answer()
    )


_current = threading.local()


class _ToEar(logging.Filter):
    """Takes what the exporters log while one of ours works: our warning says it once, and without secrets."""

    def filter(self, record: logging.LogRecord) -> bool:
        ear: Ear | None = getattr(_current, "ear", None)
        if ear is not None:
            ear.hear(record)
        return ear is None


_FILTER = _ToEar()
_EXPORTER_LOGGERS = (
    "opentelemetry.exporter.otlp.proto.http._common",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.common.http",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.util.re",
)


@contextlib.contextmanager
def listening(ear: Ear) -> Iterator[None]:
    """Have an ear hear what exporters log in this thread, instead of the log."""
    for name in _EXPORTER_LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)
    before, _current.ear = getattr(_current, "ear", None), ear
    try:
        yield
    finally:
        _current.ear = before


def stop_listening() -> None:
    """Take the filters off the exporters' loggers."""
    for name in _EXPORTER_LOGGERS:
        logging.getLogger(name).removeFilter(_FILTER)
