"""Undoes what texts went through on their way: URL quoting, escapes of JSON and JavaScript, HTML entities.

Which characters are written so, and how, differs between libraries. So it is the text that is decoded; the
forms of the secrets need not foresee them all.
"""

from __future__ import annotations

from bisect import bisect_right
from html.entities import html5  # here, not where it is used: importing takes a lock, and redacting none
from typing import TYPE_CHECKING, NamedTuple

from dltobs._redaction.lazy import lazy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Codes = Iterator[tuple[int, int, str]]

QUOTED_BYTES = tuple(
    f"%{high}{low}" for high in "01234567" for low in "0123456789ABCDEFabcdef"
) + tuple(f"%{high}" for high in "89ABCDEFabcdef")  # fmt: skip
"""One of these stands in every text with URL quoting."""

_MAX_DEPTH = 4
_HEX2 = "[0-9A-Fa-f]{2}"
_HEX4 = "[0-9A-Fa-f]{4}"
_QUOTED_RUN = lazy(f"(?:%{_HEX2})+")
_TELLING_ESCAPE = lazy(rf"\\u(?!001b){_HEX4}|\\x(?!1b){_HEX2}")  # colours say nothing
_PAIR = rf"u[Dd][89ABab]{_HEX2}\\u[Dd][C-Fc-f]{_HEX2}"
_ESCAPE = lazy(rf"\\(?:{_PAIR}|u{_HEX4}|[\"'\\/bfnrt])|(?:\\x{_HEX2})+")
_ENTITY = lazy(r"&(?:#[0-9]{1,8}|#[Xx][0-9A-Fa-f]{1,8}|[A-Za-z][0-9A-Za-z]{1,31});")
_CUT_CODE = lazy(r"(?:%[0-9A-Fa-f]?|\\{1,8}(?:u[0-9A-Fa-f]{0,3}|x[0-9A-Fa-f]?)?|&[#0-9A-Za-z]*)\Z")
_MAX_CODE = 34
_SHORT_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_LATIN_1 = range(0xDC80, 0xDD00)
_CODE_POINTS = range(0x110000)


class Coding(NamedTuple):
    """One way to write characters as others.

    `literals`, `starts` and `needs` tell, as those of a `Rule` do, whether a text may hold any; `codes`
    gives what stands for characters: its start, its end and the character.
    """

    literals: tuple[str, ...]
    codes: Callable[[str], Codes]
    starts: Callable[[str, int], object] = lambda _text, _start: True
    needs: str = ""


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
    """The text with one coding undone once, and what leads from a position in it to the one in `text`."""
    parts: list[str] = []
    decoded_at, coded_at = [0], [0]
    length = position = 0
    for start, end, character in coding.codes(text):
        parts += text[position:start], character
        length += start - position + 1
        position = end
        decoded_at.append(length)
        coded_at.append(end)
    if not parts:
        return text, int
    parts.append(text[position:])

    def to_coded(index: int) -> int:
        mark = bisect_right(decoded_at, index) - 1
        return coded_at[mark] + index - decoded_at[mark]

    return "".join(parts), to_coded


def without_cut_code(text: str) -> str:
    """The text without the beginning of a code at its end."""
    cut = _CUT_CODE.search(text, max(len(text) - _MAX_CODE, 0))
    return text[: cut.start()] if cut else text


def is_quoted(text: str) -> bool:
    """Whether there is URL quoting in the text."""
    return "%" in text and _QUOTED_RUN.search(text) is not None


def _composed(outer: Callable[[int], int], inner: Callable[[int], int]) -> Callable[[int], int]:
    return lambda index: outer(inner(index))


def _quoted(text: str) -> Codes:
    if "%" not in text:
        return
    for run in _QUOTED_RUN.finditer(text):
        yield from _characters(run[0], run.start(), "%")


def _characters(run: str, start: int, mark: str) -> Codes:
    """What bytes that are written as two digits behind a mark stand for: in UTF-8, else in Latin-1."""
    for character in bytes.fromhex(run.replace(mark, "")).decode("utf-8", "surrogateescape"):
        is_latin_1 = ord(character) in _LATIN_1
        count = 1 if is_latin_1 else len(character.encode("utf-8"))
        end = start + count * (len(mark) + 2)
        yield start, end, chr(ord(character) - 0xDC00) if is_latin_1 else character
        start = end


def _escaped(text: str) -> Codes:
    if "\\" not in text:
        return
    for escape in _ESCAPE.finditer(text):
        code = escape[0]
        if code[1] == "x":
            yield from _characters(code, escape.start(), "\\x")
        elif code[1] == "u":
            units = bytes.fromhex(code.replace("\\u", ""))
            yield escape.start(), escape.end(), units.decode("utf-16-be", "surrogatepass")
        else:
            yield escape.start(), escape.end(), _SHORT_ESCAPES.get(code[1], code[1])


def _entities(text: str) -> Codes:
    if "&" not in text or ";" not in text:
        return
    for entity in _ENTITY.finditer(text):
        name = entity[0][1:]
        if name[0] != "#":
            character = html5.get(name, "")
        else:
            number = int(name[2:-1], 16) if name[1] in "Xx" else int(name[1:-1])
            character = chr(number) if number in _CODE_POINTS else ""
        if len(character) == 1:
            yield entity.start(), entity.end(), character


def _starts_escape(text: str, start: int) -> object:
    return _TELLING_ESCAPE.match(text, start)


def _starts_entity(text: str, start: int) -> object:
    return _ENTITY.match(text, start)


QUOTING = Coding(QUOTED_BYTES, _quoted)
CODINGS = (
    QUOTING,
    Coding(("\\u", "\\x"), _escaped, _starts_escape),
    Coding(("&",), _entities, _starts_entity, needs=";"),
)
