"""Takes secrets out of values of any shape.

Exact values first: one search over all forms of all known secrets, whose cost does not grow with their
number. The same pass looks for pieces of abbreviated secrets and for the literals where the pattern rules
apply, so an ordinary log line costs one scan and nothing else.
"""

from __future__ import annotations

import re
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar, cast

from dltobs._cut import redacted_and_cut
from dltobs._redaction.automaton import search_for
from dltobs._redaction.decoding import decodings, is_coded, without_cut_code
from dltobs._redaction.encodings import MIN_LENGTH, base64_forms, plain_forms, quoted_forms, with_border
from dltobs._redaction.glance import Glance
from dltobs._redaction.lazy import lazy
from dltobs._redaction.names import KeyNames
from dltobs._redaction.patterns import MARKER, PATTERN_RULES, WITHHELD, cut
from dltobs._redaction.pieces import MIN_SECRET, Pieces
from dltobs._redaction.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dltobs._redaction.automaton import Find

    T = TypeVar("T")
    _Span: TypeAlias = tuple[int, int]

_TELLING_LENGTH = 4
"""Fewer characters at the end of a text are rather an accident than the beginning of a secret."""

_LONG_TEXTS = 32
"""How many long texts are remembered, redacted and cut."""
_MOST_PASSES = 4
"""Of the rules, which see their own output; known secrets are searched for until there is none."""

_MOST_NAMES = 50_000
_LETTERS = lazy(rf"[^\W\d_]{{{MIN_LENGTH},}}")
_NAME = lazy(rf"^[^\W\d]{{{MIN_LENGTH},}}$", re.MULTILINE)
_CODE_BEFORE = lazy(
    r"(?:\\(?:[abfnrtv0]|u[0-9A-Fa-f]{4}|x[0-9A-Fa-f]{2})|(?:\x1b|\\u001[bB]|\\x1[bB]|\\033)\[[\d;]*m)\Z"
)
"""Letters and digits that do not belong to the word behind them: an escape, a colour."""
_LONGEST_CODE = 24


class _Automaton(NamedTuple):
    """The automaton, and what its pattern numbers mean.

    Numbers below `plain` are forms of secrets, below `base64` their base64 forms, below `pieces_end` pieces
    of secrets, the rest is what `triggers` names the rules of. `size` is that of the redactor at that time,
    `longest` the length of the longest form of a secret.
    """

    find: Find
    plain: int
    base64: int
    pieces_end: int
    triggers: list[int]
    pieces: Pieces
    size: int
    longest: int


