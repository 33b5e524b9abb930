"""Takes secrets out of values of any shape.

Exact values first: an Aho-Corasick automaton over all forms of all known secrets finds them in one
pass, whose cost does not grow with their number. The same pass looks for the literals that make a
pattern rule worth running, so an ordinary log line costs one scan and nothing else.
"""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from ahocorasick_rs import AhoCorasick, Implementation, MatchKind

from dltobs._encodings import MIN_LENGTH, base64_forms, plain_forms
from dltobs._patterns import MARKER, PATTERN_RULES, KeyNames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    T = TypeVar("T")

WITHHELD = "[withheld]"
"""Stands for a whole text when redaction itself has failed."""

_MAX_DEPTH = 32
_SURROGATES = re.compile("[\ud800-\udfff]")
_BASE64_BORDER = re.compile(r"[A-Za-z0-9+/_\-]=*|=+")


class _Automaton(NamedTuple):
    """The automaton, and what its pattern numbers mean.

    Numbers below `plain` are forms of secrets, below `base64` the base64 forms, the rest indexes
    `triggers`.
    """

    find: Callable[..., list[tuple[int, int, int]]]
    plain: int
    base64: int
    triggers: tuple[int, ...]


class Redactor:
    """Replaces secrets by `***`.

    Args:
        values: Secret values. Those of under 6 characters are left to the key and pattern rules.
        keys: Names of fields whose values are secret, beside the built-in ones (password, token, …).
        patterns: Regular expressions whose every match is replaced, beside the built-in ones.

    Safe to be used from several threads.
    """

    def __init__(
        self,
        values: Iterable[str] = (),
        *,
        keys: Iterable[str] = (),
        patterns: Iterable[str | re.Pattern[str]] = (),
    ) -> None:
        self._keys = KeyNames(keys)
        self._patterns = tuple(re.compile(pattern) for pattern in patterns)
        self._rules: tuple[Callable[[str], str], ...] = (
            self._keys.apply,
            *(rule.apply for rule in PATTERN_RULES),
        )
        self._lock = threading.Lock()
        self._values: set[str] = set()
        self._automaton: _Automaton | None = None
        self.add(*values)

    def __repr__(self) -> str:
        """Says how many secrets are known, and none of them."""
        return f"<{type(self).__name__}: {len(self._values)} values>"

    def add(self, *values: str) -> None:
        """Learn more secret values. Known and too short ones are ignored."""
        new = {value for value in values if len(value.strip()) >= MIN_LENGTH} - self._values
        if new:
            with self._lock:
                self._values |= new
                self._automaton = None

    @property
    def values(self) -> frozenset[str]:
        """The secret values known so far. Handle with care."""
        return frozenset(self._values)

    def is_secret_name(self, name: str) -> bool:
        """Whether a text under this name is withheld: `password`, `api_key`, …."""
        return self._keys.covers(name, "")

    def finds(self, text: str) -> bool:
        """Whether `text` may contain a secret. False means that `text()` would return it unchanged."""
        return bool(self._patterns) or bool(self._scan(text)[1])

    def text(self, text: str) -> str:
        """The text without secrets; the very same object where there is none."""
        automaton, hits = self._scan(text)
        if hits:
            text = self._replace(text, automaton, hits)
        for pattern in self._patterns:
            text = pattern.sub(MARKER, text)
        return text

    def redact(self, value: T) -> T:
        """A value of the same shape without secrets.

        Strings, bytes, mappings, sequences, sets and dataclasses are walked; other values, numbers among
        them, are returned as they are. Fields of dataclasses that are marked with
        `metadata={"redact": False}` are not touched.
        """
        return cast("T", _Walk(self.text, self._keys).walk(value, 0))

    def withhold(self, value: T) -> T:
        """A value of the same shape in which every text that `redact()` would look at is `[withheld]`."""
        return cast("T", _Walk(lambda _: WITHHELD, self._keys).walk(value, 0))

    def _scan(self, text: str) -> tuple[_Automaton, list[tuple[int, int, int]]]:
        automaton = self._automaton or self._build()
        try:
            return automaton, automaton.find(text, overlapping=True)
        except UnicodeEncodeError:
            # lone surrogates (file names, broken input): same length, so that positions stay true
            return automaton, automaton.find(_SURROGATES.sub("?", text), overlapping=True)

    def _build(self) -> _Automaton:
        with self._lock:
            if self._automaton is not None:
                return self._automaton
            plain: set[str] = set()
            base64: set[str] = set()
            for value in self._values:
                plain |= plain_forms(value)
                base64 |= base64_forms(value)
            base64 -= plain
            literals: dict[str, int] = {}
            for number, rule in enumerate((self._keys.rule, *PATTERN_RULES)):
                for literal in rule.literals:
                    for form in {literal, literal.upper(), literal.title(), literal.capitalize()}:
                        literals.setdefault(form, number)
            automaton = AhoCorasick(
                [*plain, *base64, *literals],
                MatchKind.Standard,
                store_patterns=False,
                implementation=Implementation.ContiguousNFA,
            )
            self._automaton = _Automaton(
                automaton.find_matches_as_indexes,
                len(plain),
                len(plain) + len(base64),
                tuple(literals.values()),
            )
            return self._automaton

    def _replace(self, text: str, automaton: _Automaton, hits: list[tuple[int, int, int]]) -> str:
        spans: list[tuple[int, int]] = []
        rules: set[int] = set()
        for number, start, end in hits:
            if number < automaton.plain:
                spans.append((start, end))
            elif number < automaton.base64:
                spans.append(_with_border(text, start, end))
            else:
                rules.add(automaton.triggers[number - automaton.base64])
        if spans:
            text = _cut(text, spans)
        for number in sorted(rules):
            text = self._rules[number](text)
        return text


