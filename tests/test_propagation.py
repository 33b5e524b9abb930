"""The context of a run in the threads that dlt works in: spans and lines there belong to the right step."""

from __future__ import annotations

import asyncio
import json
import threading

import dlt
import pytest
from dlt.common import logger
from dlt.common.runners import pool_runner
from opentelemetry import context, trace

import dltobs
from dltobs._context.current import current_run
from dltobs._context.propagation import LoadThreads


def work(kind):
    """What a user's instrumentation and a user's log call do."""
    with trace.get_tracer("library").start_as_current_span(f"user {kind}"):
        logger.warning("working in %s", kind)
    return {"id": 1}


@dlt.resource
def plain():
    yield work("plain")


@dlt.resource(parallelized=True)
def parallelized():
    yield work("parallelized")


@dlt.resource
def deferred():
    @dlt.defer
    def item():
        return work("deferred")

    yield item()


@dlt.resource
async def asynchronous():
    await asyncio.sleep(0)
    yield work("asynchronous")


@dlt.resource
def awaited():
    async def item():
        await asyncio.sleep(0)
        return work("awaited")

    yield item()


@dlt.transformer(data_from=plain)
def transformed(item):
    yield work("transformed")


@pytest.mark.parametrize("resource", [plain, parallelized, deferred, asynchronous, awaited, transformed])
def test_what_a_resource_does_belongs_to_extract(tmp_path, otlp, pipeline, resource):
    dltobs.configure(otlp_endpoint=otlp.url, metrics="off", log_file=tmp_path / "log.jsonl")
    pipeline().run(resource)
    dltobs.shutdown()
    user = otlp.named(f"user {resource.name}")
    steps = {span.span_id: span.name for span in otlp.spans}
    assert steps[user.parent_span_id].startswith("extract")
    assert user.trace_id == otlp.named("run shop").trace_id
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    (line,) = [line for line in lines if line["message"] == f"working in {resource.name}"]
    assert (line["pipeline"], line["step"]) == ("shop", "extract")
    assert (line["trace_id"], line["span_id"]) == (user.trace_id.hex(), user.span_id.hex())


def test_what_a_load_job_does_belongs_to_load(tmp_path, otlp, pipeline):
    """dlt's pool starts jobs with an empty context."""
    threads = set()

    @dlt.destination(batch_size=1)
    def shop(items, table):
        threads.add(threading.current_thread())
        work("job")

    dltobs.configure(otlp_endpoint=otlp.url, metrics="off", log_file=tmp_path / "log.jsonl")
    pipeline(destination=shop).run([{"id": 1}], table_name="orders")
    dltobs.shutdown()
    assert threading.main_thread() not in threads
    user = otlp.named("user job")
    assert user.parent_span_id == otlp.named("load").span_id
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    (line,) = [line for line in lines if line["message"] == "working in job"]
    assert (line["step"], line["span_id"]) == ("load", user.span_id.hex())


def test_pipelines_in_threads_never_mix(tmp_path, otlp, pipeline):
    def run(name):
        @dlt.resource(parallelized=True)
        def orders():
            yield work(name)

        pipeline(name).run(orders())

    dltobs.configure(otlp_endpoint=otlp.url, metrics="off", log_file=tmp_path / "log.jsonl")
    names = ["one", "two", "three"]
    threads = [threading.Thread(target=run, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    dltobs.shutdown()
    for name in names:
        assert otlp.named(f"user {name}").trace_id == otlp.named(f"run {name}").trace_id
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    found = {line["message"].split()[-1]: line["pipeline"] for line in lines if "working" in line["message"]}
    assert found == {name: name for name in names}


def test_nothing_stays_attached_after_a_run(otlp, pipeline):
    before = context.get_current()
    dltobs.configure(otlp_endpoint=otlp.url, metrics="off")
    pipeline().run(plain)
    assert context.get_current() == before
    assert current_run.get() is None
    dltobs.shutdown()


def test_dlt_s_class_comes_back():
    original = pool_runner.TimeoutThreadPoolExecutor
    threads = LoadThreads()
    threads.attach()
    assert pool_runner.TimeoutThreadPoolExecutor is not original
    threads.detach()
    assert pool_runner.TimeoutThreadPoolExecutor is original
    threads.detach()
    assert pool_runner.TimeoutThreadPoolExecutor is original


def test_a_class_that_somebody_has_put_over_ours_stays():
    original = pool_runner.TimeoutThreadPoolExecutor
    threads = LoadThreads()
    threads.attach()

    class Theirs(pool_runner.TimeoutThreadPoolExecutor):
        pass

    pool_runner.TimeoutThreadPoolExecutor = Theirs
    try:
        threads.detach()
        assert pool_runner.TimeoutThreadPoolExecutor is Theirs
    finally:
        pool_runner.TimeoutThreadPoolExecutor = original
