"""The main job, end to end."""

from __future__ import annotations

import json

import dlt
import pytest
from dlt.pipeline.exceptions import PipelineStepFailed

import dltobs
from conftest import SECRET
from servers import attributes_of


def test_a_failed_run_is_seen_everywhere_without_its_secret(
    tmp_path, monkeypatch, otlp, sentry, pipeline, capfd
):
    """One planted secret in an exception: in the log file, in spans, metrics and Sentry it is gone."""
    monkeypatch.setenv("API_KEY", SECRET)
    monkeypatch.setenv("RUNTIME__LOG_LEVEL", "INFO")
    dltobs.configure(log_file=tmp_path / "dlt.jsonl", otlp_endpoint=otlp.url, sentry_dsn=sentry.dsn)

    @dlt.resource
    def orders(api_key: str = dlt.secrets.value):
        yield {"id": 1}
        message = f"401 for https://shop.example/?key={api_key}"
        raise ValueError(message)

    pipeline("first").run([{"id": 1}], table_name="orders")
    with pytest.raises(PipelineStepFailed):
        pipeline().run(orders())
    dltobs.shutdown()

    names = [span.name for span in otlp.spans]
    assert [name for name in names if name in {"extract", "normalize", "load"} or name.startswith("run")] == [
        "extract", "normalize", "load", "run first", "extract", "run shop",
    ]  # fmt: skip
    assert {"extract orders", "normalize orders", "load orders"} <= set(names)
    assert {point.attributes["dlt.outcome"] for point in otlp.points if point.name == "dlt.runs"} == {
        "ok", "failed",
    }  # fmt: skip
    root = otlp.named("run shop")
    assert attributes_of(root)["error.type"] == "ValueError"
    assert root.trace_id.hex() == attributes_of(root)["dlt.transaction_id"]
    (event,) = sentry.events
    assert event["exception"]["values"][0]["type"] == "ValueError"
    assert event["contexts"]["trace"]["trace_id"] == root.trace_id.hex()
    lines = [json.loads(line) for line in (tmp_path / "dlt.jsonl").read_text().splitlines()]
    assert {line.get("pipeline") for line in lines} >= {"first"}
    captured = capfd.readouterr()
    for leak in (otlp.raw, sentry.raw, (tmp_path / "dlt.jsonl").read_bytes(), captured.err.encode()):
        assert SECRET.encode() not in leak
        assert b"***" in leak or b"Secret" not in leak
    assert dltobs.status()["otlp"] == dltobs.BackendStatus(delivered=len(names))
    assert dltobs.status()["otlp_metrics"] == dltobs.BackendStatus(delivered=len(otlp.points))
    assert dltobs.status()["sentry"] == dltobs.BackendStatus(delivered=1)
