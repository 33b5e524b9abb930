"""Looks up what is given for each setting, and refuses what is no setting.

dlt's own configuration system does the look-up, in section `dltobs`; the values are checked in `resolution`.
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from dltobs._redaction.redactor import Redactor
from dltobs._settings import otel
from dltobs._settings.early import PREFIX, SECTION, doc_providers
from dltobs._settings.settings import FIELDS
from dltobs.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Overrides = Mapping[str, "str | None"]
"""Wrong settings that count as not given, or, where there is a value here, as given with it."""

ARGUMENT = "argument of configure()"
"""The source of what has been given there."""


class Given(NamedTuple):
    """A raw value and where it came from."""

    value: Any
    source: str


def look_up(arguments: Mapping[str, Any], overrides: Overrides) -> dict[str, Given]:
    """What is given for each setting, by argument, dlt's configuration or a standard variable, in this order.

    Args:
        arguments: Those of `configure()`. None there means: as if it had not been given.
        overrides: Are stronger than all of these; unknown names among them are ignored.

    Raises:
        ConfigurationError: There is no such setting, or dlt cannot read its configuration.
    """
    for name in arguments:
        if name not in FIELDS and name != "sinks" and name not in overrides:
            raise _unknown(name, ARGUMENT, [*FIELDS, "sinks"], str)
    _refuse_unknown_variables(overrides)
    given = _from_dlt()
    _refuse_unknown_keys(overrides)
    for name, one in FIELDS.items():
        if arguments.get(name) is not None:
            given[name] = Given(arguments[name], ARGUMENT)
        elif name not in given:
            variable = next(filter(otel.value_of, one.metadata["fallbacks"]), None)
            if variable is not None:
                given[name] = Given(os.environ[variable], f"environment variable {variable}")
    given |= _dlts_slack_hook(given)
    kept = {name: one for name, one in given.items() if name not in overrides}
    return kept | {name: Given(value, "on_error") for name, value in overrides.items() if value is not None}


def _from_dlt() -> dict[str, Given]:
    """What dlt's config providers say, without a trace of our asking."""
    from dlt.common.configuration import resolve_configuration
    from dlt.common.configuration.container import Container
    from dlt.common.configuration.exceptions import ConfigurationException
    from dlt.common.configuration.resolve import inject_section
    from dlt.common.configuration.specs.config_section_context import ConfigSectionContext
    from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext
    from dlt.common.configuration.utils import get_resolved_traces

    traces = get_resolved_traces()
    try:
        _ = Container()[PluggableRunContext]  # dlt resolves its own runtime now, not among ours
        _check_dlts_log(traces.resolved_traces)
        before = len(traces.resolved_traces), len(traces.all_traces)
        try:
            # not in the sections of a source in which configure() may be called;
            # an explicit value, though empty: else a variable DLTOBS would be parsed as the whole section
            with inject_section(ConfigSectionContext(), merge_existing=False):
                resolve_configuration(_spec()(), explicit_value={})
            found = {
                trace.key: Given(trace.value, _source_of(trace))
                for trace in traces.resolved_traces[before[0] :]
                if trace.key in FIELDS and trace.value is not None
            }
        finally:
            # the next run's trace lists what dlt resolved; ours is none of its business
            del traces.resolved_traces[before[0] :]
            del traces.all_traces[before[1] :]
    except ConfigurationError:
        raise
    except (ConfigurationException, ValueError) as error:
        _check_dlts_log(traces.resolved_traces)
        raise ConfigurationError(
            SECTION, source="dlt's configuration", problem=Redactor().text(str(error).strip())
        ) from error
    return found


def _check_dlts_log(resolved: Iterable[Any]) -> None:
    """Refuse a level or format of its log that dlt cannot use; its own error does not name the source."""
    for trace in resolved:
        value = str(trace.value)
        if trace.key == "log_level" and "runtime" in trace.sections:
            if isinstance(logging.getLevelName(value), int):
                continue
            meant = value.strip().upper()
            known = meant if isinstance(logging.getLevelName(meant), int) else "a level name such as INFO"
        elif trace.key == "log_format" and "runtime" in trace.sections:
            if value == "JSON" or _is_format(value):
                continue
            is_json = value.strip().upper() == "JSON"
            known = "JSON" if is_json else "JSON, or a format such as {asctime}|{levelname}|{message}"
        else:
            continue
        setting, problem = f"runtime.{trace.key}", f"dlt does not take {value!r}"
        raise ConfigurationError(setting, source=_source_of(trace), problem=problem, expected=known)


