"""Find all occurrences of many strings in one pass over a text.

The search is pyahocorasick's automaton. Where there is no wheel of it, as on Windows on ARM,
a search in Python takes its place. Its cost does not grow with the number of patterns either, but it is
some 25 times slower.
"""

from __future__ import annotations

from collections import defaultdict
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Find = Callable[[str], list[tuple[int, int, int]]]
    """Takes a text; returns number of the pattern, start and end of each occurrence, also overlapping."""

IS_NATIVE = find_spec("ahocorasick") is not None
"""Whether the fast search is there."""

_KEY_LENGTH = 4


def search_for(patterns: Iterable[str]) -> Find:
    """Return a function that finds these patterns in a text. One that is listed twice is found twice."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for number, pattern in enumerate(patterns):
        numbers[pattern].append(number)
    return _native_search(numbers) if IS_NATIVE else python_search(numbers)


def _native_search(numbers: Mapping[str, list[int]]) -> Find:
    from ahocorasick import Automaton

    automaton = Automaton()
    for pattern, its_numbers in numbers.items():
        automaton.add_word(pattern, (len(pattern) - 1, its_numbers))
    automaton.make_automaton()
    iterate = automaton.iter

    def search(text: str) -> list[tuple[int, int, int]]:
        return [
            (number, last - offset, last + 1) for last, (offset, found) in iterate(text) for number in found
        ]

    return search


def python_search(numbers: Mapping[str, list[int]]) -> Find:
    """Return a function that finds the keys of a mapping in a text, each looked up by its first characters.

    Args:
        numbers: By pattern, the numbers under which it is reported.
    """
    by_key: dict[str, list[str]] = defaultdict(list)
    short: list[str] = []
    for pattern in numbers:
        if len(pattern) < _KEY_LENGTH:
            short.append(pattern)
        else:
            by_key[pattern[:_KEY_LENGTH]].append(pattern)

    def search(text: str) -> list[tuple[int, int, int]]:
        found: list[tuple[str, int]] = []
        for pattern in short:
            start = text.find(pattern)
            while start >= 0:
                found.append((pattern, start))
                start = text.find(pattern, start + 1)
        for start in range(len(text) - _KEY_LENGTH + 1):
            candidates = by_key.get(text[start : start + _KEY_LENGTH], ())
            found += [(pattern, start) for pattern in candidates if text.startswith(pattern, start)]
        return [
            (number, start, start + len(pattern)) for pattern, start in found for number in numbers[pattern]
        ]

    return search
