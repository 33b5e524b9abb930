"""The pipeline of examples/chess_production.py runs by one command, against a Chess.com on loopback."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import duckdb
import pytest

from chess_server import ChessServer
from scripts import run_python

EXAMPLE = Path(__file__).parents[1] / "examples" / "chess_production.py"
PLAYERS = ("magnuscarlsen", "rpragchess")
NOVEMBER = "/pub/player/magnuscarlsen/games/2022/11"


@pytest.fixture
def chess():
    server = ChessServer()
    yield server
    server.close()


def run(
    folder: Path,
    chess: ChessServer,
    *,
    players: tuple[str, ...] = PLAYERS,
    exit_code: int = 0,
    **variables: str,
) -> str:
    environment = {**os.environ, "CHESS_API_URL": chess.url, "CHESS_RETRY_SECONDS": "0.1", **variables}
    done = run_python([str(EXAMPLE), "--players", *players], folder, environment, timeout=100)
    assert done.returncode == exit_code, done.stderr
    return done.stderr


def rows(folder: Path, query: str) -> list[tuple[object, ...]]:
    with duckdb.connect(str(folder / "chess_pipeline.duckdb"), read_only=True) as connection:
        return connection.execute(query).fetchall()


def test_it_loads_the_months_that_were_asked_for(chess, tmp_path):
    """Those of each player, and no others; the ledger and the log file tell of the run."""
    run(tmp_path, chess)
    assert rows(tmp_path, "select count(*), count(distinct url) from games_data.players_games") == [(12, 12)]
    assert rows(tmp_path, "select username from games_data.players_profiles order by 1") == [
        (player,) for player in PLAYERS
    ]
    assert not any(path.endswith(("2022/10", "2023/01")) for path in chess.paths)
    assert rows(tmp_path, "select outcome, rows, attempt from games_data_dltobs.runs") == [("ok", 14, 1)]
    lines = [json.loads(line) for line in (tmp_path / "logs" / "chess.jsonl").read_text().splitlines()]
    assert re.search(
        r"Run of chess_pipeline finished after .* s, attempt 1: 14 rows",
        "\n".join(line["message"] for line in lines),
    )


def test_a_rate_limit_is_waited_for(chess, tmp_path):
    """As long as the API asks for, within the same attempt."""
    chess.failures[NOVEMBER] = [429]
    started = time.monotonic()
    run(tmp_path, chess)
    assert time.monotonic() - started > 1
    assert chess.paths.count(NOVEMBER) == 2
    assert rows(tmp_path, "select outcome, rows, attempt from games_data_dltobs.runs") == [("ok", 14, 1)]


def test_a_month_that_is_gone_is_left_out(chess, tmp_path):
    """The list of archives may name one that answers 404; the others are loaded, at the first attempt."""
    chess.failures[NOVEMBER] = [404] * 100
    run(tmp_path, chess)
    assert rows(tmp_path, "select count(*) from games_data.players_games") == [(9,)]
    assert rows(tmp_path, "select outcome, rows, attempt from games_data_dltobs.runs") == [("ok", 11, 1)]


def test_a_player_who_is_unknown_fails_the_run_at_once(chess, tmp_path, sentry):
    """It says who, and no attempt follows, as none would help."""
    chess.failures["/pub/player/nobody"] = [404] * 100
    stderr = run(tmp_path, chess, players=(*PLAYERS, "nobody"), exit_code=1, SENTRY_DSN=sentry.dsn)
    assert "Chess.com knows no player nobody" in stderr
    assert chess.paths.count("/pub/player/nobody") == 1
    assert rows(tmp_path, "select outcome, error_message from games_data_dltobs.runs") == [
        ("failed", "Chess.com knows no player nobody")
    ]
    (event,) = sentry.events
    assert event["tags"]["dlt.terminal"] == "true"


def test_a_page_that_fails_for_a_while_is_one_story(chess, tmp_path, sentry, slack):
    """The third attempt succeeds: the games are there once, and people hear of it once."""
    chess.failures[NOVEMBER] = [403, 403]
    stderr = run(
        tmp_path, chess, SENTRY_DSN=sentry.dsn, RUNTIME__SLACK_INCOMING_HOOK=f"{slack.url}/services/T/B/X"
    )
    assert rows(tmp_path, "select count(*) from games_data.players_games") == [(12,)]
    assert rows(tmp_path, "select outcome, attempt from games_data_dltobs.runs order by attempt") == [
        ("failed", 1),
        ("failed", 2),
        ("ok", 3),
    ]
    (event,) = sentry.events
    assert (event["level"], event["tags"]["dlt.attempt"], event["tags"]["dlt.outcome"]) == (
        "warning",
        "3",
        "ok",
    )
    texts = [post["text"] for post in slack.posts if "schema" not in post["text"].splitlines()[0].lower()]
    assert [text.splitlines()[0] for text in texts if "first run" not in text] == [
        "🟡 chess_pipeline: ok at attempt 3"
    ]
    assert "Attempt 1 of retry failed" in stderr


def test_a_page_that_fails_for_good_fails_the_run_once(chess, tmp_path, sentry, slack):
    """After five attempts, of which the alert tells."""
    chess.failures[NOVEMBER] = [403] * 100
    run(
        tmp_path,
        chess,
        exit_code=1,
        SENTRY_DSN=sentry.dsn,
        RUNTIME__SLACK_INCOMING_HOOK=f"{slack.url}/services/T/B/X",
    )
    (event,) = sentry.events
    assert (event["level"], event["tags"]["dlt.attempt"]) == ("error", "5")
    (post,) = slack.posts
    assert post["text"].splitlines()[0] == "🔴 chess_pipeline: extract failed after 5 attempts"
    assert rows(tmp_path, "select max(attempt), count(*) from games_data_dltobs.runs") == [(5, 5)]
