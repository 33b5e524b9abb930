"""Finds the credentials in URLs and other connection strings, of which many are not well-formed.

A password may contain an unquoted @, /, ? or #, as SQLAlchemy and people write them, and a path or a query
may contain an @ without any credentials before it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_plus

from dltobs._redaction.lazy import lazy

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET_FIELD = lazy(
    r"(?:password|passwd|passphrase|passcode|(?:^|_)(?:pwd|pass|pin)|secret|api_?key|secret_?key|access_?key"
    r"|account_?key|shared_?key|signing_?key|encryption_?key|private_?key|connection_string|jwt|(?:^|_)(?<!page_)(?<!next_)(?<!count_)token|sas_?token|sentry_dsn)$",
    re.IGNORECASE,
)
"""Fields that hold a secret even where nobody hinted so."""

_ASSIGNMENT = lazy(
    r"(?i)(?:^|[;\s])(?:password|pwd|accountkey|sharedaccesskey|sharedaccesssignature|client_?secret|\w*token)"
    r"\s*=\s*('[^']*'|\{[^}]*(?:\}\}[^}]*)*\}|[^;\s]+)"
)
_SECRET_PARAMETERS = frozenset({"token", "key", "sig", "auth", "code", "pwd"})
_URL_END = lazy(r"""[\s"'<>`]|\\{1,8}["'nrt]|\Z""")
_HOST_START = lazy(r"[\w\[]")
_AUTHORITY = lazy(r"[^/?#]*")
_SCHEME = lazy(r"[a-z][\w+.\-]*$", re.IGNORECASE)
_HOST = lazy(r"@(?:[\w\-]{1,63}\.\w|[\w.\-]{1,255}:\d|localhost)")
_HOST_AND_PORT = lazy(r"@[\w.\-]{1,255}:\d")
_USER_NAME_SCHEMES = frozenset({"abfs", "abfss", "wasb", "wasbs", "ssh", "sftp", "git+ssh"})
"""Schemes in which what stands before the @ is a container or a login, no secret."""


def user_info(text: str) -> list[tuple[int, int]]:
    """Where in a text the user name and password of its URLs stand, in time linear in its length."""
    spans: list[tuple[int, int]] = []
    url_end = last_at = 0
    mark = text.find("://")
    while mark >= 0:
        start = mark + 3
        if start >= url_end:
            end = _URL_END.search(text, start)
            url_end = end.start() if end else len(text)
            last_at = text.rfind("@", start, url_end)
            while last_at >= 0 and not _HOST_START.match(text, last_at + 1):
                last_at = text.rfind("@", start, last_at)
        at = _user_info_end(text, mark, url_end, last_at)
        if at > start:
            spans.append((start, at))
        mark = text.find("://", max(at, start))
    return spans


def _user_info_end(text: str, mark: int, url_end: int, last_at: int) -> int:
    start = mark + 3
    if last_at < start:
        return -1
    authority = _AUTHORITY.match(text, start, url_end)
    authority_end = authority.end() if authority else start
    at = text.rfind("@", start, authority_end)
    _, colon, password = text[start : max(at, start) if at >= 0 else authority_end].partition(":")
    if at < 0:
        # `user:pa/ss@host`: what follows the colon is no port, nor is this an IPv6 address
        return last_at if colon and password and not password.isdigit() and text[start] != "[" else -1
    if not colon:
        scheme = _SCHEME.search(text[max(0, mark - 20) : mark])
        return -1 if scheme and scheme[0].lower() in _USER_NAME_SCHEMES else at
    host = _HOST_AND_PORT if "?" in text[at:last_at] else _HOST
    return last_at if last_at > at and host.match(text, last_at) else at


def credentials_in(text: str) -> Iterator[str]:
    """The passwords and tokens in a connection string: user info, query, `Password=…;`; quoted and not."""
    for start, end in user_info(text):
        user, colon, password = text[start:end].partition(":")
        if colon or text[:start].lower().endswith(("http://", "https://")):
            yield from _quoted_and_not(password if colon else user)
    # the query of a URL, or what stands alone but looks like one: a shared access signature
    query = text.partition("?")[2].partition("#")[0] if "?" in text else text
    for part in query.split("&"):
        key, _, value = part.partition("=")
        if SECRET_FIELD.search(key) or key.lower() in _SECRET_PARAMETERS:
            yield from _quoted_and_not(value)
    for match in _ASSIGNMENT.finditer(text):
        yield match[1]
        yield match[1].strip("'{}").replace("}}", "}")


def _quoted_and_not(text: str) -> tuple[str, ...]:
    return text, unquote(text), unquote_plus(text)
