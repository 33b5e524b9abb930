"""What happened in a run, as frozen values that hold no live object of dlt's.

A run gives, in this order: `RunStarted`, then for each step `StepStarted` ... `StepFinished` (nested:
`run` contains `extract`, `normalize` and `load`), then `RunFinished`. A field that is marked with
`KEEP` is an identity or a word of ours; the redactor leaves it as it is, so that a secret `duckdb`
does not rename a destination.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from datetime import datetime

Outcome: TypeAlias = Literal["ok", "ok_with_failed_jobs", "failed", "terminated", "lost", "no_data"]


KEEP = {"redact": False}
"""Metadata of a field that redaction leaves alone."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """The identity of a run.

    `transaction_id` is dlt's own: 32 hex digits, the key of its trace. `destination_name` is the
    configured name, `destination_type` the full name of its class; they and `dataset` are None as long as
    the pipeline has none.
    """

    pipeline: str = field(metadata=KEEP)
    transaction_id: str = field(metadata=KEEP)
    destination_name: str | None = field(default=None, metadata=KEEP)
    destination_type: str | None = field(default=None, metadata=KEEP)
    dataset: str | None = field(default=None, metadata=KEEP)
    first_run: bool = field(default=False, metadata=KEEP)


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A frame of a stack trace: no locals, the source line as it stands in the file."""

    path: str
    line: int
    function: str
    module: str
    source: str
    in_app: bool


@dataclass(frozen=True, slots=True, eq=False)
class ExceptionInfo:
    """One exception of a chain. `type` is its class name with the module, but for builtins."""

    type: str = field(metadata=KEEP)
    message: str
    frames: tuple[Frame, ...]


@dataclass(frozen=True, slots=True, eq=False)
class FailedJob:
    """A job that failed, with the message of the destination or the normalizer."""

    job_id: str
    table: str
    message: str


@dataclass(frozen=True, slots=True, eq=False)
class Failure:
    """Why a step failed.

    `step` is the deepest step that failed: `extract`, `normalize`, `load`, `sync` or `run`. `chain`
    goes from the outermost exception to the one it began with; `error_type` and `message` are those of
    the root cause, which is not dlt's `PipelineStepFailed`. `terminal` follows dlt's own rule: a
    `TerminalException` will not go away by a retry. `job` is the one whose failure ended the step; dlt may
    have queued it again.
    """

    step: str = field(metadata=KEEP)
    error_type: str = field(metadata=KEEP)
    message: str
    terminal: bool
    chain: tuple[ExceptionInfo, ...]
    stacktrace: str
    resource: str | None = None
    table: str | None = None
    job: FailedJob | None = None
    load_id: str | None = field(default=None, metadata=KEEP)
    has_pending_data: bool = False
    is_package_partially_loaded: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Package:
    """A load package as a step left it. `state` is dlt's: `extracted`, `normalized`, `loaded`, `aborted`."""

    load_id: str = field(metadata=KEEP)
    state: str = field(metadata=KEEP)
    schema: str
    failed_jobs: tuple[FailedJob, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """What a step wrote for a table.

    `internal`: one of dlt's own (`_dlt_loads`, …). `started_at` and `finished_at` are the window in which its
    files were written, None where dlt does not tell.
    """

    name: str
    rows: int
    bytes: int
    internal: bool
    started_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Resource:
    """What extract got from a resource; the window is that of its writes, as of `Table`."""

    name: str
    rows: int
    bytes: int
    started_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """One try of a load job. `state` is what it ended in: `completed`, `failed` or `retry`."""

    job_id: str
    number: int
    state: str = field(metadata=KEEP)
    started_at: datetime
    finished_at: datetime
    error_type: str | None = field(default=None, metadata=KEEP)
    message: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A load job. `state` is dlt's: `completed`, `failed` or `retry`; times are None where dlt does not tell.

    `rows` is None where the rows of its file are not known, `attempts` are the tries of this run.
    """

    job_id: str
    table: str
    internal: bool
    state: str = field(metadata=KEEP)
    file_format: str | None = None
    rows: int | None = None
    bytes: int | None = None
    retry_count: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None
    remote_url: str | None = None
    failed_message: str | None = None
    attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class SpanLink:
    """The span of an earlier trace from which this step got its packages. Ids are lower-case hex."""

    trace_id: str = field(metadata=KEEP)
    span_id: str = field(metadata=KEEP)
    load_id: str = field(metadata=KEEP)
    is_sampled: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class LogLine:
    """A log record of the run, its message rendered."""

    at: datetime
    level: str = field(metadata=KEEP)
    logger: str = field(metadata=KEEP)
    message: str


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
    `resources` are those of an extract; `links` lead to the spans of the traces that made the packages.
    `trace_id` and `span_id`
    name the span that was current in the step; without tracing the first is the transaction id and
    the second None.
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
    trace_id: str = field(default="", metadata=KEEP)
    span_id: str | None = field(default=None, metadata=KEEP)

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

    `steps` are in the order in which they ended. `failed_step` is the deepest step that failed;
    `pending_packages` are the load ids that wait in the working directory, known after a failure;
    `log_lines` are the last records that dlt logged in this run, oldest first.
    """

    run: Run
    outcome: Outcome = field(metadata=KEEP)
    started_at: datetime
    finished_at: datetime
    steps: tuple[StepFinished, ...] = ()
    failed_step: StepFinished | None = None
    pending_packages: tuple[str, ...] = field(default=(), metadata=KEEP)
    log_lines: tuple[LogLine, ...] = ()


Event: TypeAlias = RunStarted | StepStarted | StepFinished | RunFinished
