"""Takes secrets out of values of any shape.

Exact values first: an Aho-Corasick automaton over all forms of all known secrets finds them in one
pass, whose cost does not grow with their number. The same pass looks for the literals that make a
pattern rule worth running, so an ordinary log line costs one scan and nothing else.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Mapping, Sequence, ValuesView
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from ahocorasick_rs import AhoCorasick, Implementation, MatchKind

from dltobs._encodings import (
    MIN_LENGTH,
    QUOTED_BYTES,
    base64_forms,
    plain_forms,
    unquoted,
    with_border,
    without_surrogates,
)
from dltobs._patterns import MARKER, PATTERN_RULES, KeyNames, cut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    T = TypeVar("T")

WITHHELD = "[withheld]"
"""Stands for a whole text when redaction itself has failed."""

_MAX_DEPTH = 32
_CONTAINERS = (Mapping, Sequence, AbstractSet, ValuesView)
_TEXT_KEYS = (str, bytes, tuple, frozenset)
_QUOTING = -1
"""Stands for a rule: the text has URL quoting, so it is to be searched without it as well."""


class _Automaton(NamedTuple):
    """The automaton, and what its pattern numbers mean.

    Numbers below `plain` are forms of secrets, below `base64` their base64 forms, the rest is what
    `triggers` names the rules of. `size` is the number of secrets that it was built from.
    """

    find: Callable[..., list[tuple[int, int, int]]]
    plain: int
    base64: int
    triggers: dict[int, int]
    size: int


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
        self._patterns = tuple(re.compile(pattern) for pattern in patterns)
        rules = (self._keys.rule, *PATTERN_RULES)
        self._rules = tuple(rule.apply for rule in rules)
        self._literals = [
            *((literal, number) for number, rule in enumerate(rules) for literal in rule.literals),
            *((literal, _QUOTING) for literal in QUOTED_BYTES),
        ]
        # only ever grows, so its size tells whether an automaton is up to date
        self._forms: dict[str, tuple[set[str], set[str]]] = {}
        self._automaton: _Automaton | None = None
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
    def values(self) -> frozenset[str]:
        """The secret values known so far. Handle with care."""
        return frozenset(list(self._forms))

    def is_secret_name(self, name: str) -> bool:
        """Whether a text under this name is withheld: `password`, `api_key`, …."""
        return self._keys.covers(name, "")

    def finds(self, text: str) -> bool:
        """Whether `text` may contain a secret. False means that `text()` would return it unchanged."""
        return bool(self._patterns) or bool(self._scan(text)[1])

    def text(self, text: str) -> str:
        """The text without secrets; the very same object where there is none."""
        automaton, hits = self._scan(text)
        clean = self._replaced(text, automaton, hits) if hits else text
        for pattern in self._patterns:
            clean = pattern.sub(MARKER, clean)
        return text if clean == text else clean

    def redact(self, value: T) -> T:
        """A value of the same shape without secrets, which shares with it what did not change.

        Strings, bytes, mappings, sequences, sets and dataclasses are walked; other values, numbers among
        them, are returned as they are. Fields of dataclasses that are marked with
        `metadata={"redact": False}` are not touched. A container that cannot be read, that contains
        itself or lies too deep is `[withheld]`.
        """
        return cast("T", _Walk(self.text, self._keys).walk(value, 0))

    def withhold(self, value: T) -> T:
        """A value of the same shape in which every text that `redact()` would look at is `[withheld]`."""
        return cast("T", _Walk(lambda _: WITHHELD, self._keys).walk(value, 0))

    def _scan(self, text: str) -> tuple[_Automaton, list[tuple[int, int, int]]]:
        automaton = self._automaton
        if automaton is None or automaton.size != len(self._forms):
            automaton = self._automaton = self._build()
        try:
            return automaton, automaton.find(text, overlapping=True)
        except UnicodeEncodeError:
            return automaton, automaton.find(without_surrogates(text), overlapping=True)

    def _build(self) -> _Automaton:
        known = list(self._forms.values())  # at once: other threads may be learning
        plain = set().union(*(forms for forms, _ in known))
        base64 = set().union(*(forms for _, forms in known)) - plain
        automaton = AhoCorasick(
            [*plain, *base64, *(literal for literal, _ in self._literals)],
            MatchKind.Standard,
            store_patterns=False,
            implementation=Implementation.ContiguousNFA,
        )
        return _Automaton(
            automaton.find_matches_as_indexes,
            len(plain),
            len(plain) + len(base64),
            {number: rule for number, (_, rule) in enumerate(self._literals, len(plain) + len(base64))},
            len(known),
        )

    def _replaced(self, text: str, automaton: _Automaton, hits: list[tuple[int, int, int]]) -> str:
        rules: set[int] = set()
        text = self._without_values(text, automaton, hits, rules)
        changed = text
        for number in sorted(rules - {_QUOTING}):
            changed = self._rules[number](changed)
        if changed != text:
            # a marker may have completed what is a secret as well
            changed = self._without_values(changed, *self._scan(changed), rules)
        return changed

    def _without_values(
        self, text: str, automaton: _Automaton, hits: list[tuple[int, int, int]], rules: set[int]
    ) -> str:
        while True:
            spans = _spans(text, automaton, hits)
            found = {automaton.triggers[number] for number, _, _ in hits if number >= automaton.base64}
            rules |= found
            if _QUOTING in found:
                for plain, position in unquoted(text):
                    inner = _spans(plain, *self._scan(plain))
                    spans += ((position(start), position(end)) for start, end in inner)
            if not spans:
                return text
            # each marker is shorter than what it replaces, so this comes to an end
            text = cut(text, spans)
            automaton, hits = self._scan(text)


class _Walk:
    """Rebuilds a value with each of its texts replaced, sharing what did not change."""

    def __init__(self, text: Callable[[str], str], keys: KeyNames) -> None:
        self._text = text
        self._keys = keys
        # by identity; the values are kept so that no identity is used twice
        self._seen: dict[tuple[int, str | None], tuple[Any, Any]] = {}

    def walk(self, value: Any, depth: int, name: str | None = None) -> Any:
        """The clean value; `name` is that of the secret field in which it lies."""
        kind = type(value)  # a proxy may pretend to be of another class
        if issubclass(kind, str):
            return self._text(value) if name is None or not value else MARKER
        if value is None or issubclass(kind, (int, float, range)):
            return MARKER if name is not None and self._keys.covers(name, value) else value
        if issubclass(kind, (bytes, bytearray, memoryview)):
            return self._bytes(value, name)
        if not issubclass(kind, _CONTAINERS) and not dataclasses.is_dataclass(kind):
            return value if name is None else MARKER
        if depth > _MAX_DEPTH:
            return WITHHELD
        key = id(value), name
        if key not in self._seen:
            self._seen[key] = value, WITHHELD  # for what contains itself
            self._seen[key] = value, self._container(value, depth + 1, name)
        return self._seen[key][1]

    def _container(self, value: Any, depth: int, name: str | None) -> Any:
        try:
            parts = _parts(value)
        except Exception:  # noqa: BLE001 - an object of the user's own cannot be read
            return WITHHELD
        if isinstance(value, Mapping):
            return self._mapping(value, parts, depth, name)
        if dataclasses.is_dataclass(value):
            return self._dataclass(value, parts, depth, name)
        return self._collection(value, parts, depth, name)

    def _bytes(self, value: bytes | bytearray | memoryview, name: str | None) -> Any:
        if name is not None and len(value):
            return MARKER.encode() if isinstance(value, memoryview) else type(value)(MARKER.encode())
        data = value.tobytes() if isinstance(value, memoryview) else value
        text = data.decode("utf-8", "surrogateescape")
        clean = self._text(text)
        return value if clean is text else type(data)(clean.encode("utf-8", "surrogateescape"))

    def _named(self, key: Any, item: Any, depth: int, name: str | None) -> Any:
        if name is None and isinstance(key, str) and self._keys.covers(key, ""):
            name = key
        return self.walk(item, depth, name)

    def _mapping(self, value: Any, parts: list[tuple[Any, Any]], depth: int, name: str | None) -> Any:
        clean: dict[Any, Any] = {}
        is_changed = False
        for key, item in parts:
            clean_key = new_key = self.walk(key, depth) if isinstance(key, _TEXT_KEYS) else key
            while clean_key in clean:  # two secrets as keys: no entry is lost
                clean_key = f"{new_key}{len(clean)}"
            clean[clean_key] = self._named(key, item, depth, name)
            is_changed |= clean_key is not key or clean[clean_key] is not item
        return clean if is_changed else value

    def _dataclass(self, value: Any, parts: list[tuple[str, Any]], depth: int, name: str | None) -> Any:
        changes = {field: self._named(field, item, depth, name) for field, item in parts}
        changes = {field: changes[field] for field, item in parts if changes[field] is not item}
        if not changes:
            return value
        clean = copy.copy(value)
        for field, item in changes.items():
            object.__setattr__(clean, field, item)  # frozen, or not an argument of its __init__
        return clean

    def _collection(self, value: Any, parts: list[tuple[Any, Any]], depth: int, name: str | None) -> Any:
        items = [self._named(field, item, depth, name) for field, item in parts]
        if all(clean is item for clean, (_, item) in zip(items, parts, strict=True)):
            return value
        try:
            if hasattr(value, "_make"):
                return value._make(items)
            if isinstance(value, (tuple, list, set, frozenset)):
                return type(value)(items)
        except Exception:  # noqa: BLE001, S110 - a class of the user's own takes other arguments
            pass
        return tuple(items) if isinstance(value, tuple) else items


def _parts(value: Any) -> list[tuple[Any, Any]]:
    """What a container consists of, each part with its name where it has one."""
    if isinstance(value, Mapping):
        return list(value.items())
    if dataclasses.is_dataclass(value):
        fields = (field for field in dataclasses.fields(value) if field.metadata.get("redact", True))
        return [(field.name, getattr(value, field.name)) for field in fields]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    return [(None, item) for item in value]


def _spans(text: str, automaton: _Automaton, hits: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """Where in the text the secrets stand."""
    return [
        (start, end) if number < automaton.plain else with_border(text, start, end)
        for number, start, end in hits
        if number < automaton.base64
    ]
