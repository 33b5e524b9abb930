"""`examples/prefect_slack.py`, served by a real Prefect, against a server that answers as Slack's Web API does."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import duckdb
import pytest

pytest.importorskip("prefect", reason="Prefect is not installed here: make test-prefect")

from prefect_server import end, wait_for

EXAMPLE = Path(__file__).parents[1] / "examples" / "prefect_slack.py"
TOKEN = "xoxb-pl4nted-2468-token"  # no real one
CHANNELS = [{"id": "C1", "name": "general"}, {"id": "C2", "name": "random"}]
MESSAGES = {
    "C1": [
        {"type": "message", "ts": f"17953000{number:02}.0001", "text": f"hello {number}"}
        for number in range(5)
    ],
    "C2": [{"type": "message", "ts": "1795300900.0001", "text": "lunch?"}],
}
USERS = [
    {"id": f"W{number}", "name": f"user{number}", "profile": {"email": "a@b.example"}} for number in range(3)
]


class SlackApi:
    """Pages of two, one 429 with Retry-After, and one page that fails once; `users_status` is for good."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, str]]] = []
        self.tokens: set[str] = set()
        self.was_limited = self.has_failed = False
        self.users_status = 200
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                params = {name: values[0] for name, values in parse_qs(url.query).items()}
                api.tokens.add(self.headers.get("authorization", ""))
                status, headers, body = api.answer(url.path.rpartition("/")[2], params)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *args) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/api/"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, method, params):
        self.calls.append((method, params))
        if method == "users.list" and self.users_status != 200:
            return self.users_status, {"Retry-After": "1"}, {"ok": False, "error": "no_users_today"}
        key, items = {
            "conversations.list": ("channels", CHANNELS),
            "users.list": ("members", USERS),
            "conversations.history": ("messages", MESSAGES.get(params.get("channel", ""), [])),
        }[method]
        if method == "users.list" and "cursor" in params and not self.was_limited:
            self.was_limited = True
            return 429, {"Retry-After": "1"}, {"ok": False, "error": "ratelimited"}
        start = int(params.get("cursor", "0"))
        if params.get("channel") == "C1" and start == 2 and not self.has_failed:
            self.has_failed = True
            return 200, {}, {"ok": False, "error": f"internal_error token={TOKEN}"}
        following = str(start + 2) if start + 2 < len(items) else ""
        return (
            200,
            {},
            {"ok": True, key: items[start : start + 2], "response_metadata": {"next_cursor": following}},
        )

    def close(self) -> None:
        self._server.shutdown()


@pytest.fixture
def slack_api():
    api = SlackApi()
    yield api
    api.close()


def environment_of(folder, slack_api, server):
    """What the example needs, with the data in `folder`."""
    return {
        **server.environment,
        "SOURCES__SLACK__ACCESS_TOKEN": TOKEN,
        "SOURCES__SLACK__BASE_URL": slack_api.url,
        "RUNTIME__DLTHUB_TELEMETRY": "false",
        "DLT_DATA_DIR": str(folder / "dlt"),
        "DESTINATION__DUCKDB__CREDENTIALS": str(folder / "slack.duckdb"),
    }


def counts_in(folder, *tables):
    with duckdb.connect(str(folder / "slack.duckdb"), read_only=True) as database:
        return [database.execute(f"SELECT count(*) FROM slack_data.{name}").fetchone()[0] for name in tables]


