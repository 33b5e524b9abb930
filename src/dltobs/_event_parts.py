"""The parts of the events: a run's identity, failures, packages, tables, jobs, schema changes.

All are frozen values that hold no live object of dlt's. A field that is marked with `KEEP` is an identity or
a word of ours; the redactor leaves it as it is, so that a secret `duckdb` does not rename a destination.
When an event is redacted, its texts are cut to `MESSAGE` of `dltobs._cut`, the stack trace to `TEXT`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from dltobs._cut import TEXT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

Outcome: TypeAlias = Literal["ok", "ok_with_failed_jobs", "failed", "terminated", "lost", "no_data"]


KEEP = {"redact": False}
"""Metadata of a field that redaction leaves alone."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """The identity of a run.

    `transaction_id` is dlt's own: 32 hex digits, the key of its trace. `destination_name` is the
    configured name, `destination_type` the full name of its class; they and `dataset` are None as long as
    the pipeline has none. `working_dir` is the folder in which dlt keeps the pipeline's state and packages.
    `surroundings` are names and ids of what the run happens in, such as `prefect.flow.name`.
    `attempt` counts from 1 the attempts of the retry loop in which the run is made (`tenacity_callbacks()`),
    `retry_id` is the loop's, 32 hex digits; outside of one they are None. Loops in loops are one: the
    outermost has the id, and each attempt at the pipeline in any of them counts.
    """

    pipeline: str = field(metadata=KEEP)
    transaction_id: str = field(metadata=KEEP)
    destination_name: str | None = field(default=None, metadata=KEEP)
    destination_type: str | None = field(default=None, metadata=KEEP)
    dataset: str | None = field(default=None, metadata=KEEP)
    first_run: bool = field(default=False, metadata=KEEP)
    working_dir: str | None = field(default=None, metadata=KEEP)
    attempt: int | None = None
    retry_id: str | None = field(default=None, metadata=KEEP)
    surroundings: Mapping[str, str] = field(default_factory=dict)


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
    """One exception of a chain. `type` is its class name with the module, but for builtins.

    After a group (`ExceptionGroup`) the chain goes on with the first exception in it; `others` are the chains
    of the other ones, of at most 15 exceptions in all.
    """

    type: str = field(metadata=KEEP)
    message: str
    frames: tuple[Frame, ...]
    others: tuple[tuple[ExceptionInfo, ...], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class FailedJob:
    """A job that failed, with the message of the destination or the normalizer."""

    job_id: str
    table: str
    message: str


FailureKind: TypeAlias = Literal["terminal", "transient", "unknown"]


@dataclass(frozen=True, slots=True, eq=False)
class Failure:
    """Why a step failed.

    `step` is the deepest step that failed: `extract`, `normalize`, `load`, `sync` or `run`. `chain`
    goes from the outermost exception to the one it began with; `error_type` and `message` are those of
    the root cause, which is not dlt's `PipelineStepFailed`. `job` is the one whose failure ended the step;
    dlt may have queued it again. `more` is the number of other exceptions in the group that failed with the
    root cause; `summary` is the message with that number.

    `kind` tells whether another try may help, from the classes that dlt's exceptions have: `terminal` (will
    not go away by a retry), `transient` (may), or `unknown`, where dlt does not say: that is any exception of
    the user's code or of another library. dlt's `retry_load` tries an unknown one again, as a transient one.
    """

    step: str = field(metadata=KEEP)
    error_type: str = field(metadata=KEEP)
    message: str
    terminal: bool
    chain: tuple[ExceptionInfo, ...]
    stacktrace: str = field(metadata={"limit": TEXT})
    resource: str | None = None
    table: str | None = None
    job: FailedJob | None = None
    load_id: str | None = field(default=None, metadata=KEEP)
    has_pending_data: bool = False
    is_package_partially_loaded: bool = False
    transient: bool = False
    more: int = 0

    @property
    def summary(self) -> str:
        """The message of the root cause, with `(and 2 more)` in its first line where a group has others."""
        if not self.more:
            return self.message
        first, end, rest = self.message.partition("\n")
        return f"{first} (and {self.more:,} more){end}{rest}"

    @property
    def kind(self) -> FailureKind:
        """`terminal`, `transient` or `unknown`."""
        if self.terminal:
            return "terminal"
        return "transient" if self.transient else "unknown"


@dataclass(frozen=True, slots=True, eq=False)
class Package:
    """A load package as a step left it. `state` is dlt's: `extracted`, `normalized`, `loaded`, `aborted`.

    `is_partly_loaded`: of a load, dlt's own rule: some jobs, or the schema, have reached the destination and
    others have not.
    """

    load_id: str = field(metadata=KEEP)
    state: str = field(metadata=KEEP)
    schema: str
    failed_jobs: tuple[FailedJob, ...] = ()
    is_partly_loaded: bool = False


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

    `rows` and `bytes` are those of its data file, None where they are not known; `attempts` are the tries of
    this run.
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

    @property
    def is_follow_up(self) -> bool:
        """Whether it works on what other jobs have brought: merges a staging table, reads a staged file."""
        return self.file_format in FOLLOW_UP_FORMATS

    @property
    def has_loaded(self) -> bool:
        """Whether it has brought rows of the user's to the destination."""
        return self.state == "completed" and not self.internal and not self.is_follow_up


def total(numbers: Iterable[int | None]) -> int | None:
    """The sum of several numbers; None where one of them is not known."""
    known = list(numbers)
    return None if None in known else sum(one or 0 for one in known)


FOLLOW_UP_FORMATS = frozenset({"sql", "reference"})
"""The formats of dlt's jobs that have a script or an address in their file, not data (`TJobFileFormat`)."""


SchemaChangeKind: TypeAlias = Literal["new_table", "new_column", "variant_column", "changed_hint"]


@dataclass(frozen=True, slots=True, eq=False)
class SchemaChange:
    """A change that a load made to the schema of the destination.

    `column` is None for a new table, whose `columns` are counted but not told one by one, and for hints of
    a table. A `variant_column` (`amount__v_text`) was made because values did not fit the type of
    `base_column` (`amount`), which is `base_type`; both are None where dlt has shortened the name. `hints`
    are texts such as `nullable: True -> False`. dlt's own tables and columns are in none of this.
    """

    kind: SchemaChangeKind = field(metadata=KEEP)
    load_id: str = field(metadata=KEEP)
    schema: str
    table: str
    column: str | None = None
    data_type: str | None = field(default=None, metadata=KEEP)
    hints: tuple[str, ...] = ()
    columns: int = 0
    base_column: str | None = None
    base_type: str | None = field(default=None, metadata=KEEP)


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
