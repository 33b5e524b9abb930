"""A failed run as one event in Sentry, through a client of its own."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

from opentelemetry import context
from opentelemetry.context import (
    _SUPPRESS_HTTP_INSTRUMENTATION_KEY,
    _SUPPRESS_INSTRUMENTATION_KEY,
)
from sentry_sdk import Client
from sentry_sdk.transport import HttpTransport

from dltobs._events import RunFinished
from dltobs._redaction import WITHHELD
from dltobs._version import __version__
from dltobs.sinks.delivery import reason_of

if TYPE_CHECKING:
    from dltobs._events import Event, ExceptionInfo, Failure, Run, StepFinished
    from dltobs._redaction import Redactor
    from dltobs._settings import Settings
    from dltobs.sinks.delivery import Delivery

_HTTP_OK = range(200, 300)
_IDENTITIES = ("event_id", "timestamp", "platform", "level", "logger", "release", "environment", "sdk")
_IDENTITY_TAGS = (
    "dlt.pipeline.name", "dlt.step", "dlt.transaction_id", "dlt.load_id", "dlt.destination.name",
    "dlt.destination.type", "dlt.dataset.name", "dlt.outcome", "dlt.terminal", "error.type",
)  # fmt: skip
_LEVELS = {"WARNING": "warning", "ERROR": "error", "CRITICAL": "fatal", "DEBUG": "debug"}


class SentrySink:
    """Reports each run that failed, once, from the deepest step that failed.

    The client is private: no integration of the SDK is installed, and the application's own client,
    scopes and hooks are neither used nor changed.

    Args:
        settings: The DSN, environment and release.
        redactor: What each event passes last, in `before_send`.
        delivery: The counters.
    """

    def __init__(self, settings: Settings, redactor: Redactor, delivery: Delivery) -> None:
        self._settings = settings
        self._redactor = redactor
        self._delivery = delivery
        self._client = Client(
            dsn=settings.sentry_dsn,
            environment=settings.sentry_environment or settings.environment,
            release=settings.sentry_release,
            transport=_transport_class(delivery),
            before_send=self._before_send,
            default_integrations=False,
            auto_enabling_integrations=False,
            include_local_variables=False,
            include_source_context=False,
            send_client_reports=False,
            auto_session_tracking=False,
            shutdown_timeout=0,
            spotlight=False,
            sample_rate=1.0,
            server_name=platform.node() or None,
        )

    def emit(self, event: Event) -> None:
        """Send the failed run."""
        if isinstance(event, RunFinished) and event.outcome == "failed" and event.failed_step is not None:
            # without a scope: those of the application would bring its data, argv among them
            self._client.capture_event(self._report(event, event.failed_step), {}, scope=None)

    def flush(self, timeout: float) -> bool:
        """Wait until everything has been sent, at most `timeout` seconds."""
        self._client.flush(timeout=timeout)
        return self._delivery.pending == 0

    def close(self) -> None:
        """Stop the client; what is still queued is counted as lost."""
        self._client.close(timeout=0)
        self._delivery.abandon("not sent before the deadline")

    def _report(self, event: RunFinished, step: StepFinished) -> Any:
        failure = step.failure
        assert failure is not None  # noqa: S101 - the definition of a failed step
        tags = _tags(event, failure)
        tags.update(self._settings.tags)
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

    def _before_send(self, event: Any, _hint: Any) -> Any:
        """The last thing before the wire: no argv, no modules, no secret."""
        try:
            return _redacted(event, self._redactor)
        except Exception:  # noqa: BLE001 - a failure must be reported all the same
            kept = {key: event[key] for key in _IDENTITIES if key in event}
            return {**kept, "message": WITHHELD}


def _redacted(event: Any, redactor: Redactor) -> Any:
    event.pop("modules", None)
    extra = event.get("extra")
    if isinstance(extra, dict):
        extra.pop("sys.argv", None)
    tags = event.get("tags") or {}
    contexts = event.get("contexts") or {}
    trace = dict(contexts.get("trace") or {})
    clean = redactor.redact({key: value for key, value in event.items() if key not in _IDENTITIES})
    clean.update({key: event[key] for key in _IDENTITIES if key in event})
    clean.setdefault("tags", {}).update({key: tags[key] for key in _IDENTITY_TAGS if key in tags})
    if trace:
        clean.setdefault("contexts", {})["trace"] = trace
    return clean


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


class CountingTransport(HttpTransport):
    """Sentry's HTTP transport, whose requests are not traced and whose losses are counted.

    The SDK drops an event in silence when the server answers an error.
    """

    TIMEOUT = 10
    delivery: Delivery

    def capture_envelope(self, envelope: Any) -> None:
        """Queue an envelope."""
        self.delivery.submitted(1)
        super().capture_envelope(envelope)

    def on_dropped_event(self, reason: str) -> None:
        """The SDK gives an event up: `network`, `status_503`, `full_queue`, …."""
        if reason != "network":  # that one is counted where the exception is known
            self.delivery.dropped(1, _in_words(reason))

    def _send_request(self, *args: Any, **kwargs: Any) -> None:
        token = context.attach(
            context.set_value(
                _SUPPRESS_HTTP_INSTRUMENTATION_KEY,
                True,  # noqa: FBT003 - the signature is OpenTelemetry's
                context.set_value(_SUPPRESS_INSTRUMENTATION_KEY, True),  # noqa: FBT003
            )
        )
        try:
            super()._send_request(*args, **kwargs)
        except Exception as error:
            self.delivery.dropped(1, reason_of(error))
            raise
        finally:
            context.detach(token)

    def _handle_response(self, response: Any, *args: Any, **kwargs: Any) -> None:
        super()._handle_response(response, *args, **kwargs)
        if response.status in _HTTP_OK:
            self.delivery.delivered(1)


def _transport_class(delivery: Delivery) -> type[CountingTransport]:
    return type("BoundTransport", (CountingTransport,), {"delivery": delivery})


def _in_words(reason: str) -> str:
    kind, _, status = reason.partition("_")
    if kind == "status":
        return f"HTTP {status}"
    return {"full_queue": "queue full", "self_rate_limits": "rate-limited by the server"}.get(reason, reason)
