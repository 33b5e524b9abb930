"""Takes secrets out of values of any shape.

Exact values first: an Aho-Corasick automaton over all forms of all known secrets finds them in one
pass, whose cost does not grow with their number. The same pass looks for the literals that make a
pattern rule worth running, so an ordinary log line costs one scan and nothing else.
"""

from __future__ import annotations

import re
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

from dltobs._cut import redacted_and_cut
from dltobs._redaction.automaton import build_search
from dltobs._redaction.decoding import CODINGS, decodings, without_cut_code
from dltobs._redaction.encodings import (
    MIN_LENGTH,
    base64_forms,
    plain_forms,
    with_border,
)
from dltobs._redaction.glance import Glance
from dltobs._redaction.names import KeyNames
from dltobs._redaction.patterns import MARKER, PATTERN_RULES, WITHHELD, cut
from dltobs._redaction.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dltobs._redaction.automaton import Search
    from dltobs._redaction.decoding import Coding
    from dltobs._redaction.patterns import Rule

    T = TypeVar("T")

_TELLING_LENGTH = 4
"""Fewer characters at the end of a text are rather an accident than the beginning of a secret."""

_LONG_TEXTS = 32
"""How many long texts are remembered, redacted and cut."""


class _Automaton(NamedTuple):
    """The automaton, and what its pattern numbers mean.

    Numbers below `plain` are forms of secrets, below `base64` their base64 forms, the rest is what
    `triggers` names the rules of. `size` is the number of secrets that it was built from, `longest` the
    length of the longest form of one.
    """

    find: Search
    plain: int
    base64: int
    triggers: dict[int, int]
    size: int
    longest: int


