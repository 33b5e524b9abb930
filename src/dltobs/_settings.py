"""Every setting: its type, its default, and where its value comes from.

`configure(**arguments)` > environment > `config.toml`, `secrets.toml` and any other config provider of dlt >
the standard variables of OpenTelemetry and Sentry > default. dlt's own configuration system does the look-up,
in section `dltobs`; the values are checked here, so that an error can say where each came from.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Optional, TypedDict

from dltobs import _parse as parse
from dltobs.exceptions import ConfigurationError

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterator, Sequence

    from dltobs._dispatch import Sink

_SECTION = "dltobs"
_ENVIRONMENT_PREFIX = "DLTOBS__"


def _setting(
    default: Any,
    parser: Callable[[Any], Any],
    expected: str,
    *,
    secret: bool = False,
    fallbacks: tuple[str, ...] = (),
) -> Any:
    """A field of `Settings`.

    Args:
        default: The value where nobody says anything.
        parser: Makes a value of the right type out of a raw one, or raises ValueError.
        expected: What the parser takes, in words.
        secret: The value never appears in an error or a repr.
        fallbacks: Environment variables of other ecosystems that count where ours are silent.
    """
    metadata = {"parse": parser, "expected": expected, "secret": secret, "fallbacks": fallbacks}
    if isinstance(default, (dict, list)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata, repr=not secret)
    return field(default=default, metadata=metadata, repr=not secret)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings in force. `docs` of each: the table in the README."""

    enabled: bool = _setting(True, parse.boolean, "true or false")
    log_level: int | None = _setting(None, parse.level, "a level name such as INFO, or a number")
    console: str = _setting("auto", parse.one_of("auto", "text", "json", "off"), "auto, text, json or off")
    log_file: Path | None = _setting(None, parse.path, "a path")
    log_file_format: str = _setting("json", parse.one_of("json", "text"), "json or text")
    log_file_max_bytes: int = _setting(10_485_760, parse.integer(1), "a number of bytes, at least 1")
    log_file_backup_count: int = _setting(5, parse.integer(0), "a number of files, at least 0")
    loguru: bool = _setting(False, parse.boolean, "true or false")
    excepthook: bool = _setting(True, parse.boolean, "true or false")
    tracing: str = _setting("auto", parse.one_of("auto", "on", "off"), "auto, on or off")
    otlp_endpoint: str | None = _setting(
        None, parse.http_url, "the base URL of a collector, such as http://localhost:4318"
    )
    otlp_protocol: str = _setting(
        "http/protobuf",
        parse.one_of("http/protobuf", "grpc"),
        "http/protobuf or grpc",
        fallbacks=("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"),
    )
    service_name: str = _setting("dlt", parse.text, "a name", fallbacks=("OTEL_SERVICE_NAME",))
    environment: str | None = _setting(None, parse.text, "a name such as production")
    tags: Mapping[str, str] = _setting({}, parse.pairs, "a mapping, or name=value pairs with commas")
    sentry_dsn: str | None = _setting(
        None,
        parse.sentry_dsn,
        "a DSN such as https://PUBLIC_KEY@o0.ingest.sentry.io/PROJECT_ID",
        secret=True,
        fallbacks=("SENTRY_DSN",),
    )
    sentry_environment: str | None = _setting(
        None, parse.text, "a name such as production", fallbacks=("SENTRY_ENVIRONMENT",)
    )
    sentry_release: str | None = _setting(None, parse.text, "a version", fallbacks=("SENTRY_RELEASE",))
    redact_patterns: tuple[re.Pattern[str], ...] = _setting(
        (), parse.patterns, "regular expressions, as a list or with commas", secret=True
    )
    redact_keys: tuple[str, ...] = _setting((), parse.names, "names, as a list or with commas")
    flush_timeout: float = _setting(5.0, parse.seconds, "a number of seconds, at least 0")
    sinks: tuple[Sink, ...] = field(default=(), repr=False)
    trace_exporters: tuple[str, ...] = field(default=(), repr=False)
    """What `OTEL_TRACES_EXPORTER` and the endpoints ask for: `otlp`, `console`."""
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """Where each value that is no default came from, in words."""

    def source_of(self, name: str) -> str:
        """Where the value of a setting came from."""
        return self.sources.get(name, "default")

    @property
    def builds_provider(self) -> bool:
        """Whether dltobs builds a tracer provider where the application has none."""
        if self.tracing == "off" or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
            return False
        return self.tracing == "on" or bool(self.trace_exporters)


