"""Runs a small pipeline of our own beside the user's: the same destination, and nothing else in common.

It has a working directory, schema and dataset of its own and restores nothing from the destination. Its
trace is switched off, so dlt calls no hook of anybody for it, sends no telemetry and keeps no trace. It is
meant for a thread of ours: the active pipeline of dlt belongs to the thread (`PipelineContext`), so the
user's stays what it is.

It bears the name of the user's pipeline, because dlt looks up credentials and makes the paths of local
databases under that name.
"""

from __future__ import annotations

import contextlib
import threading
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dltobs._context.current import inside_hook
from dltobs._describe import text_of
from dltobs._process.fork_safe import fork_safe

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterator, Mapping, Sequence

FOLDER = "dltobs"
"""In the working directory of the user's pipeline, which dlt empties when it resets the pipeline."""

_is_aside: ContextVar[bool] = ContextVar("dltobs_is_aside", default=False)


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """What a pipeline of ours takes over from the user's: live objects of dlt's, which are not changed.

    `folder` is where it has its working directory. `is_dev`: each run has a dataset of its own.
    """

    pipeline: str
    folder: str
    dataset: str
    destination: Any
    staging: Any
    salt: Any
    config: Any
    is_dev: bool = False


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of packages.

    Attributes:
        loaded: Packages that the destination has taken in whole, those of earlier tries among them.
        failed: Packages that it has refused for good.
    """

    loaded: int
    failed: int


class LeftWaitingError(Exception):
    """The rows could not be loaded, and wait in the working directory for the next call; see its cause."""


class CannotLoadAsideError(Exception):
    """The destination holds no datasets: a function of the user's own, for example."""


def target_of(pipeline: Any) -> Target | None:
    """Where a pipeline writes to; None as long as it does not know.

    Raises:
        CannotLoadAsideError: It writes to something that has no datasets.
    """
    destination = pipeline.destination
    if destination is None:
        return None
    from dlt.common.destination.client import DestinationClientDwhConfiguration

    if not issubclass(destination.spec, DestinationClientDwhConfiguration):
        message = f"a destination of type {destination.destination_type} holds no datasets"
        raise CannotLoadAsideError(message)
    if not pipeline.dataset_name:
        return None
    return Target(
        pipeline.pipeline_name,
        str(Path(pipeline.working_dir) / FOLDER),
        pipeline.dataset_name,
        destination,
        pipeline.staging,
        pipeline.pipeline_salt,
        pipeline.config,
        bool(getattr(pipeline, "dev_mode", False)),
    )


def load_aside(  # noqa: PLR0913, PLR0917 - what, where to, under which name
    target: Target,
    folder: str,
    dataset: str,
    tables: Mapping[str, Mapping[str, Any]],
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    max_pending: int,
    after: Callable[[Any], None] = lambda _pipeline: None,
) -> Loaded:
    """Load rows, after what earlier tries have left.

    Args:
        target: The user's destination, as `dltobs._borrowed` lends it.
        folder: Name of the working directory, below that of the target; and of the schema.
        dataset: Name of the dataset.
        tables: Arguments of `dlt.resource` by table name: columns, write disposition. Those with columns are
            made by the first load, even where there are no rows.
        rows: By table name.
        max_pending: Packages of earlier tries that may wait; where there are as many, no other one is made
            until they are loaded.
        after: Called with our pipeline when it has loaded.

    Raises:
        LeftWaitingError: The destination has not taken them yet.
        Exception: Whatever else dlt raises; the rows are lost.
    """
    inside, aside = inside_hook.set(True), _is_aside.set(True)
    try:
        with _quiet():
            pipeline = _make(target, folder, dataset)
            waiting = [*pipeline.list_extracted_load_packages(), *pipeline.list_normalized_load_packages()]
            # where there are too many, there is room for another one once they are gone
            earlier = _load(pipeline) if len(waiting) >= max_pending else Loaded(0, 0)
            makes_all = not pipeline.default_schema_name
            pipeline.extract(_resources(tables, rows, makes_all=makes_all), schema=_schema(pipeline, folder))
            try:
                now = _load(pipeline)
            except Exception as error:
                raise LeftWaitingError(text_of(error)) from error
            after(pipeline)
            return Loaded(earlier.loaded + now.loaded, earlier.failed + now.failed)
    finally:
        _leave_thread()
        _is_aside.reset(aside)
        inside_hook.reset(inside)


def _load(pipeline: Any) -> Loaded:
    """Load all packages that wait."""
    pipeline.normalize()
    try:
        info = pipeline.load(raise_on_failed_jobs=False)
    finally:
        failed = _forget_done(pipeline)
    return Loaded(0 if info is None else len(info.load_packages) - failed, failed)


