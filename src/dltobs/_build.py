"""Makes a set-up out of the settings: every part that may fail, attached to nothing yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dltobs import _otel as otel
from dltobs._describe import text_of
from dltobs._dispatch import Dispatcher, Sink
from dltobs._excepthook import ExceptHook
from dltobs._learner import SecretLearner
from dltobs._otel import application_has_provider
from dltobs._redaction import Redactor
from dltobs._secrets import secrets_in
from dltobs._setup import Setup
from dltobs._tracker import Tracker
from dltobs._warnings import Warner
from dltobs.exceptions import ConfigurationError
from dltobs.sinks.delivery import Delivery

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dltobs._settings import Settings
    from dltobs.logs.attach import LoggerHook


def build(settings: Settings, hook: LoggerHook) -> Setup:
    """Make every part that may fail, attaching none.

    Args:
        settings: What to build.
        hook: The hook on dlt's logger, which is installed already.

    Raises:
        ConfigurationError: A part cannot be made of these settings.
    """
    from dltobs.logs.build import file_handler, recent_lines

    redactor = Redactor(keys=settings.redact_keys, patterns=settings.redact_patterns)
    redactor.add(*_own_secrets(settings))
    warner = Warner(redactor)
    deliveries: dict[str, Delivery] = {}
    sinks: list[Sink] = []
    log_file = None
    try:
        for sink in _own_sinks(settings, redactor, warner, deliveries):
            sinks.append(sink)  # noqa: PERF402 - those made before a failure have to be closed
        sinks += settings.sinks
        recent = recent_lines(settings, warner)
        dispatcher = Dispatcher(sinks, redactor, warner)
        # last: a failure of something else must not leave an empty file behind
        log_file = file_handler(settings, redactor, warner)
        setup = Setup(
            settings=settings,
            redactor=redactor,
            warner=warner,
            deliveries=deliveries,
            sinks=tuple(sinks),
            dispatcher=dispatcher,
            logger_hook=hook,
            learner=SecretLearner(redactor, lambda error: warner.internal_error("secrets", error)),
            tracker=Tracker(dispatcher, warner, recent, before_run=hook.refresh),
            log_file=log_file,
            recent_lines=recent,
        )
    except BaseException:
        for sink in sinks:
            sink.close()
        if log_file is not None:
            log_file.close()
        raise
    if settings.excepthook:
        setup.excepthook = ExceptHook(redactor, setup.exception_formatter)
    return setup


def _own_sinks(
    settings: Settings, redactor: Redactor, warner: Warner, deliveries: dict[str, Delivery]
) -> Iterator[Sink]:
    if settings.tracing != "off":
        yield _span_sink(settings, redactor, warner, deliveries)
    if settings.sentry_dsn is not None:
        from dltobs.sinks.sentry import SentrySink

        deliveries["sentry"] = Delivery("sentry", "events", warner)
        try:
            yield SentrySink(settings, redactor, deliveries["sentry"])
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a value that it refuses
            raise ConfigurationError(
                "sentry_dsn",
                source=settings.source_of("sentry_dsn"),
                problem=f"Sentry's client refuses this value ({type(error).__name__})",
                expected="a DSN such as https://PUBLIC_KEY@o0.ingest.sentry.io/PROJECT_ID",
            ) from None


def _span_sink(
    settings: Settings, redactor: Redactor, warner: Warner, deliveries: dict[str, Delivery]
) -> Sink:
    if not settings.builds_provider or application_has_provider():
        from dltobs.sinks.late_spans import LateSpanSink

        return LateSpanSink(settings, redactor)
    for name in settings.trace_exporters:
        deliveries[name] = Delivery(name, "spans", warner)
    try:
        from dltobs.sinks.spans import SpanSink

        return SpanSink(settings, redactor, deliveries)
    except ConfigurationError:
        raise
    except Exception as error:  # noqa: BLE001 - OpenTelemetry reads its variables when it is imported
        raise ConfigurationError(
            "tracing",
            source="environment variables OTEL_*",
            problem=f"OpenTelemetry refuses them ({redactor.text(text_of(error))})",
            expected="values as in OpenTelemetry's specification",
        ) from None


def _own_secrets(settings: Settings) -> set[str]:
    """The secrets among our own settings and the variables that our exporters read."""
    found: set[str] = set(otel.header_values())
    if settings.sentry_dsn is not None:
        found.update(secrets_in(settings.sentry_dsn))
    for endpoint in (settings.otlp_endpoint, *map(otel.value_of, otel.ENDPOINTS)):
        if endpoint:
            # an endpoint is no secret as a whole: only what stands before its @ and in its query
            found.update(secrets_in(endpoint, whole=False))
    return found