class Arguments(TypedDict, total=False):
    """The keyword arguments of `configure()`: strings as in the environment, or values of the type."""

    enabled: bool | str
    log_level: str | int | None
    console: str
    log_file: str | os.PathLike[str] | None
    log_file_format: str
    log_file_max_bytes: int | str
    log_file_backup_count: int | str
    loguru: bool | str
    excepthook: bool | str
    tracing: str
    otlp_endpoint: str | None
    otlp_protocol: str
    service_name: str
    environment: str | None
    tags: Mapping[str, str] | str
    sentry_dsn: str | None
    sentry_environment: str | None
    sentry_release: str | None
    redact_patterns: Sequence[str | re.Pattern[str]] | str
    redact_keys: Sequence[str] | str
    flush_timeout: float | str
    sinks: Sequence[Sink]


class _Given(NamedTuple):
    """A raw value and where it came from."""

    value: Any
    source: str


_FIELDS = {one.name: one for one in dataclasses.fields(Settings) if "parse" in one.metadata}


def resolve_settings(arguments: Mapping[str, Any]) -> Settings:
    """Look up and check every setting.

    Args:
        arguments: Those of `configure()`. None there means: as if it had not been given.

    Raises:
        ConfigurationError: Naming the setting, where it came from, what is wrong and what is expected.
    """
    for name in arguments:
        if name not in _FIELDS and name != "sinks":
            raise _unknown(name, "argument of configure()", [*_FIELDS, "sinks"], str)
    _refuse_unknown_variables()
    given = _from_dlt()
    for name, one in _FIELDS.items():
        if arguments.get(name) is not None:
            given[name] = _Given(arguments[name], "argument of configure()")
        elif name not in given:
            for variable in one.metadata["fallbacks"]:
                if os.environ.get(variable, "").strip():
                    given[name] = _Given(os.environ[variable], f"environment variable {variable}")
                    break
    values = {name: _parsed(name, raw) for name, raw in given.items()}
    values["sinks"] = _checked_sinks(arguments.get("sinks") or ())
    if "service_name" not in values and (named := _named_in_resource_attributes()):
        values["service_name"] = named
    settings = Settings(**values, sources={name: raw.source for name, raw in given.items()})
    _check_grpc(settings)
    return dataclasses.replace(settings, trace_exporters=_trace_exporters(settings))


def _parsed(name: str, raw: _Given) -> Any:
    metadata = _FIELDS[name].metadata
    try:
        return metadata["parse"](raw.value)
    except ValueError as error:
        # what has a user name before its host may have a password there, too
        hidden = metadata["secret"] or "@" in str(raw.value)
        shown = "this value" if hidden else repr(raw.value)
        detail = str(error)
        problem = f"{shown} is not usable" + (f" ({detail})" if detail else "")
        raise ConfigurationError(
            name, source=raw.source, problem=problem, expected=metadata["expected"]
        ) from None


def _from_dlt() -> dict[str, _Given]:
    """What dlt's config providers say, without a trace of our asking."""
    from dlt.common.configuration import resolve_configuration
    from dlt.common.configuration.exceptions import ConfigurationException
    from dlt.common.configuration.utils import get_resolved_traces

    traces = get_resolved_traces()
    before = len(traces.resolved_traces), len(traces.all_traces)
    try:
        # an explicit value, though empty: else a variable DLTOBS would be parsed as the whole section
        resolve_configuration(_spec()(), explicit_value={})
        found = {
            trace.key: _Given(trace.value, _source_of(trace))
            for trace in traces.resolved_traces[before[0] :]
            if trace.key in _FIELDS and trace.value is not None
        }
    except ConfigurationException as error:
        raise ConfigurationError(
            _SECTION, source="dlt's configuration", problem=str(error).strip()
        ) from error
    finally:
        # the next run's trace lists what dlt resolved; ours is none of its business
        del traces.resolved_traces[before[0] :]
        del traces.all_traces[before[1] :]
    _refuse_unknown_keys()
    return found


def _spec() -> type[Any]:
    """The configuration that dlt resolves: every setting with any value; checking is ours."""
    from dlt.common.configuration.specs import BaseConfiguration, configspec

    namespace: dict[str, Any] = {"__section__": _SECTION, "__annotations__": {}}
    for name in _FIELDS:
        namespace[name] = None
        namespace["__annotations__"][name] = Optional[Any]
    return configspec(type("DltobsConfiguration", (BaseConfiguration,), namespace))


