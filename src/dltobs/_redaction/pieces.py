"""Finds what is left of a secret where a text was abbreviated.

A library that abbreviates leaves the beginning of a secret before a cut, or its end behind one. So it is
enough to search for the first and the last characters of each secret: where they are found, the match is
extended as far as text and secret agree, and there must be the edge of a cut.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING

from dltobs._redaction.lazy import lazy

if TYPE_CHECKING:
    from collections.abc import Iterable

MIN_SECRET = 12
"""Characters; pieces of shorter secrets are not searched for."""
_MIN_PIECE = 8

_ONE_WORD = lazy(r"[\W_]*(?:[A-Z]?[a-z]{0,12}[A-Z]?|[A-Z]{0,12})[\W_]*")
"""`https://`, `postgresql`: what many texts begin with is no sign of a secret."""
_ORDINARY = lazy(r"(?:[\W_]|(?<![^\W_])(?:\d+|[A-Z]+|[A-Z]?[a-z]+(?:[A-Z][a-z]{2,})*)(?![^\W_]))*")
"""Words and numbers only. They are left alone where a mere quote or line end follows: `"shop-data"`."""

_CUT_MARK = r"(?:\.\.|\*{4,}|\u2026|\\u2026|&hellip;|\b(?:truncated|snip|characters?|chars|bytes)\b)"
_CUT_AFTER = lazy(rf"['\"`,]?\s?[\[(<{{]?\s?(?:\+?\d+ (?:more )?)?{_CUT_MARK}")
_CUT_BEFORE = lazy(rf"{_CUT_MARK}[\])>}}]?\s?['\"`]?\Z")
_END_AFTER = lazy(r"""\Z|[\r\n"'`]|\\{1,8}[rn"'`]""")
_END_BEFORE = lazy(r"""(?:[\r\n"'`]|\\[rn])\Z""")
_LONGEST_MARK = 16


class Pieces:
    """The beginnings and the ends by which secrets are recognised.

    Args:
        secrets: Secrets, in every form of which pieces are searched for.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        # those that begin alike are sorted, so that the one that agrees most is found in a few steps
        self._heads: dict[str, list[str]] = {}
        self._tails: dict[str, list[str]] = {}
        self._longest = 0
        for secret in secrets:
            self._longest = max(self._longest, len(secret))
            for known, form in ((self._heads, secret), (self._tails, secret[::-1])):
                start = _beginning(form)
                if start is not None:
                    insort(known.setdefault(start, []), form)
        self.strings = [*self._heads, *(tail[::-1] for tail in self._tails)]
        """What to search for in a text."""

    def span(self, text: str, index: int, start: int, end: int) -> tuple[int, int] | None:
        """Return where in `text` the piece stands of which `strings[index]` was found from start to end."""
        found = self.strings[index]
        if index < len(self._heads):
            length = _agreement(self._heads[found], text[start : start + self._longest])
            end = start + length
            if length and _is_cut(text[start:end], _CUT_AFTER.match(text, end), _END_AFTER.match(text, end)):
                return start, end
            return None
        length = _agreement(self._tails[found[::-1]], text[max(0, end - self._longest) : end][::-1])
        start, before = end - length, max(0, end - length - _LONGEST_MARK)
        is_end = start == 0 or _END_BEFORE.search(text, before, start)
        if length and _is_cut(text[start:end], _CUT_BEFORE.search(text, before, start), is_end):
            return start, end
        return None


def _beginning(form: str) -> str | None:
    """Return the shortest beginning of `form` that is more than a word."""
    for length in range(_MIN_PIECE, len(form)):
        if not _ONE_WORD.fullmatch(form, 0, length):
            return form[:length]
    return None


def _agreement(forms: list[str], chunk: str) -> int:
    """Return in how many characters a form begins as `chunk` does; 0 if all of a form stands there."""
    index = bisect_left(forms, chunk)
    best = 0
    for form in forms[max(0, index - 1) : index + 1]:
        pairs = zip(form, chunk, strict=False)
        length = next(
            (at for at, (one, other) in enumerate(pairs) if one != other), min(len(form), len(chunk))
        )
        if length == len(form):
            return 0
        best = max(best, length)
    return best


def _is_cut(piece: str, is_marked: object, is_end: object) -> bool:
    return bool(is_marked or (is_end and not _ORDINARY.fullmatch(piece)))
