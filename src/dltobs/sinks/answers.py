"""Hears how a collector answers, which OpenTelemetry's exporters keep to themselves or only log."""

from __future__ import annotations

import contextlib
import gzip
import logging
import threading
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

import requests

from dltobs._platform import register_at_fork
from dltobs.sinks.reasons import NO_HTTP2, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_HTTP_OK = range(200, 300)
_HTTP_ERROR = 500
"""Of 5xx the one that says nothing of a back end being down."""
_HTTP_LATER = frozenset({408, 429})
_TIMED_OUT = "timed out"
_GRPC_LATER = frozenset(
    {
        "CANCELLED", "UNKNOWN", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "OUT_OF_RANGE",
        "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
    }
)  # fmt: skip
"""Those that OpenTelemetry's protocol calls retryable, and the two that stand for HTTP 500."""


class Answer(NamedTuple):
    """How a back end answered the last request: what went wrong, and how many items it refused.

    `is_refusal` says that the same request would be refused again, `is_its_error` that something broke in the
    back end, over this request perhaps.
    """

    error: str | None = None
    rejected: int = 0
    is_refusal: bool = False
    is_its_error: bool = False


class NotTakenError(Exception):
    """Ends the attempts of an exporter, which takes it for no failure of the network."""


class Ear:
    """Keeps the last answer, and what the exporter complained of.

    Attributes:
        payload: A serialized request that is sent, once, in the place of the one that the exporter makes.
        was_sent: Whether that has been done, and answered well.
    """

    def __init__(self) -> None:
        self.answer = Answer()
        self.complaints: list[logging.LogRecord] = []
        self.payload: bytes | None = None
        self.was_sent = False

    def answered(self, answer: Answer) -> None:
        """Take the answer to a request.

        Raises:
            NotTakenError: The request was that of `payload`, and has failed.
        """
        self.answer = answer
        self.was_sent = answer.error is None or bool(answer.rejected)
        if self.payload is not None and not self.was_sent:
            raise NotTakenError

    def hear(self, record: logging.LogRecord) -> None:
        """Take a log record of the exporter. The one for gRPC names the status code in it."""
        self.complaints.append(record)
        arguments: tuple[Any, ...] = record.args if isinstance(record.args, tuple) else ()
        for argument in arguments:
            if type(argument).__name__ == "StatusCode" and self.answer.error != NO_HTTP2:
                self.answer = _grpc_failure(argument.name)


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
        if self.ear.payload is not None:
            headers = {**self.headers, **(kwargs.get("headers") or {})}
            kwargs["data"] = _compressed(self.ear.payload, headers)
        timeout = kwargs.get("timeout")
        if isinstance(timeout, (int, float)) and timeout <= 0:
            # the exporter has paused until its deadline: the answer to its last attempt tells why
            if self.ear.answer.error is None:
                self.ear.answered(Answer(_TIMED_OUT))
            raise requests.Timeout(_TIMED_OUT)
        try:
            response = super().request(*args, **kwargs)
        except Exception as error:
            self.ear.answered(Answer(reason_of(error)))
            raise
        self.ear.answered(_answer(response))
        return response


def _compressed(payload: bytes, headers: dict[str, Any]) -> bytes:
    encodings = {str(value).lower() for name, value in headers.items() if name.lower() == "content-encoding"}
    if "gzip" in encodings:
        return gzip.compress(payload)
    return zlib.compress(payload) if "deflate" in encodings else payload


def _answer(response: requests.Response) -> Answer:
    status = response.status_code
    if status not in _HTTP_OK:
        # a redirect is not followed, so it is one for ever
        is_refusal = 300 <= status < 500 and status not in _HTTP_LATER  # noqa: PLR2004 - the classes of HTTP
        reason = f"HTTP {status} {response.reason or ''}".strip()
        return Answer(reason, is_refusal=is_refusal, is_its_error=status == _HTTP_ERROR)
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


register_at_fork(after_in_child=_forget)


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
        if self._ear.payload is not None:
            kwargs["request"] = type(kwargs["request"]).FromString(self._ear.payload)
        try:
            response = self._stub.Export(*args, **kwargs)
        except Exception as error:
            code = getattr(error, "code", None)
            failure = _grpc_failure(code().name) if callable(code) else Answer(reason_of(error))
            if "Failed parsing HTTP/2" in str(error) or "http1.x server" in str(error):
                failure = Answer(NO_HTTP2)
            self._ear.answered(failure)
            raise
        partial = response.partial_success
        rejected = getattr(partial, "rejected_spans", 0) or getattr(partial, "rejected_data_points", 0)
        # after a retry the answer to the first attempt is void
        self._ear.answered(Answer(partial.error_message or None, rejected) if rejected else Answer())
        return response


def _grpc_failure(code: str) -> Answer:
    return Answer(
        f"gRPC {code}", is_refusal=code not in _GRPC_LATER, is_its_error=code in {"INTERNAL", "UNKNOWN"}
    )
