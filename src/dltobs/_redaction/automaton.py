"""Finds many strings in one pass over a text, whose cost does not grow with their number.

The only module that knows which library searches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from ahocorasick_rs import AhoCorasick, Implementation, MatchKind

from dltobs._redaction.encodings import without_surrogates

if TYPE_CHECKING:
    from collections.abc import Callable

    Find: TypeAlias = Callable[[str], list[tuple[int, int, int]]]


def search_for(strings: list[str]) -> Find:
    """Return a function that finds all occurrences of `strings` in a text.

    Args:
        strings: None is empty; those that are equal are found each.

    Returns:
        A function that takes a text, which may hold lone surrogates, and returns a list of
        `(index in strings, start, end)` in any order, overlapping ones too.
    """
    automaton = AhoCorasick(
        strings, MatchKind.Standard, store_patterns=False, implementation=Implementation.ContiguousNFA
    )
    search = automaton.find_matches_as_indexes

    def find(text: str) -> list[tuple[int, int, int]]:
        try:
            return search(text, overlapping=True)
        except UnicodeEncodeError:
            return search(without_surrogates(text), overlapping=True)

    return find
