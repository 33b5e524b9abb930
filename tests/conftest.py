"""What every test stands on: a process without traces of other tests, real back ends on loopback."""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import dlt
import pytest
from dlt.common import logger as dlt_logger
from dlt.common.configuration.container import Container
from dlt.pipeline import trace as dlt_trace
from opentelemetry import trace
from opentelemetry.util._once import Once

import dltobs
from dltobs import _state
from servers import OtlpServer, SentryServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SECRET = "pl4nted/Secret+value=%1"
"""A secret that every encoding changes."""

_FOREIGN_PREFIXES = ("DLTOBS_", "OTEL_", "SENTRY_", "RUNTIME__", "TRACEPARENT")


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A clean environment before each test, and everything as it was after it."""
    for name in list(os.environ):
        if name.startswith(_FOREIGN_PREFIXES):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RUNTIME__DLTHUB_TELEMETRY", "false")
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    monkeypatch.chdir(tmp_path)
    hooks = sys.excepthook, threading.excepthook
    _forget_dlt()
    _forget_tracer_provider()
    yield
    dltobs.shutdown()
    _state.deliveries = ()
    sys.excepthook, threading.excepthook = hooks
    _forget_dlt()
    _forget_tracer_provider()


def _forget_dlt() -> None:
    """Put dlt into the state after its import: no logger, no run context, no active pipeline."""
    dlt_logger.LOGGER = None  # type: ignore[assignment]  # as at dlt's import
    for name in ("dlt", "dltobs"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.filters.clear()
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
        logger.disabled = False
    Container._INSTANCE = None
    dlt_trace.TRACKING_MODULES = [
        module for module in dlt_trace.TRACKING_MODULES if "dltobs" not in repr(module)
    ]


def _forget_tracer_provider() -> None:
    """OpenTelemetry lets a global provider be set once; tests need it anew."""
    trace._TRACER_PROVIDER = None
    trace._TRACER_PROVIDER_SET_ONCE = Once()


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


@pytest.fixture
def pipeline(tmp_path: Path) -> Callable[..., Any]:
    """Makes a pipeline into a DuckDB file of its own; keyword arguments go to `dlt.pipeline()`."""

    def make(name: str = "shop", **options: Any) -> Any:
        options.setdefault("destination", dlt.destinations.duckdb(str(tmp_path / f"{name}.duckdb")))
        options.setdefault("dataset_name", f"{name}_data")
        return dlt.pipeline(name, pipelines_dir=str(tmp_path / "pipelines"), **options)

    return make
