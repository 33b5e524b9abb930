"""dltobs inside of a worker process: started from a briefing or by a fork, flushed within a bounded time.

There is no Sentry, no Slack, no sink of the user's and no tracker here: what a run did is told by its parent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import multiprocessing.util
import os
import pickle
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from dltobs import _state
from dltobs._build import build
from dltobs._context.current import RunContext, current_run
from dltobs._context.environment import context_of
from dltobs._context.surroundings import remember
from dltobs._process.deadline import run_within
from dltobs._redaction.redactor import Redactor
from dltobs._settings.otel import application_has_provider
from dltobs._settings.settings import Settings
from dltobs._warnings import Warner
from dltobs._workers.tally import report
from dltobs.exceptions import ConfigurationError
from dltobs.logs.attach import LoggerHook
from dltobs.sinks.delivery import Delivery

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from multiprocessing.connection import Connection

    from dltobs._setup import Setup
    from dltobs.logs.forward import Outlet
    from dltobs.sinks.provider import OwnTracing

_FLUSH_TIMEOUT = 2.0
"""Seconds at most at the end of a worker: the run waits for it."""
_CLOSING_TIMEOUT = 0.3
"""Seconds, likewise, to close what did not flush in time."""
_FIRST = 100
"""The priority of our end among those of `multiprocessing`, which run before a worker leaves."""


class Briefing(NamedTuple):
    """What a worker that was not forked has to know.

    `settings` are pickled one by one, `secrets` the values known so far, `level` that of dlt's logger,
    `labels` are those of the run, `trace` the W3C headers of the current context; `exports` says whether the
    parent's spans go through a provider of ours.
    """

    settings: dict[str, bytes]
    secrets: frozenset[str]
    level: int | None
    run: RunContext | None
    trace: dict[str, str]
    exports: bool
    labels: Mapping[str, str] | None = None


def exports() -> bool:
    """Whether the global tracer provider is ours, with exporters behind it."""
    module = sys.modules.get("dltobs.sinks.provider")
    if module is None:
        return False
    provider = module.own_provider()
    return provider is not None and bool(provider.switch.processors)


def start(letter: bytes, outlet: Outlet | None, tally: Connection | None) -> None:
    """Set up a worker that was not forked. Whatever goes wrong is one warning; dlt's work goes on.

    Where nothing can be set up, dlt's logger is muted: it would print what ours withholds.

    Args:
        letter: The pickled briefing; empty where the parent could not write one.
        outlet: Where records for loguru go.
        tally: Where the counts go that are known at its end.
    """
    redactor = Redactor()
    try:
        if not letter:
            _mute()  # the parent has told why
            return
        briefing: Briefing = pickle.loads(letter)  # noqa: S301 - our own parent wrote it
        redactor.add(*briefing.secrets)
        _start(briefing, outlet, tally)
    except Exception as error:  # noqa: BLE001 - it would break the pool
        _mute()
        Warner(redactor).internal_error("worker process", error)


def _mute() -> None:
    from dltobs.logs.dlts import current_logger, is_dlts_own

    logger = current_logger()
    if logger is not None:
        for handler in logger.handlers[:]:
            if is_dlts_own(handler):
                logger.removeHandler(handler)
        logger.addHandler(logging.NullHandler())


def _start(briefing: Briefing, outlet: Outlet | None, tally: Connection | None) -> None:
    settings = dataclasses.replace(Settings(), **dict(_unpickled(briefing.settings)))
    _discard_earlier()
    # first, as the steps below may already log
    current_run.set(briefing.run)
    if briefing.run is not None and briefing.labels:
        remember(briefing.run.transaction_id, briefing.labels)
    if briefing.trace:
        from opentelemetry import context

        context.attach(context_of(briefing.trace))
    quiet = dataclasses.replace(
        settings,
        log_level=briefing.level,
        dlt_log_level=None,
        tracing="off",
        metrics="off",
        sentry_dsn=None,
        slack_incoming_hook=None,
        prefect="off",
        sinks=(),
    )
    problem = None
    hook = LoggerHook(Warner(Redactor()))
    try:
        setup = build(quiet, hook)
    except ConfigurationError as error:
        # the file, which the parent has open, cannot be opened any more; the console still can
        problem = error
        setup = build(dataclasses.replace(quiet, log_file=None), hook)
    setup.redactor.add(*briefing.secrets)
    setup.log.outlet = outlet
    setup.logger_hook.install()
    setup.attach(dlt_was_used=False)
    _state.runtime = setup
    if problem is not None:
        setup.warner.internal_error("worker process", problem)
    tracing = None
    if briefing.exports and not application_has_provider():
        tracing = _own_tracing(settings, setup)
    _end_with(setup, tracing, tally)


def _unpickled(settings: dict[str, bytes]) -> Iterator[tuple[str, Any]]:
    for name, raw in settings.items():
        try:
            yield name, pickle.loads(raw)  # noqa: S301 - our own parent wrote it
        except Exception as error:  # noqa: BLE001 - a class that the worker does not have; its default serves
            Warner(Redactor()).internal_error(f"worker process, setting {name}", error)


def _discard_earlier() -> None:
    """Take down what a `configure()` at the top of the user's script has set up: a worker runs it again."""
    earlier, _state.runtime = _state.runtime, None
    if earlier is None:
        return
    if earlier.process == os.getpid():
        if earlier.resending is not None:
            earlier.resending.stop()
        run_within(_CLOSING_TIMEOUT, *(sink.close for sink in earlier.sinks))
    earlier.detach()
    earlier.log.close()


