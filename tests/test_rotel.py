"""A collector that is no part of this project takes our spans and metrics, and passes them on."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sysconfig
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

import dltobs
from ports import held_port
from servers import OtlpServer, attributes_of

_SPEC = find_spec("rotel")
_AGENT = None if _SPEC is None or _SPEC.origin is None else Path(_SPEC.origin).parent / "rotel-agent"

pytestmark = pytest.mark.skipif(
    _AGENT is None or not _AGENT.exists(), reason="the package rotel has no wheel for this platform"
)


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@pytest.fixture
def ports():
    """Two that nobody else gets, though the agent takes a while until it listens there."""
    with held_port(for_a_server=True) as grpc, held_port(for_a_server=True) as http:
        yield {"grpc": grpc, "http/protobuf": http}


@pytest.fixture
def rotel(tmp_path, ports):
    """The agent between us and a server of ours: its ports for gRPC and HTTP, and the server behind it."""
    behind = OtlpServer()
    libraries = (sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH"))
    log = tmp_path / "rotel.txt"
    with log.open("wb") as output:
        agent = subprocess.Popen(
            [str(_AGENT), "start"],
            env={
                # it links the shared library of Python, which may not be where the system looks
                "LD_LIBRARY_PATH": ":".join(filter(None, libraries)),
                "ROTEL_PID_FILE": str(tmp_path / "rotel.pid"),
                "ROTEL_LOG_FILE": str(tmp_path / "rotel.log"),
                "ROTEL_OTLP_GRPC_ENDPOINT": f"127.0.0.1:{ports['grpc']}",
                "ROTEL_OTLP_HTTP_ENDPOINT": f"127.0.0.1:{ports['http/protobuf']}",
                "ROTEL_BATCH_TIMEOUT": "50ms",
                "ROTEL_EXPORTER": "otlp",
                "ROTEL_OTLP_EXPORTER_ENDPOINT": behind.url,
                "ROTEL_OTLP_EXPORTER_PROTOCOL": "http",
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        is_up = wait_for(lambda: agent.poll() is not None or all(map(listens, ports.values())))
        if agent.poll() is not None and b"loading shared libraries" in log.read_bytes():
            pytest.skip(f"rotel cannot be started here: {log.read_text().strip()}")
        assert is_up, log.read_text()
        assert agent.poll() is None, log.read_text()
        yield ports, behind
    finally:
        agent.terminate()
        try:
            agent.wait(10)
        except subprocess.TimeoutExpired:
            agent.kill()
            agent.wait()
        behind.close()


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_rotel_takes_spans_and_metrics_and_forwards_them(monkeypatch, rotel, pipeline, protocol, compression):
    ports, behind = rotel
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
    dltobs.configure(
        otlp_endpoint=f"http://127.0.0.1:{ports[protocol]}", otlp_protocol=protocol, service_name="foreign"
    )
    one = pipeline()
    one.run([{"id": 1}, {"id": 2}], table_name="orders")
    dltobs.shutdown()
    status = dltobs.status()
    assert (status["otlp"].dropped, status["otlp_metrics"].dropped) == (0, 0), status
    sent = status["otlp"].delivered, status["otlp_metrics"].delivered
    assert wait_for(lambda: (len(behind.spans), len(behind.points)) >= sent)
    assert (len(behind.spans), len(behind.points)) == sent
    root = behind.named("run shop")
    assert root.trace_id.hex() == one.last_trace.transaction_id
    assert attributes_of(root)["dlt.outcome"] == "ok"
    rows = {point.attributes["dlt.step"]: point.value for point in behind.points if point.name == "dlt.rows"}
    assert rows.items() >= {"extract": 2, "normalize": 2}.items()
    assert {point.resource["service.name"] for point in behind.points} == {"foreign"}
    assert behind.resources[0]["service.name"] == "foreign"
