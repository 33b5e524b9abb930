"""What is measured with: log records and a stack trace of real dlt pipelines, and secrets of all kinds."""

from __future__ import annotations

import functools
import logging
import os
import random
import socket
import string
import tempfile
import traceback
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dlt
from dlt.common import logger as dlt_logger
from dlt.common.configuration.container import Container
from dlt.pipeline.exceptions import PipelineStepFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

_SETTINGS = {"RUNTIME__LOG_LEVEL": "INFO", "RUNTIME__DLTHUB_TELEMETRY": "false"}
_LETTERS = string.ascii_letters + string.digits
_SEED = 20_240_229


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@functools.cache
def info_records() -> tuple[logging.LogRecord, ...]:
    """Every INFO record that dlt writes while a small pipeline loads two tables into DuckDB."""
    collector = _Collector()
    with _temporary_pipeline() as pipeline:
        # the level was resolved when the pipeline was made, and with it dlt's logger
        logger = dlt_logger.LOGGER
        before = list(logger.handlers)
        logger.handlers[:] = [collector]
        try:
            pipeline.run([{"id": 1, "items": [{"sku": "a"}]}], table_name="orders")
        finally:
            logger.handlers[:] = before
    records = tuple(record for record in collector.records if record.levelno == logging.INFO)
    if not records:
        message = "dlt has written no INFO record"
        raise RuntimeError(message)
    return records


@functools.cache
def stack_trace() -> str:
    """What Python prints for a pipeline whose resource meets a closed port: about 6 KB, no secret."""
    # a name that is bound and does not listen refuses connections, and nobody else can take it meanwhile
    with socket.socket() as closed, _temporary_pipeline() as pipeline:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]

        @dlt.resource
        def orders() -> Iterator[bytes]:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/orders?page=1", timeout=5) as response:
                yield response.read()

        logging.disable(logging.CRITICAL)
        try:
            pipeline.run(orders())
        except PipelineStepFailed as error:
            return "".join(traceback.format_exception(error))
        finally:
            logging.disable(logging.NOTSET)
    message = "the pipeline should have failed"
    raise RuntimeError(message)


def secrets(count: int) -> list[str]:
    """Secret values of the kinds that pipelines have; fewer are always the first ones of more."""
    chance = random.Random(_SEED)
    kinds = (_password, _api_key, _connection_string, _hex_token)
    return [kinds[number % len(kinds)](chance) for number in range(count)]


def _password(chance: random.Random) -> str:
    return "".join(chance.choices(_LETTERS + "!#$%&*+-/=?@_", k=20))


def _api_key(chance: random.Random) -> str:
    return "sk_" + "".join(chance.choices(_LETTERS, k=40))


def _connection_string(chance: random.Random) -> str:
    return f"postgresql://loader:{_password(chance)}@db{chance.randrange(1000)}.internal:5432/warehouse"


def _hex_token(chance: random.Random) -> str:
    return f"{chance.getrandbits(128):032x}"


@contextmanager
def _temporary_pipeline() -> Iterator[Any]:
    """A pipeline that finds no settings but ours and leaves nothing behind."""
    kept = {**os.environ}
    folder_before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        try:
            os.environ.update(_SETTINGS, DLT_DATA_DIR=folder)
            os.chdir(folder)
            Container.reset_main_thread()
            destination = dlt.destinations.duckdb(str(Path(folder) / "shop.duckdb"))
            yield dlt.pipeline(
                "shop", destination=destination, dataset_name="shop_data", pipelines_dir=f"{folder}/pipelines"
            )
        finally:
            os.chdir(folder_before)
            os.environ.clear()
            os.environ.update(kept)
            Container.reset_main_thread()