class _Forms(NamedTuple):
    """The forms of one secret: as they stand in a text, in base64, and those of which pieces may be left."""

    plain: set[str]
    base64: set[str]
    long: set[str]


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
        self._glance = Glance(self.finds, self._keys, lambda: self.size)
        self._patterns = tuple(re.compile(pattern) for pattern in patterns)
        self._rules = (*self._keys.rules, *PATTERN_RULES)
        self._literals = [
            (literal, number) for number, rule in enumerate(self._rules) for literal in rule.literals
        ]
        # both only ever grow, so their size tells whether an automaton is up to date
        self._forms: dict[str, _Forms] = {}
        self._common: set[str] = set()
        self._names: set[str] = set()
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
                base64 = base64_forms(value)
                forms = {form for form in (*quoted_forms(value), *base64) if len(form) >= MIN_SECRET}
                self._forms[value] = _Forms(plain_forms(value), base64, forms)
                self._keep_common(value)

    def keep_names(self, *names: str) -> bool:
        """Search no more for the secrets that are ordinary words in these names.

        A weak password may be the word that a pipeline, a table or a folder is called by: it says nothing
        there, and without it the name is lost.

        Args:
            names: Names and paths that the run uses.

        Returns:
            Whether there is such a secret, in these names or in earlier ones.
        """
        text = "\n".join(names)
        new = {*_LETTERS.findall(text), *_NAME.findall(text)} - self._names
        if new and len(self._names) < _MOST_NAMES:
            self._names |= new
            self._keep_common(*list(self._forms))
        return bool(self._common)

    def _keep_common(self, *values: str) -> None:
        self._common.update(value for value in values if value.strip() in self._names)

    @property
    def size(self) -> int:
        """A number that grows with each secret that becomes known, or known as a common word."""
        return len(self._forms) + len(self._common)

    @property
    def values(self) -> frozenset[str]:
        """The secret values known so far, without common words. Handle with care."""
        return frozenset(list(self._forms)) - self._common

    def finds(self, text: str) -> bool:
        """Whether `text` may contain a secret. False means that `text()` would return it unchanged."""
        if self._patterns:
            return True
        spans, starts = self._known(text)
        # names also cover what is no text, which stands in the text of a JSON line
        if spans or (starts and self._keys.are_in(text, starts.get(0, ()))):
            return True
        return bool((starts and self._like_secrets(text, starts)) or self._coded(text))

    def text(self, text: str, limit: int | None = None) -> str:
        """Return the text without secrets; the very same object where there is none.

        Args:
            text: Any text.
            limit: The most characters to keep, of a beginning and an end; the middle of a longer text is not
                searched. None: all.
        """
        if limit is not None and len(text) > limit:
            return self._cut_text(text, limit)
        clean, passes = text, 0
        while True:
            # what is left is searched again: a marker may have completed another secret
            spans, starts = self._known(clean)
            spans += self._coded(clean)
            if starts and not spans and passes < _MOST_PASSES:
                spans = self._like_secrets(clean, starts)
                passes += 1
            if not spans:
                break
            clean = cut(clean, spans)
        for pattern in self._patterns:
            clean = pattern.sub(MARKER, clean)
        return text if clean == text else clean

    def _cut_text(self, text: str, limit: int) -> str:
        """Redact and cut a long text, once for all handlers, events and sinks that have it."""
        key = (str.__hash__(text), len(text), limit, self.size)
        clean = self._long_texts.get(key)
        if clean is None:
            clean = redacted_and_cut(text, limit, self.text, self._current().longest)
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
            for form in chain(forms.plain, forms.base64):
                start = text.find(form[:_TELLING_LENGTH], max(len(text) - len(form) + 1, 0))
                while start >= 0:
                    if form.startswith(text[start:]):
                        return len(text) - start
                    start = text.find(form[:_TELLING_LENGTH], start + 1)
        return 0

    def _known(self, text: str) -> tuple[list[_Span], dict[int, list[int]]]:
        """Return where known secrets stand in the text, and for each rule where it has to look for others."""
        automaton = self._current()
        hits = automaton.find(text)
        starts: dict[int, list[int]] = {}
        return _found(text, automaton, hits, starts) if hits else [], starts

    def _coded(self, text: str) -> list[_Span]:
        """Return where known secrets stand in what the text says when its codings are undone."""
        if not is_coded(text):
            return []
        automaton = self._current()
        spans: list[_Span] = []
        for plain, position in decodings(text):
            inner = _found(plain, automaton, automaton.find(plain), {})
            spans += ((position(start), position(end)) for start, end in inner)
        return spans

    def _like_secrets(self, text: str, starts: dict[int, list[int]]) -> list[_Span]:
        """Return where the rules find what looks like a secret."""
        found = chain.from_iterable(self._rules[rule].spans(text, sorted(starts[rule])) for rule in starts)
        return [(start, end) for start, end in found if start < end and text[start:end] != MARKER]

    def _current(self) -> _Automaton:
        """Return the automaton over all secrets that are known by now."""
        automaton = self._automaton
        if automaton is None or automaton.size != self.size:
            automaton = self._automaton = self._build()
        return automaton

    def _build(self) -> _Automaton:
        size = self.size
        known = [forms for value, forms in list(self._forms.items()) if value not in self._common]
        plain = set().union(*(forms.plain for forms in known))
        base64 = set().union(*(forms.base64 for forms in known)) - plain
        pieces = Pieces(set().union(*(forms.long for forms in known)))
        strings = [*plain, *base64, *pieces.strings]
        return _Automaton(
            search_for([*strings, *(literal for literal, _ in self._literals)]),
            len(plain),
            len(plain) + len(base64),
            len(strings),
            [number for _, number in self._literals],
            pieces,
            size,
            max(map(len, chain(plain, base64)), default=0),
        )


def _found(
    text: str, automaton: _Automaton, hits: list[tuple[int, int, int]], starts: dict[int, list[int]]
) -> list[_Span]:
    """Return where secrets and pieces of secrets stand in the text; fill `starts` for the rules."""
    spans: list[_Span] = []
    for index, start, end in hits:
        if index >= automaton.pieces_end:
            starts.setdefault(automaton.triggers[index - automaton.pieces_end], []).append(start)
        elif index < automaton.plain:
            if _stands_alone(text, start, end):
                spans.append((start, end))
        elif index < automaton.base64:
            spans.append(with_border(text, start, end))
        elif span := automaton.pieces.span(text, index - automaton.base64, start, end):
            spans.append(span)
    return spans


def _stands_alone(text: str, start: int, end: int) -> bool:
    """Return whether what was found is no part of a longer word or number.

    Only a value of letters alone or of digits alone can be one.
    """
    value, before, after = text[start:end], text[start - 1 : start], text[end : end + 1]
    if value.isalpha():
        is_part = str.isalpha
    elif value.isdigit():
        if (before == "." and text[start - 2 : start - 1].isdigit()) or (
            after == "." and text[end + 1 : end + 2].isdigit()
        ):
            return False
        is_part = str.isalnum
    else:
        return True
    if is_part(after):
        return False
    return not is_part(before) or bool(_CODE_BEFORE.search(text, max(0, start - _LONGEST_CODE), start))
