"""Undoes what texts went through on their way: URL quoting, escapes of JSON and JavaScript, HTML entities.

Which characters are written so, and how, differs between libraries. So it is the text that is decoded; the
forms of the secrets need not foresee them all.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from html.entities import html5  # here, not where it is used: importing takes a lock, and redacting none
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from dltobs._redaction.lazy import lazy

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterator

_MAX_DEPTH = 4
_HEX = "[0-9A-Fa-f]"


def _one_character(mark: str) -> str:
    """Return the expression for the bytes of one character in UTF-8, else for one byte of Latin-1."""
    byte, rest = f"{mark}{_HEX}{{2}}", f"{mark}[89ABab]{_HEX}"
    return (
        f"(?:{mark}[Cc][2-9A-Fa-f]|{mark}[Dd]{_HEX}){rest}"
        f"|(?:{mark}[Ee]0{mark}[ABab]|{mark}[Ee][Dd]{mark}[89]){_HEX}{rest}|{mark}[Ee][1-9A-Ca-cEeFf](?:{rest}){{2}}"
        f"|(?:{mark}[Ff]0{mark}[9ABab]|{mark}[Ff]4{mark}8){_HEX}(?:{rest}){{2}}|{mark}[Ff][1-3](?:{rest}){{3}}"
        f"|{byte}"
    )


_QUOTED_SIGN = lazy(f"%{_HEX}{{2}}")
_ESCAPE_SIGN = lazy(rf"\\(?:u(?!001b){_HEX}{{4}}|x(?!1b){_HEX}{{2}})")  # colours say nothing
_PAIR = rf"u[Dd][89ABab]{_HEX}{{2}}\\u[Dd][C-Fc-f]{_HEX}{{2}}"
_QUOTED = lazy(f"({_one_character('%')})")
_BYTES = _one_character(r"\\x")
_ESCAPE = lazy(rf"(\\(?:{_PAIR}|u{_HEX}{{4}}|[\"'\\/bfnrt])|{_BYTES})")
_ENTITY = lazy(r"(&(?:#[0-9]{1,8}|#[Xx][0-9A-Fa-f]{1,8}|[A-Za-z][0-9A-Za-z]{1,31});)")
_CUT_CODE = lazy(r"(?:%[0-9A-Fa-f]?|\\{1,8}(?:u[0-9A-Fa-f]{0,3}|x[0-9A-Fa-f]?)?|&[#0-9A-Za-z]*)\Z")
_MAX_CODE = 34
_SHORT_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_CODE_POINTS = range(0x110000)


class Coding(NamedTuple):
    """One way to write characters as others.

    `mark` stands in each code. `pattern` matches the code of one character in its only group, `character`
    decodes it. A match of `sign` makes it worth while to undo the coding.
    """

    mark: str
    sign: re.Pattern[str]
    pattern: re.Pattern[str]
    character: Callable[[str], str]


def decodings(text: str) -> Iterator[tuple[str, Callable[[int], int]]]:
    """The text with one coding undone, and another or the same one again, up to four times in any order.

    Yields:
        The text, and a function that leads from a position in it to the one in the original.
    """
    seen = {text}
    outer: list[tuple[str, Callable[[int], int]]] = [(text, int)]
    for _ in range(_MAX_DEPTH):
        inner = []
        for coded, to_original in outer:
            for coding in CODINGS:
                plain, to_coded = decoded(coded, coding)
                if plain not in seen:
                    seen.add(plain)
                    inner.append((plain, _composed(to_original, to_coded)))
        yield from inner
        outer = inner


def decoded(text: str, coding: Coding) -> tuple[str, Callable[[int], int]]:
    """Return the text with one coding undone once, and what leads from a position in it to that in `text`."""
    codes = coding.pattern.split(text) if coding.mark in text else ()
    if len(codes) <= 1:
        return text, int
    parts = list(codes)
    parts[1::2] = map(coding.character, parts[1::2])
    # most decoded texts hold no secret: where their parts lie is asked for seldom
    marks: list[list[int]] = []

    def to_coded(index: int) -> int:
        if not marks:
            marks.extend([0, *accumulate(map(len, some))] for some in (parts, codes))
        decoded_at, coded_at = marks
        mark = bisect_right(decoded_at, index) - 1
        return coded_at[mark] + index - decoded_at[mark]

    return "".join(parts), to_coded


def without_cut_code(text: str) -> str:
    """The text without the beginning of a code at its end."""
    cut = _CUT_CODE.search(text, max(len(text) - _MAX_CODE, 0))
    return text[: cut.start()] if cut else text


def is_coded(text: str) -> bool:
    """Return whether one of the codings may be in use in the text."""
    return ("%" in text or "\\" in text or "&" in text) and any(one.sign.search(text) for one in CODINGS)


def _composed(outer: Callable[[int], int], inner: Callable[[int], int]) -> Callable[[int], int]:
    return lambda index: outer(inner(index))


@lru_cache(maxsize=4096)
def _quoted(code: str) -> str:
    return _of_bytes(code.replace("%", ""))


@lru_cache(maxsize=4096)
def _escaped(code: str) -> str:
    if code[1] == "x":
        return _of_bytes(code.replace("\\x", ""))
    if code[1] == "u":
        return bytes.fromhex(code.replace("\\u", "")).decode("utf-16-be", "surrogatepass")
    return _SHORT_ESCAPES.get(code[1], code[1])


def _of_bytes(digits: str) -> str:
    data = bytes.fromhex(digits)
    return data.decode("latin-1" if len(data) == 1 else "utf-8")


@lru_cache(maxsize=4096)
def _entity(code: str) -> str:
    name = code[1:]
    if name[0] != "#":
        character = html5.get(name, "")
    else:
        number = int(name[2:-1], 16) if name[1] in "Xx" else int(name[1:-1])
        character = chr(number) if number in _CODE_POINTS else ""
    return character if len(character) == 1 else code


QUOTING = Coding("%", _QUOTED_SIGN, _QUOTED, _quoted)
CODINGS = (
    QUOTING,
    Coding("\\", _ESCAPE_SIGN, _ESCAPE, _escaped),
    Coding("&", _ENTITY, _ENTITY, _entity),
)
