"""What OpenTelemetry's own environment variables ask for, as far as dltobs answers to them."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING
from urllib.parse import unquote

from dltobs import _parse as parse
from dltobs.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HEADERS = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")
_EXPORTERS = "OTEL_TRACES_EXPORTER"


def value_of(variable: str) -> str:
    """The value of an environment variable; an empty one counts as not set, as OpenTelemetry has it."""
    return os.environ.get(variable, "").strip()


def is_disabled() -> bool:
    """Whether `OTEL_SDK_DISABLED` switches everything off."""
    return value_of("OTEL_SDK_DISABLED").lower() == "true"


def exporters_asked_for(*, strict: bool) -> tuple[str, ...]:
    """The span exporters that the variables name: of `otlp` and `console`, none, one or both.

    Args:
        strict: Refuse names that dltobs does not know, instead of leaving them to somebody else.

    Raises:
        ConfigurationError: An unknown name, if `strict`.
    """
    named = [name.strip() for name in value_of(_EXPORTERS).split(",") if name.strip()]
    if not named:
        return ("otlp",) if any(map(value_of, ENDPOINTS)) else ()
    for name in named:
        if strict and name not in {"otlp", "console", "none"}:
            raise ConfigurationError(
                "tracing",
                source=f"environment variable {_EXPORTERS}",
                problem=f"{name!r} is no exporter that dltobs has",
                expected="otlp, console or none",
            )
    if "none" in named:
        return ()
    return tuple(dict.fromkeys(name for name in named if name in {"otlp", "console"}))


def check_endpoint(protocol: str) -> None:
    """See that the endpoint that will be used can be one.

    Raises:
        ConfigurationError: It is malformed.
    """
    variable = next(filter(value_of, ENDPOINTS), None)
    if variable is None:
        return
    try:
        parse.endpoint(protocol)(value_of(variable))
    except ValueError as error:
        raise ConfigurationError(
            "otlp_endpoint",
            source=f"environment variable {variable}",
            problem=f"this value is not usable ({error})",
            expected="the URL of a collector, such as http://localhost:4318",
        ) from None


def check_files() -> None:
    """See that the files for TLS that the variables name are there; the exporter looks when it sends.

    Raises:
        ConfigurationError: One cannot be read.
    """
    for signal in ("TRACES_", ""):
        for kind in ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE"):
            variable = f"OTEL_EXPORTER_OTLP_{signal}{kind}"
            if value_of(variable) and not os.access(value_of(variable), os.R_OK):
                raise ConfigurationError(
                    "otlp_endpoint",
                    source=f"environment variable {variable}",
                    problem=f"{value_of(variable)!r} cannot be read",
                    expected="the path of a PEM file",
                )


def header_values() -> Iterator[str]:
    """The values of all headers, as written and decoded, with and without a scheme (`Bearer …`)."""
    for variable in _HEADERS:
        for pair in os.environ.get(variable, "").split(","):
            written = pair.partition("=")[2].strip()
            for value in (written, unquote(written)):
                yield value
                yield value.rpartition(" ")[2]


def service_name() -> str | None:
    """The `service.name` among `OTEL_RESOURCE_ATTRIBUTES`."""
    for pair in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        name, _, value = pair.partition("=")
        if name.strip() == "service.name" and value.strip():
            return unquote(value.strip())
    return None


def fingerprint() -> int:
    """A number that changes with the variables, and does not tell what they hold."""
    return hash(frozenset(pair for pair in os.environ.items() if pair[0].startswith("OTEL_")))


def application_has_provider() -> bool:
    """Whether somebody but dltobs has set OpenTelemetry's global tracer provider by now."""
    if "opentelemetry.trace" not in sys.modules and "OTEL_PYTHON_TRACER_PROVIDER" not in os.environ:
        return False
    from opentelemetry import trace

    provider = trace.get_tracer_provider()
    is_unset = isinstance(provider, trace.ProxyTracerProvider)
    return not is_unset and not type(provider).__module__.startswith("dltobs.")
