"""No line of code: `opentelemetry-instrument`, and dlt's plugin with `DLTOBS__AUTO_CONFIGURE=true`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest
from dlt.common import logger as dlt_logger

import dltobs
from dltobs import _state
from dltobs.integrations import zero_code
from dltobs.integrations.instrumentor import DltobsInstrumentor
from scripts import PRELUDE, run_script
from servers import attributes_of

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from servers import OtlpServer, SentryServer

RUN = """
pipeline().run([{"id": 1}], table_name="orders")
"""
HANDLERS = """
import logging
print(len(logging.getLogger("dlt").handlers), len(logging.getLogger("dltobs").handlers))
from dlt.pipeline import trace
print(sum("dltobs" in type(module).__module__ for module in trace.TRACKING_MODULES))
"""
"""Prints how often we are attached: a handler on either logger, and one tracking module, is once."""

AUTO = {"DLTOBS__AUTO_CONFIGURE": "true"}
HTTP = {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_METRICS_EXPORTER": "none"}


def instrumented(
    source: str, folder: Path, *, prelude: str = PRELUDE, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a script under the real `opentelemetry-instrument`."""
    launcher = Path(sys.executable).with_name("opentelemetry-instrument")
    script = folder / "traced.py"
    script.write_text(prelude + dedent(source))
    starter = f"""
    import os
    os.execv({str(launcher)!r}, [{str(launcher)!r}, {sys.executable!r}, {str(script)!r}])
    """
    return run_script(starter, folder, prelude="", **variables)


def configured(run: subprocess.CompletedProcess[str]) -> list[str]:
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


def test_opentelemetry_instrument_traces_dlt_with_its_own_provider(tmp_path: Path, otlp: OtlpServer) -> None:
    """Spans of dltobs arrive through the distro's provider, and a span of the script nests among them."""
    source = """
    from opentelemetry import trace
    import dlt

    @dlt.resource
    def orders():
        with trace.get_tracer("shop").start_as_current_span("ask"):
            yield {"id": 1}

    pipeline().run(orders())
    """
    run = instrumented(source, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url, **HTTP)
    assert run.returncode == 0, run.stderr

    root = otlp.named("run shop")
    assert otlp.named("extract").parent_span_id == root.span_id
    assert otlp.named("ask").trace_id == root.trace_id
    assert {one["telemetry.auto.version"] for one in otlp.resources}  # the distro has built the provider
    # the provider is not ours, so neither is the trace id
    assert root.trace_id.hex() != attributes_of(root)["dlt.transaction_id"]


def test_a_script_that_does_not_use_dlt_is_spared_it(tmp_path: Path, otlp: OtlpServer) -> None:
    """Under `opentelemetry-instrument` no module of dlt, Sentry, loguru or the scanner's is imported."""
    source = """
    import sys
    names = {"dlt", "sentry_sdk", "loguru", "orjson", "pythonjsonlogger"}
    print(sorted(names & set(sys.modules)), "dltobs.integrations.instrumentor" in sys.modules)
    print(*sorted(name for name in sys.modules if name.split(".")[0] in {"dltobs", "ahocorasick"}))
    """
    run = instrumented(source, tmp_path, prelude="", OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url, **HTTP, **AUTO)
    assert configured(run)[:2] == ["[]", "True"]
    assert configured(run)[2:] == [
        "dltobs",
        "dltobs._version",
        "dltobs.exceptions",
        "dltobs.integrations",
        "dltobs.integrations.instrumentor",
    ]


def test_a_child_forked_before_anything_is_imported_can_configure(tmp_path: Path) -> None:
    """Though the lock was held by a thread that it has not."""
    source = """
    import os, sys, threading
    from dltobs import _state
    held, over = threading.Event(), threading.Event()

    def hold():
        with _state.changing():
            held.set()
            over.wait()

    threading.Thread(target=hold).start()
    held.wait()
    print("dltobs._runtime" in sys.modules, flush=True)
    child = os.fork()
    if not child:
        os._exit(0 if _state.lock.acquire(timeout=5) else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    over.set()
    """
    assert configured(run_script(source, tmp_path, prelude="")) == ["False", "0"]


def test_opentelemetry_instrument_with_a_bad_setting_is_one_warning(tmp_path: Path, otlp: OtlpServer) -> None:
    """The pipeline runs, unobserved."""
    run = instrumented(
        RUN + HANDLERS,
        tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url,
        DLTOBS__CONSOLE="loud",
        **HTTP,
    )
    assert configured(run) == ["1", "0", "0"]
    assert run.stderr.count("console") == 1, run.stderr
    assert not [span for span in otlp.spans if span.name.startswith("run")]


