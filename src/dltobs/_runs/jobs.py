"""Reads dlt's metrics of files and load jobs, into frozen values."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from dltobs._describe import text_of
from dltobs._event_parts import FOLLOW_UP_FORMATS
from dltobs._events import Job, Resource, Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dltobs._events import Attempt

_INTERNAL = "_dlt_"


class WrittenFile(NamedTuple):
    """Rows and bytes of a file that normalize wrote, which is the file of a load job."""

    rows: int
    bytes: int


class _Writes(NamedTuple):
    """The sums of several writers' metrics, and the window in which they wrote."""

    rows: int = 0
    bytes: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None

    def plus(self, metrics: Any) -> _Writes:
        started_at, finished_at = moment(metrics.created), moment(metrics.last_modified)
        if started_at is None or finished_at is None or started_at > finished_at:
            # nothing was written: dlt's sum of nothing begins in the far future
            started_at = finished_at = None
        return _Writes(
            self.rows + metrics.items_count,
            self.bytes + metrics.file_size,
            min((one for one in (self.started_at, started_at) if one is not None), default=None),
            max((one for one in (self.finished_at, finished_at) if one is not None), default=None),
        )


def moment(value: Any) -> datetime | None:
    """A time of dlt's metrics: seconds since the epoch or a datetime; None for anything else."""
    if isinstance(value, datetime):
        return value if value.tzinfo is not None else value.replace(tzinfo=timezone.utc)
    try:
        return datetime.fromtimestamp(value, timezone.utc) if value else None
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def tables_of(metrics: Sequence[Any]) -> tuple[Table, ...]:
    """What was written for each table."""
    return tuple(
        Table(name, writes.rows, writes.bytes, is_internal(name), writes.started_at, writes.finished_at)
        for name, writes in _sums(metrics, "table_metrics").items()
    )


def resources_of(metrics: Sequence[Any]) -> tuple[Resource, ...]:
    """What was extracted from each resource."""
    return tuple(Resource(name, *writes) for name, writes in _sums(metrics, "resource_metrics").items())


def is_internal(name: str) -> bool:
    """Whether a table, or the resource that fills it, is one of dlt's own."""
    return name.startswith(_INTERNAL)


def _sums(metrics: Sequence[Any], key: str) -> dict[str, _Writes]:
    sums: dict[str, _Writes] = {}
    for one in metrics:
        for name, writer in one.get(key, {}).items():
            sums[text_of(name)] = sums.get(text_of(name), _Writes()).plus(writer)
    return sums


def files_of(info: Any) -> dict[str, dict[str, WrittenFile]]:
    """The files that normalize wrote, by load id, then by the id of the job that loads them."""
    if info is None:
        return {}
    return {
        text_of(load_id): {
            job_id: WrittenFile(writer.items_count, writer.file_size)
            for one in several
            for job_id, writer in one.get("job_metrics", {}).items()
        }
        for load_id, several in (info.metrics or {}).items()
    }


def load_jobs_of(
    info: Any,
    since: datetime,
    files: Mapping[str, WrittenFile],
    attempts: Mapping[str, tuple[Attempt, ...]],
) -> tuple[Job, ...]:
    """The jobs that a load has run.

    Args:
        info: dlt's, if there is one.
        since: When the load began: dlt's metrics of a package that was loaded in part hold the jobs of
            earlier runs, too.
        files: What is known of their files.
        attempts: The tries in this load, by job id.
    """
    known = dict(_package_jobs(info))
    jobs = {}
    for one in _metrics(info) if info is not None else ():
        for metrics in one.get("job_metrics", {}).values():
            started_at = moment(metrics.started_at)
            if metrics.job_id in attempts or (started_at is not None and started_at >= since):
                jobs[metrics.job_id] = metrics
    # a job that an interrupt has ended has no metrics
    ids = [*jobs, *(job_id for job_id in attempts if job_id not in jobs)]

    def job(job_id: str) -> Job:
        tries = attempts.get(job_id, ())
        message = _message(jobs.get(job_id), known.get(job_id), tries)
        text = None if message is None else text_of(message)
        return _job(job_id, jobs.get(job_id), known.get(job_id), files.get(job_id), tries, text)

    return tuple(map(job, ids))


def _message(metrics: Any, package_job: Any, attempts: tuple[Attempt, ...]) -> Any:
    """Why a job has not completed; None for one that has."""
    if _state_of(metrics, attempts) == "completed":
        return None
    return getattr(package_job, "failed_message", None) or (attempts[-1].message if attempts else None)


def _state_of(metrics: Any, attempts: tuple[Attempt, ...]) -> str:
    return text_of(metrics.state) if metrics is not None else attempts[-1].state


def _job(  # noqa: PLR0913, PLR0917 - each knows a part of it
    job_id: str,
    metrics: Any,
    package_job: Any,
    file: WrittenFile | None,
    attempts: tuple[Attempt, ...],
    failed_message: str | None,
) -> Job:
    table, *rest = job_id.split(".")  # table.file.format, and .gz
    file_format = rest[1] if len(rest) > 1 else None
    if metrics is not None:
        table = metrics.table_name or table
    # the metrics are those of the last attempt, and in a retried job without an end
    starts = [attempts[0].started_at] if attempts else []
    ends = [attempts[-1].finished_at] if attempts else []
    starts += [one for one in (moment(getattr(metrics, "started_at", None)),) if one is not None]
    ends += [one for one in (moment(getattr(metrics, "finished_at", None)),) if one is not None]
    retries = int(getattr(metrics, "retry_count", 0) or 0)
    if attempts:
        retries = max(retries, attempts[-1].number - 1)
    return Job(
        job_id=job_id,
        table=table,
        internal=is_internal(table),
        state=_state_of(metrics, attempts),
        file_format=file_format,
        rows=None if file is None else file.rows,
        bytes=_size(package_job, file_format) if file is None else file.bytes,
        retry_count=retries,
        started_at=min(starts, default=None),
        finished_at=max(ends, default=None),
        remote_url=getattr(metrics, "remote_url", None),
        failed_message=failed_message,
        attempts=attempts,
    )


def _size(package_job: Any, file_format: str | None) -> int | None:
    """Of a file that an earlier run has written; that of a follow-up job is no data."""
    return None if file_format in FOLLOW_UP_FORMATS else getattr(package_job, "file_size", None)


def _metrics(info: Any) -> list[Any]:
    return [one for several in (info.metrics or {}).values() for one in several]


def _package_jobs(info: Any) -> Iterator[tuple[str, Any]]:
    for package in getattr(info, "load_packages", None) or ():
        for jobs in package.jobs.values():
            for job in jobs:
                yield job.job_file_info.job_id(), job
