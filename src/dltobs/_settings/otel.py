"""What OpenTelemetry's own environment variables ask for, as far as dltobs answers to them."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from dltobs._settings import parse
from dltobs.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HEADERS = (
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
    "OTEL_EXPORTER_OTLP_HEADERS",
)


class Signal(NamedTuple):
    """The variables of one kind of telemetry, those of its own before those of all.

    `setting` is ours for it, `exporters` the variable that names its exporters.
    """

    setting: str
    exporters: str
    endpoints: tuple[str, ...]
    protocols: tuple[str, ...]
    compressions: tuple[str, ...]


TRACES = Signal(
    "tracing",
    "OTEL_TRACES_EXPORTER",
    ENDPOINTS,
    PROTOCOLS,
    ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"),
)
METRICS = Signal(
    "metrics",
    "OTEL_METRICS_EXPORTER",
    ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
    ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"),
    ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"),
)


def value_of(variable: str) -> str:
    """The value of an environment variable; an empty one counts as not set, as OpenTelemetry has it."""
    return os.environ.get(variable, "").strip()


def is_disabled() -> bool:
    """Whether `OTEL_SDK_DISABLED` switches everything off."""
    return value_of("OTEL_SDK_DISABLED").lower() == "true"


def exporters_asked_for(signal: Signal = TRACES, *, strict: bool) -> tuple[str, ...]:
    """The exporters that the variables name: of `otlp` and `console`, none, one or both.

    Args:
        signal: Of what.
        strict: Refuse names that dltobs does not know, instead of leaving them to somebody else.

    Raises:
        ConfigurationError: An unknown name, if `strict`.
    """
    named = [name.strip() for name in value_of(signal.exporters).split(",") if name.strip()]
    if not named:
        return ("otlp",) if any(map(value_of, signal.endpoints)) else ()
    for name in named:
        if strict and name not in {"otlp", "console", "none"}:
            raise ConfigurationError(
                signal.setting,
                source=f"environment variable {signal.exporters}",
                problem=f"{name!r} is no exporter that dltobs has",
                expected="otlp, console or none",
            )
    if "none" in named:
        return ()
    return tuple(dict.fromkeys(name for name in named if name in {"otlp", "console"}))


def sends_by_itself() -> bool:
    """Return whether the variables alone have OTLP sent somewhere: by an endpoint, or to the default one."""
    named = f"{value_of(TRACES.exporters)},{value_of(METRICS.exporters)}".split(",")
    return any(endpoints()) or "otlp" in map(str.strip, named)


def check_endpoint(protocol: str, signal: Signal = TRACES) -> None:
    """See that the endpoint that will be used can be one.

    Raises:
        ConfigurationError: It is malformed.
    """
    variable = next(filter(value_of, signal.endpoints), None)
    if variable is None:
        return
    is_base = variable == ENDPOINTS[1]
    try:
        parse.endpoint(protocol, is_base=is_base)(value_of(variable))
    except ValueError as error:
        raise ConfigurationError(
            "otlp_endpoint",
            source=f"environment variable {variable}",
            problem=f"this value is not usable ({error})",
            expected=f"the {'base ' * is_base}URL of a collector, such as http://localhost:4318",
        ) from None


def endpoints() -> Iterator[str]:
    """The endpoints of all signals that are set."""
    for variable in dict.fromkeys((*TRACES.endpoints, *METRICS.endpoints)):
        if value_of(variable):
            yield value_of(variable)


def application_has_meter_provider() -> bool:
    """Whether somebody but dltobs has set OpenTelemetry's global meter provider by now."""
    if "opentelemetry.metrics" not in sys.modules and "OTEL_PYTHON_METER_PROVIDER" not in os.environ:
        return False
    kind = type(import_module("opentelemetry.metrics").get_meter_provider())
    # the stand-in for a provider that is not set yet has no public name
    return kind.__name__ != "_ProxyMeterProvider" and not kind.__module__.startswith("dltobs.")


def check_files(signal: Signal = TRACES) -> None:
    """See that the files for TLS that the variables name are there; the exporter looks when it sends.

    Raises:
        ConfigurationError: One cannot be read.
    """
    own = "METRICS_" if signal is METRICS else "TRACES_"
    for prefix in (own, ""):
        for kind in ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE"):
            variable = f"OTEL_EXPORTER_OTLP_{prefix}{kind}"
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


def application_flush(timeout: float) -> Callable[[], object] | None:
    """A call that has the application's tracer provider export what it holds; None where there is none."""
    if not application_has_provider():
        return None
    from opentelemetry import trace

    flush = getattr(trace.get_tracer_provider(), "force_flush", None)
    return None if flush is None else lambda: flush(int(timeout * 1000))


def application_has_provider() -> bool:
    """Whether somebody but dltobs has set OpenTelemetry's global tracer provider by now, and not a no-op."""
    if "opentelemetry.trace" not in sys.modules and "OTEL_PYTHON_TRACER_PROVIDER" not in os.environ:
        return False
    from opentelemetry import trace

    provider = trace.get_tracer_provider()
    is_unset = isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider))
    return not is_unset and not type(provider).__module__.startswith("dltobs.")
