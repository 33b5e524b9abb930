"""Learns the secret values that dlt resolves, at the moment it resolves them.

Three places see all of them: `BaseConfiguration.call_method_in_mro`, which every configuration passes when
it is resolved or given up (explicit arguments included), `TraceLogContext.log`, which sees each value that
a config provider returns, and `dlt.secrets`. What was resolved before is collected once from the live
objects.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dltobs._urls import SECRET_FIELD, credentials_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dlt.common.configuration.specs import BaseConfiguration
    from dlt.common.configuration.utils import ResolvedValueTrace

    from dltobs._redaction import Redactor

_NOT_SECRET = frozenset({"pipeline_salt"})
"""Hinted as a secret, but a random salt that dlt derives from the pipeline's name."""

_PLAIN_FIELDS = frozenset(
    {
        "account", "account_name", "auth_uri", "bucket_url", "catalog", "client_email", "database",
        "dataset", "dataset_name", "db", "driver", "drivername", "endpoint", "endpoint_url", "host",
        "hostname", "location", "login", "port", "profile_name", "project", "project_id", "protocol",
        "region", "region_name", "role", "schema", "scheme", "scopes", "server", "token_uri", "type", "url",
        "user", "username", "warehouse",
    }
)  # fmt: skip
"""Fields that are no secret even in a value that is one as a whole, such as `dlt.secrets["credentials"]`."""

_FILE = re.compile(r"[^?;=]*\.(?:duckdb|db|sqlite3?)|:\w+:")
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
        yield from _in_configuration(value, depth)
    elif isinstance(value, (str, bytes, bytearray)):
        text = value if isinstance(value, str) else value.decode("utf-8", "replace")
        if whole:
            yield text
        yield from _in_text(text, depth)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from secrets_in(item, whole=_is_secret_part(key, whole=whole), depth=depth + 1)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from secrets_in(item, whole=whole, depth=depth + 1)
    elif whole and isinstance(value, int) and not isinstance(value, bool):
        yield str(value)


def _is_secret_part(key: object, *, whole: bool) -> bool:
    if not isinstance(key, str):
        return whole
    return bool(SECRET_FIELD.search(key)) or (whole and key.lower() not in _PLAIN_FIELDS)


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


def _in_credentials(value: str, *, names_a_location: bool) -> Iterator[str]:
    """The secrets in the native form of credentials, which may also be a mere location of a database."""
    found = list(_in_text(value))
    yield from found
    if found or not (names_a_location or "://" in value):
        yield value


def _in_configuration(config: BaseConfiguration, depth: int = 0) -> Iterator[str]:
    from dlt.common.configuration.specs.base_configuration import (
        BaseConfiguration,
        CredentialsConfiguration,
        is_secret_hint,
    )

    is_credentials = isinstance(config, CredentialsConfiguration)
    for name, hinted in _fields(type(config)):
        try:
            value = getattr(config, name, None)
            resolver = config.__hint_resolvers__.get(name)
            is_hinted = hinted or (resolver is not None and is_secret_hint(resolver(config)))
        except Exception:  # noqa: BLE001, S112 - a property of the user's own configuration may raise
            continue
        if value is None or name in _NOT_SECRET:
            continue
        if isinstance(value, BaseConfiguration):
            if depth < _MAX_DEPTH:
                yield from _in_configuration(value, depth + 1)
        elif is_hinted or SECRET_FIELD.search(name):
            yield from secrets_in(value, depth=depth + 1)
        elif is_credentials or (isinstance(value, str) and "://" in value):
            yield from secrets_in(value, whole=False, depth=depth + 1)


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


def _in_trace(trace: ResolvedValueTrace) -> Iterator[str]:
    from dlt.common.configuration.specs.base_configuration import (
        extract_inner_hint,
        is_base_configuration_inner_hint,
        is_secret_hint,
    )

    if trace.value is None or trace.key in _NOT_SECRET:
        return
    if is_secret_hint(trace.hint):
        spec = extract_inner_hint(trace.hint)
        if is_base_configuration_inner_hint(spec) and isinstance(trace.value, str):
            yield from _in_credentials(trace.value, names_a_location=hasattr(spec, "database"))
        else:
            yield from secrets_in(trace.value)
    elif SECRET_FIELD.search(trace.key):
        yield from secrets_in(trace.value)


def _asked_for(field: str, result: tuple[Any, Any] | None) -> Iterator[str]:
    """What `dlt.secrets` gave, which is a secret whatever type was expected."""
    key = field.rpartition(".")[2]
    if result is not None and key not in _NOT_SECRET:
        yield from secrets_in(result[0], whole=_is_secret_part(key, whole=True))


