"""Hears how a collector answers, which OpenTelemetry's exporters keep to themselves or only log."""

from __future__ import annotations

import contextlib
import logging
import os
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
        if self.verify is not True:
            # else REQUESTS_CA_BUNDLE, where it is set, would win against OpenTelemetry's own variable
            kwargs.setdefault("verify", self.verify)
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
        # that for metrics has other names for the same fields
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
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.common.http",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.util.re",
)
_lock = threading.Lock()
_listeners = 0


@contextlib.contextmanager
def listening(ear: Ear) -> Iterator[None]:
    """Have an ear hear what exporters log in this thread, instead of the log."""
    _count_listeners(1)
    before, _current.ear = getattr(_current, "ear", None), ear
    try:
        yield
    finally:
        _current.ear = before
        _count_listeners(-1)


def _count_listeners(change: int) -> None:
    """Keep the filters on the exporters' loggers as long as any thread listens."""
    global _listeners  # noqa: PLW0603 - loggers are of the process
    with _lock:
        _listeners += change
        for name in _EXPORTER_LOGGERS:
            if _listeners:
                logging.getLogger(name).addFilter(_FILTER)
            else:
                logging.getLogger(name).removeFilter(_FILTER)


def _forget() -> None:
    """In a forked child: the threads that listened, and may have held the lock, are the parent's."""
    global _lock, _listeners
    _lock, _listeners = threading.Lock(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class HearsGrpc:
    """Mixed into an exporter for gRPC: the answer is heard, which the exporter ignores or logs once a while.

    The stub is wrapped whenever the exporter assigns it, as it does anew after a lost connection.
    """

    ear: Ear

    @property
    def _client(self) -> Any:
        return self.__dict__["_client"]

    @_client.setter
    def _client(self, stub: Any) -> None:
        self.__dict__["_client"] = _ListeningStub(stub, self.ear)


class _ListeningStub:
    def __init__(self, stub: Any, ear: Ear) -> None:
        self._stub = stub
        self._ear = ear

    def Export(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802 - the name is gRPC's
        try:
            response = self._stub.Export(*args, **kwargs)
        except Exception as error:
            code = getattr(error, "code", None)
            self._ear.answer = Answer(f"gRPC {code().name}" if callable(code) else reason_of(error))
            raise
        partial = response.partial_success
        rejected = getattr(partial, "rejected_spans", 0) or getattr(partial, "rejected_data_points", 0)
        # after a retry the answer to the first attempt is void
        self._ear.answer = Answer(partial.error_message or None, rejected) if rejected else Answer()
        return response
