"""One request to an incoming webhook, and what its answer means.

requests rather than urllib3: it follows the proxies and certificate bundles that the environment names.
The address is a secret that requests and urllib3 write into their exceptions and debug lines.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import requests
import urllib3

from dltobs._platform import register_at_fork
from dltobs._version import __version__
from dltobs.sinks.reasons import reason_of
from dltobs.sinks.untraced import untraced

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_OK = range(200, 300)
_BAD_REQUEST = 400
_PASSING = frozenset({408, 425, 429, *range(500, 600)})
"""Status codes that may be others in a moment."""
_MAX_ANSWER = 1024
"""Bytes that are read of an answer."""
_LONGEST_WAIT = 60
"""Seconds; what a `Retry-After` beyond it is cut to."""
_WORDS = re.compile(r"[A-Za-z][\w .:,'-]{0,79}")
"""What Slack says: `invalid_token`; a proxy may answer a page."""


class Answer(NamedTuple):
    """What became of a request.

    `problem` is None where Slack took the message. `is_passing`: it may take it in a moment, or in
    `wait` seconds where it said so. `is_refusal`: it does not understand the message as it stands.
    `status` is that of HTTP, None where no answer came.
    """

    problem: str | None = None
    is_passing: bool = False
    is_refusal: bool = False
    wait: float | None = None
    status: int | None = None


class Webhook:
    """The address to post to. Used by one thread at a time.

    Args:
        url: Of the webhook.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._session = requests.Session()
        self._session.headers["user-agent"] = f"dltobs/{__version__}"
        # else requests looks for a login in ~/.netrc
        self._session.auth = _as_it_is

    def post(self, payload: Mapping[str, Any], timeout: float) -> Answer:
        """Post once, without following redirects. Raises nothing.

        Args:
            payload: The message.
            timeout: Seconds to wait for a connection, and for each part of the answer.
        """
        with _silence():
            try:
                response = self._session.post(
                    self._url, json=payload, timeout=timeout, allow_redirects=False, stream=True
                )
                with response:
                    return _meaning(response)
            except requests.RequestException as error:
                return Answer(reason_of(error), is_passing=_is_passing(error))
            except Exception as error:  # noqa: BLE001 - of layers below, which have said worse than rubbish
                return Answer(reason_of(error))

    def close(self) -> None:
        """Close what is connected."""
        self._session.close()


def _meaning(response: requests.Response) -> Answer:
    status, said = response.status_code, _body(response)
    if status in _OK:
        return Answer(_objection(said))
    words = said if _WORDS.fullmatch(said) else ""
    problem = " ".join(filter(None, (f"HTTP {status}", words or _words(response.reason))))
    return Answer(
        problem,
        is_passing=status in _PASSING,
        is_refusal=status == _BAD_REQUEST,
        wait=_retry_after(response.headers.get("retry-after")),
        status=status,
    )


def _objection(said: str) -> str | None:
    """Why an answer with a good status is none: Slack says `ok`, and others who take its messages too."""
    if said.startswith("<"):
        return "the answer is a web page"  # of a portal or proxy between us and Slack
    if not all(character.isprintable() or character.isspace() for character in said):
        return "the answer is no text"
    try:
        document = json.loads(said)
    except ValueError:
        return None
    if not isinstance(document, dict) or not any(document.get(name) is False for name in ("ok", "success")):
        return None
    words = document.get("error")
    known = words if isinstance(words, str) and _WORDS.fullmatch(words) else "no reason"
    return f"the answer is no ({known})"


def _body(response: requests.Response) -> str:
    try:
        return str(response.raw.read(_MAX_ANSWER, decode_content=True), "utf-8", "replace").strip()
    except Exception:  # noqa: BLE001 - the status has said what matters
        return ""


def _words(reason: Any) -> str:
    return reason if isinstance(reason, str) and _WORDS.fullmatch(reason) else ""


def _retry_after(header: str | None) -> float | None:
    """Seconds, from a number of them or a date; None where there is neither."""
    if header is None:
        return None
    try:
        return min(float(urllib3.Retry().parse_retry_after(header)), _LONGEST_WAIT)
    except (urllib3.exceptions.HTTPError, ValueError, OverflowError):
        return None


def _is_passing(error: requests.RequestException) -> bool:
    if isinstance(error, requests.exceptions.SSLError):
        return False
    # what follows the connection: rubbish in the place of an answer, or its end too early
    return isinstance(
        error,
        (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
            requests.exceptions.ContentDecodingError,
        ),
    )


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


_current = threading.local()


class _Mute(logging.Filter):
    """Drops what is logged in a thread that posts: urllib3's debug lines contain the address."""

    def filter(self, _record: logging.LogRecord) -> bool:
        return not getattr(_current, "is_posting", False)


_FILTER = _Mute()
_LOGGERS = ("urllib3.connectionpool", "urllib3.util.retry", "requests")
_lock = threading.Lock()
_posting = 0


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Neither log lines nor spans of the request, in this thread."""
    _count_posting(1)
    _current.is_posting = True
    try:
        with untraced():
            yield
    finally:
        _current.is_posting = False
        _count_posting(-1)


def _count_posting(change: int) -> None:
    """Keep the filter on the loggers as long as any thread posts."""
    global _posting  # noqa: PLW0603 - loggers are of the process
    with _lock:
        _posting += change
        for name in _LOGGERS:
            if _posting:
                logging.getLogger(name).addFilter(_FILTER)
            else:
                logging.getLogger(name).removeFilter(_FILTER)


def _forget() -> None:
    """In a forked child: the threads that posted, and may have held the lock, are the parent's."""
    global _lock, _posting
    _lock, _posting = threading.Lock(), 0


register_at_fork(after_in_child=_forget)
