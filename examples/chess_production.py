"""Chess games month by month, as in dlt's "Running in production", with all around it done by settings.

What that page writes by hand (load info, trace and new tables saved, Slack messages, Sentry, a log file, JSON
lines) is the one call of `configure()` below, and what the environment adds: `SENTRY_DSN`,
`RUNTIME__SLACK_INCOMING_HOOK`, `OTEL_EXPORTER_OTLP_ENDPOINT`, `RUNTIME__LOG_FORMAT=JSON`.

    python examples/chess_production.py --players magnuscarlsen rpragchess
"""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

import dltobs

# what the page sets for dlt itself: little data left behind, and what dlt is doing in the log
os.environ.setdefault("LOAD__DELETE_COMPLETED_JOBS", "true")
os.environ.setdefault("LOAD__TRUNCATE_STAGING_DATASET", "true")
os.environ.setdefault("RUNTIME__LOG_LEVEL", "INFO")

dltobs.configure(
    ledger=True,  # each run with its steps, tables, jobs and new columns, in the dataset games_data_dltobs
    log_file="logs/chess.jsonl",
    slack_on="failure,lost,success,schema_change",
)

import dlt  # noqa: E402 - configure() comes first
from dlt.common.exceptions import TerminalException  # noqa: E402
from dlt.extract.exceptions import DltSourceException  # noqa: E402
from dlt.pipeline.helpers import retry_load  # noqa: E402
from dlt.sources.helpers import requests  # noqa: E402
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dlt.common.pipeline import LoadInfo
    from dlt.extract import DltResource

API = os.environ.get("CHESS_API_URL", "https://api.chess.com/pub/")
PAUSE = float(os.environ.get("CHESS_RETRY_SECONDS", "4"))
PLAYERS = ["magnuscarlsen", "vincentkeymer", "dommarajugukesh", "rpragchess"]
NOT_FOUND = 404


class UnknownPlayerError(DltSourceException, TerminalException):
    """Another try will not help. `retry_load` sees that, as dlt does not wrap the exceptions of sources."""


@dlt.source(name="chess")
def chess_source(players: Sequence[str], start_month: str, end_month: str) -> Iterator[DltResource]:
    """Profiles and games of players.

    Args:
        players: Their user names.
        start_month: The first month, `YYYY/MM`.
        end_month: The last one.
    """

    @dlt.resource(write_disposition="replace", primary_key="player_id")
    def players_profiles() -> Iterator[Any]:
        for player in players:
            yield get_of_player(player)

    @dlt.resource(write_disposition="merge", primary_key="url")
    def players_games() -> Iterator[Any]:
        for player in players:
            for archive in get_of_player(player, "/games/archives")["archives"]:
                if start_month <= archive[-7:] <= end_month:
                    month = get(f"player/{player}/games/{archive[-7:]}")
                    if month is not None:  # one in the list of archives may be gone
                        yield month["games"]

    yield players_profiles
    yield players_games


def get_of_player(player: str, path: str = "") -> Any:
    """What the API has of a player."""
    found = get(f"player/{player}{path}")
    if found is None:
        message = f"Chess.com knows no player {player}"
        raise UnknownPlayerError(message)
    return found


def get(path: str) -> Any:
    """One answer of the API, None for a 404. dlt's client waits as a 429 asks for, and tries 5xx again."""
    try:
        return requests.get(f"{API}{path}", headers={"User-Agent": "dltobs example"}, timeout=30).json()
    except requests.HTTPError as error:
        if error.response is None or error.response.status_code != NOT_FOUND:
            raise
        return None


def load(players: Sequence[str], start_month: str, end_month: str) -> LoadInfo:
    """Run the pipeline, up to five times."""
    pipeline = dlt.pipeline("chess_pipeline", destination="duckdb", dataset_name="games_data")
    for attempt in Retrying(
        stop=stop_after_attempt(5),
        wait=wait_exponential(multiplier=1.5, min=PAUSE, max=2.5 * PAUSE),
        retry=retry_if_exception(retry_load(("extract", "load"))),
        reraise=True,
        **dltobs.tenacity_callbacks(),
    ):
        with attempt:
            return pipeline.run(chess_source(players, start_month, end_month))
    raise AssertionError  # never: Retrying raises


def main() -> None:
    """Load what the command line asks for."""
    parser = argparse.ArgumentParser(description="Load games from Chess.com into DuckDB.")
    parser.add_argument("--players", nargs="+", default=PLAYERS)
    parser.add_argument("--start-month", default="2022/11", help="YYYY/MM")
    parser.add_argument("--end-month", default="2022/12", help="YYYY/MM")
    arguments = parser.parse_args()
    print(load(arguments.players, arguments.start_month, arguments.end_month))


if __name__ == "__main__":
    main()
