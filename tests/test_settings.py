"""Where each setting comes from, and what is said of a wrong one."""

from __future__ import annotations

import collections.abc
import inspect
import json
import logging
import os
import pickle
import re
import textwrap
import typing

import dlt
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import dltobs
from dltobs import ConfigurationError, Settings, _state
from dltobs._settings import settings as settings_module
from dltobs._settings.resolution import resolve_settings
from dltobs._settings.settings import FIELDS
from dltobs.testing import RecordingSink
from scripts import run_script


def write(tmp_path, name, text):
    folder = tmp_path / ".dlt"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)


def refused(**settings) -> ConfigurationError:
    """The error of `configure()`, after which nothing may be attached."""
    with pytest.raises(ConfigurationError) as info:
        dltobs.configure(**settings)
    assert _state.runtime is None
    return info.value


def test_an_argument_wins_over_the_environment_over_the_files_over_the_standard_variable(
    tmp_path, monkeypatch
):
    """The order of the design, taken away one by one."""
    assert resolve_settings({}).service_name == "dlt"
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=x,service.name=from%20attributes")
    assert resolve_settings({}).service_name == "from attributes"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "from-otel")
    assert resolve_settings({}).service_name == "from-otel"
    write(tmp_path, "config.toml", '[dltobs]\nservice_name = "from-file"\n')
    assert run_script(
        "from dltobs._settings.resolution import resolve_settings as r; print(r({}).service_name)",
        tmp_path,
        OTEL_SERVICE_NAME="from-otel",
    ).stdout.split() == ["from-file"]
    monkeypatch.setenv("DLTOBS__SERVICE_NAME", "from-environment")
    settings = resolve_settings({})
    assert settings.service_name == "from-environment"
    assert settings.source_of("service_name") == "environment variable DLTOBS__SERVICE_NAME"
    assert resolve_settings({"service_name": "from-argument"}).service_name == "from-argument"
    assert resolve_settings({"service_name": None}).service_name == "from-environment"


def test_both_files_are_read_with_their_own_types(tmp_path):
    """TOML has numbers, booleans, lists and tables."""
    write(
        tmp_path,
        "config.toml",
        '[dltobs]\nlog_level = 10\nexcepthook = false\nredact_keys = ["a", "b"]\n'
        'flush_timeout = 2\n[dltobs.tags]\nteam = "data"\n',
    )
    write(tmp_path, "secrets.toml", '[dltobs]\nsentry_dsn = "https://k@sentry.example/1"\n')
    settings = resolve_settings({})
    assert settings.log_level == 10
    assert settings.excepthook is False
    assert settings.redact_keys == ("a", "b")
    assert settings.flush_timeout == 2.0
    assert dict(settings.tags) == {"team": "data"}
    assert settings.sentry_dsn == "https://k@sentry.example/1"
    assert "secrets.toml" in settings.source_of("sentry_dsn")
    assert "k@sentry" not in repr(settings)


@pytest.mark.parametrize(
    ("variable", "value", "name", "expected"),
    [
        ("SENTRY_DSN", "https://k@sentry.example/1", "sentry_dsn", "https://k@sentry.example/1"),
        ("SENTRY_ENVIRONMENT", "live", "sentry_environment", "live"),
        ("SENTRY_RELEASE", "1.2", "sentry_release", "1.2"),
        ("OTEL_SERVICE_NAME", "shop", "service_name", "shop"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318", "trace_exporters", ("otlp",)),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c/v1/traces", "trace_exporters", ("otlp",)),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", " ", "trace_exporters", ()),
        ("OTEL_TRACES_EXPORTER", "console, otlp", "trace_exporters", ("console", "otlp")),
        ("OTEL_TRACES_EXPORTER", "none", "trace_exporters", ()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "otlp_protocol", "http/protobuf"),
    ],
)
def test_a_standard_variable_counts_where_ours_is_silent(monkeypatch, variable, value, name, expected):
    monkeypatch.setenv(variable, value)
    assert getattr(resolve_settings({}), name) == expected