@pytest.mark.timeout(300)
def test_the_served_flow_is_told_whole(tmp_path, otlp, slack_api, server):
    """A flow run of the deployment, asked for through the API: state, tables, logs, artifacts, spans, no token."""
    environment = environment_of(tmp_path, slack_api, server) | {
        "RUNTIME__LOG_LEVEL": "INFO",
        "DLTOBS__OTLP_ENDPOINT": otlp.url,
        "DLTOBS__LOG_FILE": str(tmp_path / "dlt.jsonl"),
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
    }
    with (tmp_path / "serve.log").open("wb") as log:
        serving = subprocess.Popen(
            [sys.executable, str(EXAMPLE)],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            (deployment,) = wait_for(lambda: server.post("deployments/filter"), 90)
            assert deployment["schedules"][0]["schedule"]["cron"] == "0 0 * * *"
            run_id = server.post(
                f"deployments/{deployment['id']}/create_flow_run", parameters={"start_date": "2026-01-01"}
            )["id"]

            def ended():
                (run,) = [one for one in server.flow_runs("slack-pipeline") if one["id"] == run_id]
                return run if run["state_type"] in {"COMPLETED", "FAILED", "CRASHED"} else None

            run = wait_for(ended, 80)
            assert run["state_type"] == "COMPLETED", (tmp_path / "serve.log").read_text()
            wait_for(lambda: len(server.artifacts(run_id)) == 5)
            wait_for(lambda: any(span.name == run["name"] for span in otlp.spans))
        finally:
            end(serving)

    # what was loaded
    assert counts_in(tmp_path, "channels", "messages_general", "messages_random", "users") == [2, 5, 1, 3]
    assert slack_api.was_limited
    assert slack_api.has_failed
    assert slack_api.tokens == {f"Bearer {TOKEN}"}

    # the log, under its task, with its level
    tasks = wait_for(lambda: found if len(found := server.task_runs(run_id)) >= 5 else None)

    def of_dlt():
        found = [line for line in server.logs(run_id) if line["name"] in {"dlt", "dltobs"}]
        ends = [line for line in found if line["message"].startswith("Run of slack f")]
        return (found, ends) if len(ends) >= 5 else None

    lines, ends = wait_for(of_dlt)
    assert all(line["task_run_id"] in tasks for line in lines)
    assert [line["level"] for line in ends] == [20, 40, 20, 20, 20]  # a task that Prefect tried again
    assert [tasks[line["task_run_id"]]["name"].partition("-")[2] for line in ends[1:4]] == [
        "of-general",
        "of-general",
        "of-random",
    ]

    # one artifact a run, the failed one included
    artifacts = server.artifacts(run_id)
    assert {(one["key"], one["type"]) for one in artifacts} == {("dlt-slack", "markdown")}
    outcomes = sorted(one["data"].splitlines()[0] for one in artifacts)
    assert outcomes == ["# slack: failed", *["# slack: ok"] * 4]
    (failed,) = [one for one in artifacts if "failed" in one["data"].splitlines()[0]]
    assert "internal_error token=***" in failed["data"]
    assert tasks[failed["task_run_id"]]["name"] == "history-of-general"

    # one trace, with names
    spans = {span.span_id: span for span in otlp.spans}
    assert len({span.trace_id for span in spans.values()}) == 1
    runs = [span for span in spans.values() if span.name == "run slack"]
    assert len(runs) == 5
    for span in runs:
        attributes = {one.key: one.value.string_value for one in span.attributes}
        assert attributes["prefect.flow.name"] == "slack-pipeline"
        assert attributes["prefect.flow-run.id"] == run_id
        assert attributes["prefect.deployment.name"] == "slack_pipeline"
        task = spans[span.parent_span_id]
        assert task.name == attributes["prefect.task-run.name"]
        assert spans[task.parent_span_id].name == run["name"]
    records = [json.loads(line) for line in (tmp_path / "dlt.jsonl").read_text().splitlines()]
    in_runs = [one for one in records if "pipeline" in one]
    assert {one["prefect.deployment.name"] for one in in_runs} == {"slack_pipeline"}

    # the token is nowhere in what dltobs has sent
    told = json.dumps([lines, artifacts]).encode() + otlp.raw + (tmp_path / "dlt.jsonl").read_bytes()
    assert b"pl4nted" not in told


@pytest.mark.timeout(300)
@pytest.mark.parametrize("status", [500, 429])
def test_a_page_that_fails_for_good_fails_the_flow_and_leaves_the_table(tmp_path, slack_api, server, status):
    """Once dlt's and Prefect's tries are used up, as what is replaced would be empty otherwise."""

    def once():
        variables = {"RUNTIME__REQUEST_MAX_ATTEMPTS": "2"}
        return subprocess.run(
            [sys.executable, str(EXAMPLE), "--once"],
            cwd=tmp_path,
            env=environment_of(tmp_path, slack_api, server) | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    before = {one["id"] for one in server.flow_runs("slack-pipeline")}
    done = once()
    assert done.returncode == 0, done.stderr
    slack_api.users_status = status
    slack_api.calls.clear()
    done = once()
    assert done.returncode == 1
    assert f"{status} " in done.stderr.splitlines()[-1]
    assert [method for method, _ in slack_api.calls].count("users.list") == 3 * 2
    runs = [one for one in server.flow_runs("slack-pipeline") if one["id"] not in before]
    assert sorted(run["state_type"] for run in runs) == ["COMPLETED", "FAILED"]
    assert counts_in(tmp_path, "users") == [3]
