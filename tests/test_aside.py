"""Pipelines of our own: what they leave behind, which is nothing."""

from __future__ import annotations

import logging
import threading

import dlt
import pytest
from dlt.common.configuration.container import Container
from dlt.common.configuration.utils import get_resolved_traces
from dlt.common.pipeline import PipelineContext

from dltobs._aside import Loaded, load_aside, target_of

COLUMNS = {"id": {"name": "id", "data_type": "bigint"}}
TABLES = {"notes": {"columns": COLUMNS, "write_disposition": "append"}}


def load(shop, found=None, **options):
    """Load a row in a thread, and look what is left there."""
    results = []

    def work():
        try:
            results.append(
                load_aside(
                    target_of(shop), "notes", "notes_data", TABLES, {"notes": [{"id": 1}]}, 2, **options
                )
            )
        except Exception as error:
            results.append(error)
        if found is not None:
            found.append((Container()[PipelineContext].is_active(), get_resolved_traces().all_traces))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return results[0]


def test_a_pipeline_without_destination_has_no_target():
    assert target_of(dlt.pipeline("shop")) is None


def test_rows_are_loaded_into_a_dataset_of_their_own(pipeline):
    shop = pipeline()
    assert load(shop) == Loaded(1, 0)
    with shop.sql_client() as client:
        assert client.execute_sql("select id from notes_data.notes") == [(1,)]


def test_nothing_is_left_in_the_context_of_the_thread(pipeline):
    """A later thread of the same number would find our pipeline active, and what dlt has resolved for it."""
    found = []
    load(pipeline(), found)
    assert found == [(False, [])]


def test_no_package_is_left_when_it_is_loaded(pipeline, tmp_path):
    """dlt keeps those of the user's pipelines; ours would grow with each run."""
    load(pipeline())
    (folder,) = (tmp_path / "pipelines" / "shop" / "dltobs" / "notes").glob("shop/load/loaded")
    assert list(folder.iterdir()) == []


def test_the_filter_of_dlts_logger_goes_again(pipeline):
    logger = logging.getLogger("dlt")
    load(pipeline())
    assert logger.filters == []


@pytest.fixture
def closed(pipeline, monkeypatch):
    """A destination that takes nothing until it is opened."""
    shop = pipeline()
    from dlt.load import Load

    def refuse(*_):
        message = "no route"
        raise OSError(message)

    monkeypatch.setattr(Load, "run", refuse)
    yield shop
    monkeypatch.undo()


def test_what_could_not_be_loaded_is_loaded_with_the_next(closed, monkeypatch, pipeline):
    """As far as there is room, which is for two here; dlt goes on with a package where it was."""
    for _ in range(3):
        assert "no route" in str(load(closed))
    monkeypatch.undo()
    assert load(closed) == Loaded(3, 0)
    with closed.sql_client() as client:
        assert client.execute_sql("select count(*) from notes_data.notes") == [(3,)]
