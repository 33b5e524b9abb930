"""A real Sentry-compatible server takes the events, and gives back what was to be told."""

from __future__ import annotations

import dlt
import pytest
from dlt.common import logger as dlt_logger
from dlt.common.destination.exceptions import DestinationTerminalException
from dlt.pipeline.exceptions import PipelineStepFailed

import dltobs
from bugsink import Bugsink, environment_of_bugsink
from conftest import SECRET

PATIENCE = 30
"""Seconds: a server that has just started imports much before it gives its first answer."""


@pytest.fixture(scope="session")
def bugsink(tmp_path_factory):
    environment = environment_of_bugsink()
    if environment is None:
        pytest.skip("Bugsink is not installed: make bugsink")
    server = Bugsink(environment, tmp_path_factory.mktemp("bugsink"))
    yield server
    server.close()


@pytest.fixture
def project(bugsink):
    return bugsink.project()


@dlt.resource
def orders(page=1):
    """Logs, and fails in another function."""
    dlt_logger.warning(f"page {page} token={SECRET}")
    yield {"id": page}
    fetch(page, SECRET)


def fetch(page, password):
    api_key = "sk-pl4nted-in-the-source"  # noqa: F841 - it is there to be seen in the source
    raise RuntimeError(f"401 for https://shop.example/?page={page}&token={password}")


@dlt.resource(name="orders")
def other_orders():
    yield {"id": 1}
    raise RuntimeError("no such currency")


@dlt.destination(batch_size=1)
def refusing(items, table):
    raise DestinationTerminalException(f"no room for {table['name']}: password={SECRET}")


def fail(one, data, **options):
    with pytest.raises(PipelineStepFailed):
        one.run(data, **options)


def test_an_issue_has_title_tags_contexts_breadcrumbs_and_frames(monkeypatch, project, pipeline):
    monkeypatch.setenv("RUNTIME__LOG_LEVEL", "WARNING")
    dltobs.configure(
        sentry_dsn=project.dsn,
        sentry_release="1.2",
        environment="live",
        tags={"team": "data"},
        flush_timeout=PATIENCE,
    )
    one = pipeline()
    fail(one, orders())
    dltobs.shutdown()
    assert dltobs.status()["sentry"].delivered == 1
    (issue,) = project.issues
    assert issue["calculated_type"] == "RuntimeError"
    assert issue["calculated_value"] == "401 for https://shop.example/?page=1&token=***"
    assert issue["transaction"] == "shop"
    (event,) = project.events(issue)
    assert (event["level"], event["release"], event["environment"]) == ("error", "1.2", "live")
    assert event["tags"]["dlt.pipeline.name"] == "shop"
    assert event["tags"]["dlt.resource.name"] == "orders"
    assert event["tags"]["dlt.attempt"] == "1"
    assert event["tags"]["team"] == "data"
    assert event["contexts"]["dlt"]["step"] == "extract"
    assert event["contexts"]["trace"]["trace_id"] == one.last_trace.transaction_id
    assert event["breadcrumbs"]["values"][-1]["message"] == "page 1 token=***"
    frame = event["exception"]["values"][-1]["stacktrace"]["frames"][-1]
    assert (frame["function"], frame["in_app"]) == ("fetch", True)
    assert frame["context_line"].strip().startswith("raise RuntimeError")
    assert frame["pre_context"][-2:] == [
        "def fetch(page, password):",
        '    api_key = "***"  # noqa: F841 - it is there to be seen in the source',
    ]
    assert "vars" not in frame


def test_equal_failures_are_one_issue_and_different_ones_are_two(project, pipeline):
    """The message holds a page number and the event ids of its own: they make no difference."""
    dltobs.configure(sentry_dsn=project.dsn, flush_timeout=PATIENCE)
    one = pipeline()
    for page in (1, 2):
        fail(one, orders(page))
    fail(one, other_orders())
    dltobs.shutdown()
    first, second = project.issues
    assert (first["digested_event_count"], second["digested_event_count"]) == (2, 1)
    assert second["calculated_value"] == "no such currency"
    assert [event["tags"]["dlt.attempt"] for event in project.events(first)] == ["1", "2"]


def test_tolerated_failed_jobs_are_one_issue(monkeypatch, project, pipeline):
    monkeypatch.setenv("LOAD__RAISE_ON_FAILED_JOBS", "false")
    dltobs.configure(sentry_dsn=project.dsn, flush_timeout=PATIENCE)
    one = pipeline(destination=refusing)
    for _ in range(2):
        one.run([dlt.resource([{"id": 1}], name=name) for name in ("orders", "items")])
    dltobs.shutdown()
    (issue,) = project.issues
    assert issue["calculated_type"] == "DestinationTerminalException"
    assert issue["calculated_value"] == "items: no room for items: password=*** (and 1 more table)"
    events = project.events(issue)
    assert [event["level"] for event in events] == ["warning", "warning"]
    for event in events:
        assert {job["table"] for job in event["contexts"]["dlt"]["failed_jobs"]} == {"orders", "items"}


def test_check_ins_beside_an_event_are_taken(project, pipeline):
    """Bugsink keeps errors only; it answers a check-in as Sentry does."""
    dltobs.configure(
        sentry_dsn=project.dsn,
        sentry_monitor=True,
        sentry_monitor_schedule="0 3 * * *",
        flush_timeout=PATIENCE,
    )
    fail(pipeline(), orders())
    dltobs.shutdown()
    assert dltobs.status()["sentry"].delivered == 3
    assert dltobs.status()["sentry"].dropped == 0
    (issue,) = project.issues
    assert issue["digested_event_count"] == 1


def test_no_planted_secret_is_stored(monkeypatch, bugsink, project, pipeline):
    """Neither in the database, whose bytes are searched, nor in what the API gives."""
    monkeypatch.setenv("RUNTIME__LOG_LEVEL", "WARNING")
    monkeypatch.setenv("API_KEY", "resolved-s3cret")
    dltobs.configure(sentry_dsn=project.dsn, flush_timeout=PATIENCE)

    @dlt.resource
    def leaky():
        dlt_logger.warning(f"key {dlt.secrets['api_key']}")
        yield {"id": 1}
        fetch(1, f"{SECRET}&key={dlt.secrets['api_key']}")

    fail(pipeline(), leaky())
    dltobs.shutdown()
    (issue,) = project.issues
    told = repr((issue, project.events(issue)))
    stored = bugsink.stored
    assert b"shop.example" in stored
    for secret in (SECRET, "resolved-s3cret", "sk-pl4nted-in-the-source"):
        assert secret not in told
        assert secret.encode() not in stored
