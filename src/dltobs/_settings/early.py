"""Reads the settings that say whether, and how strictly, all others are looked up and checked.

It imports little, as every process that uses dlt loads it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

SECTION = "dltobs"
PREFIX = "DLTOBS__"


def is_switched_off(arguments: Mapping[str, Any]) -> bool:
    """Return whether `enabled` is given as false. A value that is no boolean is refused later."""
    from dltobs._settings import parse

    try:
        return not parse.boolean(early_value("enabled", arguments))
    except Exception:  # noqa: BLE001 - not given; or dlt's files cannot be read, which the look-up of all tells
        return False


def explicit_on_error(arguments: Mapping[str, Any]) -> str | None:
    """Return `on_error` as it is given: `raise` or `warn`; None where it is not given, or wrong."""
    from dltobs._settings import parse

    try:
        return parse.one_of("raise", "warn")(early_value("on_error", arguments))
    except Exception:  # noqa: BLE001 - as above
        return None


def early_value(name: str, arguments: Mapping[str, Any]) -> Any:
    """Return what is given for a setting: as an argument, in the environment, in a file; None if it is not.

    Vaults do not count, as they are asked over the network.
    """
    if arguments.get(name) is not None:
        return arguments[name]
    return os.environ.get(f"{PREFIX}{name.upper()}") or _in_files(name)


def doc_providers() -> Iterator[Any]:
    """Yield dlt's providers for `config.toml` and `secrets.toml`, and others that hold a document."""
    from dlt.common.configuration.container import Container
    from dlt.common.configuration.providers.doc import BaseDocProvider
    from dlt.common.configuration.providers.vault import VaultDocProvider
    from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

    for provider in Container()[PluggableRunContext].providers.providers:
        if isinstance(provider, BaseDocProvider) and not isinstance(provider, VaultDocProvider):
            yield provider


def _in_files(name: str) -> Any:
    for provider in doc_providers():
        section, _ = provider.get_value(SECTION, Any, "")
        if isinstance(section, Mapping) and section.get(name) is not None:
            return section[name]
    return None