@pytest.mark.parametrize(
    ("place", "written", "expected"),
    [
        ("argument", "log_fle", "perhaps log_file"),
        ("DLTOBS__LOG_FLE", "log_fle", "perhaps DLTOBS__LOG_FILE"),
        ("DLTOBS__LOG__FILE", "log__file", "perhaps DLTOBS__LOG_FILE"),
        ("config.toml", "log_fle", "perhaps log_file"),
        ("secrets.toml", "sentry_dns", "perhaps sentry_dsn"),
        ("DLTOBS__SINKS", "sinks", "argument of configure()"),
    ],
)
def test_a_misspelt_name_is_refused_with_the_nearest_known_one(
    tmp_path, monkeypatch, place, written, expected
):
    """In an argument, a variable or a file."""
    settings = {}
    if place == "argument":
        settings = {written: "x"}
    elif place.endswith(".toml"):
        write(tmp_path, place, f'[dltobs]\n{written} = "x"\n')
    else:
        monkeypatch.setenv(place, "x")
    error = refused(**settings)
    assert error.setting == written
    assert place in error.source
    assert expected in str(error)


@pytest.fixture
def warnings(caplog):
    """What dltobs has warned of, so far."""
    return lambda: [record.getMessage() for record in caplog.records if record.name == "dltobs"]


def test_the_variables_of_kubernetes_for_a_service_called_dltobs_are_not_ours(monkeypatch, warnings):
    names = ("PORT", "PORT_80_TCP", "PORT_80_TCP_ADDR", "SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP")
    for name in names:
        monkeypatch.setenv(f"DLTOBS_{name}", "tcp://10.0.0.1:80")
    monkeypatch.setenv("DLTOBS", "x")
    dltobs.configure()
    assert _state.runtime is not None
    assert warnings() == []


@pytest.mark.parametrize("written", ["DLTOBS_LOG_FILE", "dltobs__log_file", "Dltobs_Log_File"])
def test_a_variable_that_is_nearly_a_setting_is_one_warning_that_gives_the_right_one(
    monkeypatch, warnings, written
):
    monkeypatch.setenv(written, "dlt.jsonl")
    dltobs.configure()
    assert warnings() == [
        f"environment variable {written} is not read: the setting log_file is DLTOBS__LOG_FILE"
    ]
    dltobs.configure()
    assert len(warnings()) == 1


@pytest.mark.parametrize("place", ["config.toml", "secrets.toml"])
@pytest.mark.parametrize("section", ["runtime.dltobs", "Dltobs", "DLTOBS", "runtime.DltObs"])
def test_a_section_in_the_wrong_place_or_case_is_one_warning(tmp_path, warnings, place, section):
    write(tmp_path, place, f'[{section}]\nlog_file = "dlt.jsonl"\n')
    dltobs.configure()
    assert warnings() == [f"section [{section}] in {place} is not read: the right one is [dltobs]"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ledger_dataset": "ops"}, "ledger_dataset ({}) does nothing without ledger"),
        ({"log_file_format": "text"}, "log_file_format ({}) does nothing without log_file"),
        (
            {"sentry_environment": "live", "sentry_release": "1"},
            "sentry_environment ({}), sentry_release ({}) do nothing without sentry_dsn or SENTRY_DSN",
        ),
        (
            {"alert_cooldown": 60},
            "alert_cooldown ({}) does nothing without slack_incoming_hook or RUNTIME__SLACK_INCOMING_HOOK",
        ),
        (
            {"otlp_protocol": "http/protobuf"},
            "otlp_protocol ({}) does nothing without otlp_endpoint or OTEL_EXPORTER_OTLP_ENDPOINT",
        ),
        (
            {"auto_configure": True},
            "auto_configure ({}) does nothing: it is for the environment or dlt's files",
        ),
    ],
)
def test_a_setting_without_what_it_belongs_to_is_one_warning(warnings, given, said):
    dltobs.configure(**given)
    assert warnings() == [said.replace("{}", "argument of configure()")]


