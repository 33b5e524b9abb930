"""The forms in which a secret value may appear in a text."""

from __future__ import annotations

import base64
import json
from itertools import chain
from typing import TYPE_CHECKING

from dltobs._redaction.decoding import QUOTING, decoded
from dltobs._redaction.lazy import lazy

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator

MIN_LENGTH = 6
"""Shorter values cannot be told from ordinary text; key names and patterns must catch those."""

_SURROGATES = lazy("[\ud800-\udfff]")
_STAND_IN = "\ufffd"
_BASE64_BEFORE = lazy(r"[A-Za-z0-9+/_\-]")
_BASE64_AFTER = lazy(r"[A-Za-z0-9+/_\-]?={0,2}")
_DOTNET = lazy(r"""\\u....|\\.|[^ -~]|[&'+<>`]""")


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
        once = set(_escaped(text))
        twice = {form for escaped in once for form in _escaped(escaped)}
        forms.update(once, twice, *map(_json_escaped, twice))
    forms.update([form.replace(" ", "+") for form in forms if " " in form])  # as HTML forms write it
    return {form for form in _searchable(forms) if len(form) >= MIN_LENGTH}


def base64_forms(secret: str) -> set[str]:
    """The part of the secret's base64 that does not depend on its neighbours, at each alignment.

    A value that starts one or two bytes into a group of three shares its first character with what
    stands before it, and likewise its last with what follows: those border characters are left out,
    so that the form is found in the base64 of any text that contains the secret, JSON among them.
    """
    forms: set[str] = set()
    values = [value for value in (secret, secret.strip()) if len(value) >= MIN_LENGTH]
    # nobody looks into base64, so what `decodings()` would undo has to be foreseen
    in_json = (form for value in values for form in chain(_in_json(value), _in_safe_json(value)))
    for text in {*values, *in_json}:
        for data in _in_bytes(text):
            for offset, skip in ((0, 0), (1, 2), (2, 3)):
                padded = b"\0" * offset + data
                encoded = base64.b64encode(padded).decode("ascii").rstrip("=")
                core = encoded[skip : len(encoded) - (len(padded) % 3 != 0)]
                forms.update((core, core.replace("+", "-").replace("/", "_")))
    return {form for form in forms if len(form) >= MIN_LENGTH}


def quoted_forms(secret: str) -> set[str]:
    """Return the single lines of the secret as they are, and as they stand between quotes."""
    if _is_json_object(secret):
        return set()
    lines = {line for line in _texts(secret) if len(line.splitlines()) == 1}
    forms = [(line, _json_escaped(line)[0], _without_quotes(repr(f"{line}'\""))) for line in lines]
    return _searchable(set(chain.from_iterable(forms)))


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


def _searchable(forms: set[str]) -> set[str]:
    """The forms without lone surrogates: as the automaton sees them, and as they are written out."""
    if all(_SURROGATES.search(form) is None for form in forms):
        return forms
    return {_SURROGATES.sub(other, form) for form in forms for other in (_STAND_IN, "?")}


def _texts(secret: str) -> Iterator[str]:
    yield secret
    yield secret.strip()
    if QUOTING.sign.search(secret):
        yield decoded(secret, QUOTING)[0]  # HTTP libraries normalise the quoting that they are given
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


def _in_json(text: str) -> Iterator[str]:
    """As libraries write it between quotes; where a text may be decoded, further escapes are undone."""
    for escaped in _json_escaped(text):
        yield escaped
        if "/" in text:
            yield escaped.replace("/", "\\/")


def _in_safe_json(text: str) -> Iterator[str]:
    """As writers do that keep HTML safe: Go's encoding/json, and System.Text.Json."""
    wide = json.dumps(text, ensure_ascii=False)[1:-1]
    yield wide.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    yield _DOTNET.sub(_unicode_escaped, wide)


def _unicode_escaped(match: re.Match[str]) -> str:
    code = match[0]
    if code[0] == "\\" and code != '\\"':
        return code[:2] + code[2:].upper()
    return "\\u" + code[-1].encode("utf-16-be", "surrogatepass").hex("_", 2).upper().replace("_", "\\u")


def _escaped(text: str) -> Iterator[str]:
    yield from _in_json(text)
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
