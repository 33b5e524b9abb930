"""Says in a few words why a request failed, and what the reader can do about it."""

from __future__ import annotations

import os
import socket
import ssl
from urllib.parse import urlsplit

_CREDENTIALS_REFUSED = frozenset({"HTTP 401", "HTTP 403", "gRPC UNAUTHENTICATED", "gRPC PERMISSION_DENIED"})
_NOTHING_THERE = frozenset({"HTTP 404", "HTTP 405", "HTTP 410", "gRPC UNIMPLEMENTED"})
NO_HTTP2 = "gRPC UNAVAILABLE (the answer is not HTTP/2)"
_GRPC_PORT = 4317


def reason_of(error: BaseException) -> str:
    """Why a request failed, in a few words that are the same each time.

    The texts of HTTP libraries hold object addresses and URLs; the innermost error of the operating system
    says it better.
    """
    innermost: BaseException = error
    seen: set[int] = set()
    while id(innermost) not in seen:
        seen.add(id(innermost))
        nested = [arg for arg in innermost.args if isinstance(arg, BaseException)]
        reason = getattr(innermost, "reason", None)
        if isinstance(reason, BaseException):
            nested.append(reason)
        following = innermost.__cause__ or innermost.__context__ or next(iter(nested), None)
        if following is None:
            break
        innermost = following
    certificate_problem = getattr(innermost, "verify_message", None)
    if certificate_problem:
        return f"certificate not trusted: {certificate_problem}"
    if isinstance(innermost, OSError) and innermost.strerror:
        return innermost.strerror.lower() if _is_the_systems(innermost) else innermost.strerror
    if "timeout" in type(error).__name__.lower() or isinstance(innermost, TimeoutError):
        return "timed out"
    if isinstance(innermost, OSError) and str(innermost):
        return str(innermost).splitlines()[0]
    return type(innermost).__name__


def without_secrets(url: str) -> str:
    """Return an address without user, password, query and fragment."""
    if "://" not in url:
        return url.rpartition("@")[2]  # a host and port, as gRPC has them
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def advice(backend: str, reason: str, address: str) -> str:
    """Return what to do where a back end did not take something; empty where the reason says it all.

    Args:
        backend: As in `status()`: `otlp`, `sentry`, ….
        reason: From `reason_of()` or an answer: it begins with `HTTP 404`, `gRPC UNIMPLEMENTED`, ….
        address: Where it was sent to.
    """
    status = " ".join(reason.split()[:2])
    if "wrong version number" in reason:
        return "does this port speak http:// and not https://?"
    if backend in {"otlp", "otlp_metrics"}:
        return _advice_for_otlp(backend, reason, status, address)
    if status in _CREDENTIALS_REFUSED | _NOTHING_THERE:
        if backend in {"sentry", "sentry_traces"}:
            return "look at the DSN in sentry_dsn or SENTRY_DSN"
        if backend == "slack":
            return "look at the webhook in slack_incoming_hook or RUNTIME__SLACK_INCOMING_HOOK"
    return ""


def _advice_for_otlp(backend: str, reason: str, status: str, address: str) -> str:
    is_metrics = backend == "otlp_metrics"
    if status in _CREDENTIALS_REFUSED:
        own = f"OTEL_EXPORTER_OTLP_{'METRICS' if is_metrics else 'TRACES'}_HEADERS"
        return f"look at the headers in {own if os.environ.get(own) else 'OTEL_EXPORTER_OTLP_HEADERS'}"
    if status in _NOTHING_THERE and is_metrics:
        return "set DLTOBS__METRICS=off if this back end takes no metrics"
    if status in _NOTHING_THERE:
        return "is this a collector? Look at DLTOBS__OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT"
    if reason == NO_HTTP2:
        return "is this an HTTP port? Set DLTOBS__OTLP_PROTOCOL=http/protobuf, or use port 4317"
    has_hung_up = "closed connection" in reason or "reset by peer" in reason
    if reason == "BadStatusLine" or (has_hung_up and f":{_GRPC_PORT}/" in address):
        return "is this a gRPC port? Set DLTOBS__OTLP_PROTOCOL=grpc, or use port 4318"
    return ""


def _is_the_systems(error: OSError) -> bool:
    """Whether a text is none of somebody else's, which may hold a secret that must be found afterwards."""
    if isinstance(error, (socket.gaierror, ssl.SSLError)):
        return True
    return error.errno is not None and error.strerror == os.strerror(error.errno)
