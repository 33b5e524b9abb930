"""Forked children: nothing of their parent's goes on in them, no connection, no lock, no queue."""

from __future__ import annotations

import functools
import json
import os
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from dltobs import Redactor
from dltobs._settings.settings import Settings
from dltobs.sinks.otlp import span_exporter
from dltobs.sinks.resend import Resender
from grpc_server import GrpcServer
from scripts import PRELUDE, WITHOUT_THREADS, run_script
from servers import attributes_of

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from servers import Request, Server

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")

CHILDREN = (
    PRELUDE
    + WITHOUT_THREADS
    + """
import multiprocessing, signal

def in_child(method, work, *args):
    if method == "multiprocessing":
        child = multiprocessing.get_context("fork").Process(target=work, args=args)
        child.start()
        child.join()
        return child.exitcode
    pid = os.fork()
    if not pid:
        work(*args)
        sys.exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def fail(name):
    try:
        dlt.pipeline(name, pipelines_dir="pipelines", destination=nowhere).run(broken())
    except Exception:
        pass
"""
)
METHODS = ("multiprocessing", "os.fork")
PATIENT = {"DLTOBS__FLUSH_TIMEOUT": "30"}
AT_ONCE = {**PATIENT, "OTEL_EXPORTER_OTLP_TIMEOUT": "0.7"}
"""A request that is refused is not tried again for long."""


class Connections:
    """Has a server keep its connections open, as collectors do, and knows which requests came on which."""

    def __init__(self, server: Server) -> None:
        self.requests: dict[int, list[Request]] = defaultdict(list)
        handler: Any = server._server.RequestHandlerClass
        handler.protocol_version = "HTTP/1.1"
        received, connections = server.received, self.requests

        class Handler(handler):
            def do_POST(self) -> None:  # noqa: N802 - the name is the library's
                port = self.client_address[1]

                def remember(request: Request) -> None:
                    connections[port].append(request)
                    received(request)

                one.received = remember
                super().do_POST()

        one: Any = server
        one._server.RequestHandlerClass = Handler

    def used_by(self, *names: bytes) -> list[set[int]]:
        """The connections on which requests came that have these texts in them."""
        return [
            {port for port, requests in self.requests.items() if any(name in one.body for one in requests)}
            for name in names
        ]