class SecretLearner:
    """Feeds a redactor with what dlt resolves, from `attach()` until `detach()`.

    Nothing in it may disturb the resolution: whatever goes wrong is handed to `on_error`.
    """

    def __init__(self, redactor: Redactor, on_error: Callable[[Exception], None]) -> None:
        self._redactor = redactor
        self._on_error = on_error
        self._undo: list[Callable[[], None]] = []

    def attach(self, *, dlt_was_used: bool = True) -> None:
        """Wrap dlt's resolution, and learn what has been resolved so far.

        Args:
            dlt_was_used: Before dltobs, in this process. If not, only dlt's own runtime has been resolved,
                and there is no need to walk through all objects.
        """
        from dlt.common.configuration.accessors import secrets
        from dlt.common.configuration.specs.base_configuration import BaseConfiguration
        from dlt.common.configuration.utils import TraceLogContext

        self._wrap(BaseConfiguration, "call_method_in_mro", lambda given, _: _in_configuration(given[0]))
        self._wrap(TraceLogContext, "log", lambda given, _: _in_trace(given[1]))
        self._wrap(type(secrets), "_get_value", lambda given, result: _asked_for(given[1], result))
        if dlt_was_used:
            self._learn_earlier()
        else:
            self._learn_runtime()

    def detach(self) -> None:
        """Take the wrappers away."""
        while self._undo:
            self._undo.pop()()

    def _wrap(self, owner: type, name: str, find: Callable[[tuple[Any, ...], Any], Iterator[str]]) -> None:
        is_own = name in vars(owner)
        original = getattr(owner, name)
        learner = self
        active = True

        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            result = None
            try:
                result = original(*args, **kwargs)
                return result
            finally:
                if active:
                    learner._learn(lambda: find((*args, *kwargs.values()), result))

        def undo() -> None:
            nonlocal active
            active = False
            # somebody may have wrapped it after us; then ours stays in the chain and does nothing
            if vars(owner).get(name) is wrapper:
                if is_own:
                    setattr(owner, name, original)
                else:
                    delattr(owner, name)

        setattr(owner, name, wrapper)
        self._undo.append(undo)

    def _learn(self, find: Callable[[], Iterator[str]]) -> None:
        try:
            for secret in find():
                self._redactor.add(secret)
        except Exception as error:  # noqa: BLE001 - never into dlt's configuration resolution
            with contextlib.suppress(Exception):
                self._on_error(error)

    def _learn_runtime(self) -> None:
        """Learn from dlt's runtime, which the look-up of our own settings has started."""
        from dlt.common.configuration.container import Container
        from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

        runtime = Container()[PluggableRunContext].context.runtime_config
        if runtime is not None:
            self._learn(functools.partial(_in_configuration, runtime))

    def _learn_earlier(self) -> None:
        """Learn from the configurations that are alive, and look up again what the traces only name."""
        from dlt.common import logger
        from dlt.common.configuration.specs.base_configuration import BaseConfiguration
        from dlt.common.configuration.utils import TraceLogContext
        from dlt.pipeline.trace import SerializableResolvedValueTrace

        if vars(logger)["LOGGER"] is None:
            return

        # by hand: issubclass() on an abstract base class is slow for the many types of a process
        specs: dict[type, bool] = {}
        for item in gc.get_objects():
            kind = type(item)
            if kind is SerializableResolvedValueTrace:
                self._learn(functools.partial(_looked_up, item))
            elif kind is TraceLogContext:
                for trace in list(item.all_traces):
                    self._learn(functools.partial(_in_trace, trace))
            else:
                if kind not in specs:
                    specs[kind] = BaseConfiguration in kind.__mro__
                if specs[kind]:
                    self._learn(functools.partial(_in_configuration, item))


def _looked_up(trace: Any) -> Iterator[str]:
    """The value that a finished trace has blanked, from the provider that it names."""
    from dlt.common.configuration.container import Container
    from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext
    from dlt.common.pipeline import PipelineContext
    from dlt.common.typing import TSecretValue

    is_secret = trace.is_secret_hint or SECRET_FIELD.search(trace.key)
    if trace.key in _NOT_SECRET or not is_secret:
        return
    container = Container()
    active = container[PipelineContext]
    # the trace does not tell whether it was found below the name of a pipeline
    names = (active.pipeline().pipeline_name, None) if active.is_active() else (None,)
    for provider in container[PluggableRunContext].providers.providers:
        if provider.name == trace.provider_name:
            for name in names:
                value, _ = provider.get_value(trace.key, TSecretValue, name, *trace.sections)
                if isinstance(value, str) and trace.key == "credentials":
                    yield from _in_credentials(value, names_a_location=_FILE.fullmatch(value) is not None)
                else:
                    yield from secrets_in(value)
