"""Sets dltobs up in the worker processes that dlt normalizes in, however they are started.

A forked worker inherits handlers, secrets and the current span. What it needs is an exporter with
connections of its own, and an end: it leaves by `os._exit`, without `atexit`.

A worker started by spawn or forkserver has nothing. While dlt creates such a pool, a context with
`worker_affinity` stands in its container: dlt pickles it to the workers, over the pipe by which each one is
started, and puts it into their containers once their loggers exist.
"""

from __future__ import annotations

import functools
import multiprocessing.context
import pickle
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from dlt.common.configuration.container import Container
from dlt.common.configuration.specs.base_configuration import ContainerInjectableContext
from dlt.common.runners import pool_runner

from dltobs._context.current import current_run
from dltobs._context.environment import current_carrier
from dltobs._context.surroundings import labels_of
from dltobs._settings.settings import FIELDS
from dltobs._workers.tally import Tally
from dltobs._workers.worker import Briefing, exports, start, watch_forks

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from multiprocessing.connection import Connection

    from dltobs._setup import Setup
    from dltobs.logs.forward import Inbox, Outlet


class Letter(NamedTuple):
    """The pickled briefing, what log records are sent to, and what the worker counts at its end goes to."""

    briefing: bytes
    outlet: Outlet | None
    tally: Connection | None


_NOTHING = Letter(b"", None, None)


class Carrier(ContainerInjectableContext):
    """What travels to a worker. In the parent it does nothing."""

    global_affinity: ClassVar[bool] = False
    worker_affinity: ClassVar[bool] = True

    def __init__(self, sender: Sender | None = None) -> None:
        super().__init__()
        self._sender = sender
        self._received: Letter | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what is known at this moment: a worker may start long after its pool was created."""
        return _received, _NOTHING if self._sender is None else self._sender.letter()

    def after_add(self) -> None:
        """In a worker: set up what the parent has."""
        received, self._received = self._received, None
        if received is not None:
            start(*received)


def _received(*letter: Any) -> Carrier:
    carrier = Carrier()
    carrier._received = Letter(*letter)  # noqa: SLF001 - our own class
    return carrier


class Sender:
    """Writes what the workers of one pool have to know.

    Args:
        setup: What they are to be like.
        tally: What their counts go to.
    """

    def __init__(self, setup: Setup, tally: Tally) -> None:
        self._setup = setup
        self._tally = tally
        self._run = current_run.get()
        self._trace = current_carrier()
        self._exports = exports()
        self._inbox: Inbox | None = None

    def letter(self) -> Letter:
        """What a worker is sent; nothing where that fails."""
        try:
            writer = self._tally.writer if self._exports and _is_starting() else None
            return Letter(pickle.dumps(self._briefing()), self._outlet(), writer)
        except Exception as error:  # noqa: BLE001 - the workers start all the same
            self._setup.warner.internal_error("worker processes", error)
            return _NOTHING

    def close(self) -> None:
        """Wait, for a bounded time, for the last records of workers that have ended."""
        inbox, self._inbox = self._inbox, None
        if inbox is not None:
            inbox.close()

    def _briefing(self) -> Briefing:
        # looked at here: the worker's own look would not know a level that the application has set
        from dltobs.logs.dlts import current_logger

        logger = current_logger()
        log_file = self._setup.log.log_file
        settings = {name: getattr(self._setup.settings, name) for name in FIELDS}
        settings["trace_exporters"] = self._setup.settings.trace_exporters
        settings["log_file"] = None if log_file is None else log_file.path
        return Briefing(
            settings={name: raw for name, value in settings.items() if (raw := self._raw(name, value))},
            secrets=self._setup.redactor.values,
            level=None if logger is None else logger.level,
            run=self._run,
            labels={} if self._run is None else dict(labels_of(self._run.transaction_id)),
            trace=self._trace,
            exports=self._exports,
        )

    def _raw(self, name: str, value: object) -> bytes | None:
        try:
            return pickle.dumps(value)
        except Exception:  # noqa: BLE001 - whatever its class is, it cannot be sent
            self._setup.warner.warn(
                f"worker processes, {name}",
                f"the setting {name} cannot be sent to worker processes ({type(value).__name__} cannot be "
                "pickled); they use its default",
            )
            return None

    def _outlet(self) -> Outlet | None:
        if not self._setup.settings.loguru or not _is_starting():
            return None
        if self._inbox is None:
            from dltobs.logs.forward import Inbox

            self._inbox = Inbox(self._setup.warner)
        return self._inbox.outlet


def _is_starting() -> bool:
    """Whether a process is being started, which is when the end of a pipe can be sent to it."""
    return multiprocessing.context.get_spawning_popen() is not None


class WorkerPools:
    """Follows dlt's creation of process pools.

    Args:
        setup: What their workers are to be like.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._tally = Tally()
        self._original: Callable[..., Executor] | None = None
        self._wrapper: Callable[..., Executor] | None = None

    def attach(self) -> None:
        """Wrap the function."""
        original = pool_runner.create_pool

        @functools.wraps(original)
        def create_pool(*args: Any, **kwargs: Any) -> Executor:
            if self._wrapper is not create_pool:  # detached, but somebody has wrapped us
                return original(*args, **kwargs)
            return self._create(original, args, kwargs)

        self._original, self._wrapper = original, create_pool
        pool_runner.create_pool = create_pool
        watch_forks(self._setup, self._tally.writer)

    def detach(self) -> None:
        """Put dlt's function back, unless somebody has replaced ours."""
        if self._original is not None and pool_runner.create_pool is self._wrapper:
            pool_runner.create_pool = self._original
        self._original = self._wrapper = None
        self._collect()  # of processes that the application has forked
        self._tally.close()

    def redirect(self, setup: Setup) -> None:
        """Make the workers that start from now on like another set-up."""
        self._setup = setup
        watch_forks(setup, self._tally.writer)

    def _create(
        self, original: Callable[..., Executor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Executor:
        container = sender = None
        try:
            sender = Sender(self._setup, self._tally)
            container = Container()
            container[Carrier] = Carrier(sender)
        except Exception as error:  # noqa: BLE001 - dlt must get its pool
            self._setup.warner.internal_error("worker processes", error)
        try:
            pool = original(*args, **kwargs)
        finally:
            # the pool has taken what it needs, so nothing stays in the container
            if container is not None and Carrier in container:
                del container[Carrier]
        if sender is not None and isinstance(pool, ProcessPoolExecutor):
            _close_with(pool, sender.close, self._collect)
        return pool

    def _collect(self) -> None:
        try:
            self._tally.collect(self._setup.deliveries.values())
        except Exception as error:  # noqa: BLE001 - counts are no reason to fail
            self._setup.warner.internal_error("worker processes", error)


def _close_with(pool: Any, *ends: Callable[[], None]) -> None:
    shutdown = pool.shutdown

    @functools.wraps(shutdown)
    def closing(*args: Any, **kwargs: Any) -> None:
        try:
            shutdown(*args, **kwargs)
        finally:
            for end in ends:
                end()

    pool.shutdown = closing
