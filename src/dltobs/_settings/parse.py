"""Makes values of the right type out of what environment variables, TOML files and arguments give.

Each function takes a raw value and returns the right one, or raises `ValueError`, whose text may be
shown: it never contains the value.
"""

from __future__ import annotations

import difflib
import json
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})
_MAX_PORT = 65535
_SIGNAL_PATH = re.compile(r"(/v1/(?:traces|metrics|logs))/?\s*$")


def boolean(value: object) -> bool:
    """`true`, `yes`, `on`, `1` and their opposites, in any case."""
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower() if isinstance(value, (str, int)) else ""
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError


def one_of(*words: str) -> Callable[[object], str]:
    """One of the words, in any case."""

    def choose(value: object) -> str:
        # YAML, TOML and Python users write booleans for on and off
        word = {True: "on", False: "off"}[value] if isinstance(value, bool) else value
        if isinstance(word, str) and word.strip().lower() in words:
            return word.strip().lower()
        raise ValueError

    return choose


def integer(minimum: int, maximum: int | None = None) -> Callable[[object], int]:
    """A whole number of at least `minimum`, and at most `maximum` where there is one."""

    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise ValueError  # noqa: TRY004 - one exception for every wrong value
        try:
            number = int(value)
        except ValueError:
            raise ValueError from None
        if number < minimum or (maximum is not None and number > maximum):
            raise ValueError
        return number

    return parse


def seconds(value: object) -> float:
    """A finite number of seconds, not negative."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError  # noqa: TRY004 - one exception for every wrong value
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise ValueError from None
    if not math.isfinite(number) or number < 0:
        raise ValueError
    return number


def level(value: object) -> int:
    """The number of a log level."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str):
        word = value.strip().upper()
        if word.isdecimal():
            return int(word)
        number = logging.getLevelName(word)
        if isinstance(number, int):
            return number
    raise ValueError


def text(value: object) -> str:
    """A text with something in it."""
    if isinstance(value, (str, int, float)) and not isinstance(value, bool) and str(value).strip():
        return str(value).strip()
    raise ValueError


def path(value: object) -> Path:
    """A path; `~` is the home folder."""
    if isinstance(value, (str, os.PathLike)) and str(value).strip() and "\0" not in str(value):
        try:
            return Path(os.fspath(value)).expanduser()
        except RuntimeError:
            message = "no home folder is known"
            raise ValueError(message) from None
    raise ValueError


def names(value: object) -> tuple[str, ...]:
    """Texts: a sequence, a JSON list, or one text with commas."""
    value = _from_json(value, list)
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, Sequence) and all(isinstance(item, str) for item in value):
        return tuple(item.strip() for item in value if item.strip())
    raise ValueError


def words(*known: str) -> Callable[[object], tuple[str, ...]]:
    """Some of the words, in any case, each once: as `names()` takes them."""

    def choose(value: object) -> tuple[str, ...]:
        chosen = tuple(dict.fromkeys(name.lower() for name in names(value)))
        for number, word in enumerate(chosen, 1):
            if word not in known:
                message = f"word {number} is none of them{_perhaps(word, known)}"
                raise ValueError(message)
        return chosen

    return choose


def pairs(value: object) -> dict[str, str]:
    """Names with texts: a mapping, a JSON object, or `name=value` pairs with commas."""
    value = _from_json(value, dict)
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) and name.strip() for name in value):
            raise ValueError
        return {name.strip(): str(item) for name, item in value.items()}
    if not isinstance(value, str):
        raise ValueError  # noqa: TRY004 - one exception for every wrong value
    result: dict[str, str] = {}
    for part in value.split(","):
        if part.strip():
            name, equals, item = part.partition("=")
            if not equals or not name.strip():
                raise ValueError
            result[name.strip()] = item.strip()
    return result


