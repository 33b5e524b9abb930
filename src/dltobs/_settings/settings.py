"""Every setting: its name, type, default, and what it is called elsewhere."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from dltobs._settings import crons, otel, parse

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from dltobs._dispatch import Sink


OnError = Literal["raise", "warn"]
LogLevel = Literal["CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG"]
Console = Literal["auto", "text", "json", "off"]
LogFileFormat = Literal["json", "text"]
Switch = Literal["auto", "on", "off"]
OtlpProtocol = Literal["http/protobuf", "grpc"]
SlackEvent = Literal["failure", "lost", "success", "schema_change"]


def _setting(
    parser: Callable[[Any], Any],
    expected: str,
    *,
    default: Any = None,
    secret: bool = False,
    fallbacks: tuple[str, ...] = (),
) -> Any:
    """A field of `Settings`.

    Args:
        parser: Makes a value of the right type out of a raw one, or raises ValueError.
        expected: What the parser takes, in words.
        default: The value where nobody says anything.
        secret: The value never appears in an error or a repr.
        fallbacks: Environment variables of other ecosystems that count where ours are silent.
    """
    metadata = {"parse": parser, "expected": expected, "secret": secret, "fallbacks": fallbacks}
    if isinstance(default, (dict, list)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata, repr=not secret)
    return field(default=default, metadata=metadata, repr=not secret)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings in force. `docs` of each: the table in the README."""

    enabled: bool = _setting(parse.boolean, "true or false", default=True)
    on_error: OnError = _setting(parse.one_of(*get_args(OnError)), "raise or warn", default="raise")
    log_level: int | None = _setting(parse.level, "a level name such as INFO, or a number")
    dlt_log_level: int | None = _setting(parse.level, "a level name such as WARNING, or a number")
    console: Console = _setting(parse.one_of(*get_args(Console)), "auto, text, json or off", default="auto")
    log_file: Path | None = _setting(parse.path, "a path")
    log_file_format: LogFileFormat = _setting(
        parse.one_of(*get_args(LogFileFormat)), "json or text", default="json"
    )
    log_file_max_bytes: int = _setting(parse.integer(1), "a number of bytes, at least 1", default=10_485_760)
    log_file_backup_count: int = _setting(parse.integer(0), "a number of files, at least 0", default=5)
    loguru: bool = _setting(parse.boolean, "true or false", default=False)
    excepthook: bool = _setting(parse.boolean, "true or false", default=True)
    tracing: Switch = _setting(parse.one_of(*get_args(Switch)), "auto, on or off", default="auto")
    metrics: Switch = _setting(parse.one_of(*get_args(Switch)), "auto, on or off", default="auto")
    otlp_endpoint: str | None = _setting(
        parse.endpoint("grpc"), "the base URL of a collector, such as http://localhost:4318"
    )
    otlp_protocol: OtlpProtocol = _setting(
        parse.one_of(*get_args(OtlpProtocol)),
        "http/protobuf or grpc",
        fallbacks=otel.PROTOCOLS,
        default="http/protobuf",
    )
    service_name: str = _setting(parse.text, "a name", fallbacks=("OTEL_SERVICE_NAME",), default="dlt")
    environment: str | None = _setting(parse.text, "a name such as production")
    tags: Mapping[str, str] = _setting(parse.pairs, "a mapping, or name=value pairs with commas", default={})
    max_job_spans: int = _setting(parse.integer(0), "a number of spans, at least 0", default=1000)
    sentry_dsn: str | None = _setting(
        parse.sentry_dsn,
        "a DSN such as https://PUBLIC_KEY@o0.ingest.sentry.io/PROJECT_ID",
        secret=True,
        fallbacks=("SENTRY_DSN",),
    )
    sentry_environment: str | None = _setting(
        parse.text, "a name such as production", fallbacks=("SENTRY_ENVIRONMENT",)
    )
    sentry_release: str | None = _setting(parse.text, "a version", fallbacks=("SENTRY_RELEASE",))
    sentry_traces: bool = _setting(parse.boolean, "true or false", default=False)
    sentry_monitor: bool | str = _setting(
        crons.monitor, "true (the pipeline's name), false, or a slug such as nightly-shop", default=False
    )
    sentry_monitor_schedule: str | None = _setting(
        crons.schedule, "a crontab line of five fields such as 0 3 * * *"
    )
    sentry_monitor_max_runtime: int | None = _setting(
        parse.integer(1, crons.MAX_RUNTIME), f"a number of minutes, 1 to {crons.MAX_RUNTIME}"
    )
    sentry_monitor_margin: int | None = _setting(
        parse.integer(1, crons.MAX_MARGIN), f"a number of minutes, 1 to {crons.MAX_MARGIN}"
    )
    sentry_monitor_timezone: str | None = _setting(
        crons.timezone, "the name of a time zone such as Europe/Berlin"
    )
    schema_change_ignore: tuple[str, ...] = _setting(
        parse.names, "glob patterns on table.column, as a list or with commas", default=()
    )
    slack_incoming_hook: str | None = _setting(
        parse.http_url,
        "the URL of an incoming webhook, such as https://hooks.slack.com/services/T…/B…/…",
        secret=True,
        fallbacks=("RUNTIME__SLACK_INCOMING_HOOK",),
    )
    slack_on: tuple[SlackEvent, ...] = _setting(
        parse.words(*get_args(SlackEvent)),
        "failure, lost, success, schema_change, with commas",
        default=("failure", "lost", "schema_change"),
    )
    alert_cooldown: float = _setting(parse.seconds, "a number of seconds, at least 0", default=3600.0)
    trace_url_template: str | None = _setting(
        parse.url_template("trace_id", "span_id", "pipeline", "transaction_id"),
        "a URL such as https://jaeger/trace/{trace_id}, with trace_id, span_id, pipeline, transaction_id",
    )
    ledger: bool = _setting(parse.boolean, "true or false", default=False)
    ledger_dataset: str | None = _setting(parse.text, "the name of a dataset, such as operations")
    prefect: Switch = _setting(parse.one_of(*get_args(Switch)), "auto, on or off", default="auto")
    redact_patterns: tuple[re.Pattern[str], ...] = _setting(
        parse.patterns, "regular expressions, as a list or with commas", secret=True, default=()
    )
    redact_keys: tuple[str, ...] = _setting(parse.names, "names, as a list or with commas", default=())
    spool_dir: Path | None = _setting(parse.path, "the path of a folder")
    spool_max_bytes: int = _setting(
        parse.integer(0), "a number of bytes; 0 switches the spool off", default=52_428_800
    )
    flush_timeout: float = _setting(parse.seconds, "a number of seconds, at least 0", default=5.0)
    handle_sigterm: bool = _setting(parse.boolean, "true or false", default=True)
    auto_configure: bool = _setting(parse.boolean, "true or false", default=False)
    sinks: tuple[Sink, ...] = field(default=(), repr=False)
    trace_exporters: tuple[str, ...] = field(default=(), repr=False)
    """What `OTEL_TRACES_EXPORTER` and the endpoints ask for: `otlp`, `console`."""
    variables: int = field(default=0, repr=False)
    """Changes when a variable of OpenTelemetry's does, which its exporters read for themselves."""
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """Where each value that is no default came from, in words."""
    notes: tuple[str, ...] = field(default=(), repr=False, compare=False)
    """What is set, but has no effect; each is a warning."""

    def source_of(self, name: str) -> str:
        """Where the value of a setting came from."""
        return self.sources.get(name, "default")

    @property
    def builds_provider(self) -> bool:
        """Whether dltobs builds a tracer provider where the application has none."""
        if self.tracing == "off" or otel.is_disabled():
            return False
        return self.tracing == "on" or bool(self.trace_exporters)


FIELDS = {one.name: one for one in dataclasses.fields(Settings) if "parse" in one.metadata}
"""What can be configured from outside, by name; the metadata are those of `_setting`."""
