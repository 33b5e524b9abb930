"""What Sentry is told of a failed run: its event, without live objects."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

from dltobs._version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dltobs._events import ExceptionInfo, Failure, Run, RunFinished, StepFinished

_LEVELS = {"WARNING": "warning", "ERROR": "error", "CRITICAL": "fatal", "DEBUG": "debug"}


def report(event: RunFinished, step: StepFinished, own_tags: Mapping[str, str]) -> Any:
    """The event for a run, reported from the step that failed."""
    failure = step.failure
    assert failure is not None  # noqa: S101 - the definition of a failed step
    tags = _tags(event, failure)
    tags.update(own_tags)
    return {
        "level": "error",
        "logger": "dltobs",
        "platform": "python",
        "timestamp": event.finished_at.isoformat(),
        "transaction": event.run.pipeline,
        "exception": {"values": _exceptions(failure)},
        "breadcrumbs": {
            "values": [
                {
                    "timestamp": line.at.isoformat(),
                    "level": _LEVELS.get(line.level, "info"),
                    "category": line.logger,
                    "message": line.message,
                    "type": "default",
                }
                for line in event.log_lines
            ]
        },
        "tags": tags,
        "contexts": {
            "trace": {
                "trace_id": step.trace_id,
                # Sentry drops a trace context without a span: the run has none if it is not traced
                "span_id": step.span_id or step.trace_id[:16],
                "op": "dlt",
                "status": "internal_error",
            },
            "dlt": _dlt_context(event, step, failure),
            "runtime": {"name": "CPython", "version": platform.python_version()},
        },
        "fingerprint": [
            event.run.pipeline,
            failure.step,
            failure.resource or failure.table or "",
            failure.error_type,
        ],
        "sdk": {"name": "dltobs", "version": __version__},
    }


def _tags(event: RunFinished, failure: Failure) -> dict[str, str]:
    run = event.run
    tags = {
        "dlt.pipeline.name": run.pipeline,
        "dlt.step": failure.step,
        "dlt.transaction_id": run.transaction_id,
        "dlt.load_id": failure.load_id,
        "dlt.destination.name": run.destination_name,
        "dlt.destination.type": run.destination_type,
        "dlt.dataset.name": run.dataset,
        "dlt.resource.name": failure.resource,
        "dlt.table.name": failure.table,
        "dlt.outcome": event.outcome,
        "dlt.terminal": str(failure.terminal).lower(),
        "error.type": failure.error_type,
    }
    return {name: value for name, value in tags.items() if value}


def _dlt_context(event: RunFinished, step: StepFinished, failure: Failure) -> dict[str, Any]:
    run: Run = event.run
    partly = [failure.load_id] if failure.is_package_partially_loaded and failure.load_id else []
    return {
        "pipeline": run.pipeline,
        "step": failure.step,
        "transaction_id": run.transaction_id,
        "load_id": failure.load_id,
        "destination": run.destination_name,
        "destination_type": run.destination_type,
        "dataset": run.dataset,
        "first_run": run.first_run,
        "terminal": failure.terminal,
        "pending_packages": list(event.pending_packages),
        "partially_loaded_packages": partly,
        "failed_jobs": [
            {"job_id": job.job_id, "table": job.table, "message": job.message} for job in step.failed_jobs
        ],
        "steps": [
            {"step": one.step, "seconds": (one.finished_at - one.started_at).total_seconds()}
            for one in event.steps
        ],
    }


def _exceptions(failure: Failure) -> list[dict[str, Any]]:
    """The chain as Sentry wants it: the one it began with first, each naming what it led to."""
    return [_exception(info, number) for number, info in reversed(list(enumerate(failure.chain)))]


def _exception(info: ExceptionInfo, number: int) -> dict[str, Any]:
    module, _, name = info.type.rpartition(".")
    mechanism: dict[str, Any] = {"type": "dlt", "handled": False, "exception_id": number}
    if number:
        mechanism.update(type="chained", parent_id=number - 1)
    described: dict[str, Any] = {
        "type": name,
        "module": module or None,
        "value": info.message,
        "mechanism": mechanism,
    }
    if info.frames:
        described["stacktrace"] = {
            "frames": [
                {
                    "filename": _short(frame.path, frame.module),
                    "abs_path": frame.path,
                    "function": frame.function,
                    "module": frame.module,
                    "lineno": frame.line,
                    "context_line": frame.source,
                    "in_app": frame.in_app,
                }
                for frame in info.frames
            ]
        }
    return described


def _short(path: str, module: str) -> str:
    """The path from the package on, as Sentry shows it; the file's name where that is unknown."""
    parts = path.replace("\\", "/").split("/")
    depth = module.count(".") + 1 + (parts[-1] == "__init__.py")
    return "/".join(parts[-depth:])
