"""Sets everything up, and takes it down again: the only place that changes what runs."""

from __future__ import annotations

import atexit
import multiprocessing.util
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from dltobs import _state
from dltobs._build import build
from dltobs._platform import register_at_fork
from dltobs._process.forks import hold_back, let_through
from dltobs._redaction.redactor import Redactor
from dltobs._settings.early import explicit_on_error
from dltobs._settings.resolution import overrides_for, resolve_settings
from dltobs._warnings import Warner
from dltobs.exceptions import ConfigurationError

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Mapping, Sequence

    from dltobs._dispatch import Sink
    from dltobs._settings.lookup import Overrides
    from dltobs._settings.settings import (
        Console,
        LogFileFormat,
        LogLevel,
        OnError,
        OtlpProtocol,
        Settings,
        SlackEvent,
        Switch,
    )
    from dltobs._setup import Setup
    from dltobs._spool.resend import SpoolResult
    from dltobs.logs.attach import LoggerHook
    from dltobs.sinks.delivery import BackendStatus


_FIRST = 100
"""Our priority among what `multiprocessing` does before a child leaves."""


def configure(  # noqa: PLR0913 - each is a setting
    *,
    enabled: bool | str | None = None,
    on_error: OnError | None = None,
    log_level: LogLevel | int | None = None,
    dlt_log_level: LogLevel | int | None = None,
    console: Console | None = None,
    log_file: str | os.PathLike[str] | None = None,
    log_file_format: LogFileFormat | None = None,
    log_file_max_bytes: int | str | None = None,
    log_file_backup_count: int | str | None = None,
    loguru: bool | str | None = None,
    excepthook: bool | str | None = None,
    tracing: Switch | None = None,
    metrics: Switch | None = None,
    otlp_endpoint: str | None = None,
    otlp_protocol: OtlpProtocol | None = None,
    service_name: str | None = None,
    environment: str | None = None,
    tags: Mapping[str, str] | str | None = None,
    max_job_spans: int | str | None = None,
    sentry_dsn: str | None = None,
    sentry_environment: str | None = None,
    sentry_release: str | None = None,
    sentry_traces: bool | str | None = None,
    sentry_monitor: bool | str | None = None,
    sentry_monitor_schedule: str | None = None,
    sentry_monitor_max_runtime: int | str | None = None,
    sentry_monitor_margin: int | str | None = None,
    sentry_monitor_timezone: str | None = None,
    schema_change_ignore: Sequence[str] | str | None = None,
    slack_incoming_hook: str | None = None,
    slack_on: Sequence[SlackEvent] | str | None = None,
    alert_cooldown: float | str | None = None,
    trace_url_template: str | None = None,
    ledger: bool | str | None = None,
    ledger_dataset: str | None = None,
    prefect: Switch | None = None,
    redact_patterns: Sequence[str | re.Pattern[str]] | str | None = None,
    redact_keys: Sequence[str] | str | None = None,
    spool_dir: str | os.PathLike[str] | None = None,
    spool_max_bytes: int | str | None = None,
    flush_timeout: float | str | None = None,
    handle_sigterm: bool | str | None = None,
    auto_configure: bool | str | None = None,
    sinks: Sequence[Sink] | None = None,
    **unknown: NoReturn,
) -> None:
    """Make every dlt pipeline of this process observable.

    Call it once, in the first line of the script. Each setting may also come from the environment
    (`DLTOBS__LOG_FILE`) or from dlt's configuration files (`[dltobs] log_file`); an argument wins, and None
    counts as not given. A second call with the same settings changes nothing; with others it replaces the
    set-up once the new one stands.

    Args:
        enabled: False switches everything off; no other setting is checked then.
        on_error: What a wrong setting or an unusable path does: `raise` (default) raises ConfigurationError,
            `warn` logs one warning, and the rest works without that setting.
        log_level: Level of dlt's and dltobs' lines; by default dlt's own (`RUNTIME__LOG_LEVEL`).
        dlt_log_level: Level of dlt's lines alone; as `log_level` by default.
        console: Lines on stderr as `text`, `json` or `off`; `auto` (default) is JSON where
            `RUNTIME__LOG_FORMAT` is JSON, off where loguru takes over, else text.
        log_file: Path of a rotating log file; none by default.
        log_file_format: `json` (default) or `text`.
        log_file_max_bytes: Size at which the log file is rotated; 10 MiB by default.
        log_file_backup_count: How many rotated files are kept; 5 by default.
        loguru: Hand dlt's records to loguru; false by default.
        excepthook: Print uncaught exceptions without secrets; true by default.
        tracing: `off`: no spans; `auto` (default): spans where the application has a tracer provider or an
            exporter is configured; `on`: without an exporter, too.
        metrics: `off`, `auto` (default) or `on`, as for tracing.
        otlp_endpoint: Base URL of a collector, such as `http://localhost:4318`; falls back to
            `OTEL_EXPORTER_OTLP_ENDPOINT`.
        otlp_protocol: `http/protobuf` (default) or `grpc`; falls back to `OTEL_EXPORTER_OTLP_PROTOCOL`.
        service_name: In resources and JSON lines; falls back to `OTEL_SERVICE_NAME`, else `dlt`.
        environment: In resources, JSON lines and Sentry, such as `production`.
        tags: Fixed pairs on spans, JSON lines and Sentry events: a mapping, or `team=data,owner=ann`.
        max_job_spans: Spans below a step at most; 1000 by default.
        sentry_dsn: DSN of the Sentry project that runs that went wrong go to; falls back to `SENTRY_DSN`.
        sentry_environment: Falls back to `SENTRY_ENVIRONMENT`, else to `environment`.
        sentry_release: Falls back to `SENTRY_RELEASE`, else to the commit that the platform names.
        sentry_traces: Send spans to Sentry, too; false by default.
        sentry_monitor: True, or the slug of a Sentry monitor: each run checks in there; false by default.
        sentry_monitor_schedule: Crontab line of five fields, from which Sentry makes the monitor.
        sentry_monitor_max_runtime: Minutes after which Sentry counts a run without an end as failed.
        sentry_monitor_margin: Minutes by which a run may start late.
        sentry_monitor_timezone: Time zone of the schedule, such as `Europe/Berlin`.
        schema_change_ignore: Schema changes that are not reported: globs on `table.column`.
        slack_incoming_hook: URL of an incoming webhook of Slack; falls back to
            `RUNTIME__SLACK_INCOMING_HOOK`.
        slack_on: What is posted, of `failure`, `lost`, `success`, `schema_change`; all but `success` by
            default.
        alert_cooldown: Seconds in which the same failure is posted once; 3600 by default.
        trace_url_template: The link to a trace in an alert, such as `https://jaeger/trace/{trace_id}`.
        ledger: Record each run in its pipeline's destination; false by default.
        ledger_dataset: Dataset of that ledger; `<dataset>_dltobs` by default.
        prefect: `auto` (default): runs in a flow of Prefect belong to it; `on`: the package must be there;
            `off`.
        redact_patterns: More regular expressions whose matches are secret.
        redact_keys: More names whose values are secret.
        spool_dir: Folder for what a back end did not take, until a later run sends it.
        spool_max_bytes: Size of all files there together; 50 MiB by default, 0 switches the spool off.
        flush_timeout: Seconds, shared by everything at exit; 5 by default.
        handle_sigterm: Report a run that SIGTERM ends; true by default.
        auto_configure: For the environment and files alone: dlt calls `configure()` by itself.
        sinks: Sinks of your own, which receive each event.
        **unknown: Refused; no type checker lets it pass.

    Raises:
        ConfigurationError: A setting is wrong. Nothing has been attached, and what ran before still runs.
    """
    arguments: dict[str, Any] = {**locals()}
    arguments.update(arguments.pop("unknown"))
    set_up(
        lambda overrides: resolve_settings(arguments, overrides),
        on_error=lambda: explicit_on_error(arguments),
    )


