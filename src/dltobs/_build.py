"""Makes a set-up out of the settings: every part that may fail, attached to nothing yet."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dltobs._describe import text_of
from dltobs._dispatch import Dispatcher, Sink
from dltobs._excepthook import ExceptHook
from dltobs._process.signals import TerminationWatch
from dltobs._redaction import automaton
from dltobs._redaction.learner import SecretLearner
from dltobs._redaction.redactor import Redactor
from dltobs._redaction.secrets import secrets_in
from dltobs._runs.callbacks import Callbacks
from dltobs._runs.terminated import TerminationReport
from dltobs._runs.tracker import Tracker
from dltobs._settings import otel
from dltobs._settings.otel import application_has_provider
from dltobs._settings.resolution import metric_target
from dltobs._setup import Setup
from dltobs._spool.place import spool_folder, spool_of
from dltobs._spool.resend import Resending
from dltobs._warnings import Warner
from dltobs.exceptions import ConfigurationError
from dltobs.sinks.delivery import Delivery
from dltobs.sinks.one_story import OneStory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dltobs._settings.settings import Settings
    from dltobs._spool.spool import Spool
    from dltobs.integrations.prefect.hook import PrefectHook
    from dltobs.logs.attach import LoggerHook

_TOKEN_LENGTH = 16
"""Characters; Slack's webhooks end in 24."""


def build(settings: Settings, hook: LoggerHook) -> Setup:
    """Make every part that may fail, attaching none.

    Args:
        settings: What to build.
        hook: The hook on dlt's logger, which is installed already.

    Raises:
        ConfigurationError: A part cannot be made of these settings.
    """
    from dltobs.logs.build import file_handler, recent_lines
    from dltobs.logs.output import LogOutput
    from dltobs.logs.run_lines import LogSink, StartSink

    redactor = Redactor(keys=settings.redact_keys, patterns=settings.redact_patterns)
    redactor.add(*_own_secrets(settings))
    warner = Warner(redactor)
    _warn_of_slow_search(warner)
    deliveries: dict[str, Delivery] = {}
    spool = spool_of(settings, warner, deliveries)
    sinks: list[Sink] = []
    log_file = None
    try:
        for sink in _own_sinks(settings, redactor, warner, deliveries, spool):
            sinks.append(sink)  # noqa: PERF402 - those made before a failure have to be closed
        prefect = _prefect_hook(settings, redactor, warner)
        if prefect is not None:
            from dltobs.integrations.prefect.artifact import ArtifactSink

            deliveries["prefect"] = Delivery("prefect", "artifacts", warner)
            sinks.append(ArtifactSink(deliveries["prefect"]))
        sinks += settings.sinks
        if settings.ledger:
            from dltobs.sinks.ledger import LedgerSink

            # last: at the end of a run it waits, and alerts go out before
            deliveries["ledger"] = Delivery("ledger", "entries", warner)
            folder = spool_folder(settings) / "ledger"
            sinks.append(LedgerSink(settings, warner, deliveries["ledger"], folder))
        recent = recent_lines(settings, warner)
        log_sink, start_sink = LogSink(hook), StartSink(hook)
        # it comes first: the span of the load is the current one until the span sink has ended it
        dispatcher = Dispatcher([log_sink, *sinks, start_sink], redactor, warner)
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
            tracker=Tracker(
                dispatcher,
                warner,
                recent,
                callbacks=Callbacks(
                    before_run=lambda: setup.before_run(),  # noqa: PLW0108 - it is made below
                    after_hook=lambda: setup.after_hook(),  # noqa: PLW0108 - as above
                ),
                schema_change_ignore=settings.schema_change_ignore,
            ),
            log=LogOutput(
                settings,
                redactor,
                warner,
                log_file=log_file,
                recent_lines=recent,
                more=() if prefect is None else (prefect.handler,),
                hook=hook,
            ),
            log_sink=log_sink,
            start_sink=start_sink,
            spool=spool,
            resending=None if spool is None else Resending(spool, deliveries, warner),
            prefect=prefect,
        )
    except BaseException:
        for sink in sinks:
            if not any(sink is one for one in settings.sinks):  # those are the user's, who may try again
                sink.close()
        if log_file is not None:
            log_file.close()
        raise
    if settings.excepthook:
        setup.excepthook = ExceptHook(redactor, setup.log, dispatcher)
    if settings.handle_sigterm:
        setup.termination = _termination(setup)
    return setup


def _termination(setup: Setup) -> TerminationWatch:
    tracker = setup.tracker
    report = TerminationReport(
        hooks_are_on=lambda: bool(tracker.busy),
        interrupt=tracker.interrupt,
        emitters=setup.dispatcher.emitters,
        reported=tracker.forget_markers,
        deliver=setup.deliver_at_last,
    )
    return TerminationWatch(
        report,
        setup.timeout,
        is_in_hook=lambda thread: thread in tracker.busy,
        runs_are_on=lambda: tracker.is_observing,
        warner=setup.warner,
    )


