"""Calls `configure()` without a line of code, at the first moment at which dlt's configuration can be read.

That moment is when dlt makes its logger: its configuration providers are there, and nothing has been logged
or loaded yet. An entry point comes earlier, where a look-up would recurse into the loading of the plugins
for ever, or where dlt is imported by half.

dlt loads it in every process that uses dlt, so the rest of dltobs is imported where it is switched on.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.util
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from dltobs import _state
from dltobs._process.fork_safe import fork_safe
from dltobs._settings.early import early_value, explicit_on_error, is_switched_off

if TYPE_CHECKING:
    import logging
    from types import ModuleType

_KEY = "auto_configure"
_MISSPELT = "DLTOBS_AUTO_CONFIGURE"


class _Ambush:
    """Waits for dlt's logger, and configures once, or never where somebody else has done it.

    Args:
        asked: Whether to configure whatever the setting `auto_configure` says.
    """

    def __init__(self, *, asked: bool) -> None:
        self.asked = asked
        self._lock = fork_safe(threading.Lock())
        self._is_over = False

    def wait(self, dlt_logger: ModuleType) -> None:
        """Wrap dlt's creation of its logger."""
        original = vars(dlt_logger)["_create_logger"]

        def _create_logger(*call: Any) -> logging.Logger:
            with self._lock:
                is_first, self._is_over = not self._is_over, True
            if not is_first:
                return original(*call)  # type: ignore[no-any-return]  # the module is read by its dict
            _leave_plugin_modules()
            is_outermost = vars(dlt_logger)["_create_logger"] is _create_logger
            if is_outermost:
                vars(dlt_logger)["_create_logger"] = original
            configure_unless_done(asked=self.asked)
            # configure() has put a hook of its own there, which gives the logger our handlers
            create = vars(dlt_logger)["_create_logger"] if is_outermost else original
            return create(*call)  # type: ignore[no-any-return]  # as above

        vars(dlt_logger)["_create_logger"] = _create_logger

    def cancel(self) -> None:
        """Never configure; the wrapper, if it is still there, only passes calls on."""
        self._is_over = True

    @property
    def is_over(self) -> bool:
        """Whether the moment has come, or will not come any more."""
        return self._is_over


_ambush: _Ambush | None = None


def arm(dlt_logger: ModuleType, *, asked: bool) -> None:
    """See to it that `configure()` is called when dlt makes its logger.

    Nothing happens in a process in which dlt normalizes: its parent hands over what it needs. While a fork
    server imports the main module, nobody knows what its children are for: it happens when a child begins. (A
    spawned process that turns out to normalize takes the set-up down again.)

    Args:
        dlt_logger: The module `dlt.common.logger`, imported, which is all that has to be.
        asked: The user has asked for it, so the setting `auto_configure` is not looked up.
    """
    global _ambush  # noqa: PLW0603 - one a process, like dlt's logger
    process = multiprocessing.current_process()
    if getattr(process, "_inheriting", False) and "--multiprocessing-fork" not in sys.orig_argv:
        # called in each child of the server, before the child's own function
        multiprocessing.util.register_after_fork(dlt_logger, lambda module: arm(module, asked=asked))
    elif _normalizes(process):
        return
    elif vars(dlt_logger)["LOGGER"] is not None:
        # dlt is in use, so its configuration can be read now
        configure_unless_done(asked=asked)
    elif _ambush is None or _ambush.is_over:
        _ambush = _Ambush(asked=asked)
        _ambush.wait(dlt_logger)
    else:
        _ambush.asked = _ambush.asked or asked


def _normalizes(process: object) -> bool:
    """Whether a process is a worker of dlt's pool: what it begins with is then dlt's own function."""
    arguments = getattr(process, "_args", ())
    return any(getattr(one, "__module__", None) == "dlt.common.runtime.init" for one in arguments)


def _leave_plugin_modules() -> None:
    """Take dltobs out of the packages in which dlt looks for destinations and sources: it has none."""
    with contextlib.suppress(Exception):  # dlt must go on; its error would be longer by two lines
        from dlt.common.configuration.container import Container
        from dlt.common.configuration.plugins import PluginContext

        Container()[PluginContext].plugin_modules.remove("dltobs")


def disarm() -> None:
    """Undo `arm()`, unless the moment has come already."""
    if _ambush is not None:
        _ambush.cancel()


def configure_unless_done(*, asked: bool) -> None:
    """Call `configure()`, unless it has been called, or is just being called.

    A bad setting is one warning, and nothing is attached, unless `on_error` is given: with `warn` the rest
    works, with `raise` the error is raised into the code that has used dlt first.

    Args:
        asked: As of `arm()`.

    Raises:
        ConfigurationError: A setting is wrong, and `on_error` is set to `raise`.
    """
    # an explicit configure() resolves settings itself, which is what has led us here: its arguments count.
    # Waiting for one of another thread could be for ever: it may wait for dlt's configuration, which we hold
    if _state.is_changing() or not _state.lock.acquire(blocking=False):
        return
    try:
        if _state.runtime is None and not _state.is_off:
            if asked or _is_switched_on():
                from dltobs._runtime import configure

                configure()
            elif _MISSPELT in os.environ:
                _warn(f"environment variable {_MISSPELT} is not read: the setting is DLTOBS__AUTO_CONFIGURE")
    except (
        Exception
    ) as error:  # the application has not called us, and fails for us only where it asks for it
        if is_switched_off({}):
            return
        if explicit_on_error({}) == "raise":
            raise
        _warn(f"{_KEY}: {error}; dltobs observes nothing")
    finally:
        _state.lock.release()


def _warn(message: str) -> None:
    from dltobs._redaction.redactor import Redactor
    from dltobs._warnings import Warner

    Warner(Redactor()).warn(_KEY, message)


def _is_switched_on() -> bool:
    """The setting `auto_configure`, of the environment or of dlt's files.

    Raises:
        ValueError: It is neither true nor false.
    """
    value = early_value(_KEY, {})
    if value is None:
        return False
    from dltobs._settings import parse

    try:
        return bool(parse.boolean(value))
    except ValueError:
        message = f"{value!r} is not usable; expected true or false"
        raise ValueError(message) from None