def test_instrument_and_auto_configure_together_attach_once(tmp_path: Path, otlp: OtlpServer) -> None:
    run = instrumented(RUN + HANDLERS, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url, **HTTP, **AUTO)
    assert configured(run) == ["1", "1", "1"]
    assert otlp.named("run shop")


def test_an_explicit_configure_under_opentelemetry_instrument_counts(
    tmp_path: Path, otlp: OtlpServer
) -> None:
    """Its arguments are in force, and no span comes twice."""
    source = """
    import dltobs
    dltobs.configure(tags={"team": "sales"})
    """
    run = instrumented(
        dedent(source) + RUN + HANDLERS, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url, **HTTP
    )
    assert configured(run) == ["1", "1", "1"]
    assert attributes_of(otlp.named("run shop"))["dlt.tag.team"] == "sales"


def test_uninstrument_ends_it(tmp_path: Path, otlp: OtlpServer) -> None:
    """Called by hand: `instrument()` before or after dlt is used, `uninstrument()` at any time."""
    source = """
    from dltobs.integrations.instrumentor import DltobsInstrumentor
    made = pipeline()
    DltobsInstrumentor().instrument()
    made.run([{"id": 1}], table_name="orders")
    DltobsInstrumentor().uninstrument()
    pipeline("other").run([{"id": 1}], table_name="orders")
    """
    run = run_script(dedent(source) + HANDLERS, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url)
    assert configured(run)[-1] == "0"
    assert {span.name for span in otlp.spans} >= {"run shop"}
    assert not [span for span in otlp.spans if "other" in span.name]


def test_auto_configure_observes_a_pipeline_that_knows_nothing_of_it(
    tmp_path: Path, otlp: OtlpServer, sentry: SentryServer
) -> None:
    """Spans, log lines and errors, from the environment alone."""
    run = run_script(
        'pipeline().run(broken(), table_name="orders")',
        tmp_path,
        **AUTO,
        DLTOBS__CONSOLE="json",
        OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url,
        SENTRY_DSN=sentry.dsn,
    )
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith('{"timestamp"')
    assert attributes_of(otlp.named("run shop"))["dlt.outcome"] == "failed"
    assert len(sentry.events) == 1


def test_auto_configure_attaches_before_anything_is_logged(tmp_path: Path) -> None:
    """The first line of dlt's logger is ours already, and nothing is attached twice."""
    run = run_script(RUN + HANDLERS, tmp_path, **AUTO, DLTOBS__CONSOLE="json", RUNTIME__LOG_LEVEL="DEBUG")
    assert configured(run) == ["1", "1", "1"]
    assert {line[:1] for line in run.stderr.splitlines()} == {"{"}


def test_without_auto_configure_the_plugin_attaches_nothing(tmp_path: Path, otlp: OtlpServer) -> None:
    run = run_script(RUN + HANDLERS, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url)
    assert configured(run) == ["1", "0", "0"]
    assert not otlp.requests


@pytest.mark.parametrize("value", ["true", '"yes"', "false"])
def test_auto_configure_stands_in_config_toml(tmp_path: Path, value: str) -> None:
    folder = tmp_path / ".dlt"
    folder.mkdir()
    (folder / "config.toml").write_text(f"[dltobs]\nauto_configure = {value}\n")
    run = run_script(RUN + HANDLERS, tmp_path)
    assert configured(run) == (["1", "0", "0"] if value == "false" else ["1", "1", "1"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"DLTOBS__AUTO_CONFIGURE": "maybe"},
        {**AUTO, "DLTOBS__LOG_FILES": "x.log"},
        {**AUTO, "DLTOBS__SENTRY_DSN": "nonsense"},
    ],
)
def test_a_bad_setting_under_auto_configure_is_one_warning(tmp_path: Path, wrong: dict[str, str]) -> None:
    """On the logger `dltobs`; the pipeline runs, nothing is attached."""
    run = run_script(RUN + HANDLERS, tmp_path, **wrong)
    assert configured(run) == ["1", "0", "0"]
    lines = [line for line in run.stderr.splitlines() if line.strip()]
    assert len([line for line in lines if "dltobs observes nothing" in line]) == 1
    assert not [line for line in lines if "Traceback" in line]


@pytest.mark.parametrize(
    ("on_error", "expected"),
    [
        ("warn", "service_name=x attached=True warned=1"),
        ("raise", "ConfigurationError"),
        (None, "service_name=None attached=False warned=1"),
    ],
)
def test_on_error_says_what_a_bad_setting_does_under_auto_configure(
    tmp_path: Path, on_error: str | None, expected: str
) -> None:
    source = """
    import logging
    from dltobs import _state
    warned = []
    logging.getLogger("dltobs").addFilter(lambda record: warned.append(record) or True)
    try:
        pipeline()
    except Exception as error:
        print(type(error).__name__)
    else:
        one = _state.runtime
        name = None if one is None else one.settings.service_name
        print(f"service_name={name} attached={one is not None} warned={len(warned)}")
    """
    given = {} if on_error is None else {"DLTOBS__ON_ERROR": on_error}
    wrong = {"DLTOBS__SENTRY_DSN": "nonsense", "DLTOBS__SERVICE_NAME": "x"}
    run = run_script(source, tmp_path, **AUTO, **wrong, **given)
    assert run.stdout.strip() == expected