def _source_of(trace: Any) -> str:
    if trace.provider_name == "Environment Variables":
        return f"environment variable {'__'.join((*trace.sections, trace.key)).upper()}"
    place = trace.provider_location or trace.provider_name
    return f"{'.'.join((*trace.sections, trace.key))} in {place}"


def _refuse_unknown_variables() -> None:
    for variable in os.environ:
        if variable.startswith(_ENVIRONMENT_PREFIX):
            name = variable[len(_ENVIRONMENT_PREFIX) :]
            if name.lower() not in _FIELDS or name != name.upper():
                raise _unknown(name.lower(), f"environment variable {variable}", list(_FIELDS), _variable_of)


def _refuse_unknown_keys() -> None:
    from dlt.common.configuration.container import Container
    from dlt.common.configuration.providers.doc import BaseDocProvider
    from dlt.common.configuration.providers.vault import VaultDocProvider
    from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

    for provider in Container()[PluggableRunContext].providers.providers:
        # a vault would be asked over the network
        if not isinstance(provider, BaseDocProvider) or isinstance(provider, VaultDocProvider):
            continue
        section, _ = provider.get_value(_SECTION, Any, "")
        if isinstance(section, Mapping):
            for key in section:
                if key not in _FIELDS:
                    raise _unknown(str(key), f"[{_SECTION}] in {provider.name}", list(_FIELDS), str)


def _variable_of(name: str) -> str:
    return f"{_ENVIRONMENT_PREFIX}{name.upper()}"


def _unknown(name: str, source: str, known: list[str], spelled: Callable[[str], str]) -> ConfigurationError:
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    expected = f"one of the settings, perhaps {spelled(close[0])}" if close else "one of the settings"
    return ConfigurationError(name, source=source, problem="there is no such setting", expected=expected)


def _checked_sinks(sinks: Any) -> tuple[Any, ...]:
    from dltobs._dispatch import Sink

    if isinstance(sinks, (str, Mapping)) or not hasattr(sinks, "__iter__"):
        sinks = (sinks,)
    for sink in tuple(sinks):
        if isinstance(sink, type) or not isinstance(sink, Sink):
            raise ConfigurationError(
                "sinks",
                source="argument of configure()",
                problem=f"{type(sink).__name__} is no sink"
                if not isinstance(sink, type)
                else f"{sink.__name__} is a class",
                expected="objects with the methods emit(event), flush(timeout) and close()",
            )
    return tuple(sinks)


def _named_in_resource_attributes() -> str | None:
    for pair in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        name, _, value = pair.partition("=")
        if name.strip() == "service.name" and value.strip():
            return value.strip()
    return None


def _check_grpc(settings: Settings) -> None:
    import importlib.util

    if settings.otlp_protocol != "grpc":
        return
    try:
        found = importlib.util.find_spec("opentelemetry.exporter.otlp.proto.grpc")
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise ConfigurationError(
            "otlp_protocol",
            source=settings.source_of("otlp_protocol"),
            problem="'grpc' needs a package that is not installed",
            expected="pip install 'dltobs[grpc]'",
        )


def _trace_exporters(settings: Settings) -> tuple[str, ...]:
    """The exporters that are asked for, by our own setting or OpenTelemetry's variables."""
    if settings.tracing == "off":
        return ()
    if settings.otlp_endpoint is not None:
        return ("otlp",)
    for variable in ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        if os.environ.get(variable, "").strip():
            _check_endpoint(variable)
    named = os.environ.get("OTEL_TRACES_EXPORTER", "").strip()
    if not named:
        return ("otlp",) if _has_endpoint() else ()
    names = tuple(dict.fromkeys(name.strip() for name in named.split(",") if name.strip()))
    if _application_has_provider():
        return ()  # the variable speaks to whoever built that provider
    for name in names:
        if name not in {"otlp", "console", "none"}:
            raise ConfigurationError(
                "tracing",
                source="environment variable OTEL_TRACES_EXPORTER",
                problem=f"{name!r} is no exporter that dltobs has",
                expected="otlp, console or none",
            )
    return () if "none" in names else names


def _has_endpoint() -> bool:
    variables = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return any(os.environ.get(variable, "").strip() for variable in variables)


def _check_endpoint(variable: str) -> None:
    metadata = _FIELDS["otlp_endpoint"].metadata
    try:
        metadata["parse"](os.environ[variable])
    except ValueError as error:
        raise ConfigurationError(
            "otlp_endpoint",
            source=f"environment variable {variable}",
            problem=f"this value is not usable ({error})",
            expected=metadata["expected"],
        ) from None


def _application_has_provider() -> bool:
    from opentelemetry import trace

    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
