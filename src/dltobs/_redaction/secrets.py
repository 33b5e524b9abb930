"""Finds the secret strings in what dlt resolves: configurations, traces, values of any shape."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dltobs._redaction.urls import SECRET_FIELD, credentials_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dlt.common.configuration.specs import BaseConfiguration
    from dlt.common.configuration.utils import ResolvedValueTrace

NOT_SECRET = frozenset({"pipeline_salt"})
"""Hinted as a secret, but a random salt that dlt derives from the pipeline's name."""

_PLAIN_FIELDS = frozenset(
    {
        "account", "account_name", "application_name", "auth_uri", "authenticator", "bucket_url", "catalog",
        "client_email", "client_id", "connect_args", "connect_timeout", "database", "dataset",
        "dataset_name", "db", "driver", "drivername", "encrypt", "endpoint", "endpoint_url", "host",
        "hostname", "location", "login", "options", "port", "profile_name", "project", "project_id",
        "protocol", "query", "region", "region_name", "role", "schema", "scheme", "scopes", "server",
        "server_hostname", "ssl_mode", "sslmode", "tenant_id", "timezone", "token_uri",
        "trustservercertificate", "type", "url", "user", "username", "warehouse",
    }
)  # fmt: skip
"""Fields that are no secret even in a value that is one as a whole, such as `dlt.secrets["shop"]`."""

FILE = re.compile(r"[^?;=]*\.(?:duckdb|db|sqlite3?)|:\w+:")
_MAX_DEPTH = 8


def secrets_in(value: object, *, whole: bool = True, depth: int = 0) -> Iterator[str]:
    """The secret strings in a value that is a secret, or that contains some.

    Connection strings give their password and the values of their query that have a secret's name, JSON
    documents and mappings what stands under such names.

    Args:
        value: A string, bytes, mapping, sequence or configuration.
        whole: The value as a whole is secret, so every string in it is but hosts, user names and the like.
        depth: How deep in another value this one lies; the search ends at a fixed depth.
    """
    from dlt.common.configuration.specs.base_configuration import BaseConfiguration

    if depth > _MAX_DEPTH:
        return
    if isinstance(value, BaseConfiguration):
        yield from in_configuration(value, depth)
    elif isinstance(value, (str, bytes, bytearray)):
        text = value if isinstance(value, str) else value.decode("utf-8", "replace")
        if whole:
            yield text
        yield from _in_text(text, depth)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            is_whole = _is_secret_part(key, whole=whole) and not is_section(key, item)
            yield from secrets_in(item, whole=is_whole, depth=depth + 1)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from secrets_in(item, whole=whole, depth=depth + 1)
    elif whole and isinstance(value, int) and not isinstance(value, bool):
        yield str(value)


def _is_secret_part(key: object, *, whole: bool) -> bool:
    if not isinstance(key, str):
        return whole
    return bool(SECRET_FIELD.search(key)) or (whole and key.lower() not in _PLAIN_FIELDS)


def is_section(key: object, value: object) -> bool:
    """Return whether a value is a section of credentials: most of its fields are plain settings.

    Only what has the name of a secret is one in it.
    """
    return isinstance(value, Mapping) and str(key).lower().endswith("credentials")


def _in_text(value: str, depth: int = 0) -> Iterator[str]:
    if value.lstrip()[:1] == "{":
        try:
            document = json.loads(value)
        except ValueError:
            pass
        else:
            yield from secrets_in(document, whole=False, depth=depth + 1)
            return
    yield from credentials_in(value)


def in_credentials(value: str, *, names_a_location: bool) -> Iterator[str]:
    """The secrets in the native form of credentials, which may also be a mere location of a database."""
    found = list(_in_text(value))
    yield from found
    if found or not (names_a_location or "://" in value):
        yield value


