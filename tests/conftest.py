"""What every test stands on: a process without traces of other tests, real back ends on loopback."""

from __future__ import annotations

import environment  # isort: skip - before dlt, which reads it

import contextlib
import gc
import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import dlt
import duckdb
import pytest
from dlt.common import logger as dlt_logger
from dlt.common.configuration.container import Container
from dlt.pipeline import trace as dlt_trace
from opentelemetry import trace
from opentelemetry.metrics import _internal as metrics
from opentelemetry.util._once import Once

import dltobs
from dltobs import _state
from ports import held_port
from prefect_server import PrefectServer
from servers import OtlpServer, SentryServer
from slack_server import SlackServer
from type_hints import remember_type_hints

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SECRET = "pl4nted/Secret+value=%1"
"""A secret that every encoding changes."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell has started us in the background; what we start would ignore Ctrl-C, too
    signal.signal(signal.SIGINT, signal.default_int_handler)

with contextlib.suppress(ImportError):  # beside Prefect it is not installed, nor needed
    from hypothesis import settings

    # how long an example takes says more about the machine than about the code
    settings.register_profile("tests", deadline=None, max_examples=100 if environment.IN_CI else 30)
    settings.load_profile("tests")

# a tenth of the suite's time went into looking for cycles among the objects of dlt's modules
gc.set_threshold(100_000, 20, 50)

remember_type_hints(sys.modules)


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A clean environment before each test, and everything as it was after it."""
    monkeypatch.setenv("RUNTIME__DLTHUB_TELEMETRY", "false")
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    monkeypatch.chdir(tmp_path)
    hooks = sys.excepthook, threading.excepthook
    _forget_dlt()
    _forget_providers()
    yield
    dltobs.shutdown()
    _state.deliveries = ()
    _state.redactor = None
    sys.excepthook, threading.excepthook = hooks
    _forget_dlt()
    _forget_providers()


@pytest.fixture(autouse=True)
def _databases_stay_open(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep each DuckDB file open until the test ends: opening it takes a third of the time of a small run."""
    if request.node.get_closest_marker("closes_databases"):
        yield
        return
    connect, kept = duckdb.connect, {}

    def connect_and_keep(database: Any = ":memory:", *args: Any, **options: Any) -> Any:
        if database in kept and not os.path.exists(database):  # noqa: PTH110 - a text, perhaps `:memory:`
            kept.pop(database).close()
        connection = connect(database, *args, **options)
        if database not in kept and os.path.exists(database):  # noqa: PTH110
            kept[database] = connect(database, *args, **options)
        return connection

    monkeypatch.setattr(duckdb, "connect", connect_and_keep)
    yield
    for connection in kept.values():
        connection.close()


def _forget_dlt() -> None:
    """Put dlt into the state after its import: no logger, no run context, no active pipeline."""
    dlt_logger.LOGGER = None  # type: ignore[assignment]  # as at dlt's import
    for name in ("dlt", "dltobs"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.filters.clear()
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
    for logger in logging.Logger.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.disabled = False  # a `dictConfig` disables the loggers that it does not name
    logging.getLogger().setLevel(logging.WARNING)
    Container._INSTANCE = None
    dlt_trace.TRACKING_MODULES = [
        module
        for module in dlt_trace.TRACKING_MODULES
        if not type(module).__module__.startswith("dltobs")  # its repr names the folder of the clone
    ]


def _forget_providers() -> None:
    """OpenTelemetry lets a global provider be set once; tests need it anew."""
    trace._TRACER_PROVIDER = None
    trace._TRACER_PROVIDER_SET_ONCE = Once()
    metrics._METER_PROVIDER = None
    metrics._METER_PROVIDER_SET_ONCE = Once()


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port on which nobody listens, as long as the test lasts."""
    with held_port() as port:
        yield port


@pytest.fixture
def time_to_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not sent gets into the spool, however busy the machine: the end of a set-up waits for it."""
    monkeypatch.setattr("dltobs._setup._KEEPING_TIMEOUT", 10.0)


@pytest.fixture
def otlp() -> Iterator[OtlpServer]:
    server = OtlpServer()
    yield server
    server.close()


@pytest.fixture
def sentry() -> Iterator[SentryServer]:
    server = SentryServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A Prefect server, for all tests of Prefect."""
    server = PrefectServer(tmp_path_factory.mktemp("prefect"))
    yield server
    server.close()


@pytest.fixture
def slack() -> Iterator[SlackServer]:
    server = SlackServer()
    yield server
    server.close()


@pytest.fixture
def pipeline(tmp_path: Path) -> Callable[..., Any]:
    """Makes a pipeline into a DuckDB file of its own; keyword arguments go to `dlt.pipeline()`."""

    def make(name: str = "shop", **options: Any) -> Any:
        options.setdefault("destination", dlt.destinations.duckdb(str(tmp_path / f"{name}.duckdb")))
        options.setdefault("dataset_name", f"{name}_data")
        return dlt.pipeline(name, pipelines_dir=str(tmp_path / "pipelines"), **options)

    return make
