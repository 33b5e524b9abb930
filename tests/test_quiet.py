"""What dltobs does not do: import what is not switched on, or speak to a network that nobody asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys

CONNECTIONS = """
import json, sys
connections = []
def listen(event, args):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo"):
        connections.append(repr(args[1:] if event.startswith("socket.connect") else args))
sys.addaudithook(listen)
import dltobs
dltobs.configure(log_file="dlt.jsonl", {settings})
import dlt
@dlt.resource
def broken():
    yield {{"id": 1}}
    raise ValueError("no more")
pipeline = dlt.pipeline("shop", destination="duckdb", pipelines_dir="pipelines")
pipeline.run([{{"id": 1}}], table_name="orders")
try:
    pipeline.run(broken())
except Exception:
    pass
dltobs.shutdown()
print(json.dumps(connections))
"""


def run(code: str, folder: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=str(folder),
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.splitlines()[-1]


def test_nothing_is_sent_where_no_endpoint_is_configured(tmp_path):
    """Not a connection, not a name looked up; with `tracing="on"` likewise."""
    assert json.loads(run(CONNECTIONS.format(settings=""), tmp_path)) == []
    assert json.loads(run(CONNECTIONS.format(settings='tracing="on"'), tmp_path)) == []


def test_the_only_connections_are_to_the_configured_endpoints(tmp_path, otlp, sentry):
    """A collector and a Sentry, and nobody else."""
    settings = f"otlp_endpoint={otlp.url!r}, sentry_dsn={sentry.dsn!r}"
    connections = json.loads(run(CONNECTIONS.format(settings=settings), tmp_path))
    assert connections
    assert all(str(otlp.port) in one or str(sentry.port) in one for one in connections), connections


def test_import_dltobs_imports_no_back_end(tmp_path):
    """Neither Sentry, loguru, an exporter, the SDK, nor dlt itself."""
    code = "import sys, json, dltobs; print(json.dumps(sorted(sys.modules)))"
    modules = json.loads(run(code, tmp_path))
    heavy = ("sentry_sdk", "loguru", "opentelemetry.sdk", "opentelemetry.exporter", "requests", "dlt")
    assert [
        name for name in modules if name in heavy or name.startswith(tuple(f"{one}." for one in heavy))
    ] == []


def test_configure_imports_only_what_is_switched_on(tmp_path):
    """A log file needs neither Sentry, loguru nor OpenTelemetry, beyond what dlt imports itself."""
    code = (
        "import sys, json, dlt; before = set(sys.modules)\n"
        "import dltobs; dltobs.configure(log_file='x.jsonl')\n"
        "heavy = ('sentry_sdk', 'loguru', 'opentelemetry')\n"
        "print(json.dumps([m for m in sys.modules if m not in before and m.split('.')[0] in heavy]))"
    )
    assert json.loads(run(code, tmp_path)) == []