class Redactor:
    """Replaces secrets by `***`.

    Args:
        values: Secret values. Those of under 6 characters are left to the key and pattern rules.
        keys: Names of fields whose values are secret, beside the built-in ones (password, token, …).
        patterns: Regular expressions whose every match is replaced, beside the built-in ones.

    Safe to be used from several threads, after a fork and in signal handlers: there is no lock.
    """

    def __init__(
        self,
        values: Iterable[str] = (),
        *,
        keys: Iterable[str] = (),
        patterns: Iterable[str | re.Pattern[str]] = (),
    ) -> None:
        self._keys = KeyNames(keys)
        self._glance = Glance(self.finds, self._keys, lambda: len(self._forms))
        self._patterns = tuple(re.compile(pattern) for pattern in patterns)
        rules = (self._keys.rule, *PATTERN_RULES)
        self._rules = rules
        # where one of the codings may be in use, the text is to be searched without it as well
        self._suspicions: tuple[Rule | Coding, ...] = (*rules, *CODINGS)
        self._literals = [
            (literal, number) for number, rule in enumerate(self._suspicions) for literal in rule.literals
        ]
        # only ever grows, so its size tells whether an automaton is up to date
        self._forms: dict[str, tuple[set[str], set[str]]] = {}
        self._automaton: _Automaton | None = None
        self._long_texts: dict[tuple[int, int, int, int], str] = {}
        self.add(*values)

    def __repr__(self) -> str:
        """Says how many secrets are known, and none of them."""
        return f"<{type(self).__name__}: {len(self._forms)} values>"

    def add(self, *values: str) -> None:
        """Learn more secret values. Known and too short ones are ignored."""
        for value in values:
            if len(value.strip()) >= MIN_LENGTH and value not in self._forms:
                self._forms[value] = plain_forms(value), base64_forms(value)

    @property
    def size(self) -> int:
        """The number of secret values known so far, which only grows."""
        return len(self._forms)

    @property
    def values(self) -> frozenset[str]:
        """The secret values known so far. Handle with care."""
        return frozenset(list(self._forms))

    def finds(self, text: str) -> bool:
        """Whether `text` may contain a secret. False means that `text()` would return it unchanged."""
        if self._patterns:
            return True
        automaton, hits = self._scan(text)
        return bool(hits) and (
            any(number < automaton.base64 for number, _, _ in hits)
            or bool(self._rules_for(text, automaton, hits))
        )

    def text(self, text: str, limit: int | None = None) -> str:
        """Return the text without secrets; the very same object where there is none.

        Args:
            text: Any text.
            limit: The most characters to keep, of a beginning and an end; the middle of a longer text is not
                searched. None: all.
        """
        if limit is not None and len(text) > limit:
            return self._cut_text(text, limit)
        automaton, hits = self._scan(text)
        clean = self._replaced(text, automaton, hits) if hits else text
        for pattern in self._patterns:
            clean = pattern.sub(MARKER, clean)
        return text if clean == text else clean

    def _cut_text(self, text: str, limit: int) -> str:
        """Redact and cut a long text, once for all handlers, events and sinks that have it."""
        key = (str.__hash__(text), len(text), limit, len(self._forms))
        clean = self._long_texts.get(key)
        if clean is None:
            automaton, _ = self._scan("")
            clean = redacted_and_cut(text, limit, self.text, automaton.longest)
            if len(self._long_texts) >= _LONG_TEXTS:
                self._long_texts.clear()
            self._long_texts[key] = clean
        return clean

    def cut_text(self, text: str) -> str:
        """As `text()`, for one that may have been cut off in the middle of a secret."""
        clean = self.text(text)
        as_it_is: tuple[str, Callable[[int], int]] = clean, int
        for plain, position in chain([as_it_is], decodings(clean)):
            for end in dict.fromkeys((plain, without_cut_code(plain))):
                length = self._begun_at_end(end)
                if length:
                    return clean[: position(len(end) - length)] + MARKER
        return clean

    def redact(self, value: T, limit: int | None = None) -> T:
        """Return a value of the same shape without secrets, which shares with it what did not change.

        Strings, bytes, mappings, sequences, sets and dataclasses are walked; other values, numbers among
        them, are returned as they are. Fields of dataclasses that are marked with
        `metadata={"redact": False}` are not touched. A container that cannot be read, that contains
        itself or lies too deep is `[withheld]`.

        Args:
            value: Any value.
            limit: The most characters to keep of each text, as for `text()`; a field of a dataclass that is
                marked with `metadata={"limit": number}` has a limit of its own. None: all.
        """
        return cast("T", Walk(self.text, self._keys, self.is_clean, limit).walk(value, 0))

    def is_clean(self, value: object, limit: int | None = None) -> bool:
        """Whether `redact()` would leave a value as it is: one scan of all of its texts. False is a doubt."""
        return self._glance.is_clean(value, limit)

    def is_secret_name(self, name: str) -> bool:
        """Whether a text under this name is withheld, whatever it is: `password`, `api_key`."""
        return self._keys.covers_texts(name)

    def withhold(self, value: T) -> T:
        """A value of the same shape in which every text that `redact()` would look at is `[withheld]`."""
        return cast("T", Walk(lambda *_: WITHHELD, self._keys).walk(value, 0))

    def _begun_at_end(self, text: str) -> int:
        """How much of a secret stands at the end of the text, if its rest was cut off."""
        for forms in list(self._forms.values()):
            for form in chain.from_iterable(forms):
                start = text.find(form[:_TELLING_LENGTH], max(len(text) - len(form) + 1, 0))
                while start >= 0:
                    if form.startswith(text[start:]):
                        return len(text) - start
                    start = text.find(form[:_TELLING_LENGTH], start + 1)
        return 0

    def _scan(self, text: str) -> tuple[_Automaton, list[tuple[int, int, int]]]:
        automaton = self._automaton
        if automaton is None or automaton.size != len(self._forms):
            automaton = self._automaton = self._build()
        return automaton, automaton.find(text)

    def _build(self) -> _Automaton:
        known = list(self._forms.values())  # at once: other threads may be learning
        plain = set().union(*(forms for forms, _ in known))
        base64 = set().union(*(forms for _, forms in known)) - plain
        return _Automaton(
            build_search([*plain, *base64, *(literal for literal, _ in self._literals)]),
            len(plain),
            len(plain) + len(base64),
            {number: rule for number, (_, rule) in enumerate(self._literals, len(plain) + len(base64))},
            len(known),
            max(map(len, chain(plain, base64)), default=0),
        )

    def _replaced(self, text: str, automaton: _Automaton, hits: list[tuple[int, int, int]]) -> str:
        rules: set[int] = set()
        text = self._without_values(text, automaton, hits, rules)
        changed = text
        for number, rule in enumerate(self._rules):
            if number in rules:
                changed = rule.apply(changed)
        if changed != text:
            # a marker may have completed what is a secret as well
            changed = self._without_values(changed, *self._scan(changed), rules)
        return changed

    def _without_values(
        self, text: str, automaton: _Automaton, hits: list[tuple[int, int, int]], rules: set[int]
    ) -> str:
        while True:
            spans = _spans(text, automaton, hits)
            found = self._rules_for(text, automaton, hits)
            rules |= found
            if any(number >= len(self._rules) for number in found):
                for plain, position in decodings(text):
                    inner = _spans(plain, *self._scan(plain))
                    spans += ((position(start), position(end)) for start, end in inner)
            if not spans:
                return text
            # each marker is shorter than what it replaces, so this comes to an end
            text = cut(text, spans)
            automaton, hits = self._scan(text)

    def _rules_for(self, text: str, automaton: _Automaton, hits: list[tuple[int, int, int]]) -> set[int]:
        """The rules and codings that may match where one of their literals stands."""
        found: set[int] = set()
        refused: set[int] = set()
        for number, start, _ in hits:
            number_of_rule = automaton.triggers.get(number)
            if number_of_rule is None or number_of_rule in found or number_of_rule in refused:
                continue
            rule = self._suspicions[number_of_rule]
            if rule.needs not in text:
                refused.add(number_of_rule)
            elif rule.starts(text, start):
                found.add(number_of_rule)
        return found


def _spans(text: str, automaton: _Automaton, hits: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """Where in the text the secrets stand."""
    return [
        (start, end) if number < automaton.plain else with_border(text, start, end)
        for number, start, end in hits
        if number < automaton.base64
    ]
