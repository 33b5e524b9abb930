"""Builds the event of a step that has ended, out of all that dlt knows of it then."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar

from dltobs._context.current import current_correlation
from dltobs._describe import text_of, type_name
from dltobs._events import Failure, StepFinished
from dltobs._runs.attempts import LoadAttempts
from dltobs._runs.failures import failure_of
from dltobs._runs.jobs import files_of, load_jobs_of
from dltobs._runs.open_run import comes_from, live_error
from dltobs._runs.pending_files import PendingFiles, known_files
from dltobs._runs.schema_changes import changes_of, without_ignored
from dltobs._runs.schema_files import migrated_packages, schema_files_of, tables_before
from dltobs._runs.span_links import PACKAGE_STATES, SpanLinks
from dltobs._runs.steps import StepDetail, detail_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from dlt.common.pipeline import SupportsPipeline
    from dlt.pipeline.trace import PipelineStepTrace

    from dltobs._events import Job, Package, SchemaChange, SpanLink
    from dltobs._runs.open_run import OpenRun, OpenStep
    from dltobs._warnings import Warner

T = TypeVar("T")


class StepReader:
    """Reads steps; a part that cannot be read is left out, with one warning.

    Args:
        warner: Told of what goes wrong.
        schema_change_ignore: Globs of schema changes that are left out.
    """

    def __init__(self, warner: Warner, schema_change_ignore: Sequence[str] = ()) -> None:
        self._warner = warner
        self._ignore = schema_change_ignore
        self._links = SpanLinks(warner)
        self._pending = PendingFiles(warner)
        self.load_attempts = LoadAttempts(warner)

    def take_over(self, other: StepReader) -> None:
        """Go on with the load jobs that another reader observes."""
        self.load_attempts = other.load_attempts
        self.load_attempts.redirect(self._warner)

    def attempt(self, default: T, read: Callable[[], T]) -> T:
        """What `read` gives; if dlt has changed what it reads, one warning and the default."""
        try:
            return read()
        except Exception as error:  # noqa: BLE001 - an event with a part missing is better than none
            self._warner.internal_error("tracker", error)
            return default

    def look(self, state: OpenRun, step: str, pipeline: SupportsPipeline) -> None:
        """Remember, when a step begins, what cannot be seen at its end."""
        if step == "extract":
            state.schema_files = self.attempt(None, lambda: schema_files_of(pipeline))
        elif step == "load":
            state.migrated = self.attempt(frozenset(), lambda: migrated_packages(pipeline))

    def keep_files(self, state: OpenRun, pending: Collection[str]) -> None:
        """Keep, when a run ends, the sizes of the files in the packages that it leaves for later ones."""
        folder = state.run.working_dir
        if folder is not None:
            self.attempt(None, lambda: self._pending.keep(folder, state.files, pending))

    def read(
        self,
        state: OpenRun,
        step: OpenStep,
        step_trace: PipelineStepTrace,
        pipeline: SupportsPipeline,
        step_info: Any,
    ) -> StepFinished:
        """The event of a step; `state` learns of its failure and of the files that it wrote."""
        correlation = current_correlation()
        detail = self.attempt(StepDetail(), lambda: detail_of(step.name, step_info))
        error = live_error(state, step_trace)
        failure = self._failure(state, step.name, error, step_trace)
        unknown: tuple[Job, ...] | None = None
        load_jobs = self.attempt(unknown, lambda: self._load_jobs(state, step, step_info))
        no_changes: tuple[SchemaChange, ...] = ()
        finished = StepFinished(
            run=state.run,
            step=step.name,
            depth=len(state.steps),
            started_at=step.started_at,
            finished_at=max(step_trace.finished_at or datetime.now(timezone.utc), step.started_at),
            failure=failure,
            packages=detail.packages,
            tables=detail.tables,
            rows=detail.rows,
            bytes=detail.bytes,
            jobs=detail.jobs if load_jobs is None else len(load_jobs),
            resources=detail.resources,
            load_jobs=load_jobs or (),
            links=self.attempt((), lambda: self._linked(step.name, detail.packages, failure, pipeline)),
            schema_changes=no_changes
            if step.name != "load" or step_info is None
            else self.attempt(no_changes, lambda: self._schema_changes(state, step_info, pipeline)),
            trace_id=(correlation and correlation.trace_id) or state.run.transaction_id,
            span_id=correlation and correlation.span_id,
        )
        if failure is not None and (state.failed is None or failure is not state.failed.failure):
            state.failed = finished
        return finished

    def _load_jobs(self, state: OpenRun, step: OpenStep, step_info: Any) -> tuple[Job, ...]:
        """The jobs of a load; of what normalize wrote, their sizes are kept for it."""
        if step.name == "normalize":
            state.files.update(files_of(step_info))
        if step.name != "load":
            return ()
        attempts = self.load_attempts.take(state.run.transaction_id)
        folder = state.run.working_dir
        packages = state.files if folder is None else {**known_files(folder), **state.files}
        files = {job_id: file for package in packages.values() for job_id, file in package.items()}
        return load_jobs_of(step_info, step.started_at, files, attempts)

    def _schema_changes(
        self, state: OpenRun, info: Any, pipeline: SupportsPipeline
    ) -> tuple[SchemaChange, ...]:
        """What this load has changed; a load that goes on with a package has been told of by the first."""
        migrated = migrated_packages(pipeline)
        changes: list[SchemaChange] = []
        for package in info.load_packages or ():
            is_done = package.state in PACKAGE_STATES["load"] or package.load_id in migrated
            if is_done and package.load_id not in state.migrated:
                before = tables_before(pipeline, package, state.schema_files)
                changes += changes_of(package, before)
        return without_ignored(changes, self._ignore)

    def _linked(
        self, step: str, packages: tuple[Package, ...], failure: Failure | None, pipeline: SupportsPipeline
    ) -> tuple[SpanLink, ...]:
        """The spans of earlier traces that made the packages; the current one is kept for later ones."""
        folder = getattr(pipeline, "working_dir", None)
        if folder is None or step not in PACKAGE_STATES:
            return ()
        load_ids = [package.load_id for package in packages]
        if failure is not None and failure.load_id is not None:
            load_ids.append(failure.load_id)
        done = [package.load_id for package in packages if package.state in PACKAGE_STATES[step]]
        return self._links.pass_on(folder, load_ids, done, is_last=step == "load")

    def _failure(
        self, state: OpenRun, step: str, error: BaseException | None, step_trace: PipelineStepTrace
    ) -> Failure | None:
        """The failure of a step; that of the inner step from which it came, where there is one.

        Inner steps end first, so the first one that an exception passes is the deepest.
        """
        if error is None:
            return None
        if state.failed is not None and comes_from(error, state.error):
            return state.failed.failure
        state.error = error
        unknown = Failure(step, type_name(type(error)), text_of(error), False, (), "")  # noqa: FBT003
        return self.attempt(
            unknown,
            lambda: failure_of(
                step,
                error,
                step_trace.exception_traces,
                until=state.error_at_start,
                attempt=self.attempt,
                redact=self._warner.clean,
            ),
        )
