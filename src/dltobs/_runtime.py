"""Sets everything up, and takes it down again: the only place that changes what runs."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import TYPE_CHECKING

from dltobs import _state
from dltobs._redaction import Redactor
from dltobs._resolution import resolve_settings
from dltobs._setup import build
from dltobs._warnings import Warner

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Unpack

    from dltobs._settings import Arguments
    from dltobs.logs.attach import LoggerHook
    from dltobs.sinks.delivery import BackendStatus


def configure(**settings: Unpack[Arguments]) -> None:
    """Make every dlt pipeline of this process observable.

    Call it once, in the first line of the script. Each setting may also come from the environment
    (`DLTOBS__LOG_FILE`) or from dlt's configuration files (`[dltobs] log_file`); an argument wins. A second
    call with the same settings changes nothing; with others it replaces the set-up once the new one stands.

    Args:
        **settings: See `Settings`, and the table in the README.

    Raises:
        ConfigurationError: A setting is wrong. Nothing has been attached, and what ran before still runs.
    """
    with _state.lock:
        running = _state.runtime
        dlt_was_used = _dlt_was_used()
        hook = None if running is not None else _installed_hook()
        try:
            resolved = resolve_settings(settings)
            # a forked child takes over from its parent, whose threads it has not
            is_same = running is not None and running.process == os.getpid() and resolved == running.settings
            built = build(resolved, hook) if resolved.enabled and not is_same else None
        except BaseException:
            if hook is not None:
                hook.detach()
            raise
        if is_same:
            return
        if running is not None:
            _state.runtime = None
            running.take_down()
        if built is None:
            if hook is not None:
                hook.detach()
            return
        if running is not None:
            built.redactor.add(*running.redactor.values)
            built.logger_hook.install()
        from dltobs._workers import WorkerPools

        built.worker_pools = WorkerPools(built)
        built.attach(dlt_was_used=dlt_was_used)
        _state.runtime = built
        _state.deliveries = tuple(built.deliveries.values())
        atexit.unregister(_at_exit)
        atexit.register(_at_exit)


def shutdown() -> None:
    """Deliver what is left within `flush_timeout`, and take everything away that was attached.

    It may be called twice, and runs by itself when the process exits. Pipelines that are run afterwards
    behave as if dltobs were not there.
    """
    with _state.lock:
        running, _state.runtime = _state.runtime, None
        if running is not None:
            running.take_down()


def status() -> Mapping[str, BackendStatus]:
    """What each back end has taken and lost since `configure()`, by name: `otlp`, `sentry`, ….

    It can be read after `shutdown()`, too.
    """
    return {delivery.name: delivery.status for delivery in _state.deliveries}


def _dlt_was_used() -> bool:
    """Whether dlt has resolved anything in this process: its logger comes with the first resolution."""
    module = sys.modules.get("dlt.common.logger")
    return module is not None and vars(module)["LOGGER"] is not None


def _installed_hook() -> LoggerHook:
    """A hook on dlt's logger before our settings are resolved: that is what makes dlt create it."""
    from dltobs.logs.attach import LoggerHook

    # what it may warn of has met no secret yet; the redactor is exchanged as soon as there is one
    hook = LoggerHook(Warner(Redactor()))
    hook.install()
    return hook


def _at_exit() -> None:
    running = _state.runtime
    # a forked child inherits this handler, but not the threads; the parent delivers
    if running is not None and running.process == os.getpid():
        shutdown()


def _after_fork() -> None:
    """In a forked child: no lock is held by a thread that does not exist, nothing is counted twice."""
    _state.lock = threading.RLock()
    for delivery in _state.deliveries:
        delivery.forget()
    if _state.runtime is not None:
        _state.runtime.logger_hook.forget_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
