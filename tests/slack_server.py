"""A Slack on loopback: an incoming webhook that answers as it is told to, and keeps what it gets."""

from __future__ import annotations

import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any, NamedTuple

HOOK_PATH = "/services/T0PL4NTED/B0PL4NTED/pl4ntedW3bh00kT0ken00000"

LIMITS = {"header": 150, "section": 3000, "field": 2000, "context": 3000, "text": 4000}
"""Characters, of https://docs.slack.dev/reference/block-kit/blocks."""


class Reply(NamedTuple):
    """How to answer one request. `delay` is in seconds; `raw` stands in the place of an HTTP answer."""

    status: int = 200
    body: str = "ok"
    headers: tuple[tuple[str, str], ...] = ()
    delay: float = 0.0
    raw: bytes | None = None


class SlackServer:
    """An incoming webhook.

    `replies` are answers to the next requests, in order; when they are used up, it is `reply`. As Slack does,
    it answers `invalid_blocks` to blocks that break its rules. Clear `gate`, and nobody is answered until it
    is set again.
    """

    def __init__(self, port: int = 0) -> None:
        self.posts: list[Any] = []
        self.bodies: list[bytes] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.replies: list[Reply] = []
        self.reply = Reply()
        self.arrived = Event()
        self.gate = Event()
        self.gate.set()
        slack = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                slack.take(self.path, dict(self.headers.items()), body)
                reply = slack.answer(body)
                slack.gate.wait(60)
                time.sleep(reply.delay)
                try:
                    if reply.raw is not None:
                        self.wfile.write(reply.raw)
                        self.close_connection = True
                        return
                    content = reply.body.encode()
                    self.send_response(reply.status)
                    for name, value in reply.headers:
                        self.send_header(name, value)
                    self.send_header("content-length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:
                    pass  # the client has given up

            do_GET = do_POST  # noqa: N815 - the name is that of the standard library

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        self.times.append(time.monotonic())
        self.paths.append(path)
        self.headers.append(headers)
        self.bodies.append(body)
        self.posts.append(json.loads(body) if body else None)
        self.arrived.set()

    def answer(self, body: bytes) -> Reply:
        if self.replies:
            return self.replies.pop(0)
        problem = None if self.reply.status != 200 or self.reply.raw else problem_of(json.loads(body or "{}"))
        return self.reply if problem is None else Reply(400, "invalid_blocks")

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def hook(self) -> str:
        """The address of the webhook: a secret."""
        return f"{self.url}{HOOK_PATH}"

    @property
    def raw(self) -> bytes:
        """Every byte of every body."""
        return b"\n".join(self.bodies)

    @property
    def post(self) -> Any:
        """The only message."""
        assert len(self.posts) == 1, [one["text"] for one in self.posts]
        return self.posts[0]

    def close(self) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()


def size(text: str) -> int:
    """UTF-16 code units."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def problem_of(payload: Any) -> str | None:
    """Why Slack would refuse a message; None where it would not."""
    if not 0 < size(payload.get("text", "")) <= LIMITS["text"]:
        return "text"
    blocks = payload.get("blocks", [])
    if len(blocks) > 50:
        return "too many blocks"
    for block in blocks:
        if (problem := _problem_of_block(block)) is not None:
            return problem
    return None


def _problem_of_block(block: Any) -> str | None:
    kind = block["type"]
    if kind == "header":
        texts, limit, is_right = [block["text"]], LIMITS["header"], block["text"]["type"] == "plain_text"
    elif kind == "section" and "fields" in block:
        texts, limit, is_right = block["fields"], LIMITS["field"], 0 < len(block["fields"]) <= 10
    elif kind == "section":
        texts, limit, is_right = [block["text"]], LIMITS["section"], True
    elif kind == "context":
        texts, limit, is_right = block["elements"], LIMITS["context"], 0 < len(block["elements"]) <= 10
    else:
        return f"unknown block {kind}"
    if not is_right:
        return f"malformed {kind}"
    if not all(0 < size(text["text"]) <= limit for text in texts):
        return f"length in {kind}"
    return None


def texts_of(payload: Any) -> list[str]:
    """Every text that Slack would show."""
    found = [payload["text"]]
    for block in payload.get("blocks", []):
        parts = [*block.get("fields", []), *block.get("elements", []), *filter(None, [block.get("text")])]
        found += [part["text"] for part in parts]
    return found