@pytest.mark.parametrize(
    ("variables", "settings"),
    [
        ({"SENTRY_ENVIRONMENT": "live", "SENTRY_RELEASE": "1"}, {}),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, {}),
        ({"DLTOBS__LEDGER": "false"}, {"ledger_dataset": "ops"}),
        ({}, {"sentry_monitor": False}),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_METRICS_EXPORTER": "none"},
            {"otlp_protocol": "http/protobuf"},
        ),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9"}, {"otlp_protocol": "http/protobuf"}),
    ],
)
def test_what_is_meant_for_others_or_switched_off_on_purpose_is_no_warning(
    monkeypatch, warnings, variables, settings
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    dltobs.configure(**settings)
    assert warnings() == []


BROKEN = {
    "DLTOBS__SENTRY_DSN": "nonsense",
    "DLTOBS__LOG_FIL": "x",
    "DLTOBS__LOG_FILE": "/proc/nowhere/dlt.log",
    "DLTOBS__AUTO_CONFIGURE": "perhaps",
    "DLTOBS__LEDGER_DATASET": "ops",
    "DLTOBS__ON_ERROR": "sometimes",
    "DLTOBS_LOG_LEVEL": "INFO",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "collector",
    "OTEL_TRACES_EXPORTER": "zipkin",
}
"""Wrong in many ways."""


@pytest.mark.parametrize("call", ["__import__('dltobs').configure()", "None"])
@pytest.mark.parametrize("place", ["variable", "config.toml"])
def test_enabled_false_switches_all_checks_off(tmp_path, call, place):
    """Whatever else is wrong: there is no error and no warning, and nothing is attached."""
    variables = dict(BROKEN)
    if place == "variable":
        variables["DLTOBS__ENABLED"] = "false"
    else:
        write(tmp_path, place, "[dltobs]\nenabled = false\nlog_fil = 1\n[runtime.dltobs]\nx = 1\n")
    result = run_script(
        f"""
        {call}
        print(pipeline().run([{{"id": 1}}], table_name="orders").has_failed_jobs)
        from dltobs import _state
        print(_state.runtime)
        """,
        tmp_path,
        **variables,
    )
    assert (result.stdout, result.stderr) == ("False\nNone\n", "")


@pytest.mark.parametrize(
    ("variable", "value", "meant"),
    [
        ("RUNTIME__LOG_LEVEL", "info", "INFO"),
        ("RUNTIME__LOG_LEVEL", "LOUD", "a level name such as INFO"),
        ("RUNTIME__LOG_FORMAT", "json", "JSON"),
        ("RUNTIME__LOG_FORMAT", "pretty", "JSON, or a format such as {asctime}|{levelname}|{message}"),
    ],
)
def test_a_level_or_format_that_dlt_refuses_is_named_with_its_variable_and_what_is_meant(
    monkeypatch, variable, value, meant
):
    """dlt's own errors are `Unknown level: 'info'` and `invalid format: no fields`."""
    monkeypatch.setenv(variable, value)
    error = refused()
    assert str(error) == (
        f"{variable.lower().replace('__', '.')} (environment variable {variable}): dlt does not take {value!r}; "
        f"expected {meant}"
    )


@pytest.mark.parametrize("console", ["JSON", "{levelname} {message}"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("log_file", "/proc/nowhere/dlt.log"),
        ("spool_dir", __file__),
        ("sentry_dsn", "nonsense"),
        ("console", "xml"),
        ("log_fil", "x"),
        ("sinks", "x"),
        ("sentry_monitor_schedule", "0 3 * * *"),
        ("enabled", "perhaps"),
    ],
)
def test_with_on_error_warn_a_bad_setting_is_one_warning_and_the_rest_works(
    tmp_path, monkeypatch, capfd, console, name, value
):
    """As JSON, where the console is."""
    good = tmp_path / "good.jsonl"
    monkeypatch.setenv("RUNTIME__LOG_FORMAT", console)
    monkeypatch.setenv("DLTOBS__ON_ERROR", "warn")
    monkeypatch.setenv(f"DLTOBS__{name.upper()}", value)
    dltobs.configure(**({} if name == "log_file" else {"log_file": good}))
    said = [line for line in capfd.readouterr().err.splitlines() if line]
    assert len(said) == 1
    message = json.loads(said[0])["message"] if console == "JSON" else said[0].removeprefix("WARNING ")
    assert message.startswith(f"{name} (environment variable DLTOBS__{name.upper()}): ")
    assert "; dltobs goes on without it" in message
    assert _state.runtime is not None
    if name != "log_file":
        assert message in good.read_text()
    dltobs.configure(**({} if name == "log_file" else {"log_file": good}))
    assert capfd.readouterr().err == ""


def test_with_on_error_warn_each_bad_setting_is_a_warning(tmp_path, monkeypatch, warnings, otlp, pipeline):
    """And what is right beside them counts, wherever on_error stands."""
    write(tmp_path, "config.toml", '[dltobs]\non_error = "warn"\ntracing = "yes"\nlog_fil = "x"\n')
    monkeypatch.setenv("DLTOBS__MAX_JOB_SPANS", "many")
    dltobs.configure(otlp_endpoint=otlp.url, slack_on="lots", loud=True)
    assert sorted(message.split()[0] for message in warnings()) == [
        "log_fil", "loud", "max_job_spans", "slack_on", "tracing",
    ]  # fmt: skip
    pipeline().run([{"id": 1}], table_name="orders")
    dltobs.shutdown()
    assert otlp.named("run shop")


@pytest.mark.parametrize(
    ("variables", "consequence"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "with tracing=off"),
        ({"OTEL_METRICS_EXPORTER": "zipkin"}, "with metrics=off"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "collector"}, "with tracing=off"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector"}, "with tracing=off, with metrics=off"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_HEADERS": "hunter22;x"},
            "with tracing=off, with metrics=off",
        ),
    ],
)
def test_with_on_error_warn_a_wrong_variable_of_opentelemetry_switches_telemetry_off(
    monkeypatch, warnings, variables, consequence
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    dltobs.configure(on_error="warn")
    (message,) = warnings()
    assert message.endswith(f"; dltobs goes on {consequence}")
    assert "hunter22" not in message
    assert _state.runtime is not None


def test_with_on_error_warn_what_stops_dlt_itself_is_one_warning(tmp_path, monkeypatch, warnings):
    """There is nothing to observe then."""
    monkeypatch.setenv("DLTOBS__ON_ERROR", "warn")
    write(tmp_path, "config.toml", '[dltobs\nservice_name = "x"')
    dltobs.configure()
    assert _state.runtime is None
    (message,) = warnings()
    assert "config.toml" in message
    assert message.endswith("; dltobs observes nothing")


@pytest.mark.parametrize(
    ("variable", "value"), [("RUNTIME__LOG_LEVEL", "info"), ("RUNTIME__LOG_FORMAT", "json")]
)
def test_with_on_error_warn_a_setting_that_dlt_refuses_is_refused_all_the_same(monkeypatch, variable, value):
    """dlt alone would not run with it, either."""
    monkeypatch.setenv("DLTOBS__ON_ERROR", "warn")
    monkeypatch.setenv(variable, value)
    assert variable in str(refused())


def test_with_on_error_warn_a_sink_of_ones_own_goes_on_beside_a_bad_path(pipeline, tmp_path):
    """It is in the set-up that fails, and in the one without the path."""
    seen = []

    class Closing(RecordingSink):
        def close(self):
            seen.append("closed")

    sink = Closing()
    dltobs.configure(on_error="warn", log_file=tmp_path, sinks=[sink])
    assert seen == []
    pipeline().run([{"id": 1}], table_name="orders")
    assert [run.outcome for run in sink.finished] == ["ok"]


def test_with_on_error_warn_a_second_configure_with_a_bad_setting_goes_on_without_it(warnings):
    dltobs.configure(service_name="first")
    dltobs.configure(service_name="second", on_error="warn", log_level="LOUD")
    assert _state.runtime.settings.service_name == "second"
    assert len(warnings()) == 1


WRONG = [
    ("enabled", "perhaps", "true or false"),
    ("log_level", "LOUD", "a level name"),
    ("console", "xml", "auto, text, json or off"),
    ("log_file_max_bytes", "0", "at least 1"),
    ("log_file_backup_count", "many", "a number of files"),
    ("tracing", "yes", "auto, on or off"),
    ("otlp_endpoint", "localhost:4318", "http://localhost:4318"),
    ("otlp_protocol", "http/json", "http/protobuf or grpc"),
    ("tags", "team", "name=value"),
    ("flush_timeout", "-1", "at least 0"),
]


@pytest.mark.parametrize(("name", "value", "expected"), WRONG)
@pytest.mark.parametrize("place", ["argument", "variable", "file"])
def test_a_wrong_value_is_named_with_its_place_and_what_is_expected(
    tmp_path, monkeypatch, name, value, expected, place
):
    variable = f"DLTOBS__{name.upper()}"
    source = {"argument": "argument of configure()", "variable": variable, "file": "config.toml"}[place]
    settings = {name: value} if place == "argument" else {}
    if place == "variable":
        monkeypatch.setenv(variable, value)
    elif place == "file":
        write(tmp_path, "config.toml", f'[dltobs]\n{name} = "{value}"\n')
    error = refused(**settings)
    assert error.setting == name
    assert source in error.source
    assert repr(value) in str(error)
    assert expected in error.expected


@pytest.mark.parametrize(
    ("name", "value", "hidden"),
    [
        ("sentry_dsn", "https://0123456789abcdef@sentry.example", "0123456789abcdef"),
        ("sentry_dsn", "0123456789abcdef", "0123456789abcdef"),
        ("otlp_endpoint", "htp://user:hunter22@collector", "hunter22"),
        ("otlp_endpoint", "htp://collector/?api_key=hunter22", "hunter22"),
        ("redact_patterns", "hunter22(", "hunter22"),
    ],
)
def test_a_secret_is_not_in_the_error(name, value, hidden):
    error = refused(**{name: value})
    assert error.setting == name
    assert hidden not in str(error)
    assert hidden not in repr(error)


def test_a_very_long_value_is_cut_in_the_error():
    assert len(str(refused(log_level="x" * 10_000))) < 500


@pytest.mark.parametrize(
    ("variables", "setting", "words"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector"}, "otlp_endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:port"},
            "otlp_endpoint",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        ),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "tracing", "'zipkin'"),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            "otlp_protocol",
            "OTEL_EXPORTER_OTLP_PROTOCOL",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_TIMEOUT": "soon"},
            "otlp_endpoint",
            "soon",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_COMPRESSION": "zip"},
            "otlp_endpoint",
            "zip",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_HEADERS": "hunter22;x"},
            "otlp_endpoint",
            "headers",
        ),
    ],
)
def test_a_wrong_standard_variable_is_refused_and_not_logged(monkeypatch, capfd, variables, setting, words):
    """OpenTelemetry would log the header with its value, and go on without."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    error = refused()
    assert error.setting == setting
    assert words in str(error)
    assert "hunter22" not in str(error) + capfd.readouterr().err


@pytest.mark.parametrize("signal", ["traces", "metrics", "logs"])
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_an_endpoint_with_the_path_of_a_signal_is_refused(monkeypatch, signal, protocol):
    """The base URL is wanted; the variables of one signal hold a full URL, by OpenTelemetry's specification."""
    url = f"http://127.0.0.1:9/v1/{signal}"
    said = f"the base URL is wanted, without /v1/{signal}, which is added to it"
    error = refused(otlp_endpoint=url, otlp_protocol=protocol)
    assert (error.setting, said in str(error), "base URL" in error.expected) == ("otlp_endpoint", True, True)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"{url}/")
    error = refused(otlp_protocol=protocol)
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in error.source
    assert said in str(error)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", url)
    dltobs.configure(otlp_protocol=protocol)


