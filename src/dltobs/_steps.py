"""Reads what a step knows from dlt's step infos and exceptions, into frozen values.

Fields that newer versions of dlt added are read with a default; on a failed step any part may be
missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from dltobs._describe import chain_of, describe, root_cause, stacktrace, text_of, type_name
from dltobs._events import FailedJob, Failure, Package, Resource, Run, Table
from dltobs._jobs import resources_of, tables_of

if TYPE_CHECKING:
    from dlt.common.pipeline import SupportsPipeline
    from dlt.pipeline.trace import PipelineTrace


class StepDetail(NamedTuple):
    """What a step did, as far as its info tells."""

    packages: tuple[Package, ...] = ()
    tables: tuple[Table, ...] = ()
    jobs: int = 0
    resources: tuple[Resource, ...] = ()

    @property
    def rows(self) -> int:
        """Rows written, without dlt's own tables."""
        return sum(table.rows for table in self.tables if not table.internal)

    @property
    def bytes(self) -> int:
        """Bytes written, without dlt's own tables."""
        return sum(table.bytes for table in self.tables if not table.internal)


def run_of(trace: PipelineTrace, pipeline: SupportsPipeline) -> Run:
    """The identity of a run."""
    destination = pipeline.destination
    return Run(
        pipeline=pipeline.pipeline_name,
        transaction_id=trace.transaction_id,
        destination_name=None if destination is None else destination.destination_name,
        destination_type=None if destination is None else destination.destination_type,
        dataset=pipeline.dataset_name,
        first_run=bool(pipeline.first_run),
    )


def detail_of(step: str, info: Any) -> StepDetail:
    """What the info of an `extract`, `normalize` or `load` step says; nothing for others."""
    if info is None or step not in {"extract", "normalize", "load"}:
        return StepDetail()
    packages = tuple(_package(package) for package in info.load_packages or ())
    metrics = [one for several in (info.metrics or {}).values() for one in several]
    if step == "load":
        return StepDetail(packages, (), sum(len(one.get("job_metrics", ())) for one in metrics))
    resources = resources_of(metrics) if step == "extract" else ()
    return StepDetail(packages, tables_of(metrics), 0, resources)


def _package(package: Any) -> Package:
    failed = package.jobs.get("failed_jobs") or ()
    return Package(
        load_id=package.load_id,
        state=package.state,
        schema=package.schema_name,
        failed_jobs=tuple(
            FailedJob(job.job_file_info.job_id(), job.job_file_info.table_name, job.failed_message or "")
            for job in failed
        ),
    )


def failure_of(step: str, error: BaseException, exception_traces: Any = None) -> Failure:
    """A failure described.

    Args:
        step: The step that reports it; the exception may know better (`sync` inside `run`).
        error: The live exception: dlt's `PipelineStepFailed`, or what escaped from the step plainly.
        exception_traces: dlt's own traces of it, for the name of the resource.
    """
    from dlt.common.exceptions import TerminalException
    from dlt.pipeline.exceptions import PipelineStepFailed

    is_wrapped = isinstance(error, PipelineStepFailed)
    outer: Any = error
    root = root_cause(error)
    job = _job_of(error)
    resource, table = _place_of(error, job, exception_traces)
    return Failure(
        step=text_of(outer.step) if is_wrapped else step,
        error_type=type_name(type(root)),
        message=text_of(root),
        terminal=isinstance(error, TerminalException) or isinstance(error.__context__, TerminalException),
        chain=tuple(describe(one) for one in chain_of(error)),
        stacktrace=stacktrace(error),
        resource=resource,
        table=table,
        job=job,
        load_id=outer.load_id if is_wrapped else None,
        has_pending_data=is_wrapped and bool(outer.has_pending_data),
        is_package_partially_loaded=is_wrapped and bool(outer.is_package_partially_loaded),
    )


def _job_of(error: BaseException) -> FailedJob | None:
    """The job that an exception speaks of, as dlt's `WithJobError` does."""
    from dlt.common.storages.load_package import ParsedLoadJobFileName

    for one in chain_of(error):
        job_id = getattr(one, "job_id", None)
        if not isinstance(job_id, str):
            continue
        try:
            table = ParsedLoadJobFileName.parse(job_id).table_name
        except Exception:  # noqa: BLE001 - job ids of other forms begin with the table, too
            table = job_id.split(".", 1)[0]
        return FailedJob(job_id, table, text_of(getattr(one, "failed_message", None) or one))
    return None


def _place_of(
    error: BaseException, job: FailedJob | None, exception_traces: Any
) -> tuple[str | None, str | None]:
    """The resource and the table that an exception speaks of."""
    resource = None
    table = None if job is None else job.table
    for one in chain_of(error):
        resource = resource or getattr(one, "pipe_name", None)
        table = table or getattr(one, "table_name", None)
    for trace in exception_traces or ():
        resource = resource or trace.get("resource_name")
    return (
        None if resource is None else text_of(resource),
        None if table is None else text_of(table),
    )


def pending_packages_of(pipeline: Any) -> tuple[str, ...]:
    """The load ids that wait in the pipeline's working directory."""
    pending = [*pipeline.list_extracted_load_packages(), *pipeline.list_normalized_load_packages()]
    return tuple(dict.fromkeys(pending))
