"""The forms in which a secret value may appear in a text."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Iterator

MIN_LENGTH = 6
"""Shorter values cannot be told from ordinary text; key names and patterns must catch those."""

_URL_SAFE_SETS = ("", "/", "/:", " +", "!#$%&'()*+,/:;=?@[]~")
"""What urllib, SQLAlchemy and requests leave unquoted, in different combinations."""


def plain_forms(secret: str) -> set[str]:
    """The secret as it is, URL-quoted, and JSON- or repr-escaped once and twice; each line likewise."""
    forms: set[str] = set()
    for text in _texts(secret):
        forms.add(text)
        if text.isascii() and text.isalnum():
            continue
        forms.update(_url_quoted(text))
        once = set(_escaped(text))
        forms.update(once)
        for escaped in once:
            forms.update(_escaped(escaped))
    return {form for form in forms if len(form) >= MIN_LENGTH}


def base64_forms(secret: str) -> set[str]:
    """The part of the secret's base64 that does not depend on its neighbours, at each alignment.

    A value that starts one or two bytes into a group of three shares its first character with what
    stands before it, and likewise its last with what follows: those border characters are left out,
    so that the form is found in the base64 of any text that contains the secret.
    """
    forms: set[str] = set()
    for text in {secret, secret.strip()}:
        data = text.encode("utf-8", "surrogatepass")
        if len(text) < MIN_LENGTH:
            continue
        for offset, skip in ((0, 0), (1, 2), (2, 3)):
            padded = b"\0" * offset + data
            encoded = base64.b64encode(padded).decode("ascii").rstrip("=")
            core = encoded[skip : len(encoded) - (len(padded) % 3 != 0)]
            for alphabet in (core, core.replace("+", "-").replace("/", "_")):
                forms.add(alphabet)
                forms.add(quote(alphabet, safe=""))
    return {form for form in forms if len(form) >= MIN_LENGTH}


def _texts(secret: str) -> Iterator[str]:
    yield secret
    yield secret.strip()
    for line in secret.splitlines():
        stripped = line.strip()
        # the armour of a PEM block is the same for every key: no secret
        if not stripped.startswith(("-----BEGIN ", "-----END ")):
            yield stripped


def _url_quoted(text: str) -> Iterator[str]:
    data = text.encode("utf-8", "surrogatepass")
    quoted = {quote(data, safe=safe) for safe in _URL_SAFE_SETS}
    quoted.add(quote_plus(data))
    quoted.add(quote(quote(data, safe=""), safe=""))
    for form in quoted:
        yield form
        if "%" in form:
            yield _lower_hex(form)


def _lower_hex(quoted: str) -> str:
    head, *rest = quoted.split("%")
    return head + "".join(f"%{part[:2].lower()}{part[2:]}" for part in rest)


def _escaped(text: str) -> Iterator[str]:
    as_json = json.dumps(text)[1:-1]
    yield as_json
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    if "/" in text:
        yield as_json.replace("/", "\\/")
    if any(character in text for character in "<>&"):
        # Go's encoding/json and other HTML-safe writers
        yield (as_json.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
    # which quote is escaped depends on the rest of the string that repr() is given
    body = repr(text + "'\"")[1:-1].removesuffix("\\'\"")
    yield body
    yield body.replace("\\'", "'")
    yield body.replace("\\'", "'").replace('"', '\\"')
    yield repr(text.encode("utf-8", "surrogatepass") + b"'\"")[2:-1].removesuffix("\\'\"")
