"""A back end on loopback, in a process of its own, so that its CPU time is nobody's: it takes every POST.

Run as a script it prints its port and serves until its standard input is closed.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Taker(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept, as those of a collector are

    def do_POST(self) -> None:
        if self.headers.get("transfer-encoding") == "chunked":
            while (size := int(self.rfile.readline(), 16)) > 0:
                self.rfile.read(size + 2)
            self.rfile.readline()
        else:
            self.rfile.read(int(self.headers.get("content-length", 0)))
        # an empty body is an OTLP answer in protobuf: nothing was rejected
        body = b"" if self.path.startswith("/v1/") else b"{}"
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf" if not body else "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def back_end() -> Iterator[int]:
    """The port of a collector and Sentry that take everything."""
    process = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(10)


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Taker)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
