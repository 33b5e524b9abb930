"""What dltobs does not do: import what is not switched on, or speak to a network that nobody asked for."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys

import pytest

import dltobs

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


@pytest.mark.long
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


OURS = "print(*sorted(name for name in sys.modules if name.split('.')[0] in ('dltobs', 'ahocorasick')))"
FRONT_DOOR = ["dltobs", "dltobs._version", "dltobs.exceptions"]


def test_import_dltobs_imports_nothing_of_it_but_the_front_door(tmp_path):
    """What a name needs is imported when it is used."""
    code = f"import sys, dltobs; dir(dltobs); dltobs.ConfigurationError; {OURS}"
    assert run(code, tmp_path).split() == FRONT_DOOR


def test_a_process_that_uses_dlt_imports_next_to_nothing_of_dltobs(tmp_path):
    """dlt loads every plugin that is installed; whether it is switched on is all that ours looks at."""
    code = f"import sys, dlt; dlt.pipeline('shop'); {OURS}"
    assert run(code, tmp_path).split() == [
        "dltobs",
        "dltobs._platform",
        "dltobs._process",
        "dltobs._process.fork_safe",
        "dltobs._settings",
        "dltobs._settings.early",
        "dltobs._state",
        "dltobs._version",
        "dltobs.exceptions",
        "dltobs.integrations",
        "dltobs.integrations.dlt_plugin",
        "dltobs.integrations.zero_code",
    ]


def test_every_name_is_there_and_can_be_pickled_by_where_it_is_defined():
    assert dltobs.__all__ == dir(dltobs) == sorted(dltobs.__all__)
    for name in dltobs.__all__:
        value = getattr(dltobs, name)
        assert vars(dltobs)[name] is value  # the next use does not come through `__getattr__`
        if isinstance(value, type):
            assert pickle.loads(pickle.dumps(value)) is value
            assert value.__module__.startswith("dltobs.")
    with pytest.raises(AttributeError, match="module 'dltobs' has no attribute 'configre'"):
        _ = dltobs.configre  # type: ignore[attr-defined]


def test_threads_may_use_names_for_the_first_time_at_once(tmp_path):
    code = (
        "import dltobs, random, sys, threading\n"
        "sys.setswitchinterval(1e-6)\n"
        "start, found = threading.Barrier(8), []\n"
        "def use():\n"
        "    names = random.sample(dltobs.__all__, len(dltobs.__all__))\n"
        "    start.wait()\n"
        "    found.append({name: getattr(dltobs, name) for name in names})\n"
        "threads = [threading.Thread(target=use) for _ in range(8)]\n"
        "for one in threads: one.start()\n"
        "for one in threads: one.join()\n"
        "print(len(found), all(one == found[0] for one in found))"
    )
    assert run(code, tmp_path) == "8 True"


def test_configure_imports_only_what_is_switched_on(tmp_path):
    """A log file needs neither Sentry, loguru nor OpenTelemetry, beyond what dlt imports itself."""
    code = (
        "import sys, json, dlt; before = set(sys.modules)\n"
        "import dltobs; dltobs.configure(log_file='x.jsonl')\n"
        "heavy = ('sentry_sdk', 'loguru', 'opentelemetry')\n"
        "print(json.dumps([m for m in sys.modules if m not in before and m.split('.')[0] in heavy]))"
    )
    assert json.loads(run(code, tmp_path)) == []