def test_an_explicit_configure_after_auto_configure_replaces_it(tmp_path: Path, otlp: OtlpServer) -> None:
    source = """
    made = pipeline()
    import dltobs
    dltobs.configure(tags={"team": "sales"})
    made.run([{"id": 1}], table_name="orders")
    """
    run = run_script(dedent(source) + HANDLERS, tmp_path, **AUTO, OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url)
    assert configured(run) == ["1", "1", "1"]
    assert attributes_of(otlp.named("run shop"))["dlt.tag.team"] == "sales"


@pytest.mark.parametrize("argument", ["tags={'team': 'sales'}", "enabled=False"])
def test_auto_configure_after_an_explicit_configure_does_nothing(tmp_path: Path, argument: str) -> None:
    """Not even where the explicit call has decided that nothing shall be observed."""
    source = f"""
    import dltobs
    dltobs.configure({argument})
    """
    run = run_script(dedent(source) + RUN + HANDLERS, tmp_path, **AUTO)
    assert configured(run) == (["1", "0", "0"] if "enabled" in argument else ["1", "1", "1"])


def test_configure_in_one_thread_while_dlt_starts_in_another_ends(tmp_path: Path) -> None:
    """Each may hold the lock that the other one wants: neither waits for ever, and one set-up results."""
    source = """
    import threading
    import dltobs
    from dlt.common.configuration.container import Container

    start = threading.Barrier(2)

    def configure():
        start.wait()
        dltobs.configure(tags={"team": "sales"})

    thread = threading.Thread(target=configure)
    thread.start()
    start.wait()
    made = pipeline()
    thread.join()
    made.run([{"id": 1}], table_name="orders")
    """
    run = run_script(dedent(source) + HANDLERS, tmp_path, **AUTO)
    assert configured(run) == ["1", "1", "1"]


def test_shutdown_is_not_undone(tmp_path: Path) -> None:
    """What `auto_configure` has attached stays away after `shutdown()`, although dlt makes its logger again."""
    source = """
    made = pipeline()
    import dltobs
    dltobs.shutdown()
    from dlt.common.configuration.container import Container
    from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext
    Container()[PluggableRunContext].reload()
    """
    run = run_script(dedent(source) + RUN + HANDLERS, tmp_path, **AUTO)
    assert configured(run)[-1] == "0"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_do_not_configure_for_themselves(
    tmp_path: Path, otlp: OtlpServer, method: str
) -> None:
    """A run whose tables are normalized by worker processes is still one run."""
    source = f"""
    if __name__ == "__main__":
        import multiprocessing
        multiprocessing.set_start_method({method!r})
        pipeline().run([{{"id": 1}}], table_name="orders")
    """
    run = run_script(source, tmp_path, **AUTO, OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url, NORMALIZE__WORKERS="2")
    assert run.returncode == 0, run.stderr
    assert otlp.named("run shop")


@pytest.fixture
def unarmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process as it is before an entry point has been loaded, and again afterwards."""
    monkeypatch.setattr(dlt_logger, "_create_logger", vars(dlt_logger)["_create_logger"])
    monkeypatch.setattr(zero_code, "_ambush", None)


def test_arm_configures_once_when_dlt_makes_its_logger(unarmed: None, pipeline: Callable[..., Any]) -> None:
    before = vars(dlt_logger)["_create_logger"]
    zero_code.arm(dlt_logger, asked=False)
    zero_code.arm(dlt_logger, asked=True)
    assert _state.runtime is None
    pipeline()
    assert _state.runtime is not None
    dltobs.shutdown()
    assert vars(dlt_logger)["_create_logger"] is before
    zero_code.arm(dlt_logger, asked=False)  # dlt is in use: looked up at once, and not switched on
    assert _state.runtime is None


def test_disarm_leaves_dlt_alone(unarmed: None, pipeline: Callable[..., Any]) -> None:
    zero_code.disarm()
    zero_code.arm(dlt_logger, asked=True)
    zero_code.disarm()
    pipeline()
    assert _state.runtime is None
    assert dlt_logger.LOGGER is not None


CHILD = """
import multiprocessing
import os

{top}

def work():
    made = pipeline()
    made.run([{{"id": 1}}, {{"id": 2}}], table_name="orders")
    from dltobs import _state
    print("configured", _state.runtime is not None and _state.runtime.process == os.getpid(), flush=True)

