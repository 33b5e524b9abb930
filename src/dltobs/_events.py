"""What happened in a run, as frozen values that hold no live object of dlt's.

A run gives, in this order: `RunStarted`, then for each step `StepStarted` ... `StepFinished` (nested:
`run` contains `extract`, `normalize` and `load`), then `RunFinished`. The values they are made of are
those of `dltobs._event_parts`. After `RunStarted` may come a `RunLost` for each earlier run that died. A run
that a signal ends gives `RunFinished` with the outcome `terminated`; no `StepFinished` comes for the steps
that were open then: they are among its `steps`. `UncaughtError` belongs to no run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from dltobs._event_parts import (
    KEEP,
    Attempt,
    ExceptionInfo,
    FailedJob,
    Failure,
    FailureKind,
    Frame,
    Job,
    LogLine,
    Outcome,
    Package,
    Resource,
    Run,
    SchemaChange,
    SchemaChangeKind,
    SpanLink,
    Table,
    total,
)

if TYPE_CHECKING:
    from datetime import datetime

__all__ = [
    "KEEP",
    "Attempt",
    "Event",
    "ExceptionInfo",
    "FailedJob",
    "Failure",
    "FailureKind",
    "Frame",
    "Job",
    "LogLine",
    "Outcome",
    "Package",
    "Resource",
    "Run",
    "RunFinished",
    "RunLost",
    "RunStarted",
    "SchemaChange",
    "SchemaChangeKind",
    "SpanLink",
    "StepFinished",
    "StepStarted",
    "Table",
    "UncaughtError",
]


@dataclass(frozen=True, slots=True, eq=False)
class RunStarted:
    """A run began. `step` is the method that was called: `run`, `extract`, `normalize` or `load`."""

    run: Run
    step: str = field(metadata=KEEP)
    at: datetime


@dataclass(frozen=True, slots=True, eq=False)
class StepStarted:
    """A step of the run began. `depth` is 0 for the outermost one."""

    run: Run
    step: str = field(metadata=KEEP)
    depth: int
    at: datetime


@dataclass(frozen=True, slots=True, eq=False)
class StepFinished:
    """A step of the run ended, well or badly.

    `tables` are those that the step wrote (extract and normalize), `rows` and `bytes` their sums
    without dlt's own tables; `jobs` is the number of jobs of a load and `load_jobs` are these jobs;
    `resources` are those of an extract; `links` lead to the spans of the traces that made the packages;
    `schema_changes` are those that a load has made. `trace_id` and `span_id` name the span that was
    current in the step; without tracing the first is the transaction id and the second None.
    """

    run: Run
    step: str = field(metadata=KEEP)
    depth: int
    started_at: datetime
    finished_at: datetime
    failure: Failure | None = None
    packages: tuple[Package, ...] = ()
    tables: tuple[Table, ...] = ()
    rows: int = 0
    bytes: int = 0
    jobs: int = 0
    resources: tuple[Resource, ...] = ()
    load_jobs: tuple[Job, ...] = ()
    links: tuple[SpanLink, ...] = ()
    schema_changes: tuple[SchemaChange, ...] = ()
    trace_id: str = field(default="", metadata=KEEP)
    span_id: str | None = field(default=None, metadata=KEEP)

    @property
    def duration(self) -> float:
        """Seconds."""
        return max((self.finished_at - self.started_at).total_seconds(), 0.0)

    @property
    def failed_jobs(self) -> tuple[FailedJob, ...]:
        """The failed jobs of all packages, and the one that ended the step."""
        jobs = [job for package in self.packages for job in package.failed_jobs]
        ended = None if self.failure is None else self.failure.job
        if ended is not None and all(job.job_id != ended.job_id for job in jobs):
            jobs.append(ended)
        return tuple(jobs)


@dataclass(frozen=True, slots=True, eq=False)
class RunFinished:
    """A run ended.

    `steps` are in the order in which they ended. `failed_step` is the deepest step that failed. Of the
    packages, by load id: `pending_packages` wait in the working directory for the next run, whoever made
    them; `partly_loaded_packages` were left by this run with some of their data in the destination
    (they may be pending, aborted, or loaded but for failed jobs); `aborted_packages` were given up by this
    run: dlt will not load the rest of them. `log_lines` are the last records that dlt logged in this run,
    oldest first.

    Of a run in a retry loop, `will_retry` is True where it failed and another attempt follows if the caller
    lets its exception out; it is None where that is not known yet, since code of the user's decides. Sentry
    and Slack are told once a loop, when it is over: `earlier_attempts` are the runs of the same pipeline
    that went wrong in it before. (Sinks of your own get each run at once.)
    """

    run: Run
    outcome: Outcome = field(metadata=KEEP)
    started_at: datetime
    finished_at: datetime
    steps: tuple[StepFinished, ...] = ()
    failed_step: StepFinished | None = None
    pending_packages: tuple[str, ...] = field(default=(), metadata=KEEP)
    log_lines: tuple[LogLine, ...] = ()
    partly_loaded_packages: tuple[str, ...] = field(default=(), metadata=KEEP)
    aborted_packages: tuple[str, ...] = field(default=(), metadata=KEEP)
    will_retry: bool | None = False
    earlier_attempts: tuple[RunFinished, ...] = ()

    @property
    def failure(self) -> Failure | None:
        """Why the run failed; also of a failure that the caller's code has outlived."""
        return None if self.failed_step is None else self.failed_step.failure

    @property
    def failed_jobs(self) -> tuple[FailedJob, ...]:
        """The failed jobs of all steps, each once."""
        return tuple({job.job_id: job for step in self.steps for job in step.failed_jobs}.values())

    @property
    def schema_changes(self) -> tuple[SchemaChange, ...]:
        """What the loads of this run have changed in the schema of the destination."""
        return tuple(change for step in self.steps for change in step.schema_changes)

    @property
    def load_ids(self) -> tuple[str, ...]:
        """The load ids of the packages that the steps of this run have handled, each once."""
        return tuple(dict.fromkeys(package.load_id for step in self.steps for package in step.packages))

    @property
    def rows(self) -> int | None:
        """Rows that have been loaded: those of completed jobs, without dlt's own tables.

        None where those of a job are not known, whose file an earlier run has written: see `Job`.
        """
        return total(job.rows for job in self._loaded_jobs)

    @property
    def bytes(self) -> int | None:
        """Bytes of the files that have been loaded, likewise."""
        return total(job.bytes for job in self._loaded_jobs)

    @property
    def duration(self) -> float:
        """Seconds."""
        return max((self.finished_at - self.started_at).total_seconds(), 0.0)

    @property
    def _loaded_jobs(self) -> list[Job]:
        return [job for step in self.steps for job in step.load_jobs if job.has_loaded]


