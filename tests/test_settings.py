"""Where each setting comes from, and what is said of a wrong one."""

from __future__ import annotations

import logging
import os
import pickle
import re
import textwrap

import dlt
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import dltobs
from dltobs import ConfigurationError, Settings, _state
from dltobs._settings.resolution import resolve_settings
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


def test_a_variable_with_one_underscore_is_not_ours(monkeypatch):
    """Kubernetes injects them for a service called dltobs."""
    monkeypatch.setenv("DLTOBS_PORT", "tcp://10.0.0.1:80")
    monkeypatch.setenv("DLTOBS", "x")
    dltobs.configure()
    assert _state.runtime is not None


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


def test_every_setting_is_an_argument_of_configure():
    """The types of the arguments are written down twice, for editors."""
    from dltobs._settings.settings import FIELDS, Arguments

    assert set(Arguments.__annotations__) == {*FIELDS, "sinks"}
    assert set(FIELDS) <= set(Settings.__slots__)


@pytest.mark.parametrize(
    ("variables", "setting", "word"),
    [
        ({"OTEL_EXPORTER_OTLP_CERTIFICATE": "/nowhere/ca.pem"}, "otlp_endpoint", "/nowhere/ca.pem"),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, "otlp_endpoint", "soon"),
        ({"RUNTIME__LOG_LEVEL": "LOUD"}, "dltobs", "LOUD"),
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