def set_up(
    resolve: Callable[[Overrides], Settings], on_error: Callable[[], str | None] = lambda: None
) -> None:
    """Set everything up with the settings that `resolve` gives, once dlt's logger is safe from leaks.

    Args:
        resolve: Gives the settings, some of them overridden.
        on_error: Gives `warn` where a wrong setting is to be a warning.

    Raises:
        ConfigurationError: As of `configure()`.
    """
    with _state.changing():
        running = _state.runtime
        dlt_was_used = _dlt_was_used()
        hook = running.logger_hook if running is not None else _installed_hook()
        warnings: dict[str, str] = {}
        try:
            resolved, built = _resolved_and_built(resolve, on_error, hook, warnings)
        except BaseException as error:
            if running is None:
                hook.detach()
            # what is wrong with a setting of dlt's own (`runtime.log_level`) stops dlt itself as well
            is_dlts = isinstance(error, ConfigurationError) and error.setting.startswith("runtime.")
            if isinstance(error, ConfigurationError) and not is_dlts and on_error() == "warn":
                what = "dltobs observes nothing" if running is None else "the set-up before it stays"
                _warn(Warner(Redactor()), warnings | {error.setting: f"{error}; {what}"})
                return
            raise
        if built is None and resolved.enabled:
            return
        if built is None:
            _state.runtime, _state.is_off = None, True
            if running is None:
                hook.detach()
            else:
                running.take_down()
            return
        if running is None:
            from dltobs._workers.parent import WorkerPools

            built.worker_pools = WorkerPools(built)
            built.attach(dlt_was_used=dlt_was_used)
        else:
            built.replace(running)
        _state.runtime, _state.is_off, _state.redactor = built, False, built.redactor
        _state.deliveries = tuple(built.deliveries.values())
        atexit.unregister(_at_exit)
        atexit.register(_at_exit)
        if multiprocessing.parent_process() is not None:
            # such a process leaves by `os._exit`, without `atexit`
            multiprocessing.util.Finalize(None, _at_exit, exitpriority=_FIRST)
        # through our own handlers, which `auto_configure` makes before dlt has its logger
        warnings |= {note: note for note in resolved.notes}
        built.logger_hook.when_attached(partial(_warn, built.warner, warnings))


