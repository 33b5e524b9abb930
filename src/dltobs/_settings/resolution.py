"""Makes `Settings` of what is given for each, and says of a wrong value where it came from.

`configure(**arguments)` > environment > `config.toml`, `secrets.toml` and any other config provider of dlt >
the standard variables of OpenTelemetry and Sentry > default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from dltobs._redaction.redactor import Redactor
from dltobs._settings import crons, otel, parse
from dltobs._settings.early import is_switched_off
from dltobs._settings.lookup import ARGUMENT, Given, look_up, misplaced
from dltobs._settings.otel import application_has_provider
from dltobs._settings.settings import FIELDS, Settings
from dltobs.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dltobs._settings.lookup import Overrides

_SHOWN_LENGTH = 100


class MetricTarget(NamedTuple):
    """Where metrics go: the names of exporters (`otlp`, `console`), perhaps none; the protocol of OTLP."""

    exporters: tuple[str, ...]
    protocol: str


_BELONGS_TO = {
    "log_file": ("log_file_format", "log_file_max_bytes", "log_file_backup_count"),
    "sentry_dsn": (
        "sentry_environment",
        "sentry_release",
        "sentry_monitor",
        "sentry_monitor_schedule",
        "sentry_monitor_max_runtime",
        "sentry_monitor_margin",
        "sentry_monitor_timezone",
    ),
    "slack_incoming_hook": ("slack_on", "alert_cooldown", "trace_url_template"),
    "ledger": ("ledger_dataset",),
    "otlp_endpoint": ("otlp_protocol",),
}
"""Settings that do nothing without another one."""


def resolve_settings(arguments: Mapping[str, Any], overrides: Overrides | None = None) -> Settings:
    """Look up and check every setting. Where `enabled` is false, nothing else is looked at.

    Args:
        arguments: Those of `configure()`. None there means: as if it had not been given.
        overrides: What `overrides_for()` has made of earlier errors.

    Raises:
        ConfigurationError: Naming the setting, where it came from, what is wrong and what is expected.
    """
    if is_switched_off(arguments):
        return Settings(enabled=False)
    overrides = overrides or {}
    given = look_up(arguments, overrides)
    exporters = _exporters(given)
    is_ours = "otlp" in exporters and not application_has_provider()
    is_standard = "otlp_protocol" in given and "OTEL_" in given["otlp_protocol"].source
    if is_standard and not is_ours:
        del given["otlp_protocol"]  # it speaks to somebody else
    values = {name: _parsed(name, raw) for name, raw in given.items()}
    sinks = None if "sinks" in overrides else arguments.get("sinks")
    values["sinks"] = _checked_sinks(sinks or ())
    if "service_name" not in values and (named := otel.service_name()):
        values["service_name"] = named
    settings = Settings(
        **values,
        trace_exporters=exporters,
        variables=otel.fingerprint(),
        sources={name: raw.source for name, raw in given.items()},
        notes=(*misplaced(), *_without_effect(given, values, overrides)),
    )
    crons.check_together(settings)
    if is_ours or ("otlp" in exporters and not is_standard):
        _check_otlp(settings, otel.TRACES, settings.otlp_protocol, is_ours=is_ours)
    return settings


def overrides_for(error: ConfigurationError) -> dict[str, str | None]:
    """Return what makes a set-up possible in spite of an error: a setting at its default, or telemetry off.

    What stands in OpenTelemetry's own variables cannot be left out: its exporters read them.
    """
    if "OTEL_" not in error.source:
        return {error.setting: None}
    variables = {"tracing": "_TRACES_", "metrics": "_METRICS_"}
    meant = [name for name, part in variables.items() if error.setting == name or part in error.source]
    return dict.fromkeys(meant or variables, "off")


def _without_effect(
    given: Mapping[str, Given], values: Mapping[str, Any], overrides: Overrides
) -> Iterator[str]:
    """Yield a sentence for each setting without which others do nothing that are given.

    What has been switched off in so many words is meant so, and standard variables may be for other software.
    """
    for needed, settings in _BELONGS_TO.items():
        if needed in given or needed in overrides or (needed == "otlp_endpoint" and otel.sends_by_itself()):
            continue
        idle = [
            f"{name} ({given[name].source})"
            for name in settings
            if name in given
            and values[name] is not False
            and not given[name].source.endswith(FIELDS[name].metadata["fallbacks"])
        ]
        if idle:
            is_otlp = needed == "otlp_endpoint"
            variables = otel.ENDPOINTS[1:] if is_otlp else FIELDS[needed].metadata["fallbacks"]
            known = " or ".join((needed, *variables))
            yield f"{', '.join(idle)} {'does' if len(idle) == 1 else 'do'} nothing without {known}"
    if "auto_configure" in given and given["auto_configure"].source == ARGUMENT:
        yield f"auto_configure ({ARGUMENT}) does nothing: it is for the environment or dlt's files"


def metric_target(settings: Settings) -> MetricTarget | None:
    """Where dltobs sends metrics to; None where it builds no provider, because nobody asks for one.

    Raises:
        ConfigurationError: What the variables ask for cannot be had.
    """
    if settings.metrics == "off" or otel.is_disabled() or otel.application_has_meter_provider():
        return None
    try:
        target = _asked_target(settings)
    except ConfigurationError:
        if application_has_provider() and settings.metrics == "auto" and settings.otlp_endpoint is None:
            return None  # the variables speak to whoever built that, and he may understand them
        raise
    return target if target.exporters or settings.metrics == "on" else None


def _asked_target(settings: Settings) -> MetricTarget:
    exporters = otel.exporters_asked_for(otel.METRICS, strict=True)
    if settings.otlp_endpoint is not None and not otel.value_of(otel.METRICS.exporters):
        exporters = ("otlp",)
    if "otlp" not in exporters:
        return MetricTarget(exporters, "http/protobuf")
    protocol = str(_parsed("otlp_protocol", _protocol(settings, otel.METRICS)))
    _check_otlp(settings, otel.METRICS, protocol, is_ours=True)
    return MetricTarget(exporters, protocol)


def _protocol(settings: Settings, signal: otel.Signal) -> Given:
    """The protocol for a signal: our setting, but not what it has of the variables for traces."""
    source = settings.source_of("otlp_protocol")
    if source != "default" and "OTEL_" not in source:
        return Given(settings.otlp_protocol, source)
    variable = next(filter(otel.value_of, signal.protocols), None)
    if variable is None:
        return Given("http/protobuf", "default")
    return Given(otel.value_of(variable), f"environment variable {variable}")


def _exporters(given: Mapping[str, Given]) -> tuple[str, ...]:
    sentry = _sentry_exporter(given)
    if "tracing" in given and _parsed("tracing", given["tracing"]) == "off":
        return ()
    if "otlp_endpoint" in given:
        return ("otlp", *sentry)
    # where the application has a provider, the variables speak to whoever built it
    return (*otel.exporters_asked_for(strict=not application_has_provider()), *sentry)


def _sentry_exporter(given: Mapping[str, Given]) -> tuple[str, ...]:
    asked = given.get("sentry_traces")
    if asked is None or not _parsed("sentry_traces", asked):
        return ()
    if "sentry_dsn" not in given or _parsed("sentry_dsn", given["sentry_dsn"]) is None:
        raise ConfigurationError(
            "sentry_traces",
            source=asked.source,
            problem="without a DSN there is no Sentry to send spans to",
            expected="sentry_dsn (or SENTRY_DSN) beside it",
        )
    return ("sentry_traces",)


def _check_otlp(settings: Settings, signal: otel.Signal, protocol: str, *, is_ours: bool) -> None:
    from importlib.util import find_spec

    if is_ours:
        otel.check_files(signal)
    if settings.otlp_endpoint is None:
        if is_ours:
            otel.check_endpoint(protocol, signal)
    elif protocol != "grpc":
        given = Given(settings.otlp_endpoint, settings.source_of("otlp_endpoint"))
        _parsed("otlp_endpoint", given, parse.http_url)
    if protocol != "grpc":
        return
    try:
        found = find_spec("opentelemetry.exporter.otlp.proto.grpc")
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise ConfigurationError(
            "otlp_protocol",
            source=_protocol(settings, signal).source,
            problem="'grpc' needs a package that is not installed",
            expected="pip install 'dltobs[grpc]'",
        )


def _parsed(name: str, raw: Given, parser: Callable[[Any], Any] | None = None) -> Any:
    metadata = FIELDS[name].metadata
    try:
        return (parser or metadata["parse"])(raw.value)
    except ValueError as error:
        detail = str(error)
        problem = f"{_shown(raw.value, metadata)} is not usable" + (f" ({detail})" if detail else "")
        raise ConfigurationError(
            name, source=raw.source, problem=problem, expected=metadata["expected"]
        ) from None


def _shown(value: object, metadata: Mapping[str, Any]) -> str:
    # what has a user name before its host may have a password there, too
    if metadata["secret"] or "@" in str(value):
        return "this value"
    text = Redactor().text(repr(value))
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}…"


def _checked_sinks(sinks: Any) -> tuple[Any, ...]:
    from dltobs._dispatch import Sink

    several = hasattr(sinks, "__iter__") and not isinstance(sinks, (str, Mapping))
    checked: tuple[Any, ...] = tuple(sinks) if several else (sinks,)
    for sink in checked:
        if isinstance(sink, type) or not isinstance(sink, Sink):
            is_class = isinstance(sink, type)
            raise ConfigurationError(
                "sinks",
                source=ARGUMENT,
                problem=f"{sink.__name__} is a class" if is_class else f"{type(sink).__name__} is no sink",
                expected="objects with the methods emit(event), flush(timeout) and close()",
            )
    return checked
