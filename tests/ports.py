"""Ports of loopback on which nobody listens."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def held_port(*, for_a_server: bool = False) -> Iterator[int]:
    """A port that refuses connections, and is given to nobody else, for as long as the block lasts.

    Args:
        for_a_server: One that asks for this very port, and reuses addresses, may have it meanwhile.
    """
    with socket.socket() as holder:
        if for_a_server:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