def _is_format(text: str) -> bool:
    try:
        logging.Formatter(text, style="{")
    except ValueError:
        return False
    return True


def _dlts_slack_hook(given: Mapping[str, Given]) -> dict[str, Given]:
    """dlt's own `runtime.slack_incoming_hook`, from wherever dlt has it, where ours is silent."""
    from dlt.common.configuration.container import Container
    from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

    name, variable = "slack_incoming_hook", "environment variable RUNTIME__SLACK_INCOMING_HOOK"
    ours = given.get(name)
    # dlt takes a disguised value as well, and only then the variable is not what it has made of it
    if ours is not None and (ours.source != variable or str(ours.value).lower().startswith("http")):
        return {}
    hook = getattr(Container()[PluggableRunContext].context.runtime_config, name, None)
    if not hook:
        return {}
    return {name: Given(str(hook), f"runtime.{name} of dlt's configuration" if ours is None else variable)}


def _spec() -> type[Any]:
    """The configuration that dlt resolves: every setting with any value; checking is ours."""
    from dlt.common.configuration.specs import BaseConfiguration, configspec

    namespace: dict[str, Any] = {"__section__": SECTION, "__annotations__": {}}
    for name in FIELDS:
        namespace[name] = None
        namespace["__annotations__"][name] = Any | None
    return configspec(type("DltobsConfiguration", (BaseConfiguration,), namespace))


def _source_of(trace: Any) -> str:
    if trace.provider_name == "Environment Variables":
        return f"environment variable {'__'.join((*trace.sections, trace.key)).upper()}"
    place = getattr(trace, "provider_location", "") or trace.provider_name  # newer than dlt 1.23
    return f"{'.'.join((*trace.sections, trace.key))} in {place}"


def _refuse_unknown_variables(overrides: Overrides) -> None:
    for variable in os.environ:
        if variable.startswith(PREFIX):
            name = variable[len(PREFIX) :]
            if name.lower() in overrides:
                continue
            if name == "SINKS":
                raise ConfigurationError(
                    "sinks",
                    source=f"environment variable {variable}",
                    problem="sinks are objects, which a variable cannot hold",
                    expected=f"an {ARGUMENT}",
                )
            if name.lower() not in FIELDS or name != name.upper():
                raise _unknown(name.lower(), f"environment variable {variable}", list(FIELDS), _variable_of)


def _refuse_unknown_keys(overrides: Overrides) -> None:
    for provider in doc_providers():
        section, _ = provider.get_value(SECTION, Any, "")
        if isinstance(section, Mapping):
            for key in section:
                if key not in FIELDS and key not in overrides:
                    raise _unknown(str(key), f"[{SECTION}] in {provider.name}", list(FIELDS), str)


def misplaced() -> Iterator[str]:
    """Yield a sentence for each variable and section that is not read, but is nearly the name of one that is.

    Kubernetes' variables for a service called dltobs (`DLTOBS_PORT`, `DLTOBS_SERVICE_HOST`) are not.
    """
    for variable in os.environ:
        name = variable.upper().removeprefix("DLTOBS").strip("_").lower()
        if variable.upper().startswith("DLTOBS_") and not variable.startswith(PREFIX) and name in FIELDS:
            yield f"environment variable {variable} is not read: the setting {name} is {_variable_of(name)}"
    for provider in doc_providers():
        document = getattr(provider, "_config_doc", None)
        for path in _sections(document, ()) if isinstance(document, Mapping) else ():
            yield f"section [{'.'.join(path)}] in {provider.name} is not read: the right one is [{SECTION}]"


def _sections(document: Mapping[Any, Any], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the paths of sections called dltobs, in any case, on the first two levels, but the right one."""
    for key, value in document.items():
        if isinstance(value, Mapping):
            below = (*path, str(key))
            if str(key).lower() == SECTION and below != (SECTION,):
                yield below
            elif not path:
                yield from _sections(value, below)


def _variable_of(name: str) -> str:
    return f"{PREFIX}{name.upper()}"


def _unknown(name: str, source: str, known: list[str], spelled: Callable[[str], str]) -> ConfigurationError:
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    expected = f"one of the settings, perhaps {spelled(close[0])}" if close else "one of the settings"
    return ConfigurationError(name, source=source, problem="there is no such setting", expected=expected)