def patterns(value: object) -> tuple[re.Pattern[str], ...]:
    """Regular expressions: a sequence, a JSON list, or one text with commas outside of any bracket."""
    value = _from_json(value, list)
    if isinstance(value, str):
        value = _split_patterns(value)
    if not isinstance(value, Sequence):
        raise ValueError  # noqa: TRY004 - one exception for every wrong value
    compiled = []
    for number, item in enumerate(value, 1):
        if not isinstance(item, (str, re.Pattern)):
            raise ValueError  # noqa: TRY004 - as above
        try:
            pattern = re.compile(item)
        except re.error as error:
            message = f"expression {number}: {error.msg} at position {error.pos}"
            raise ValueError(message) from None
        if not isinstance(pattern.pattern, str):
            raise ValueError  # noqa: TRY004 - as above
        if pattern.match("") is not None:
            message = f"expression {number} matches the empty text"
            raise ValueError(message)
        compiled.append(pattern)
    return tuple(compiled)


def _from_json(value: object, kind: type[list[Any] | dict[str, Any]]) -> object:
    """What a text holds as JSON, if it is of that kind: the way in which dlt reads lists from variables."""
    if not isinstance(value, str):
        return value
    try:
        document = json.loads(value)
    except ValueError:
        return value
    return document if isinstance(document, kind) else value


def _split_patterns(value: str) -> list[str]:
    parts, depth, escaped = [""], 0, False
    for character in value:
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "," and depth <= 0:
            parts.append("")
            continue
        parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def http_url(value: object) -> str:
    """An `http` or `https` URL with a host."""
    if not isinstance(value, str):
        raise ValueError  # noqa: TRY004 - one exception for every wrong value
    url = value.strip()
    _check_url(url)
    return url


def url_template(*names: str) -> Callable[[object], str]:
    """An `http` or `https` URL in which some of the names stand in braces."""

    def parse(value: object) -> str:
        url = http_url(value)
        try:
            fields = [(name, spec, change) for _, name, spec, change in Formatter().parse(url)]
        except ValueError:
            message = "a brace without its other one"
            raise ValueError(message) from None
        for name, spec, change in fields:
            if name is not None and (name not in names or spec or change):
                message = f"an unknown name in braces{_perhaps(name, names)}"
                raise ValueError(message)
        return url

    return parse


def _perhaps(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f", perhaps {close[0]}" if close else ""


def endpoint(protocol: str, *, is_base: bool = True) -> Callable[[object], str]:
    """The address of a collector: a URL; gRPC has `host:port` as well. A base URL is not that of a signal."""

    def parse(value: object) -> str:
        path = _SIGNAL_PATH.search(value) if is_base and isinstance(value, str) else None
        if path is not None:
            message = f"the base URL is wanted, without {path[1]}, which is added to it"
            raise ValueError(message)
        if protocol == "grpc" and isinstance(value, str) and "://" not in value and ":" in value:
            _check_url(f"http://{value.strip()}")
            return value.strip()
        return http_url(value)

    return parse


def sentry_dsn(value: object) -> str:
    """A Sentry DSN: `https://PUBLIC_KEY@HOST/PROJECT_ID`."""
    if not isinstance(value, str):
        raise ValueError  # noqa: TRY004 - one exception for every wrong value
    dsn = value.strip()
    _check_url(dsn)
    parts = urlsplit(dsn)
    if not parts.username:
        message = "no public key before the @"
        raise ValueError(message)
    if not parts.path.rpartition("/")[2].isdigit():
        message = "no project id at the end"
        raise ValueError(message)
    return dsn


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        message = "malformed host or port"
        raise ValueError(message) from None
    if parts.scheme not in {"http", "https"}:
        message = "no http:// or https:// at the beginning"
        raise ValueError(message)
    if not host or any(character.isspace() for character in url):
        message = "no host" if not host else "a space in it"
        raise ValueError(message)
    if port is not None and not 0 < port <= _MAX_PORT:
        message = "malformed host or port"
        raise ValueError(message)
