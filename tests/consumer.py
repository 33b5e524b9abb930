"""Uses every public name as a typed application does: `make wheel` checks it with mypy and pyright.

It is not run. A line that must be an error bears the comment that expects it, which both refuse where there is none.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from typing_extensions import assert_type

import dltobs
from dltobs.testing import RecordingSink

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dlt.common.pipeline import SupportsPipeline


class Failures:
    """A sink of one's own."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def emit(self, event: dltobs.Event) -> None:
        """Keep what went wrong."""
        if isinstance(event, dltobs.RunFinished) and event.failure is not None:
            failure: dltobs.Failure = event.failure
            outcome: dltobs.Outcome = event.outcome
            self.lines.append(f"{event.run.pipeline} {outcome}: {failure.error_type} {failure.message}")
        elif isinstance(event, dltobs.StepFinished):
            self.lines += [change.table for change in event.schema_changes]
        elif isinstance(event, (dltobs.RunStarted, dltobs.RunLost, dltobs.StepStarted)):
            run: dltobs.Run = event.run
            self.lines.append(run.pipeline)
        elif isinstance(event, dltobs.UncaughtError):
            self.lines.append(f"{event.name}: {event.failure.error_type}")

    def flush(self, timeout: float) -> bool:
        """Nothing waits."""
        return timeout >= 0

    def close(self) -> None:
        """Nothing is open."""


def parts(
    package: dltobs.Package,
    job: dltobs.Job,
    failed: dltobs.FailedJob,
    resource: dltobs.Resource,
    table: dltobs.Table,
    change: dltobs.SchemaChange,
) -> list[str]:
    """The values that events consist of."""
    return [package.load_id, job.table, failed.table, resource.name, table.name, change.table]


def configured() -> None:
    """Settings as values, and as the texts that the environment has."""
    sink: dltobs.Sink = Failures()
    try:
        dltobs.configure()
        dltobs.configure(
            enabled=True,
            on_error="warn",
            log_level="INFO",
            dlt_log_level="WARNING",
            console="json",
            log_file=Path("dlt.jsonl"),
            log_file_format="text",
            tracing="on",
            metrics="off",
            otlp_endpoint="http://localhost:4318",
            otlp_protocol="grpc",
            tags={"team": "data"},
            sentry_monitor="nightly-shop",
            slack_on=["failure", "lost"],
            alert_cooldown=60,
            prefect="off",
            redact_patterns=[re.compile("x+"), "y+"],
            redact_keys="pin,puk",
            sinks=[sink, RecordingSink()],
        )
        dltobs.configure(log_level=10, slack_on="failure,success", log_file=None, tags="team=data")
    except dltobs.ConfigurationError as error:
        text: str = error.setting + error.source + error.problem + error.expected
        logging.getLogger("app").info(text)


def used(pipeline: SupportsPipeline, settings: dltobs.Settings) -> None:
    """What is called."""
    assert_type(settings.tracing, Literal["auto", "on", "off"])
    status: Mapping[str, dltobs.BackendStatus] = dltobs.status()
    delivered: int = sum(backend.delivered for backend in status.values())
    spooled: Mapping[str, dltobs.SpoolResult] = dltobs.flush_spool(timeout=1.0)
    left: int = sum(result.left for result in spooled.values())
    environment: dict[str, str] = dltobs.propagation_env()
    redactor: dltobs.Redactor = dltobs.Redactor(["pl4nted"], keys=["pin"])
    text: str = redactor.text(f"{dltobs.__version__} {delivered} {left} {len(environment)}")
    handler: logging.Handler = dltobs.InterceptHandler()
    handler.setFormatter(dltobs.JsonFormatter(service=text))
    callbacks = dltobs.tenacity_callbacks()
    try:
        dltobs.save(pipeline)
    except (dltobs.SaveError, dltobs.DltobsError):
        raise
    dltobs.before_send({}, dict(callbacks))
    dltobs.shutdown()


def wrong() -> None:
    """Each line is an error for a type checker."""
    dltobs.confgure()  # type: ignore[attr-defined]
    dltobs.configure(log_fle="x")  # type: ignore[arg-type]
    dltobs.configure(tracing="yes")  # type: ignore[arg-type]
    dltobs.configure(console="xml")  # type: ignore[arg-type]
    dltobs.configure(slack_on=["fail"])  # type: ignore[list-item]
    dltobs.configure(log_level="LOUD")  # type: ignore[arg-type]
    dltobs.configure(sinks=[print])  # type: ignore[list-item]
    dltobs.configure("INFO")  # type: ignore[call-arg]
