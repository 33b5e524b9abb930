"""The forms in which a secret value may appear in a text."""

from __future__ import annotations

import base64
import json
from bisect import bisect_right
from typing import TYPE_CHECKING

from dltobs._redaction.lazy import lazy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIN_LENGTH = 6
"""Shorter values cannot be told from ordinary text; key names and patterns must catch those."""

QUOTED_BYTES = tuple(
    f"%{high}{low}" for high in "01234567" for low in "0123456789ABCDEFabcdef"
) + tuple(f"%{high}" for high in "89ABCDEFabcdef")  # fmt: skip
"""One of these stands in every text that `unquoted()` would change."""

_SURROGATES = lazy("[\ud800-\udfff]")
_STAND_IN = "\ufffd"
_BASE64_BEFORE = lazy(r"[A-Za-z0-9+/_\-]")
_BASE64_AFTER = lazy(r"[A-Za-z0-9+/_\-]?={0,2}")
_QUOTED_RUN = lazy(r"(?:%[0-9A-Fa-f]{2})+")
_MAX_QUOTING = 3
_LATIN_1 = range(0xDC80, 0xDD00)


def plain_forms(secret: str) -> set[str]:
    """The secret as it is, and JSON- or repr-escaped once and twice; each line likewise.

    Escaped a third time, by JSON, are those that stand escaped twice in a message that becomes a JSON
    line.
    """
    forms: set[str] = set()
    for text in _texts(secret):
        forms.add(text)
        if text.isascii() and text.isalnum():
            continue
        if " " in text:
            forms.add(text.replace(" ", "+"))  # as HTML forms write it
        once = set(_escaped(text))
        twice = {form for escaped in once for form in _escaped(escaped)}
        forms.update(once, twice, *map(_json_escaped, twice))
    return {form for form in _searchable(forms) if len(form) >= MIN_LENGTH}


def base64_forms(secret: str) -> set[str]:
    """The part of the secret's base64 that does not depend on its neighbours, at each alignment.

    A value that starts one or two bytes into a group of three shares its first character with what
    stands before it, and likewise its last with what follows: those border characters are left out,
    so that the form is found in the base64 of any text that contains the secret.
    """
    forms: set[str] = set()
    for text in {secret, secret.strip()}:
        if len(text) < MIN_LENGTH:
            continue
        for data in _in_bytes(text):
            for offset, skip in ((0, 0), (1, 2), (2, 3)):
                padded = b"\0" * offset + data
                encoded = base64.b64encode(padded).decode("ascii").rstrip("=")
                core = encoded[skip : len(encoded) - (len(padded) % 3 != 0)]
                forms.update((core, core.replace("+", "-").replace("/", "_")))
    return {form for form in forms if len(form) >= MIN_LENGTH}


def with_border(text: str, start: int, end: int) -> tuple[int, int]:
    """A base64 hit with the characters beside it, which hold bits of the secret, and the padding."""
    after = _BASE64_AFTER.match(text, end)
    before = start > 0 and _BASE64_BEFORE.match(text, start - 1) is not None
    return start - before, after.end() if after else end


def without_surrogates(text: str) -> str:
    """The text as the automaton takes it, in the same length: without lone surrogates.

    They come from file names and broken input.
    """
    return _SURROGATES.sub(_STAND_IN, text)


def unquoted(text: str) -> Iterator[tuple[str, Callable[[int], int]]]:
    """The text with its URL quoting undone: once, twice, as long as there is some (three times at most).

    What is left unquoted and in which case the digits are differs between libraries, so it is the text
    that is decoded; the forms of the secrets need not foresee them all.

    Yields:
        The text, and a function that leads from a position in it to the one in the original.
    """
    to_original: Callable[[int], int] = int
    for _ in range(_MAX_QUOTING):
        decoded, to_previous = _unquoted_once(text)
        if decoded is text:
            return
        text, to_original = decoded, _composed(to_original, to_previous)
        yield text, to_original


def _unquoted_once(text: str) -> tuple[str, Callable[[int], int]]:
    parts: list[str] = []
    decoded_at, quoted_at = [0], [0]
    length = position = 0
    for run in _QUOTED_RUN.finditer(text):
        parts.append(text[position : run.start()])
        length += run.start() - position
        position = run.start()
        data = bytes.fromhex(run[0].replace("%", ""))
        for character in data.decode("utf-8", "surrogateescape"):
            is_latin_1 = ord(character) in _LATIN_1
            parts.append(chr(ord(character) - 0xDC00) if is_latin_1 else character)
            decoded_at.append(length)
            quoted_at.append(position)
            length += 1
            position += 3 * (1 if is_latin_1 else len(character.encode("utf-8")))
        decoded_at.append(length)
        quoted_at.append(position)
    if not parts:
        return text, int
    parts.append(text[position:])

    def to_quoted(index: int) -> int:
        mark = bisect_right(decoded_at, index) - 1
        return quoted_at[mark] + index - decoded_at[mark]

    return "".join(parts), to_quoted


def _composed(outer: Callable[[int], int], inner: Callable[[int], int]) -> Callable[[int], int]:
    return lambda index: outer(inner(index))


def _searchable(forms: set[str]) -> set[str]:
    """The forms without lone surrogates: as the automaton sees them, and as they are written out."""
    if all(_SURROGATES.search(form) is None for form in forms):
        return forms
    return {_SURROGATES.sub(other, form) for form in forms for other in (_STAND_IN, "?")}


def _texts(secret: str) -> Iterator[str]:
    yield secret
    yield secret.strip()
    if _QUOTED_RUN.search(secret):
        yield _unquoted_once(secret)[0]  # HTTP libraries normalise the quoting that they are given
    if _is_json_object(secret):
        return  # lines such as `"type": "service_account",` are no secrets; those in it are learned by name
    for line in secret.splitlines():
        stripped = line.strip()
        # the armour of a PEM block is the same for every key: no secret
        if not stripped.startswith(("-----BEGIN ", "-----END ")):
            yield stripped


def _is_json_object(secret: str) -> bool:
    try:
        return secret.lstrip().startswith("{") and isinstance(json.loads(secret), dict)
    except (ValueError, RecursionError):
        return False


def _in_bytes(text: str) -> Iterator[bytes]:
    yield text.encode("utf-8", "surrogatepass")
    if not text.isascii():
        try:
            yield text.encode("latin-1")  # what HTTP libraries make of user names and passwords
        except UnicodeEncodeError:
            return


def _json_escaped(text: str) -> tuple[str, str]:
    return json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]


def _escaped(text: str) -> Iterator[str]:
    as_json, as_wide_json = _json_escaped(text)
    yield as_json
    yield as_wide_json
    if "/" in text:
        yield as_json.replace("/", "\\/")
    if any(character in text for character in "<>&"):
        # Go's encoding/json and other HTML-safe writers
        yield as_json.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    # which quote is escaped depends on the rest of the string that repr() is given
    for body in (_without_quotes(repr(text + "'\"")), _without_quotes(ascii(text + "'\""))):
        yield body
        yield body.replace("\\'", "'")
        yield body.replace("\\'", "'").replace('"', '\\"')
    for data in _in_bytes(text):
        body = _without_quotes(repr(data + b"'\"")[1:])
        yield body
        yield body.replace("\\'", "'")


def _without_quotes(literal: str) -> str:
    """The text between the quotes of what `repr()` made of a value with both quotes at its end."""
    return literal[1:-1].removesuffix("\\'\"")
