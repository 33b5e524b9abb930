"""Prefect as it is: runs below its tasks, dlt's lines in its log, its names everywhere, one artifact a run."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import textwrap

import dlt
import pytest
from dlt.common import logger as dlt_logger

import dltobs
from servers import attributes_of

pytest.importorskip("prefect", reason="Prefect is not installed here: make test-prefect")

from prefect_server import wait_for

SECRET = "pl4nted-s3cret-of-a-flow"


@pytest.fixture(autouse=True)
def _in_prefect(server):
    """Prefect's settings of this process: that server, and lines that are sent at once."""
    from prefect import settings

    with settings.temporary_settings(
        {
            settings.PREFECT_API_URL: server.url,
            settings.PREFECT_LOGGING_TO_API_BATCH_INTERVAL: 0.2,
        }
    ):
        yield


def attributes(span):
    return attributes_of(span)


def run_in(folder, server, otlp, source, **variables):
    """A script in a process of its own, with an exporter; what it printed as JSON at its end."""
    path = folder / "script.py"
    path.write_text(textwrap.dedent(source))
    done = subprocess.run(
        [sys.executable, str(path)],
        cwd=folder,
        env={
            **server.environment,
            "RUNTIME__DLTHUB_TELEMETRY": "false",
            "DLT_DATA_DIR": str(folder / "dlt"),
            "DLTOBS__OTLP_ENDPOINT": otlp.url,
            **variables,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_flow_task_and_run_nest_in_threads_too(pipeline, otlp, server):
    """The first flow of the process included: the provider is there before Prefect opens its span."""
    from prefect import flow, task

    dltobs.configure(otlp_endpoint=otlp.url)

    @task
    def load(name):
        pipeline(name).run([{"id": 1}], table_name="orders")

    @flow
    def nightly():
        load("here")
        load.submit("there").wait()

    nightly()
    dltobs.shutdown()
    (flow_run,) = server.flow_runs("nightly")
    spans = {span.span_id: span for span in otlp.spans}
    assert len({span.trace_id for span in spans.values()}) == 1
    for name in ("here", "there"):
        run = otlp.named(f"run {name}")
        told = attributes(run)
        task_span = spans[run.parent_span_id]
        assert task_span.name == told["prefect.task-run.name"]
        assert spans[task_span.parent_span_id].name == flow_run["name"] == told["prefect.flow-run.name"]
        assert told["prefect.flow.name"] == "nightly"
        assert told["prefect.flow-run.id"] == flow_run["id"]
        assert told["prefect.task.name"] == "load"
        assert "prefect.deployment.id" not in told


def test_an_async_flow_has_its_runs_below_it_and_traceparent_above(monkeypatch, pipeline, otlp):
    from prefect import flow

    monkeypatch.setenv("TRACEPARENT", f"00-{'ab' * 16}-{'cd' * 8}-01")
    dltobs.configure(otlp_endpoint=otlp.url)

    @flow(flow_run_name="by-night")
    async def asynchronous():
        pipeline().run([{"id": 1}], table_name="orders")

    asyncio.run(asynchronous())
    dltobs.shutdown()
    flow_span = otlp.named("by-night")
    assert flow_span.trace_id == bytes.fromhex("ab" * 16)
    assert flow_span.parent_span_id == bytes.fromhex("cd" * 8)
    assert otlp.named("run shop").parent_span_id == flow_span.span_id


def test_lines_stand_under_their_task_with_their_level_and_without_secrets(pipeline, server):
    """Outside of a flow nothing is sent; a line of the flow itself belongs to no task."""
    from prefect import flow, task

    dltobs.configure(log_level="INFO", console="off", redact_patterns=[SECRET])

    @task
    def load():
        dlt_logger.warning(f"the key is {SECRET}")
        pipeline().run([{"id": 1}], table_name="orders")

    @flow
    def logged():
        load()
        dlt_logger.error("a line of the flow")

    pipeline("outside").run([{"id": 1}], table_name="orders")
    logged()
    (run,) = server.flow_runs("logged")

    def of_dlt():
        return {line["message"]: line for line in server.logs(run["id"]) if line["name"] in {"dlt", "dltobs"}}

    lines = wait_for(lambda: found if "a line of the flow" in (found := of_dlt()) else None)
    (task_id,) = wait_for(lambda: server.task_runs(run["id"]))
    assert lines["the key is ***"]["level"] == logging.WARNING
    assert lines["the key is ***"]["task_run_id"] == task_id
    assert lines["a line of the flow"]["level"] == logging.ERROR
    assert lines["a line of the flow"]["task_run_id"] is None
    (end,) = [line for text, line in lines.items() if text.startswith("Run of shop finished")]
    assert (end["level"], end["task_run_id"]) == (logging.INFO, task_id)
    assert not [text for text in lines if "outside" in text]
    assert SECRET.encode() not in server.stored


def test_prefects_own_handler_on_dlts_logger_sends_nothing_twice(tmp_path, otlp, server):
    """`PREFECT_LOGGING_EXTRA_LOGGERS=dlt`: one line each, redacted, and Prefect's handlers keep their formats.

    Prefect is imported after `configure()` here, and dlt has made its logger before.
    """
    script = """
        import json, logging
        import dltobs
        dltobs.configure(redact_patterns=["pl4nted"])
        import dlt
        from dlt.common import logger
        dlt.config.get("x")
        from prefect import flow, task, get_run_logger
        from prefect.logging.handlers import APILogHandler

        @flow
        def doubled():
            logger.warning("before any run: pl4nted")
            dlt.pipeline("shop", destination="duckdb").run([{"id": 1}], table_name="orders")
            logger.warning("after the run")
            get_run_logger().warning("a line of Prefect's")

        doubled()
        (theirs,) = [one for one in logging.getLogger("dlt").handlers if type(one) is APILogHandler]
        formatter = theirs.formatter
        muted = len(theirs.filters)
        dltobs.shutdown()
        print(json.dumps([formatter is None, muted, len(theirs.filters)]))
    """
    told, _ = run_in(tmp_path, server, otlp, script, PREFECT_LOGGING_EXTRA_LOGGERS="dlt")
    assert told == [True, 1, 0]
    (run,) = server.flow_runs("doubled")
    lines = wait_for(
        lambda: (
            found
            if len(found := [line for line in server.logs(run["id"]) if line["level"] == logging.WARNING])
            >= 3
            else None
        )
    )
    assert sorted(line["message"] for line in lines) == [
        "a line of Prefect's",
        "after the run",
        "before any run: ***",
    ]


def test_a_handler_that_dlt_has_reformatted_gets_its_own_format_back(tmp_path, otlp, server):
    """dlt takes the first handler on its logger for its own: here it is Prefect's, before `configure()`."""
    script = """
        import json, logging
        from prefect.logging.handlers import APILogHandler
        import prefect.main
        import dlt, dltobs
        dlt.config.get("x")
        dlt.pipeline("shop", destination="duckdb")
        (theirs,) = [one for one in logging.getLogger("dlt").handlers if type(one) is APILogHandler]
        before = type(theirs.formatter).__module__
        dltobs.configure()
        print(json.dumps([before, theirs.formatter is None]))
    """
    told, _ = run_in(tmp_path, server, otlp, script, PREFECT_LOGGING_EXTRA_LOGGERS="dlt")
    assert told == ["dlt.common.logger", True]


def test_names_are_on_json_lines_and_sentry_events(pipeline, sentry, server, tmp_path):
    from prefect import flow

    @dlt.resource
    def broken():
        yield {"id": 1}
        raise ValueError(f"no such order, token={SECRET}")

    @flow
    def failing():
        pipeline().run(broken())

    log_file = tmp_path / "dlt.jsonl"
    dltobs.configure(sentry_dsn=sentry.dsn, log_file=log_file, log_level="INFO", console="off")
    with pytest.raises(Exception, match="no such order"):
        failing()
    dltobs.shutdown()
    (run,) = server.flow_runs("failing")
    lines = [json.loads(line) for line in log_file.read_text().splitlines()]
    in_run = [line for line in lines if line.get("pipeline") == "shop"]
    assert {line["prefect.flow-run.id"] for line in in_run} == {run["id"]}
    assert {line["prefect.flow.name"] for line in in_run} == {"failing"}
    (event,) = sentry.events
    assert event["tags"]["prefect.flow-run.id"] == run["id"]
    assert event["tags"]["prefect.flow-run.name"] == run["name"]
    (artifact,) = server.artifacts(run["id"])
    assert artifact["key"] == "dlt-shop"
    assert artifact["data"].startswith("# shop: failed\n")
    assert "no such order, token=***" in artifact["data"]
    assert SECRET not in artifact["data"]


def test_each_run_has_one_artifact_with_its_tables(pipeline, server):
    """And a run outside of a flow has none."""
    from prefect import flow

    dltobs.configure()

    @flow
    def reported():
        pipeline().run([{"id": 1, "items": [{"sku": "a"}]}, {"id": 2}], table_name="orders")
        pipeline().run([{"id": 3}], table_name="orders")

    pipeline("outside").run([{"id": 1}], table_name="orders")
    reported()
    dltobs.shutdown()
    assert dltobs.status()["prefect"].delivered == 2
    (run,) = server.flow_runs("reported")
    first, second = sorted(server.artifacts(run["id"]), key=lambda one: one["created"])
    assert {first["key"], second["key"]} == {"dlt-shop"}
    tables = [line[:14] for one in (first, second) for line in one["data"].splitlines() if "| orders" in line]
    assert any(line.startswith("| orders | 2 |") for line in tables)
    assert any(line.startswith("| orders | 1 |") for line in tables)


def test_an_artifact_that_cannot_be_written_is_one_warning(monkeypatch, caplog, pipeline):
    """The run and the flow know nothing of it."""
    from prefect import flow
    from prefect.client.orchestration import SyncPrefectClient

    def refuse(*_):
        raise ConnectionRefusedError(111, "Connection refused")

    dltobs.configure()
    monkeypatch.setattr(SyncPrefectClient, "create_artifact", refuse)

    @flow
    def unreported():
        for _ in range(2):
            pipeline().run([{"id": 1}], table_name="orders")
        return "done"

    assert unreported() == "done"
    dltobs.shutdown()
    status = dltobs.status()["prefect"]
    assert (status.delivered, status.dropped, status.last_error) == (0, 2, "connection refused")
    warnings = [one.getMessage() for one in caplog.records if one.name == "dltobs"]
    assert len([text for text in warnings if text.startswith("prefect: 1 artifact could not")]) == 1


def test_a_script_that_ends_with_a_run_ends_quietly(tmp_path, otlp, server):
    """Its artifact is there before Python exits, when Prefect could send no event of it."""
    source = """
        import json, time
        import dlt
        from prefect import flow
        from prefect.client.orchestration import SyncPrefectClient

        import dltobs

        create = SyncPrefectClient.create_artifact

        def slowly(self, artifact):
            time.sleep(0.5)
            return create(self, artifact)

        SyncPrefectClient.create_artifact = slowly
        dltobs.configure()

        @flow
        def last():
            dlt.pipeline("shop", destination="duckdb").run([{"id": 1}], table_name="orders")
            return dltobs.status()["prefect"].delivered

        print(json.dumps(last()))
        """
    delivered, stderr = run_in(tmp_path, server, otlp, source)
    assert delivered == 1
    assert "prefect.artifact.created" not in stderr


def test_a_task_in_another_process_is_part_of_the_trace(tmp_path, otlp, server):
    """With settings that only a call in `__main__` has; its lines and its artifact arrive as well."""
    script = """
        import json, os
        import dlt
        from dlt.common import logger
        from prefect import flow, task
        from prefect.task_runners import ProcessPoolTaskRunner

        @task
        def load(name):
            logger.warning("in the process: pl4nted")
            dlt.pipeline(name, destination="duckdb", dataset_name="data").run([{"id": 1}], table_name="orders")
            return os.getpid()

        @flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
        def spread():
            return [one.result() for one in [load.submit("one"), load.submit("two")]]

        if __name__ == "__main__":
            import dltobs
            dltobs.configure(redact_patterns=["pl4nted"], tags={"team": "data"})
            print(json.dumps([os.getpid(), *spread()]))
    """
    (here, there, again), stderr = run_in(tmp_path, server, otlp, script)
    assert here != there == again
    assert "pl4nted" not in stderr
    (run,) = server.flow_runs("spread")
    spans = {span.span_id: span for span in otlp.spans}
    assert len({span.trace_id for span in spans.values()}) == 1
    for name in ("one", "two"):
        span = otlp.named(f"run {name}")
        assert attributes(span)["dlt.tag.team"] == "data"
        assert attributes(span)["prefect.flow-run.id"] == run["id"]
        assert spans[spans[span.parent_span_id].parent_span_id].name == run["name"]
    assert len(server.artifacts(run["id"])) == 2
    tasks = wait_for(lambda: found if len(found := server.task_runs(run["id"])) >= 2 else None)

    def from_there():
        return [line for line in server.logs(run["id"]) if line["message"] == "in the process: ***"]

    lines = wait_for(lambda: found if len(found := from_there()) >= 2 else None)
    assert {line["task_run_id"] for line in lines} == set(tasks)


def test_off_leaves_prefect_alone(pipeline, server, otlp):
    from prefect import flow
    from prefect.telemetry.run_telemetry import RunTelemetry

    before = RunTelemetry.start_span
    dltobs.configure(prefect="off", otlp_endpoint=otlp.url)
    assert RunTelemetry.start_span is before

    @flow
    def untouched():
        dlt_logger.warning("not for Prefect")
        pipeline().run([{"id": 1}], table_name="orders")

    untouched()
    dltobs.shutdown()
    assert "prefect" not in dltobs.status()
    (run,) = server.flow_runs("untouched")
    assert server.artifacts(run["id"]) == []
    assert not any(name.startswith("prefect.") for name in attributes(otlp.named("run shop")))


def test_shutdown_gives_prefect_its_functions_back():
    from prefect import task_runners
    from prefect.telemetry.run_telemetry import RunTelemetry

    before = RunTelemetry.start_span, RunTelemetry.async_start_span, task_runners._run_task_in_subprocess
    dltobs.configure(prefect="on")
    assert RunTelemetry.start_span is not before[0]
    dltobs.configure(prefect="on", tags={"a": "b"})
    dltobs.shutdown()
    after = RunTelemetry.start_span, RunTelemetry.async_start_span, task_runners._run_task_in_subprocess
    assert after == before
    assert os.environ.get("TRACEPARENT") is None


def test_lines_of_normalizes_worker_processes_bear_the_names(tmp_path, otlp, server):
    """They are in the log file; Prefect's UI has those of the task's own process."""
    script = """
        import json, os
        import dlt, dltobs
        from prefect import flow

        @flow
        def parallel():
            resources = [dlt.resource([{"id": 1}], name=f"table_{number}") for number in range(4)]
            dlt.pipeline("shop", destination="duckdb", dataset_name="data").run(resources)

        if __name__ == "__main__":
            dltobs.configure(log_level="INFO", log_file="dlt.jsonl")
            parallel()
            print(os.getpid())
    """
    pid, _ = run_in(tmp_path, server, otlp, script, NORMALIZE__WORKERS="2")
    lines = [json.loads(line) for line in (tmp_path / "dlt.jsonl").read_text().splitlines()]
    of_workers = [line for line in lines if line["process"] != pid]
    assert of_workers
    assert {line["prefect.flow.name"] for line in of_workers} == {"parallel"}