def _resolved_and_built(
    resolve: Callable[[Overrides], Settings],
    on_error: Callable[[], str | None],
    hook: LoggerHook,
    warnings: dict[str, str],
) -> tuple[Settings, Setup | None]:
    """Resolve settings and build a set-up of them; None where it is the running one, or switched off.

    With `warn`, each wrong setting is left out, and put into `warnings`.

    Raises:
        ConfigurationError: A setting is wrong, or cannot be left out.
    """
    overrides: dict[str, str | None] = {}
    while True:
        try:
            resolved = resolve(overrides)
            running = _state.runtime
            # a forked child takes over from its parent, whose threads it has not
            is_same = running is not None and running.process == os.getpid() and resolved == running.settings
            return resolved, build(resolved, hook) if resolved.enabled and not is_same else None
        except ConfigurationError as error:
            more = overrides_for(error)
            if on_error() != "warn" or overrides | more == overrides:
                raise
            overrides |= more
            consequence = ", ".join(
                f"with {name}={value}" if value else "without it" for name, value in more.items()
            )
            warnings[error.setting] = f"{error}; dltobs goes on {consequence}"


def _warn(warner: Warner, warnings: Mapping[str, str]) -> None:
    for subject, message in warnings.items():
        warner.warn(subject, message)


def shutdown() -> None:
    """Deliver what is left within `flush_timeout`, and take everything away that was attached.

    It may be called twice, and runs by itself when the process exits. Pipelines that are run afterwards
    behave as if dltobs were not there.
    """
    with _state.changing():
        running, _state.runtime, _state.is_off = _state.runtime, None, False
        if running is not None:
            running.take_down()


def status() -> Mapping[str, BackendStatus]:
    """What each back end has taken and lost since `configure()`, by name: `otlp`, `sentry`, ….

    It can be read after `shutdown()`, too.
    """
    return {delivery.name: delivery.status for delivery in _state.deliveries}


def flush_spool(timeout: float | None = None) -> Mapping[str, SpoolResult]:
    """Send what could not be delivered, by earlier runs or by this one, and wait for it.

    Each back end of the set-up in force gets what is meant for its address, until one delivery fails. It is
    done by itself in the background after each `configure()`; call this to know how it ended.

    Args:
        timeout: Seconds; None waits for as long as each back end answers.

    Returns:
        By the name of the back end, what was sent since `configure()` or the last call, and what is left.
        Empty without `configure()` before, and where the spool is switched off.
    """
    running = _state.runtime
    return {} if running is None or running.resending is None else running.resending.run(timeout)


def _dlt_was_used() -> bool:
    """Whether dlt has resolved anything in this process: its logger comes with the first resolution."""
    module = sys.modules.get("dlt.common.logger")
    return module is not None and vars(module)["LOGGER"] is not None


def _installed_hook() -> LoggerHook:
    """A hook on dlt's logger before our settings are resolved: that is what makes dlt create it."""
    from dltobs.logs.attach import LoggerHook

    # what it may warn of has met no secret yet; the redactor is exchanged as soon as there is one
    hook = LoggerHook(Warner(Redactor()))
    hook.install()
    return hook


def _at_exit() -> None:
    running = _state.runtime
    if running is None:
        return
    if running.process == os.getpid():
        shutdown()
        running.after_hook()  # where a signal has come, the process dies of it
    else:
        running.deliver_as_child()


def _before_fork() -> None:
    running = _state.runtime
    if running is not None and running.termination is not None:
        hold_back(running.termination.killers())


def _after_fork() -> None:
    """In a forked child: no lock is held by a thread that does not exist, nothing is counted twice."""
    for delivery in _state.deliveries:
        delivery.forget()
    if _state.runtime is not None:
        if _state.runtime.resending is not None:
            _state.runtime.resending.forget()
        if _state.runtime.termination is not None:
            _state.runtime.termination.forked()
    let_through()


register_at_fork(before=_before_fork, after_in_parent=let_through, after_in_child=_after_fork)
# once more: what a signal handler of the application raises may have cut the first call short
register_at_fork(after_in_parent=let_through, after_in_child=let_through)
