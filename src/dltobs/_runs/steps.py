"""Reads the identity of a run, and what a step did, from dlt's pipelines and step infos, into frozen values.

Fields that newer versions of dlt added are read with a default; on a failed step any part may be
missing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from dltobs._events import FailedJob, Package, Resource, Run, Table
from dltobs._runs.jobs import resources_of, tables_of

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
        working_dir=getattr(pipeline, "working_dir", None),
    )


def run_of_again(known: Run, trace: PipelineTrace, pipeline: SupportsPipeline, step: str | None) -> Run:
    """The identity as it is later in the run: destination and dataset may have been given to a step.

    Whether it is the first run is known before the first load only, which ends that if it succeeds; but dlt
    finds out between the beginning of the run and extract, if the working directory was empty.
    """
    run = run_of(trace, pipeline)
    return replace(
        run,
        first_run=known.first_run and (run.first_run or step != "extract"),
        attempt=known.attempt,
        retry_id=known.retry_id,
        surroundings=known.surroundings,
    )


def detail_of(step: str, info: Any) -> StepDetail:
    """What the info of an `extract`, `normalize` or `load` step says; nothing for others."""
    if info is None or step not in {"extract", "normalize", "load"}:
        return StepDetail()
    packages = tuple(_package(package, step) for package in info.load_packages or ())
    metrics = [one for several in (info.metrics or {}).values() for one in several]
    if step == "load":
        return StepDetail(packages, (), sum(len(one.get("job_metrics", ())) for one in metrics))
    resources = resources_of(metrics) if step == "extract" else ()
    return StepDetail(packages, tables_of(metrics), 0, resources)


def _package(package: Any, step: str) -> Package:
    from dlt.common.storages.load_package import PackageStorage

    failed = package.jobs.get("failed_jobs") or ()
    return Package(
        load_id=package.load_id,
        state=package.state,
        schema=package.schema_name,
        failed_jobs=tuple(
            FailedJob(job.job_file_info.job_id(), job.job_file_info.table_name, job.failed_message or "")
            for job in failed
        ),
        is_partly_loaded=step == "load" and PackageStorage.is_package_partially_loaded(package),
    )


def pending_packages_of(pipeline: Any) -> tuple[str, ...]:
    """The load ids that wait in the pipeline's working directory."""
    pending = [*pipeline.list_extracted_load_packages(), *pipeline.list_normalized_load_packages()]
    return tuple(dict.fromkeys(pending))


def active_pipeline() -> Any:
    """The pipeline that `dlt.pipeline()` without a name gives now; None if there is none."""
    from dlt.common.configuration.container import Container
    from dlt.common.pipeline import PipelineContext

    context = Container()[PipelineContext]
    return context.pipeline() if context.is_active() else None


def reactivate(pipeline: Any) -> None:
    """Make a pipeline the active one again, if another has been run since."""
    if pipeline is not None and active_pipeline() is not pipeline:
        pipeline.activate()