def _leave_thread() -> None:
    """Leave nothing in dlt's context of this thread, which the next thread of the same number would find."""
    from dlt.common.configuration.container import Container
    from dlt.common.configuration.utils import get_resolved_traces
    from dlt.common.pipeline import PipelineContext

    context = Container()[PipelineContext]
    if context.is_active():
        context.deactivate()
    get_resolved_traces().clear()


def _make(target: Target, folder: str, dataset: str) -> Any:
    from dlt.common.runtime.collector import NULL_COLLECTOR
    from dlt.pipeline.configuration import PipelineConfiguration, PipelineRuntimeConfiguration

    runtime = PipelineRuntimeConfiguration()
    runtime.pluggable_run_context = target.config.runtime.pluggable_run_context
    runtime.intercept_signals = False
    runtime.resolve()
    config = PipelineConfiguration()
    config.pipeline_name, config.pipeline_salt = target.pipeline, target.salt
    config.restore_from_destination = config.enable_runtime_trace = False
    config.runtime = runtime
    config.resolve()
    return _pipeline_class()(
        target.pipeline,
        str(Path(target.folder) / folder),
        target.salt,
        target.destination,
        target.staging,
        dataset,
        None,
        None,
        False,  # noqa: FBT003 - no dev mode
        NULL_COLLECTOR,
        False,  # noqa: FBT003 - it need not be there already
        config,
    )


def _pipeline_class() -> Any:
    """dlt's pipeline, which normalizes in this process whatever `normalize.workers` says.

    Off the main thread dlt would spawn worker processes, which run the user's script from the top if it has
    no `if __name__ == "__main__"`.
    """
    from dlt.common.runners import pool_runner
    from dlt.normalize import Normalize
    from dlt.normalize.configuration import NormalizeConfiguration
    from dlt.pipeline.pipeline import Pipeline, with_config_section, with_schemas_sync

    class AsidePipeline(Pipeline):
        @with_schemas_sync
        @with_config_section(("normalize",))
        def normalize(self, workers: int = 1) -> Any:
            with self._maybe_destination_capabilities() as capabilities:
                config = NormalizeConfiguration(
                    workers=workers,
                    _schema_storage_config=self._schema_storage_config,
                    _normalize_storage_config=self._normalize_storage_config(),
                    _load_storage_config=self._load_storage_config(),
                )
                config.destination_capabilities = capabilities
                config.resolve()
                step = Normalize(collector=self.collector, config=config, schema_storage=self._schema_storage)
                pool_runner.run_pool(step.config, step)
                return None

    return AsidePipeline


def _schema(pipeline: Any, name: str) -> Any:
    from dlt import Schema

    return pipeline.default_schema if pipeline.default_schema_name else Schema(name)


def _resources(
    tables: Mapping[str, Mapping[str, Any]],
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    makes_all: bool,
) -> list[Any]:
    import dlt

    made = []
    for name, hints in tables.items():
        items = list(rows.get(name, ()))
        if items:
            made.append(dlt.resource(items, name=name, **hints))
        elif makes_all and "columns" in hints:
            # from the first load on all tables are there, so that nobody's query misses one
            empty = [dlt.mark.materialize_table_schema()]
            made.append(dlt.resource(empty, name=name, **hints))
    return made


def _forget_done(pipeline: Any) -> int:
    """Delete the packages that are done with, which dlt would keep; gives how many had failed jobs."""
    failed = 0
    storage = pipeline._get_load_storage().loaded_packages  # noqa: SLF001 - dlt has no other way
    for load_id in storage.list_packages():
        failed += bool(storage.list_failed_jobs(load_id))
        storage.delete_package(load_id)
    return failed


class _Quiet:
    """Keeps dlt's log free of our pipelines while one is on: what goes wrong is one warning of ours."""

    def __init__(self) -> None:
        self._lock = fork_safe(threading.Lock())
        self._loggers: list[logging.Logger] = []

    def filter(self, _record: logging.LogRecord) -> bool:
        return not _is_aside.get()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        from dlt.common import logger as dlts

        # the module answers any attribute
        logger: logging.Logger | None = vars(dlts).get("LOGGER")
        if logger is None:
            yield
            return
        with self._lock:
            logger.addFilter(self)
            self._loggers.append(logger)
        try:
            yield
        finally:
            with self._lock:
                self._loggers.remove(logger)
                if logger not in self._loggers:
                    logger.removeFilter(self)


_quiet = _Quiet()