def run_children(source: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    variables = {"DLTOBS__METRICS": "off", "PYTHONWARNINGS": "ignore::DeprecationWarning", **variables}
    result = run_script(source, folder, prelude=CHILDREN, timeout=100, **variables)
    assert result.returncode == 0, result.stderr
    return result


def roots_of(server: Any) -> list[tuple[str, Any]]:
    """Name and outcome of each root span."""
    return sorted(
        (span.name, attributes_of(span).get("dlt.outcome"))
        for span in server.spans
        if span.name.startswith("run ")
    )


TERMINATED = """
import dltobs
dltobs.configure()
load("parent")

@dlt.resource
def rows():
    yield {"id": 1}
    os.kill(os.getpid(), signal.SIGTERM)
    import time
    time.sleep(60)

def work():
    dlt.pipeline("child", pipelines_dir="pipelines", destination=nowhere).run(rows(), table_name="x")

print(in_child("METHOD", work))
"""


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_is_terminated_in_a_child_is_told(tmp_path, otlp, method):
    result = run_children(
        TERMINATED.replace("METHOD", method), tmp_path, DLTOBS__OTLP_ENDPOINT=otlp.url, **PATIENT
    )
    assert result.stdout.split() == ["-15"], result.stderr
    assert roots_of(otlp) == [("run child", "terminated"), ("run parent", "ok")]


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_is_terminated_in_a_child_is_kept_where_the_collector_is_down(tmp_path, otlp, method):
    otlp.status = 503
    run_children(TERMINATED.replace("METHOD", method), tmp_path, DLTOBS__OTLP_ENDPOINT=otlp.url, **AT_ONCE)
    otlp.requests.clear()
    otlp.status = 200
    run_script(
        "import dltobs; dltobs.configure(); dltobs.flush_spool()",
        tmp_path,
        prelude="",
        DLTOBS__OTLP_ENDPOINT=otlp.url,
        **PATIENT,
    )
    assert roots_of(otlp) == [("run child", "terminated"), ("run parent", "ok")]


@pytest.mark.parametrize("method", METHODS)
def test_a_child_that_is_killed_after_its_shutdown_has_delivered(tmp_path, otlp, method):
    source = """
    import dltobs
    dltobs.configure()
    load("parent")

    def work():
        load("child")
        dltobs.shutdown()
        print(dltobs.status()["otlp"].delivered, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

    print(in_child("METHOD", work))
    """
    result = run_children(
        source.replace("METHOD", method), tmp_path, DLTOBS__OTLP_ENDPOINT=otlp.url, **PATIENT
    )
    of_child = {span.trace_id for span in otlp.spans if span.name == "run child"}
    count = sum(span.trace_id in of_child for span in otlp.spans)
    assert result.stdout.split() == [str(count), "-9"]
    assert roots_of(otlp) == [("run child", "ok"), ("run parent", "ok")]


@pytest.mark.parametrize("method", METHODS)
def test_the_spans_of_a_child_do_not_go_over_a_connection_of_its_parent(tmp_path, otlp, method):
    """Nor those of its own child; and the connection of the parent goes on to be of use."""
    connections = Connections(otlp)
    source = """
    import dltobs
    from opentelemetry import trace
    dltobs.configure()
    load("first")
    trace.get_tracer_provider().force_flush()

    def work():
        load("child")
        trace.get_tracer_provider().force_flush()
        print(in_child("METHOD", load, "grandchild"))

    print(in_child("METHOD", work))
    load("last")
    trace.get_tracer_provider().force_flush()
    """
    result = run_children(
        source.replace("METHOD", method), tmp_path, DLTOBS__OTLP_ENDPOINT=otlp.url, **PATIENT
    )
    assert set(result.stdout.split()) == {"0"}, result.stderr
    names = ("child", "first", "grandchild", "last")
    assert roots_of(otlp) == [(f"run {name}", "ok") for name in names]
    child, first, grandchild, last = connections.used_by(*(f"run {name}".encode() for name in names))
    assert first == last
    assert [len(one) for one in (first, child, grandchild)] == [1, 1, 1]
    assert len(first | child | grandchild) == 3


@pytest.mark.parametrize("method", METHODS)
def test_the_events_of_a_child_do_not_go_over_a_connection_of_its_parent(tmp_path, sentry, method):
    connections = Connections(sentry)
    source = """
    import dltobs, sentry_sdk
    dltobs.configure(alert_cooldown=0)
    fail("first")
    dltobs._state.runtime.deliver()
    print(in_child("METHOD", fail, "child"))
    fail("last")
    dltobs._state.runtime.deliver()
    """
    result = run_children(
        source.replace("METHOD", method), tmp_path, DLTOBS__SENTRY_DSN=sentry.dsn, **PATIENT
    )
    assert result.stdout.split() == ["0"], result.stderr
    assert len(sentry.events) == 3
    child, first, last = connections.used_by(b'"child"', b'"first"', b'"last"')
    assert first == last
    assert (len(first), len(child)) == (1, 1)
    assert first != child


@pytest.mark.parametrize("method", METHODS)
def test_a_child_does_not_send_the_events_that_its_parent_has_queued(tmp_path, sentry, method):
    received = sentry.received

    def receive(request):
        received(request)
        if b'"child"' in request.body:
            sentry.gate.set()  # until then, the parent gets no answer

    sentry.received = receive
    sentry.gate.clear()
    source = """
    import dltobs
    dltobs.configure(alert_cooldown=0)
    fail("first")
    fail("second")
    print(in_child("METHOD", fail, "child"))
    """
    result = run_children(
        source.replace("METHOD", method), tmp_path, DLTOBS__SENTRY_DSN=sentry.dsn, **PATIENT
    )
    assert result.stdout.split() == ["0"], result.stderr
    assert sorted(event["tags"]["dlt.pipeline.name"] for event in sentry.events) == [
        "child",
        "first",
        "second",
    ]


@pytest.mark.parametrize("method", METHODS)
def test_a_child_speaks_grpc_though_its_parent_does(tmp_path, method):
    server = GrpcServer()
    source = """
    import dltobs
    from opentelemetry import trace
    dltobs.configure(otlp_protocol="grpc")
    load("first")
    trace.get_tracer_provider().force_flush()
    print(in_child("METHOD", load, "child"))
    load("last")
    """
    try:
        result = run_children(
            source.replace("METHOD", method), tmp_path, DLTOBS__OTLP_ENDPOINT=server.url, **PATIENT
        )
        assert result.stdout.split() == ["0"], result.stderr
        assert roots_of(server) == [(f"run {name}", "ok") for name in ("child", "first", "last")]
    finally:
        server.close()


def test_a_child_sends_what_is_in_the_spool_over_a_connection_of_its_own(otlp):
    connections = Connections(otlp)
    settings = Settings(otlp_endpoint=otlp.url)
    resend = Resender(functools.partial(span_exporter, "otlp", settings, Redactor()), ())

    def payload(name):
        request = ExportTraceServiceRequest()
        request.resource_spans.add().scope_spans.add().spans.add(name=name)
        return request.SerializeToString()

    assert resend(payload("first")).is_taken
    child = os.fork()
    if not child:
        os._exit(0 if resend(payload("of a child")).is_taken else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert resend(payload("last")).is_taken
    first, of_child, last = connections.used_by(b"first", b"of a child", b"last")
    assert first == last
    assert first != of_child


def test_a_child_does_not_wait_for_what_its_parent_sends_from_the_spool(tmp_path, otlp):
    otlp.status = 503
    run_children(
        "import dltobs; dltobs.configure(); load('first')",
        tmp_path,
        DLTOBS__OTLP_ENDPOINT=otlp.url,
        **AT_ONCE,
    )
    otlp.status = 200
    otlp.gate.clear()  # the parent gets no answer
    source = """
    import time
    import dltobs
    from pathlib import Path
    dltobs.configure()
    spool = dltobs._state.runtime.spool.folder
    deadline = time.monotonic() + 60
    while not list(spool.glob("*.sending*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    child = os.fork()
    if not child:
        print(dltobs.flush_spool()["otlp"].left > 0, flush=True)
        os._exit(0)
    found = 0
    while not found and time.monotonic() < deadline:
        time.sleep(0.01)
        found, status = os.waitpid(child, os.WNOHANG)
    if not found:
        os.kill(child, signal.SIGKILL)
    sys.stdout.flush()
    os._exit(0)
    """
    result = run_children(source, tmp_path, DLTOBS__OTLP_ENDPOINT=otlp.url, **PATIENT)
    assert result.stdout.split() == ["True"], result.stderr


@pytest.mark.parametrize("settings", ["console='json'", "log_file='a.log'", "loguru=True"])
def test_a_child_logs_though_a_thread_of_its_parent_is_writing_a_line(tmp_path, settings):
    source = """
    import logging, threading
    import dltobs

    class Slow:
        def __str__(self):
            if threading.current_thread() is not threading.main_thread():
                is_writing.set()
                threading.Event().wait()
            return "text"

    is_writing = threading.Event()
    dltobs.configure(**{"console": "off", **dict(SETTINGS)})
    dlt.secrets.get("nothing")
    log = logging.getLogger("dlt")
    threading.Thread(target=log.error, args=("%s", Slow()), daemon=True).start()
    is_writing.wait()
    child = os.fork()
    if not child:
        signal.alarm(30)
        log.error("%s", Slow())
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    os._exit(0)
    """
    result = run_children(source.replace("SETTINGS", settings), tmp_path)
    assert result.stdout.split() == ["0"], result.stderr


def test_a_child_writes_to_the_console_to_which_a_thread_of_its_parent_is_writing(tmp_path):
    source = """
    import logging, threading
    import dltobs

    class Stream:
        def write(self, text):
            if threading.current_thread() is not threading.main_thread():
                is_writing.set()
                threading.Event().wait()
            os.write(1, text.encode())

        def flush(self):
            pass

    is_writing = threading.Event()
    sys.stderr = Stream()
    dltobs.configure(console="json")
    dlt.secrets.get("nothing")
    log = logging.getLogger("dlt")
    threading.Thread(target=log.error, args=("of the thread",), daemon=True).start()
    is_writing.wait()
    child = os.fork()
    if not child:
        signal.alarm(30)
        log.error("of the child")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    os._exit(0)
    """
    result = run_children(source, tmp_path)
    assert [json.loads(line)["message"] for line in result.stdout.splitlines()] == ["of the child"]


def test_no_lock_that_a_thread_of_its_parent_holds_holds_up_a_child(tmp_path, otlp, sentry, slack):
    """Every lock of every object and module of dltobs is held when the child begins."""
    source = """
    import gc, logging, threading
    import dltobs
    from dltobs.testing import RecordingSink
    sink = RecordingSink()
    dltobs.configure(console="json", log_file="a.log", alert_cooldown=0, sinks=[sink])
    load("parent")
    fail("parent")
    dltobs._state.runtime.deliver()

    kinds = type(threading.Lock()), type(threading.RLock()), threading.Condition, threading.Event

    def values_of(one):
        names = {name for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ())}
        slots = [getattr(one, name) for name in names if isinstance(name, str) and hasattr(one, name)]
        return [*getattr(one, "__dict__", {}).values(), *slots]

    def hold():
        ours = [one for one in gc.get_objects() if str(type(one).__module__).partition(".")[0] == "dltobs"]
        ours += [module for name, module in list(sys.modules.items()) if name.partition(".")[0] == "dltobs"]
        held = {id(lock): lock for one in ours for lock in values_of(one) if isinstance(lock, kinds)}
        for lock in held.values():
            getattr(lock, "_cond", lock).acquire(timeout=5)
        print(len(held) > 15)
        are_held.set()
        threading.Event().wait()

    are_held = threading.Event()
    threading.Thread(target=hold, daemon=True).start()
    are_held.wait()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        signal.alarm(60)
        logging.getLogger("dlt").error("line")
        logging.getLogger("dltobs").warning("warning")
        dltobs._state.runtime.warner.warn("test", "something")
        fail("child")
        load("child")
        dltobs.flush_spool(1)
        dltobs.configure(console="text", flush_timeout=9)
        load("child")
        dltobs.shutdown()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    os._exit(0)
    """
    result = run_children(
        source,
        tmp_path,
        DLTOBS__OTLP_ENDPOINT=otlp.url,
        DLTOBS__METRICS="on",
        DLTOBS__SENTRY_DSN=sentry.dsn,
        DLTOBS__SLACK_INCOMING_HOOK=slack.hook,
        **PATIENT,
    )
    assert result.stdout.split() == ["True", "0"], result.stderr
