"""Learns the secret values that dlt resolves, at the moment it resolves them.

These see all of them: the fields of configurations as they are set (credentials objects that the user makes),
`BaseConfiguration.call_method_in_mro`, which every configuration passes when it is resolved or given up
(explicit arguments included), `TraceLogContext.log`, which sees each value that a config provider returns,
and `dlt.secrets`. What was resolved before is collected once from the live objects.
"""

from __future__ import annotations

import contextlib
import functools
import gc
from typing import TYPE_CHECKING, Any

from dltobs._redaction.secrets import (
    FILE,
    NOT_SECRET,
    asked_for,
    in_assignment,
    in_configuration,
    in_credentials,
    in_trace,
    is_credentials,
    is_section,
    secret_fields,
    secrets_in,
)
from dltobs._redaction.urls import SECRET_FIELD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dltobs._redaction.redactor import Redactor


_CARRIERS = (str, bytes, dict, list, tuple)
"""Types of values that may be or contain a text; those of a TOML file are derived from them."""


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
        from dlt.common.configuration.specs.config_section_context import ConfigSectionContext
        from dlt.common.configuration.utils import TraceLogContext
        from dlt.common.destination.capabilities import DestinationCapabilitiesContext

        self._wrap_assignment(BaseConfiguration)
        self._exempt(DestinationCapabilitiesContext, ConfigSectionContext)
        self._wrap(BaseConfiguration, "call_method_in_mro", lambda given, _: _dynamic(given[0]), _is_dynamic)
        self._wrap(TraceLogContext, "log", lambda given, _: in_trace(given[1]), _is_telling)
        self._wrap(type(secrets), "_get_value", lambda given, result: asked_for(given[1], result))
        if dlt_was_used:
            self._learn_earlier()
        else:
            self._learn_runtime()

    def redirect(self, redactor: Redactor, on_error: Callable[[Exception], None]) -> None:
        """Feed another redactor from now on; it gets what the old one knew."""
        before, self._redactor, self._on_error = self._redactor, redactor, on_error
        redactor.add(*before.values)

    def detach(self) -> None:
        """Take the wrappers away."""
        while self._undo:
            self._undo.pop()()

    def _wrap_assignment(self, owner: type) -> None:
        """Look at what is given to the fields of configurations: there are many, so mostly in passing."""
        is_own = "__setattr__" in vars(owner)
        original: Any = owner.__setattr__
        learner, active = self, True

        def __setattr__(config: Any, name: str, value: Any) -> None:  # noqa: N807 - that is its name
            original(config, name, value)
            if active and isinstance(value, _CARRIERS):
                spec: Any = type(config)
                has_url = isinstance(value, str) and "://" in value
                if has_url or name in secret_fields(spec) or is_credentials(spec):
                    learner._learn(lambda: in_assignment(config, name, value))

        def undo() -> None:
            nonlocal active
            active = False
            if vars(owner).get("__setattr__") is __setattr__:
                if is_own:
                    owner.__setattr__ = original  # type: ignore[method-assign]
                else:
                    del owner.__setattr__

        owner.__setattr__ = __setattr__  # type: ignore[assignment,method-assign]
        self._undo.append(undo)

    def _exempt(self, *owners: type) -> None:
        """Do not look at the fields of these: they hold no secret, and nine of ten assignments are theirs."""

        def undo(owner: type) -> None:
            if vars(owner).get("__setattr__") is object.__setattr__:
                del owner.__setattr__

        for owner in owners:
            if "__setattr__" not in vars(owner):
                owner.__setattr__ = object.__setattr__  # type: ignore[assignment,method-assign]
                self._undo.append(functools.partial(undo, owner))

    def _wrap(
        self,
        owner: type,
        name: str,
        find: Callable[[tuple[Any, ...], Any], Iterator[str]],
        concerns: Callable[..., bool] = lambda *_, **__: True,
    ) -> None:
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
                if active and concerns(*args, **kwargs):
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
            self._learn(functools.partial(in_configuration, runtime))

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
                    self._learn(functools.partial(in_trace, trace))
            else:
                if kind not in specs:
                    specs[kind] = BaseConfiguration in kind.__mro__
                if specs[kind]:
                    self._learn(functools.partial(in_configuration, item))


def _is_dynamic(config: Any, *_: object, **__: object) -> bool:
    return bool(getattr(config, "__hint_resolvers__", None))


def _dynamic(config: Any) -> Iterator[str]:
    """What the fields hold whose hints depend on other fields: all of those are known only now."""
    return in_configuration(config)


def _is_telling(_: object, trace: Any) -> bool:
    """Whether a config provider has found something: most look-ups find nothing."""
    return getattr(trace, "value", None) is not None


def _looked_up(trace: Any) -> Iterator[str]:
    """The value that a finished trace has blanked, from the provider that it names."""
    from dlt.common.configuration.container import Container
    from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext
    from dlt.common.pipeline import PipelineContext
    from dlt.common.typing import TSecretValue

    is_secret = trace.is_secret_hint or SECRET_FIELD.search(trace.key)
    if trace.key in NOT_SECRET or not is_secret:
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
                    yield from in_credentials(value, names_a_location=FILE.fullmatch(value) is not None)
                else:
                    yield from secrets_in(value, whole=not is_section(trace.key, value))