def test_variables_of_opentelemetry_are_not_judged_where_the_application_has_a_provider(monkeypatch):
    """They speak to whoever built it."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "collector")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
    trace.set_tracer_provider(TracerProvider())
    dltobs.configure()
    assert dltobs.status() == {}


WITHOUT_GRPC = """
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("opentelemetry.exporter.otlp.proto.grpc"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
"""
"""The extra is simulated to be absent."""


@pytest.mark.parametrize("protocol", ["grpc", "http/json"])
@pytest.mark.parametrize("providers", ["both", "tracer"])
def test_the_protocol_of_an_application_that_has_providers_is_its_own_affair(tmp_path, providers, protocol):
    """It exports where it has said, by an exporter that dltobs may not have."""
    script = f"""
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider
    trace.set_tracer_provider(TracerProvider())
    if {providers == "both"}:
        metrics.set_meter_provider(MeterProvider())
    import dltobs
    dltobs.configure()
    pipeline().run([{{"id": 1}}], table_name="orders")
    dltobs.shutdown()
    print(dltobs.status())
    """
    result = run_script(
        WITHOUT_GRPC + textwrap.dedent(script),
        tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
    )
    assert result.stdout == "{}\n", result.stderr


def test_a_protocol_of_our_own_is_judged_whoever_has_the_provider(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    trace.set_tracer_provider(TracerProvider())
    assert refused(otlp_protocol="http/json").setting == "otlp_protocol"


def test_grpc_takes_an_address_without_a_scheme(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "127.0.0.1:4317")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    assert resolve_settings({}).otlp_protocol == "grpc"


def test_grpc_without_its_package_says_how_to_install_it(tmp_path):
    """The extra is simulated to be absent."""
    result = run_script(
        """
        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name.startswith("opentelemetry.exporter.otlp.proto.grpc"):
                    raise ModuleNotFoundError(name)
        sys.meta_path.insert(0, Absent())
        import dltobs
        try:
            dltobs.configure(otlp_endpoint="http://127.0.0.1:4317", otlp_protocol="grpc")
        except dltobs.ConfigurationError as error:
            print(error.setting, error)
        """,
        tmp_path,
    )
    assert result.stdout.startswith("otlp_protocol")
    assert "pip install 'dltobs[grpc]'" in result.stdout


@pytest.mark.parametrize("given", ["folder", "below a file", "read-only folder"])
def test_a_log_file_that_cannot_be_written_is_refused(tmp_path, given):
    if given == "folder":
        path = tmp_path
    elif given == "below a file":
        (tmp_path / "file").write_text("")
        path = tmp_path / "file" / "dlt.log"
    elif os.geteuid() == 0:
        path = "/proc/dlt.log"
    else:
        (tmp_path / "locked").mkdir(mode=0o500)
        path = tmp_path / "locked" / "dlt.log"
    error = refused(log_file=path)
    assert error.setting == "log_file"
    assert str(path) in str(error)


@pytest.mark.parametrize("sink", [object(), dict, "sink", {"a": 1}])
def test_what_is_no_sink_is_refused(sink):
    assert refused(sinks=[sink] if not isinstance(sink, (str, dict)) else sink).setting == "sinks"


def test_a_broken_configuration_file_is_an_error_of_configuration(tmp_path):
    """dlt raises one of its own at its first use, which is ours where we are first."""
    write(tmp_path, "config.toml", '[dltobs\nservice_name = "x"')
    assert "config.toml" in str(refused())


def test_an_error_of_configuration_is_a_value_error_and_can_be_pickled():
    error = refused(log_level="LOUD")
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, ValueError)
    assert (str(copy), copy.setting, copy.source, copy.problem, copy.expected) == (
        str(error),
        error.setting,
        error.source,
        error.problem,
        error.expected,
    )


@pytest.mark.parametrize("order", ["before the pipeline", "after the pipeline"])
def test_configure_leaves_the_trace_of_the_next_run_as_it_would_be(tmp_path, order):
    """dlt lists in a run's trace what it has resolved since the last one, its own runtime included."""
    script = """
        @dlt.resource
        def orders(page_size: int = dlt.config.value):
            yield {"id": page_size}

        steps = {"pipeline": lambda: globals().update(one=pipeline()), "configure": lambda: CONFIGURE}
        for step in ORDER:
            steps[step]()
        one.run(orders())
        print(sorted(value.key for value in one.last_trace.resolved_config_values))
        """
    steps = ["configure", "pipeline"] if order.startswith("before") else ["pipeline", "configure"]
    script = script.replace("ORDER", repr(steps))
    variables = {"PAGE_SIZE": "3", "DLTOBS__SERVICE_NAME": "ours", "RUNTIME__LOG_LEVEL": "ERROR"}
    with_ours, without = (
        run_script(script.replace("CONFIGURE", call), tmp_path, **variables).stdout
        for call in ("__import__('dltobs').configure()", "None")
    )
    assert "page_size" in without
    assert with_ours == without


def test_settings_are_the_same_inside_of_a_source(tmp_path, monkeypatch, pipeline):
    """dlt looks in the sections of the source first, ours are none of it."""
    monkeypatch.setenv("DLTOBS__SERVICE_NAME", "outside")
    monkeypatch.setenv("SHOP__DLTOBS__SERVICE_NAME", "inside")
    seen = []

    @dlt.resource
    def orders():
        seen.append(resolve_settings({}).service_name)
        yield {"id": 1}

    pipeline().run(orders())
    assert seen == ["outside"]


def test_settings_with_equal_values_are_equal_wherever_they_come_from(monkeypatch):
    given = resolve_settings({"tags": {"team": "data"}, "redact_patterns": ["x+"]})
    monkeypatch.setenv("DLTOBS__TAGS", "team=data")
    monkeypatch.setenv("DLTOBS__REDACT_PATTERNS", "x+")
    assert resolve_settings({}) == given
    assert given.redact_patterns == (re.compile("x+"),)


def test_every_setting_is_an_argument_of_configure_and_documented_there():
    """Editors show the parameters and the docstring."""
    signature = inspect.signature(dltobs.configure)
    assert list(signature.parameters) == [*FIELDS, "sinks", "unknown"]
    documented = re.findall(r"^    (\w+): ", inspect.getdoc(dltobs.configure), re.MULTILINE)
    assert documented == [*FIELDS, "sinks", "ConfigurationError"]
    assert set(FIELDS) <= set(Settings.__slots__)


def test_the_types_of_configure_name_the_words_that_a_setting_takes():
    """A `Literal` for each setting with fixed values, which is what the parser takes."""
    hints = typing.get_type_hints(
        dltobs.configure, {**vars(settings_module), **vars(collections.abc)} | NAMES
    )
    found = {
        name: {word for part in typing.get_args(hint) for word in words_of(part)}
        for name, hint in hints.items()
    }
    assert {name for name, words in found.items() if words} == {
        "on_error", "log_level", "dlt_log_level", "console", "log_file_format", "tracing", "metrics", "otlp_protocol",
        "slack_on", "prefect",
    }  # fmt: skip
    for name, words in found.items():
        for word in words:
            assert getattr(resolve_settings({name: word}), name) is not None
            assert word in FIELDS[name].metadata["expected"] or "log_level" in name


NAMES = {"Any": typing.Any, "NoReturn": typing.NoReturn, "Sink": object, "os": os, "re": re}
"""What the annotations name that is imported for type checkers alone."""


def words_of(hint):
    """The words of a `Literal`, or of one in a sequence."""
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)
    return [word for part in typing.get_args(hint) for word in words_of(part)]


