"""Tells in one scan that a whole value holds no secret, so that it need not be walked text by text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence, ValuesView
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import chain
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dltobs._redaction.names import KeyNames

CONTAINERS = (Mapping, Sequence, AbstractSet, ValuesView)
"""What redaction looks into, beside dataclasses; other objects are left as they are."""

_MAX_DEPTH = 32
_MAX_CONTAINERS = 50_000
"""Of one value: parts that are shared are looked at again each time."""
_MAX_PLANS = 512
_SEPARATOR = "\n"
_NUMBERS = frozenset({type(None), int, float, bool, datetime, date, timedelta})
"""Most values in an event; redaction leaves them as they are."""
_SIMPLE = (list, tuple, set, frozenset)


class _NotSureError(Exception):
    """A closer look has to be taken."""


class _Plan(NamedTuple):
    """How to look at values of one class: `read` gives the parts of a dataclass; None: nothing to look at."""

    read: Callable[[Any], Iterable[Any]] | None
    is_secret: bool = False


@dataclass(slots=True)
class _Look:
    """What one look has found so far; the same names come again and again, so they are searched once."""

    texts: list[str]
    budget: int
    clean_keys: set[tuple[str, ...]]
    new_keys: set[tuple[str, ...]]


class Glance:
    """Looks over values: all of their texts are searched at once.

    Args:
        finds: Whether a text may contain a secret. What it finds in a text it finds in a longer one that
            contains it between line feeds.
        keys: Names under which a value is withheld, whatever it is.
        size: The number of secrets known, which only grows: what was found clean holds until it does.
    """

    def __init__(self, finds: Callable[[str], bool], keys: KeyNames, size: Callable[[], int]) -> None:
        self._finds = finds
        self._keys = keys
        self._size = size
        self._plans: dict[type, _Plan] = {}
        # by number of secrets, so that a thread that has seen fewer of them spoils nothing
        self._clean_keys: tuple[int, set[tuple[str, ...]]] = (-1, set())

    def is_clean(self, value: Any, limit: int | None = None) -> bool:
        """Whether redaction would leave the value as it is; False also where that takes a closer look.

        Args:
            value: Any value.
            limit: The length from which on a text takes a closer look.
        """
        size = self._size()
        if self._clean_keys[0] != size:
            self._clean_keys = (size, set())
        look = _Look([], _MAX_CONTAINERS, self._clean_keys[1], set())
        try:
            self._collect(value, look, 0)
            if limit is not None and max(map(len, look.texts), default=0) > limit:
                return False
            if self._finds(_SEPARATOR.join((*look.texts, *chain.from_iterable(look.new_keys)))):
                return False
        except Exception:  # noqa: BLE001 - an object of the user's own; the closer look copes with all of them
            return False
        if len(look.clean_keys) + len(look.new_keys) <= _MAX_PLANS:
            look.clean_keys |= look.new_keys
        return True

    def _collect(self, value: Any, look: _Look, depth: int) -> None:
        kind = type(value)
        if kind is str:
            look.texts.append(value)
            return
        look.budget -= 1
        if depth > _MAX_DEPTH or look.budget < 0:
            raise _NotSureError
        for item in self._parts(value, kind, look):
            kind = type(item)
            if kind is str:
                look.texts.append(item)
            elif kind not in _NUMBERS:
                self._collect(item, look, depth + 1)

    def _parts(self, value: Any, kind: type, look: _Look) -> Iterable[Any]:
        if kind in _SIMPLE:
            return value  # type: ignore[no-any-return]  # one of the containers that the set names
        if kind is dict:
            return self._items(value, look)
        if kind is MappingProxyType:
            return self._items(dict(value.copy()), look)
        plan = self._plans.get(kind) or self._planned(kind)
        if plan.is_secret:
            raise _NotSureError
        return () if plan.read is None else plan.read(value)

    def _items(self, mapping: dict[Any, Any], look: _Look) -> Iterable[Any]:
        keys = tuple(mapping)
        if keys not in look.clean_keys and keys not in look.new_keys:
            if any(type(key) is not str or self._keys.covers_texts(key) for key in keys):
                raise _NotSureError
            look.new_keys.add(keys)
        return mapping.values()

    def _planned(self, kind: type) -> _Plan:
        if len(self._plans) >= _MAX_PLANS:
            self._plans.clear()
        plan = self._plans[kind] = self._plan(kind)
        return plan

    def _plan(self, kind: type) -> _Plan:
        if issubclass(kind, (int, float, range)):
            return _Plan(None)
        if dataclasses.is_dataclass(kind):
            names = [one.name for one in dataclasses.fields(kind) if one.metadata.get("redact", True)]
            if issubclass(kind, CONTAINERS) or any(map(self._keys.covers_texts, names)):
                return _Plan(None, is_secret=True)
            if len(names) > 1:
                return _Plan(attrgetter(*names))
            return _Plan(lambda value: [getattr(value, name) for name in names])
        if issubclass(kind, (str, bytes, bytearray, memoryview, *CONTAINERS)):
            return _Plan(None, is_secret=True)
        return _Plan(None)