def in_configuration(config: BaseConfiguration, depth: int = 0) -> Iterator[str]:
    from dlt.common.configuration.specs.base_configuration import (
        BaseConfiguration,
        is_secret_hint,
    )

    for name, hinted in _fields(type(config)):
        try:
            value = getattr(config, name, None)
            resolver = config.__hint_resolvers__.get(name)
            is_hinted = hinted or (resolver is not None and is_secret_hint(resolver(config)))
        except Exception:  # noqa: BLE001, S112 - a property of the user's own configuration may raise
            continue
        if value is None or name in NOT_SECRET:
            continue
        if isinstance(value, BaseConfiguration):
            if depth < _MAX_DEPTH:
                yield from in_configuration(value, depth + 1)
        elif is_hinted or SECRET_FIELD.search(name):
            yield from secrets_in(value, whole=not is_section(name, value), depth=depth + 1)
        elif is_credentials(type(config)) or (isinstance(value, str) and "://" in value):
            yield from secrets_in(value, whole=False, depth=depth + 1)


def in_assignment(config: BaseConfiguration, name: str, value: object) -> Iterator[str]:
    """What the value that is given to a field of a configuration holds, if it can be a secret."""
    if name in NOT_SECRET:
        return
    if name in secret_fields(type(config)):
        yield from secrets_in(value, whole=not is_section(name, value))
    else:
        yield from secrets_in(value, whole=False)


@functools.cache
def secret_fields(spec: type[BaseConfiguration]) -> frozenset[str]:
    """The fields of a configuration that are hinted as secret, or named so."""
    try:
        fields = _fields(spec)
    except Exception:  # noqa: BLE001 - annotations that cannot be resolved are dlt's to complain of
        return frozenset()
    return frozenset(name for name, hinted in fields if hinted or SECRET_FIELD.search(name)) - NOT_SECRET


@functools.cache
def is_credentials(spec: type[BaseConfiguration]) -> bool:
    """Whether a configuration is one of credentials, whose every field may hold a secret in some form."""
    from dlt.common.configuration.specs.base_configuration import CredentialsConfiguration

    return issubclass(spec, CredentialsConfiguration)


@functools.cache
def _fields(spec: type[BaseConfiguration]) -> tuple[tuple[str, bool], ...]:
    """The fields of a configuration, and whether each is hinted as a secret in itself."""
    from dlt.common.configuration.specs.base_configuration import (
        extract_inner_hint,
        is_base_configuration_inner_hint,
        is_secret_hint,
    )

    return tuple(
        (name, is_secret_hint(hint) and not is_base_configuration_inner_hint(extract_inner_hint(hint)))
        for name, hint in spec.get_resolvable_fields().items()
    )


def in_trace(trace: ResolvedValueTrace) -> Iterator[str]:
    """What a value holds that a config provider has returned."""
    if trace.value is None or trace.key in NOT_SECRET:
        return
    try:
        is_secret, spec = _nature_of(trace.hint)
    except TypeError:  # a hint that cannot be hashed
        is_secret, spec = _nature_of.__wrapped__(trace.hint)
    if is_secret:
        if spec is not None and isinstance(trace.value, str):
            yield from in_credentials(trace.value, names_a_location=hasattr(spec, "database"))
        else:
            yield from secrets_in(trace.value, whole=spec is None and not is_section(trace.key, trace.value))
    elif SECRET_FIELD.search(trace.key):
        yield from secrets_in(trace.value)


@functools.lru_cache(maxsize=1024)
def _nature_of(hint: Any) -> tuple[bool, type[Any] | None]:
    """Whether a hint is that of a secret, and the configuration that it asks for, if it does."""
    from dlt.common.configuration.specs.base_configuration import (
        extract_inner_hint,
        is_base_configuration_inner_hint,
        is_secret_hint,
    )

    if not is_secret_hint(hint):
        return False, None
    spec = extract_inner_hint(hint)
    return True, spec if is_base_configuration_inner_hint(spec) else None


def asked_for(field: str, result: tuple[Any, Any] | None) -> Iterator[str]:
    """What `dlt.secrets` gave, which is a secret whatever type was expected."""
    key = field.rpartition(".")[2]
    if result is not None and key not in NOT_SECRET:
        is_whole = _is_secret_part(key, whole=True) and not is_section(key, result[0])
        yield from secrets_in(result[0], whole=is_whole)