@dataclass(frozen=True, slots=True, eq=False)
class RunLost:
    """An earlier run of the pipeline whose process died without a word; told by the run that noticed it.

    `run` is the lost one, `method` what had been called (`run`, `extract`, …), `step` the innermost step it
    was in, None before the first one. `last_seen_at` is when its process last gave a sign of life. `host` and
    `pid` are those of that process. The trace and span ids are those of its root span, None without tracing;
    `noticed_by` is the transaction id of the run that noticed.
    """

    run: Run
    method: str = field(metadata=KEEP)
    step: str | None = field(metadata=KEEP)
    started_at: datetime
    last_seen_at: datetime
    noticed_at: datetime
    host: str
    pid: int
    noticed_by: str = field(metadata=KEEP)
    trace_id: str | None = field(default=None, metadata=KEEP)
    span_id: str | None = field(default=None, metadata=KEEP)
    is_sampled: bool = True
    outcome: Outcome = field(default="lost", metadata=KEEP)


@dataclass(frozen=True, slots=True, eq=False)
class UncaughtError:
    """An exception that came out of dlt outside of any run, and that nobody has caught.

    For example a secret that is missing when a source is called. It comes on the thread that the exception
    has ended, when it has been printed. `failure.step` is empty. `script` is the name of the file that Python
    was started with. The others are those of the active pipeline, None where there is none (see `Run`).
    """

    at: datetime
    failure: Failure
    script: str = field(default="", metadata=KEEP)
    pipeline: str | None = field(default=None, metadata=KEEP)
    destination_name: str | None = field(default=None, metadata=KEEP)
    destination_type: str | None = field(default=None, metadata=KEEP)
    dataset: str | None = field(default=None, metadata=KEEP)
    working_dir: str | None = field(default=None, metadata=KEEP)

    @property
    def name(self) -> str:
        """The name of the pipeline; without one that of the script."""
        return self.pipeline or self.script or "dlt"


Event: TypeAlias = RunStarted | StepStarted | StepFinished | RunFinished | RunLost | UncaughtError
