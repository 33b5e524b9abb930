"""A real Bugsink, which takes what Sentry takes, on loopback: started from where it is installed, read by its API."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

_VARIABLE = "DLTOBS_BUGSINK_VENV"
_START_TIMEOUT = 60
_SETTINGS = """
import os
from bugsink.settings.default import *

SECRET_KEY = "a-key-for-a-test-on-loopback-that-is-forgotten-with-the-test-itself"
DATABASES["default"]["NAME"] = "{folder}/db.sqlite3"
DATABASES["snappea"]["NAME"] = "{folder}/snappea.sqlite3"
SNAPPEA = {{"TASK_ALWAYS_EAGER": True}}
EMAIL_BACKEND = "django.core.mail.backends.dummy.EmailBackend"
BUGSINK = {{
    "BASE_URL": "http://127.0.0.1:{port}",
    "PHONEHOME": False,
    "SINGLE_USER": True,
    "SINGLE_TEAM": True,
    "INGEST_STORE_BASE_DIR": "{folder}/ingestion",
}}
"""
_CONTENT = """
import json
from bsmain.models import AuthToken
from projects.models import Project
from teams.models import Team

team = Team.objects.create(name="data")
projects = [Project.objects.create(name=f"p{number}", slug=f"p{number}", team=team) for number in range(%d)]
create = getattr(AuthToken, "create_full_access", AuthToken.objects.create)
found = {"token": create().token, "projects": [[one.id, one.sentry_key.hex] for one in projects]}
print("CONTENT " + json.dumps(found))
"""


def environment_of_bugsink() -> Path | None:
    """The virtual environment in which Bugsink is installed; None if there is none."""
    given = os.environ.get(_VARIABLE)
    folder = Path(given) if given else Path(__file__).parent.parent / ".venv-bugsink"
    return folder if (folder / "bin" / "bugsink-manage").exists() else None


class Bugsink:
    """The server, with projects of which each test takes one."""

    PROJECTS = 8

    def __init__(self, environment: Path, folder: Path) -> None:
        self._bin = environment / "bin"
        self.folder = folder
        # the server inherits it, so that nobody else gets the port before it listens there
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        self._port = listener.getsockname()[1]
        (folder / "bugsink_conf.py").write_text(_SETTINGS.format(folder=folder, port=self._port))
        self._variables = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ},
            "DJANGO_SETTINGS_MODULE": "bugsink_conf",
            "PYTHONPATH": str(folder),
        }
        self._manage("migrate", "--verbosity", "0")
        self._manage("migrate", "--verbosity", "0", "--database", "snappea", "snappea")
        output = self._manage("shell", "-c", _CONTENT % self.PROJECTS)
        content = json.loads(output.partition("CONTENT ")[2])
        self._token = content["token"]
        self._projects = iter(content["projects"])
        self._log = (folder / "gunicorn.log").open("wb")
        command = [self._bin / "gunicorn", "--bind", f"fd://{listener.fileno()}", "--threads", "2"]
        with listener:
            self._process = subprocess.Popen(
                [*command, "bugsink.wsgi"],
                cwd=folder,
                env=self._variables,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                pass_fds=[listener.fileno()],
            )
        self._wait_until_ready()

    def _manage(self, *arguments: str) -> str:
        done = subprocess.run(
            [self._bin / "bugsink-manage", *arguments],
            cwd=self.folder,
            env=self._variables,
            capture_output=True,
            text=True,
            timeout=_START_TIMEOUT,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health/ready", timeout=5):
                    return
            except (urllib.error.URLError, ConnectionError):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.close()
                    raise RuntimeError((self.folder / "gunicorn.log").read_text()) from None
                time.sleep(0.1)

    def project(self) -> Project:
        """A project that nobody has used."""
        number, key = next(self._projects)
        return Project(self, number, f"http://{key}@127.0.0.1:{self._port}/{number}")

    def get(self, path: str) -> Any:
        """What the API answers."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/api/canonical/0/{path}",
            headers={"Authorization": f"Bearer {self._token}"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    @property
    def stored(self) -> bytes:
        """Every byte that it has written: databases with their journals, files, log."""
        return b"\n".join(path.read_bytes() for path in self.folder.rglob("*") if path.is_file())

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


class Project(NamedTuple):
    """A project of a Bugsink."""

    server: Bugsink
    number: int
    dsn: str

    @property
    def issues(self) -> list[dict[str, Any]]:
        """The issues, oldest first."""
        return self.server.get(f"issues/?project={self.number}")["results"]

    def events(self, issue: dict[str, Any]) -> list[dict[str, Any]]:
        """The events of an issue as they are stored, oldest first."""
        listed = self.server.get(f"events/?issue={issue['id']}&order=asc")["results"]
        return [self.server.get(f"events/{one['id']}/")["data"] for one in listed]
