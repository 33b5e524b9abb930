"""Tries the built wheel in an environment that holds nothing but it: `make wheel` runs this.

It imports nothing of the tests, and fails by raising.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import os
import sys
import tempfile
from pathlib import Path

HEAVY = ("dlt", "sentry_sdk", "loguru", "opentelemetry.sdk", "opentelemetry.exporter", "requests")
SECRET = "pl4nted/Secret+value"


def main() -> None:
    """Import, run a pipeline that fails with a secret, and look at what came out."""
    os.environ.update(
        RUNTIME__DLTHUB_TELEMETRY="false",
        RUNTIME__LOG_FORMAT="JSON",
        RUNTIME__LOG_LEVEL="INFO",
        API_KEY=SECRET,
    )
    os.chdir(tempfile.mkdtemp())
    import dltobs

    loaded = [name for name in HEAVY if name in sys.modules]
    assert not loaded, f"import dltobs imports {loaded}"
    package = Path(dltobs.__file__).parent
    assert "site-packages" in package.parts, package
    assert (package / "py.typed").is_file()
    assert importlib.metadata.version("dltobs") == dltobs.__version__
    for name in dltobs.__all__:
        assert getattr(dltobs, name) is not None, name

    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr):
        run(dltobs)
    lines = [json.loads(line) for line in stderr.getvalue().splitlines()]
    assert any(line.get("step") == "load" and line["pipeline"] == "wheel" for line in lines), lines
    written = Path("dlt.jsonl").read_text("utf-8")
    assert len(written.splitlines()) == len(lines)
    assert SECRET not in written + stderr.getvalue()
    print(f"the wheel works: dltobs {dltobs.__version__}, {len(lines)} lines")


def run(dltobs: object) -> None:
    """A run that succeeds and one that fails."""
    dltobs.configure(log_file="dlt.jsonl", tracing="on")  # type: ignore[attr-defined]
    import dlt
    from dlt.pipeline.exceptions import PipelineStepFailed

    @dlt.resource
    def orders(api_key: str = dlt.secrets.value):
        yield {"id": 1}
        raise ValueError(api_key)

    pipeline = dlt.pipeline("wheel", destination="duckdb", pipelines_dir="pipelines")
    pipeline.run([{"id": 1}], table_name="orders")
    try:
        pipeline.run(orders())
    except PipelineStepFailed as error:
        dlt.common.logger.error(f"run failed: {error}")
    else:
        raise AssertionError("the run did not fail")
    dltobs.shutdown()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
