"""Learns the secret values that dlt resolves, at the moment it resolves them.

Two places see all of them: `BaseConfiguration.call_method_in_mro`, which every configuration passes when it
is resolved or given up (explicit arguments included), and `TraceLogContext.log`, which sees each value
that a config provider returns. What was resolved before is collected once from the live objects.
"""

from __future__ import annotations

import functools
import gc
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from dltobs._encodings import MIN_LENGTH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dlt.common.configuration.specs import BaseConfiguration
    from dlt.common.configuration.utils import ResolvedValueTrace

    from dltobs._redaction import Redactor

_NOT_SECRET = frozenset({"pipeline_salt"})
"""Hinted as a secret, but a random salt that dlt derives from the pipeline's name."""

_SECRET_FIELD = re.compile(
    r"(?:^|_)(?:password|passwd|passphrase|secret|api_?key|access_token|refresh_token|auth_token"
    r"|private_key|client_secret|sentry_dsn)$",
    re.IGNORECASE,
)
"""Fields that hold a secret even where nobody hinted so."""

_ASSIGNMENT = re.compile(
    r"(?i)(?:^|[;\s])(?:password|pwd|accountkey|sharedaccesskey)\s*=\s*('[^']*'|[^;\s]+)"
)
_CONNECTION_PASSWORD = re.compile(r"[\w+.\-]+://[^:/@]*:([^@]+)@")
"""As SQLAlchemy reads a connection string: a password may contain an unquoted slash."""

_SECRET_PARAMETERS = frozenset({"token", "key", "sig", "auth", "code", "pwd"})
_MAX_DEPTH = 8


def secrets_in(value: object, *, whole: bool = True, depth: int = 0) -> Iterator[str]:
    """The secret strings in a value that is a secret, or that contains some.

    Connection strings give their password and the values of their query that have a secret's name, JSON
    documents and mappings what stands under such names.

    Args:
        value: A string, bytes, mapping, sequence or configuration.
        whole: The value as a whole is secret, so every string in it is.
        depth: How deep in another value this one lies; the search ends at a fixed depth.
    """
    from dlt.common.configuration.specs.base_configuration import BaseConfiguration

    if depth > _MAX_DEPTH:
        return
    if isinstance(value, BaseConfiguration):
        yield from _in_configuration(value, depth)
    elif isinstance(value, (bytes, bytearray)):
        yield from secrets_in(bytes(value).decode("utf-8", "replace"), whole=whole, depth=depth)
    elif isinstance(value, str):
        if whole and len(value) >= MIN_LENGTH:
            yield value
        yield from _in_text(value, whole=whole, depth=depth)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            named = isinstance(key, str) and bool(_SECRET_FIELD.search(key))
            yield from secrets_in(item, whole=whole or named, depth=depth + 1)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from secrets_in(item, whole=whole, depth=depth + 1)
    elif whole and isinstance(value, int) and not isinstance(value, bool):
        yield str(value)


def _in_text(value: str, *, whole: bool, depth: int) -> Iterator[str]:
    if "://" in value:
        yield from _in_url(value, whole=whole)
    elif value.lstrip()[:1] == "{":
        try:
            document = json.loads(value)
        except ValueError:
            return
        yield from secrets_in(document, whole=False, depth=depth + 1)
    else:
        for match in _ASSIGNMENT.finditer(value):
            yield match[1].strip("'")


def _in_url(url: str, *, whole: bool) -> Iterator[str]:
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    user_info, at, _ = parts.netloc.rpartition("@")
    if at:
        _, colon, password = user_info.partition(":")
        yield from _quoted_and_not(password if colon else user_info)
    if whole and (match := _CONNECTION_PASSWORD.match(url)):
        yield from _quoted_and_not(match[1])
    for part in parts.query.split("&"):
        key, _, text = part.partition("=")
        if _SECRET_FIELD.search(key) or key.lower() in _SECRET_PARAMETERS:
            yield from _quoted_and_not(text)


def _quoted_and_not(text: str) -> tuple[str, str]:
    return text, unquote(text)