@pytest.mark.parametrize(
    ("variables", "setting", "word"),
    [
        ({"OTEL_EXPORTER_OTLP_CERTIFICATE": "/nowhere/ca.pem"}, "otlp_endpoint", "/nowhere/ca.pem"),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, "otlp_endpoint", "soon"),
        ({"RUNTIME__LOG_LEVEL": "LOUD"}, "runtime.log_level", "LOUD"),
    ],
)
def test_what_other_parties_refuse_is_a_configuration_error_that_leaves_nothing_behind(
    tmp_path, monkeypatch, variables, setting, word
):
    """Neither a log file, nor a filter on the loggers of an exporter."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    error = refused(otlp_endpoint="http://127.0.0.1:9", log_file=tmp_path / "logs" / "dlt.jsonl")
    assert error.setting == setting
    assert word in str(error)
    assert not (tmp_path / "logs").exists()
    names = [name for name in logging.Logger.manager.loggerDict if name.startswith("opentelemetry")]
    filters = [type(one).__module__ for name in names for one in logging.getLogger(name).filters]
    assert not [module for module in filters if module.startswith("dltobs")]


def test_a_limit_that_opentelemetry_refuses_is_a_configuration_error(tmp_path):
    """It reads that variable when it is imported, so in a process of its own."""
    done = run_script(
        "import dltobs\ndltobs.configure(otlp_endpoint='http://127.0.0.1:9', log_file='dlt.jsonl')",
        tmp_path,
        OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT="many",
    )
    assert "dltobs.exceptions.ConfigurationError: tracing (environment variables OTEL_*)" in done.stderr
    assert not (tmp_path / "dlt.jsonl").exists()
