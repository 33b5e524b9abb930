"""The sink in docs/sinks.md does what its text says, against a server that stands for Teams."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from scripts import run_script
from servers import Server

DOCUMENT = Path(__file__).parents[1] / "docs" / "sinks.md"
RUNS = """
pipeline("fine").run([{"id": 1}], table_name="orders")
try:
    pipeline().run(broken())
except Exception:
    pass
"""


@pytest.fixture
def teams():
    server = Server()
    yield server
    server.close()


def script():
    (example,) = re.findall(r"```python\n(import os.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    return example + RUNS


def test_the_teams_sink_posts_the_failed_run_and_no_other(teams, tmp_path):
    """As an Adaptive Card, delivered before the process ends."""
    done = run_script(script(), tmp_path, TEAMS_WEBHOOK_URL=teams.url)
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert "[ERROR]" in line
    assert "Run of shop failed in extract (resource broken)" in line
    (request,) = teams.requests
    (attachment,) = json.loads(request.body)["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    (text,) = [inline["text"] for block in attachment["content"]["body"] for inline in block["inlines"]]
    assert text.startswith("shop: failed after ")
    assert text.endswith("0 rows. ValueError: no such order")


def test_a_teams_that_hangs_holds_the_process_up_for_the_deadline_only(teams, tmp_path):
    teams.delay = 30
    started = time.monotonic()
    done = run_script(script(), tmp_path, TEAMS_WEBHOOK_URL=teams.url, DLTOBS__FLUSH_TIMEOUT="1")
    assert done.returncode == 0
    assert len(teams.requests) == 1
    assert time.monotonic() - started < 20


def test_nothing_is_sent_where_no_url_is_configured(teams, tmp_path):
    done = run_script(script(), tmp_path)
    assert done.returncode == 0, done.stderr
    assert teams.requests == []
