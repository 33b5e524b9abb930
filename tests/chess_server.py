"""Chess.com's public API on loopback: profiles, lists of monthly archives, games; rate limits and outages.

The shapes are those of https://www.chess.com/news/view/published-data-api.
"""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

MONTHS = ("2022/10", "2022/11", "2022/12", "2023/01")


class ChessServer:
    """`failures` are statuses for the next requests of a path, in order; a 429 asks to wait for a second."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.failures: dict[str, list[int]] = {}
        chess = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                chess.paths.append(self.path)
                waiting = chess.failures.get(self.path, [])
                status, body = (waiting.pop(0), {}) if waiting else chess.answer(self.path)
                content = json.dumps(body).encode()
                self.send_response(status)
                if status == 429:
                    self.send_header("Retry-After", "1")
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/pub/"

    def answer(self, path: str) -> tuple[int, dict[str, Any]]:
        parts = path.removeprefix("/pub/player/").split("/")
        player = parts[0]
        if len(parts) == 1:
            return 200, {
                "player_id": sum(player.encode()),
                "@id": f"{self.url}player/{player}",
                "url": f"https://www.chess.com/member/{player}",
                "username": player,
                "title": "GM",
                "followers": 1000,
                "country": f"{self.url}country/NO",
                "last_online": 1_668_000_000,
                "joined": 1_289_000_000,
                "status": "premium",
                "is_streamer": False,
            }
        if parts[1:] == ["games", "archives"]:
            return 200, {"archives": [f"{self.url}player/{player}/games/{month}" for month in MONTHS]}
        month = "/".join(parts[2:])
        if month not in MONTHS:
            return 404, {"message": "not found", "code": 0}
        return 200, {"games": [self._game(player, month, number) for number in range(3)]}

    def _game(self, player: str, month: str, number: int) -> dict[str, Any]:
        identity = f"{player}-{month.replace('/', '')}-{number}"
        sides = {
            colour: {
                "rating": 2850 + number,
                "result": result,
                "@id": f"{self.url}player/{name}",
                "username": name,
                "uuid": f"{identity}-{colour}",
            }
            for colour, name, result in (("white", player, "win"), ("black", "hikaru", "resigned"))
        }
        return {
            "url": f"https://www.chess.com/game/live/{identity}",
            "pgn": '[Event "Live Chess"]\n1. e4 e5',
            "time_control": "180+1",
            "end_time": 1_668_000_000 + number,
            "rated": True,
            "accuracies": {"white": 91.5, "black": 88.25},
            "uuid": identity,
            "fen": "rnbqkbnr/pppp1ppp/8/4p3/4P3/8/PPPP1PPP/RNBQKBNR w KQkq - 0 2",
            "time_class": "blitz",
            "rules": "chess",
            **sides,
        }

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