class _Walk:
    """Rebuilds a value with each of its texts replaced, sharing what did not change."""

    def __init__(self, text: Callable[[str], str], keys: KeyNames) -> None:
        self._text = text
        self._keys = keys

    def walk(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if depth > _MAX_DEPTH:
            return WITHHELD
        if isinstance(value, (bytes, bytearray)):
            return self._bytes(value)
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._dataclass(value, depth)
        if isinstance(value, (Sequence, AbstractSet)):
            return self._collection(value, depth)
        return value

    def _bytes(self, value: bytes | bytearray) -> bytes | bytearray:
        text = value.decode("utf-8", "surrogateescape")
        clean = self._text(text)
        return value if clean is text else type(value)(clean.encode("utf-8", "surrogateescape"))

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[Any, Any]:
        clean: dict[Any, Any] = {}
        for key, item in value.items():
            if isinstance(key, str):
                covered = self._keys.covers(key, item)
                clean[self._text(key)] = MARKER if covered else self.walk(item, depth + 1)
            else:
                clean[key] = self.walk(item, depth + 1)
        return clean

    def _dataclass(self, value: Any, depth: int) -> Any:
        changes: dict[str, Any] = {}
        for field in dataclasses.fields(value):
            if field.metadata.get("redact", True):
                item = getattr(value, field.name)
                clean = self.walk(item, depth + 1)
                if clean is not item:
                    changes[field.name] = clean
        return dataclasses.replace(value, **changes) if changes else value

    def _collection(self, value: Any, depth: int) -> Any:
        items = [self.walk(item, depth + 1) for item in value]
        if all(clean is item for clean, item in zip(items, value, strict=True)):
            return value
        if hasattr(value, "_make"):
            return value._make(items)
        if isinstance(value, (tuple, list, set, frozenset)):
            return type(value)(items)
        return items


def _with_border(text: str, start: int, end: int) -> tuple[int, int]:
    """A base64 hit with the characters beside it, which hold bits of the secret, and the padding."""
    match = _BASE64_BORDER.match(text, end)
    if start and _BASE64_BORDER.match(text, start - 1):
        start -= 1
    return start, match.end() if match else end


def _cut(text: str, spans: list[tuple[int, int]]) -> str:
    """The text with overlapping and touching spans replaced by one marker each."""
    parts: list[str] = []
    position = 0
    spans.sort()
    start, end = spans[0]
    for next_start, next_end in spans[1:]:
        if next_start <= end:
            end = max(end, next_end)
            continue
        parts += text[position:start], MARKER
        position, start, end = end, next_start, next_end
    parts += text[position:start], MARKER, text[end:]
    return "".join(parts)