def _warn_of_slow_search(warner: Warner) -> None:
    if not automaton.IS_NATIVE:
        warner.warn(
            "redaction",
            "pyahocorasick is not installed, so texts are searched for secrets in Python, which is some 25 "
            "times slower: pip install pyahocorasick (where it has no wheel, a C compiler is needed)",
        )


def _own_sinks(
    settings: Settings,
    redactor: Redactor,
    warner: Warner,
    deliveries: dict[str, Delivery],
    spool: Spool | None,
) -> Iterator[Sink]:
    if settings.tracing != "off":
        yield _span_sink(settings, redactor, warner, deliveries, spool)
    if settings.metrics != "off" and not otel.is_disabled():
        yield _metric_sink(settings, redactor, warner, deliveries, spool)
    if settings.sentry_dsn is not None:
        from dltobs.sinks.sentry import SentrySink

        deliveries["sentry"] = Delivery("sentry", "events", warner, spool)
        try:
            yield OneStory(SentrySink(settings, redactor, deliveries["sentry"]), warner)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a value that it refuses
            raise ConfigurationError(
                "sentry_dsn",
                source=settings.source_of("sentry_dsn"),
                problem=f"Sentry's client refuses it: {type(error).__name__}: {warner.clean(text_of(error))}",
                expected="a DSN such as https://PUBLIC_KEY@o0.ingest.sentry.io/PROJECT_ID, and sentry-sdk 2",
            ) from None
    if settings.slack_incoming_hook is not None and settings.slack_on:
        from dltobs.sinks.slack import SlackSink

        # after Sentry, whose event it names
        deliveries["slack"] = Delivery("slack", "messages", warner, spool)
        yield OneStory(SlackSink(settings, warner, deliveries["slack"], spool_folder(settings)), warner)


def _prefect_hook(settings: Settings, redactor: Redactor, warner: Warner) -> PrefectHook | None:
    if settings.prefect == "off":
        return None
    from dltobs.integrations.prefect.context import is_installed

    if is_installed():
        from dltobs.integrations.prefect.hook import PrefectHook

        return PrefectHook(settings, redactor, warner)
    if settings.prefect == "on":
        raise ConfigurationError(
            "prefect",
            source=settings.source_of("prefect"),
            problem="'on' needs a package that is not installed",
            expected="pip install 'dltobs[prefect]'",
        )
    return None


def _span_sink(
    settings: Settings,
    redactor: Redactor,
    warner: Warner,
    deliveries: dict[str, Delivery],
    spool: Spool | None,
) -> Sink:
    if not settings.builds_provider or application_has_provider():
        from dltobs.sinks.late_spans import LateSpanSink

        if settings.sentry_traces:
            warner.warn(
                "sentry_traces",
                "sentry_traces does nothing where the application has a tracer provider or OTEL_SDK_DISABLED "
                "is set: add an exporter for Sentry to that provider",
            )
        return LateSpanSink(settings, redactor)
    for name in settings.trace_exporters:
        deliveries[name] = Delivery(name, "spans", warner, spool)
    try:
        from dltobs.sinks.spans import SpanSink

        return SpanSink(settings, redactor, deliveries)
    except ConfigurationError:
        raise
    except Exception as error:  # noqa: BLE001 - OpenTelemetry reads its variables when it is imported
        raise _refused("tracing", error, redactor) from None


def _metric_sink(
    settings: Settings,
    redactor: Redactor,
    warner: Warner,
    deliveries: dict[str, Delivery],
    spool: Spool | None,
) -> Sink:
    target = metric_target(settings)
    for name in () if target is None else target.exporters:
        deliveries[f"{name}_metrics"] = Delivery(f"{name}_metrics", "points", warner, spool)
    try:
        from dltobs.sinks.metrics import MetricSink

        return MetricSink(settings, redactor, target, deliveries)
    except ConfigurationError:
        raise
    except Exception as error:  # noqa: BLE001 - as above
        raise _refused("metrics", error, redactor) from None


def _refused(setting: str, error: Exception, redactor: Redactor) -> ConfigurationError:
    return ConfigurationError(
        setting,
        source="environment variables OTEL_*",
        problem=f"OpenTelemetry refuses them ({redactor.text(text_of(error))})",
        expected="values as in OpenTelemetry's specification",
    )


def _own_secrets(settings: Settings) -> set[str]:
    """The secrets among our own settings and the variables that our exporters read."""
    found: set[str] = set(otel.header_values())
    if settings.sentry_dsn is not None:
        found.update(secrets_in(settings.sentry_dsn))
    if settings.slack_incoming_hook is not None:
        found.update(secrets_in(settings.slack_incoming_hook))
        # whoever knows the path can post; a short one is no secret, but an ordinary word
        path = urlsplit(settings.slack_incoming_hook).path.rstrip("/")
        found.update(part for part in (path, path.rpartition("/")[2]) if len(part) >= _TOKEN_LENGTH)
    for endpoint in (settings.otlp_endpoint, *otel.endpoints()):
        if endpoint:
            # an endpoint is no secret as a whole: only what stands before its @ and in its query
            found.update(secrets_in(endpoint, whole=False))
    return found
