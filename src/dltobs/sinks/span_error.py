"""How a span tells an error: OpenTelemetry's event `exception`, and the status."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.trace import Status, StatusCode

from dltobs._redaction.encodings import without_surrogates

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_DESCRIPTION_LENGTH = 1024


def tell_error(span: Span, error_type: str, message: str, stacktrace: str | None, at: int) -> None:
    """Add the event and set the status.

    Lone surrogates, which protobuf refuses together with all other spans of a batch, are replaced.

    Args:
        span: Of a provider that may be the application's.
        error_type: A class, or what else names the kind of the error.
        message: Without secrets, as the stack trace.
        stacktrace: None where there is none.
        at: Nanoseconds since the epoch.
    """
    span.set_attribute("error.type", error_type)
    told = {"exception.type": error_type, "exception.message": _exportable(message)}
    if stacktrace is not None:
        told["exception.stacktrace"] = _exportable(stacktrace)
    span.add_event("exception", told, at)
    set_error(span, f"{error_type}: {message}")


def set_error(span: Span, description: str) -> None:
    """Set the status to ERROR. The description is without secrets."""
    span.set_status(Status(StatusCode.ERROR, without_surrogates(description[:_DESCRIPTION_LENGTH])))


def _exportable(text: str) -> str:
    return without_surrogates(text)
