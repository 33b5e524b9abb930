"""Sets everything up, and takes it down again: the only place that changes what runs."""

from __future__ import annotations

import atexit
import multiprocessing.util
import os
import sys
from typing import TYPE_CHECKING

from dltobs import _state
from dltobs._build import build
from dltobs._process.forks import hold_back, let_through
from dltobs._redaction.redactor import Redactor
from dltobs._settings.resolution import resolve_settings
from dltobs._warnings import Warner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from typing_extensions import Unpack

    from dltobs._settings.settings import Arguments, Settings
    from dltobs._spool.resend import SpoolResult
    from dltobs.logs.attach import LoggerHook
    from dltobs.sinks.delivery import BackendStatus


_FIRST = 100
"""Our priority among what `multiprocessing` does before a child leaves."""


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
    set_up(lambda: resolve_settings(settings))


def set_up(resolve: Callable[[], Settings]) -> None:
    """Set everything up with the settings that `resolve` gives, once dlt's logger is safe from leaks.

    Raises:
        ConfigurationError: As of `configure()`.
    """
    with _state.changing():
        running = _state.runtime
        dlt_was_used = _dlt_was_used()
        hook = running.logger_hook if running is not None else _installed_hook()
        try:
            resolved = resolve()
            # a forked child takes over from its parent, whose threads it has not
            is_same = running is not None and running.process == os.getpid() and resolved == running.settings
            built = build(resolved, hook) if resolved.enabled and not is_same else None
        except BaseException:
            if running is None:
                hook.detach()
            raise
        if is_same:
            return
        if built is None:
            _state.runtime = None
            if running is None:
                hook.detach()
            else:
                running.take_down()
            return
        if running is None:
            from dltobs._workers.parent import WorkerPools

            built.worker_pools = WorkerPools(built)
            built.attach(dlt_was_used=dlt_was_used)
        else:
            built.replace(running)
        _state.runtime, _state.redactor = built, built.redactor
        _state.deliveries = tuple(built.deliveries.values())
        atexit.unregister(_at_exit)
        atexit.register(_at_exit)
        if multiprocessing.parent_process() is not None:
            # such a process leaves by `os._exit`, without `atexit`
            multiprocessing.util.Finalize(None, _at_exit, exitpriority=_FIRST)


def shutdown() -> None:
    """Deliver what is left within `flush_timeout`, and take everything away that was attached.

    It may be called twice, and runs by itself when the process exits. Pipelines that are run afterwards
    behave as if dltobs were not there.
    """
    with _state.changing():
        running, _state.runtime = _state.runtime, None
        if running is not None:
            running.take_down()


def status() -> Mapping[str, BackendStatus]:
    """What each back end has taken and lost since `configure()`, by name: `otlp`, `sentry`, ….

    It can be read after `shutdown()`, too.
    """
    return {delivery.name: delivery.status for delivery in _state.deliveries}


def flush_spool(timeout: float | None = None) -> Mapping[str, SpoolResult]:
    """Send what could not be delivered, by earlier runs or by this one, and wait for it.

    Each back end of the set-up in force gets what is meant for its address, until one delivery fails. It is
    done by itself in the background after each `configure()`; call this to know how it ended.

    Args:
        timeout: Seconds; None waits for as long as each back end answers.

    Returns:
        By the name of the back end, what was sent since `configure()` or the last call, and what is left.
        Empty without `configure()` before, and where the spool is switched off.
    """
    running = _state.runtime
    return {} if running is None or running.resending is None else running.resending.run(timeout)


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
    if running is None:
        return
    if running.process == os.getpid():
        shutdown()
        running.after_hook()  # where a signal has come, the process dies of it
    else:
        running.deliver_as_child()


def _before_fork() -> None:
    running = _state.runtime
    if running is not None and running.termination is not None:
        hold_back(running.termination.killers())


def _after_fork() -> None:
    """In a forked child: no lock is held by a thread that does not exist, nothing is counted twice."""
    for delivery in _state.deliveries:
        delivery.forget()
    if _state.runtime is not None:
        if _state.runtime.resending is not None:
            _state.runtime.resending.forget()
        if _state.runtime.termination is not None:
            _state.runtime.termination.forked()
    let_through()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=let_through, after_in_child=_after_fork)
    # once more: what a signal handler of the application raises may have cut the first call short
    os.register_at_fork(after_in_parent=let_through, after_in_child=let_through)
