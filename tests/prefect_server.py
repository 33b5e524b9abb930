"""A real Prefect server on loopback, read back through its API."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ports import held_port

if TYPE_CHECKING:
    from collections.abc import Callable

_START_TIMEOUT = 60
_VARIABLES = ("PATH", "HOME", "LANG", "TMPDIR")


class PrefectServer:
    """The server, from the environment in which the tests run."""

    def __init__(self, folder: Path) -> None:
        with held_port(for_a_server=True) as port:
            self._start(folder, port)

    def _start(self, folder: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/api"
        self.environment = {
            **{name: os.environ[name] for name in _VARIABLES if name in os.environ},
            "PREFECT_HOME": str(folder / "home"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.2",
            "DO_NOT_TRACK": "1",
        }
        self._log_path = folder / "server.log"
        self._log = self._log_path.open("wb")
        command = [Path(sys.executable).parent / "prefect", "server", "start", "--no-ui"]
        self._process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.environment["PREFECT_API_URL"] = self.url
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except (urllib.error.URLError, ConnectionError):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.close()
                    raise RuntimeError(self._log_path.read_text()) from None
                time.sleep(0.1)

    def post(self, path: str, **body: Any) -> Any:
        """What the API answers."""
        request = urllib.request.Request(
            f"{self.url}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def flow_runs(self, flow: str) -> list[dict[str, Any]]:
        """The runs of a flow."""
        return self.post("flow_runs/filter", flows={"name": {"any_": [flow]}})

    def task_runs(self, flow_run_id: str) -> dict[str, dict[str, Any]]:
        """The task runs of a flow run, by their id."""
        found = self.post("task_runs/filter", flow_runs={"id": {"any_": [flow_run_id]}})
        return {one["id"]: one for one in found}

    def logs(self, flow_run_id: str) -> list[dict[str, Any]]:
        """The log lines of a flow run and its tasks, oldest first."""
        chosen = {"logs": {"flow_run_id": {"any_": [flow_run_id]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
        found: list[dict[str, Any]] = []
        while page := self.post("logs/filter", **chosen, offset=len(found)):
            found += page
        return found

    def artifacts(self, flow_run_id: str) -> list[dict[str, Any]]:
        """The Markdown artifacts of a flow run; Prefect makes some of its own for results."""
        chosen = {"flow_run_id": {"any_": [flow_run_id]}, "type": {"any_": ["markdown"]}}
        return self.post("artifacts/filter", artifacts=chosen)

    @property
    def stored(self) -> bytes:
        """Every byte that it has written."""
        folder = Path(self.environment["PREFECT_HOME"])
        return b"\n".join(path.read_bytes() for path in folder.rglob("*.db*") if path.is_file())

    def close(self) -> None:
        """End it."""
        end(self._process)
        self._log.close()


def end(process: subprocess.Popen[Any]) -> None:
    """End a process that was started in a session of its own, and its children."""
    for one in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, one)
            process.wait(10)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue


def wait_for(look: Callable[[], Any], timeout: float = 30) -> Any:
    """What `look` gives as soon as it is something."""
    deadline = time.monotonic() + timeout
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.1)
    return found