def _own_tracing(settings: Settings, setup: Setup) -> OwnTracing | None:
    """Exporters of this process behind our provider; None, and a warning, where they cannot be made."""
    try:
        from dltobs.sinks.provider import OwnTracing

        deliveries = {
            name: Delivery(name, "spans", setup.warner, setup.spool) for name in settings.trace_exporters
        }
        tracing = OwnTracing(settings, setup.redactor, deliveries)
        tracing.install()
    except Exception as error:  # noqa: BLE001 - it would break the pool
        setup.warner.internal_error("worker process", error)
        return None
    _state.deliveries = tuple((setup.deliveries | deliveries).values())
    return tracing


def watch_forks(setup: Setup, tally: Connection) -> None:
    """Have the children that `multiprocessing` forks from now on export for themselves, and flush."""
    # the registry holds no reference, so this ends with the set-up
    multiprocessing.util.register_after_fork(setup, functools.partial(_after_fork, tally=tally))


def _after_fork(setup: Setup, tally: Connection) -> None:
    if _state.runtime is not setup or setup.process == os.getpid():
        return
    # what exports for the parent goes on here, with connections of its own
    _end_with(setup, _inherited_tracing(setup) if exports() else None, tally)


def _inherited_tracing(setup: Setup) -> OwnTracing | None:
    from dltobs.sinks.spans import SpanSink

    return next((sink.own for sink in setup.sinks if isinstance(sink, SpanSink)), None)


def _end_with(setup: Setup, tracing: OwnTracing | None, tally: Connection | None) -> None:
    multiprocessing.util.Finalize(None, _finish, (setup, tracing, tally), exitpriority=_FIRST)


def _finish(setup: Setup, tracing: OwnTracing | None, tally: Connection | None) -> None:
    timeout = min(setup.settings.flush_timeout, _FLUSH_TIMEOUT)
    if tracing is not None:
        tracing.flush(timeout)
        run_within(_CLOSING_TIMEOUT, tracing.close)
    if _state.runtime is setup:
        # nothing in a worker of dlt's; a child of the user's may have run pipelines
        setup.deliver_as_child()
    if tracing is not None:
        if tally is not None:
            with contextlib.suppress(OSError):  # the pipe is full, or the parent has gone
                report(tally, _state.deliveries)
    elif "opentelemetry.trace" in sys.modules:
        from opentelemetry import trace

        # the application's own: its `atexit` is not run here, so nobody else does
        flush = getattr(trace.get_tracer_provider(), "force_flush", None)
        if flush is not None:
            run_within(timeout, lambda: flush(int(timeout * 1000)))
    if _state.runtime is setup:
        _state.runtime = None  # nothing is left for an exit of the interpreter to do
