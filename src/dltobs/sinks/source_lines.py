"""Lines of the user's Python source, without the literals that may be secret.

What a log line says of a secret is `password=…`. Source says it in many more ways: with an annotation, over
several lines, in a call, in a tuple. So in a statement that names a secret, every text is taken out.
"""

from __future__ import annotations

import keyword
import linecache
import re
import tokenize
from typing import TYPE_CHECKING, NamedTuple

from dltobs._redaction.patterns import MARKER

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dltobs._redaction.redactor import Redactor

_MAX_SIZE = 256 * 1024
"""Characters of a file; generated ones are longer, and take seconds to read."""
_LITERAL = re.compile(r"(?P<open>[A-Za-z]{0,3}(?P<mark>\"{3}|'{3}|\"|'))(?P<text>.*)(?P=mark)", re.DOTALL)
_NAME = re.compile(r"[\w.\-]{1,128}")


class _Span(NamedTuple):
    """Where the text of a literal stands: rows from 0, columns in characters, without the quotes."""

    start: tuple[int, int]
    end: tuple[int, int]
    is_secret: bool


class SourceLines:
    """Reads files, each once.

    Args:
        redactor: Tells which names speak of secrets. What it finds in a line is still there.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._files: dict[str, list[str]] = {}

    def of(self, path: str) -> list[str]:
        """The lines of a file, as `linecache` knows it; none where it cannot be read."""
        if path not in self._files:
            self._files[path] = _clean_lines(path, self._redactor)
        return self._files[path]


def _clean_lines(path: str, redactor: Redactor) -> list[str]:
    lines = linecache.getlines(path)
    if sum(map(len, lines)) > _MAX_SIZE:
        return []
    try:
        spans = [span for statement in _statements(lines) for span in _literals(statement, redactor)]
    except (tokenize.TokenError, SyntaxError):
        return []
    clean = [line.rstrip("\r\n") for line in lines]
    for span in reversed(spans):
        if span.is_secret:
            _take_out(clean, span)
    return clean


def _statements(lines: Sequence[str]) -> Iterator[list[tokenize.TokenInfo]]:
    """The tokens of each statement, over as many lines as it has."""
    statement: list[tokenize.TokenInfo] = []
    for token in tokenize.generate_tokens(iter(lines).__next__):
        if token.type == tokenize.ERRORTOKEN:  # before Python 3.12: what is no Python
            raise tokenize.TokenError
        statement.append(token)
        if token.type == tokenize.NEWLINE:
            yield statement
            statement = []
    yield statement


def _literals(statement: list[tokenize.TokenInfo], redactor: Redactor) -> list[_Span]:
    """The texts in a statement. All are secret if any name or text in it names one."""
    names_one = False
    found = []
    opened: list[tokenize.TokenInfo] = []
    for token in statement:
        kind = tokenize.tok_name[token.type]
        if token.type == tokenize.NAME:
            names_one = names_one or (
                not keyword.iskeyword(token.string) and redactor.is_secret_name(token.string)
            )
        elif token.type == tokenize.STRING and (literal := _LITERAL.fullmatch(token.string)) is not None:
            text = literal["text"]
            if _NAME.fullmatch(text):
                names_one = names_one or redactor.is_secret_name(text)
            start = token.start[0] - 1, token.start[1] + len(literal["open"])
            end = token.end[0] - 1, token.end[1] - len(literal["mark"])
            # a key, for example, whose first line the context may not show
            reaches_over = redactor.text(text).count("\n") != text.count("\n")
            found.append(_Span(start, end, reaches_over))
        elif kind in {"FSTRING_START", "TSTRING_START"}:  # since Python 3.12; they may be nested
            opened.append(token)
        elif kind in {"FSTRING_END", "TSTRING_END"} and opened:
            first = opened.pop()
            if not opened:
                span = (first.end[0] - 1, first.end[1]), (token.start[0] - 1, token.start[1])
                found = [one for one in found if one.start < span[0]]
                found.append(_Span(*span, is_secret=False))
    return [one._replace(is_secret=True) for one in found] if names_one else found


def _take_out(lines: list[str], span: _Span) -> None:
    """Put the marker in the place of a text, on each of its lines."""
    (first, start), (last, end) = span.start, span.end
    if first == last:
        lines[first] = f"{lines[first][:start]}{MARKER}{lines[first][end:]}"
        return
    lines[last] = f"{MARKER}{lines[last][end:]}"
    for row in range(first + 1, last):
        lines[row] = MARKER
    lines[first] = f"{lines[first][:start]}{MARKER}"