def _in_configuration(config: BaseConfiguration, depth: int = 0) -> Iterator[str]:
    from dlt.common.configuration.specs.base_configuration import BaseConfiguration, CredentialsConfiguration

    is_credentials = isinstance(config, CredentialsConfiguration)
    for name, hinted in _fields(type(config)):
        try:
            value = getattr(config, name, None)
        except Exception:  # noqa: BLE001, S112 - a property of the user's own configuration may raise
            continue
        if value is None or name in _NOT_SECRET:
            continue
        if isinstance(value, BaseConfiguration):
            if depth < _MAX_DEPTH:
                yield from _in_configuration(value, depth + 1)
        elif hinted or _SECRET_FIELD.search(name):
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
        # credentials in their native form: a whole connection string is secret, as is the password in it
        is_credentials = is_base_configuration_inner_hint(extract_inner_hint(trace.hint))
        whole = not (is_credentials and isinstance(trace.value, Mapping))
        yield from secrets_in(trace.value, whole=whole)
    elif _SECRET_FIELD.search(trace.key):
        yield from secrets_in(trace.value)


class SecretLearner:
    """Feeds a redactor with what dlt resolves, from `attach()` until `detach()`.

    Nothing in it may disturb the resolution: whatever goes wrong is handed to `on_error`.
    """

    def __init__(self, redactor: Redactor, on_error: Callable[[Exception], None]) -> None:
        self._redactor = redactor
        self._on_error = on_error
        self._undo: list[Callable[[], None]] = []

    def attach(self) -> None:
        """Wrap dlt's resolution, and learn what has been resolved so far."""
        from dlt.common.configuration.specs.base_configuration import BaseConfiguration
        from dlt.common.configuration.utils import TraceLogContext

        self._wrap(BaseConfiguration, "call_method_in_mro", _in_configuration)
        self._wrap(TraceLogContext, "log", None)
        self._learn_earlier()

    def detach(self) -> None:
        """Take the wrappers away."""
        while self._undo:
            self._undo.pop()()

    def _wrap(self, owner: type, name: str, find: Callable[[Any], Iterator[str]] | None) -> None:
        original = getattr(owner, name)
        learner = self
        active = True

        @functools.wraps(original)
        def wrapper(subject: Any, argument: Any) -> Any:
            try:
                return original(subject, argument)
            finally:
                if active:
                    learner._learn(find(subject) if find else _in_trace(argument))

        def undo() -> None:
            nonlocal active
            active = False
            # somebody may have wrapped it after us; then ours stays in the chain and does nothing
            if vars(owner).get(name) is wrapper:
                setattr(owner, name, original)

        setattr(owner, name, wrapper)
        self._undo.append(undo)

    def _learn(self, secrets: Iterator[str]) -> None:
        try:
            self._redactor.add(*secrets)
        except Exception as error:  # noqa: BLE001 - never into dlt's configuration resolution
            self._on_error(error)

    def _learn_earlier(self) -> None:
        """Learn from the configurations that are alive, and look up again what the traces only name."""
        from dlt.common import logger
        from dlt.common.configuration.specs.base_configuration import BaseConfiguration
        from dlt.common.configuration.utils import TraceLogContext

        if vars(logger)["LOGGER"] is None:
            return  # dlt has not been used in this process
        from dlt.pipeline.trace import SerializableResolvedValueTrace

        # by hand: issubclass() on an abstract base class is slow for the many types of a process
        specs: dict[type, bool] = {}
        for item in gc.get_objects():
            kind = type(item)
            if kind is SerializableResolvedValueTrace:
                if item.is_secret_hint:
                    self._learn(_looked_up(item))
            elif kind is TraceLogContext:
                for trace in list(item.all_traces):
                    self._learn(_in_trace(trace))
            else:
                if kind not in specs:
                    specs[kind] = BaseConfiguration in kind.__mro__
                if specs[kind]:
                    self._learn(_in_configuration(item))


def _looked_up(trace: Any) -> Iterator[str]:
    """The value that a finished trace has blanked, from the provider that it names."""
    from dlt.common.configuration.container import Container
    from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext
    from dlt.common.pipeline import PipelineContext
    from dlt.common.typing import TSecretValue

    if trace.key in _NOT_SECRET:
        return
    container = Container()
    active = container[PipelineContext]
    # the trace does not tell whether it was found below the name of a pipeline
    names = (active.pipeline().pipeline_name, None) if active.is_active() else (None,)
    for provider in container[PluggableRunContext].providers.providers:
        if provider.name == trace.provider_name:
            for name in names:
                value, _ = provider.get_value(trace.key, TSecretValue, name, *trace.sections)
                yield from secrets_in(value)