if __name__ == "__main__":
    child = multiprocessing.get_context({method!r}).Process(target=work)
    child.start()
    child.join()
    print("exit", child.exitcode)
"""
"""A child runs a pipeline; `top` is what the main module does with dlt, which a fork server repeats."""


@pytest.mark.parametrize(
    ("method", "top"), [("fork", ""), ("forkserver", "dlt.secrets.get('nothing')"), ("spawn", "")]
)
def test_processes_of_multiprocessing_configure_for_themselves(
    tmp_path: Path, otlp: OtlpServer, method: str, top: str
) -> None:
    """As those of Airflow's LocalExecutor: each is a process of its own to dltobs, and delivers what it made."""
    source = CHILD.format(method=method, top=top)
    run = run_script(source, tmp_path, **AUTO, OTEL_EXPORTER_OTLP_ENDPOINT=otlp.url)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["configured True", "exit 0"]
    assert otlp.named("run shop")


def test_workers_of_a_fork_server_do_not_configure_though_the_main_module_uses_dlt(tmp_path: Path) -> None:
    """Nor does the server: their parent hands over what they need."""
    source = """
    import dltobs._runtime
    configure = dltobs._runtime.configure

    def told():
        print("configure", __name__, flush=True)
        configure()

    dltobs._runtime.configure = told
    dlt.secrets.get("nothing")

    if __name__ == "__main__":
        pipeline().run([{"id": 1}], table_name="orders")
    """
    run = run_script(source, tmp_path, **AUTO, NORMALIZE__WORKERS="2", NORMALIZE__START_METHOD="forkserver")
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["configure __main__"]


def test_the_error_for_an_unknown_destination_does_not_name_dltobs(tmp_path: Path) -> None:
    """dlt looks for destinations in all packages that have a plugin; dltobs has none to offer."""
    source = """
    from dlt.common.destination import Destination
    try:
        Destination.from_reference("nope")
    except Exception as error:
        print(error)
    """
    run = run_script(source, tmp_path)
    assert run.returncode == 0, run.stderr
    assert "dlt.destinations.nope" in run.stdout
    assert "dltobs" not in run.stdout


def test_auto_configure_that_is_neither_true_nor_false_is_one_warning(
    unarmed: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    pipeline: Callable[..., Any],
) -> None:
    monkeypatch.setenv("DLTOBS__AUTO_CONFIGURE", "perhaps")
    zero_code.arm(dlt_logger, asked=False)
    pipeline()
    assert _state.runtime is None
    (record,) = [record for record in caplog.records if record.name == "dltobs"]
    assert record.levelname == "WARNING"
    assert "'perhaps' is not usable; expected true or false" in record.getMessage()


def test_the_files_are_asked_where_the_environment_is_silent(
    unarmed: None, tmp_path: Path, pipeline: Callable[..., Any]
) -> None:
    (tmp_path / ".dlt").mkdir()
    (tmp_path / ".dlt" / "secrets.toml").write_text("[dltobs]\nauto_configure = true\n")
    zero_code.arm(dlt_logger, asked=False)
    pipeline()
    assert _state.runtime is not None


def test_the_instrumentor_instruments_and_uninstruments(unarmed: None, pipeline: Callable[..., Any]) -> None:
    """It names the versions of dlt that it is for."""
    instrumentor = DltobsInstrumentor()
    (required,) = instrumentor.instrumentation_dependencies()
    assert required.startswith("dlt ")
    instrumentor.instrument()
    pipeline()
    assert _state.runtime is not None
    instrumentor.uninstrument()
    assert _state.runtime is None
    instrumentor.instrument()
    assert _state.runtime is not None
    instrumentor.uninstrument()


def test_the_switch_with_one_underscore_is_one_warning(tmp_path):
    result = run_script(
        "pipeline().run([{'id': 1}], table_name='orders')", tmp_path, DLTOBS_AUTO_CONFIGURE="true"
    )
    assert result.returncode == 0
    assert result.stderr.count("DLTOBS__AUTO_CONFIGURE") == 1


def test_what_auto_configure_warns_of_is_json_where_the_console_is(tmp_path):
    result = run_script(
        "pipeline().run([{'id': 1}], table_name='orders')",
        tmp_path,
        DLTOBS__AUTO_CONFIGURE="true",
        DLTOBS__CONSOLE="json",
        DLTOBS__LOG_FILE="dlt.jsonl",
        DLTOBS_SERVICE_NAME="shop",
    )
    (line,) = [json.loads(line) for line in result.stderr.splitlines()]
    assert "DLTOBS__SERVICE_NAME" in line["message"]
    (same,) = [json.loads(line) for line in (tmp_path / "dlt.jsonl").read_text().splitlines()]
    assert same["message"] == line["message"]
