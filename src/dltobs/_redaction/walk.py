"""Rebuilds values of any shape with each of their texts replaced."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dltobs._redaction.glance import CONTAINERS
from dltobs._redaction.patterns import MARKER, WITHHELD

if TYPE_CHECKING:
    from collections.abc import Callable

    from dltobs._redaction.names import KeyNames

_MAX_DEPTH = 32
_TEXT_KEYS = (str, bytes, tuple, frozenset)


class Walk:
    """Rebuilds one value, sharing with it what did not change.

    Args:
        text: Gives the replacement of a text, cut to a limit; the same object where nothing changes.
        keys: Names under which a value is withheld, whatever it is.
        is_clean: Whether a container is known to need no replacement; False is no more than a doubt.
        limit: The most characters of a text, as for `Redactor.redact()`.
    """

    def __init__(
        self,
        text: Callable[[str, int | None], str],
        keys: KeyNames,
        is_clean: Callable[[Any, int | None], bool] = lambda *_: False,
        limit: int | None = None,
    ) -> None:
        self._text = text
        self._limit = limit
        self._keys = keys
        self._is_clean = is_clean
        # by identity; the values are kept so that no identity is used twice
        self._seen: dict[tuple[int, str | None], tuple[Any, Any]] = {}

    def walk(self, value: Any, depth: int, name: str | None = None, limit: int | None = None) -> Any:
        """The clean value; `name` is that of the secret field in which it lies, `limit` that of its own."""
        kind = type(value)  # a proxy may pretend to be of another class
        if issubclass(kind, str):
            return self._text(value, limit or self._limit) if name is None or not value else MARKER
        if value is None or issubclass(kind, (int, float, range)):
            return MARKER if name is not None and self._keys.covers(name, value) else value
        if issubclass(kind, (bytes, bytearray, memoryview)):
            return self._bytes(value, name)
        if not issubclass(kind, CONTAINERS) and not dataclasses.is_dataclass(kind):
            return value if name is None else MARKER
        if depth > _MAX_DEPTH:
            return WITHHELD
        key = id(value), name
        if key not in self._seen:
            self._seen[key] = value, WITHHELD  # for what contains itself
            self._seen[key] = value, self._container(value, depth + 1, name)
        return self._seen[key][1]

    def _container(self, value: Any, depth: int, name: str | None) -> Any:
        if name is None and self._is_clean(value, self._limit):
            return value
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
        clean = self._text(text, self._limit)
        return value if clean is text else type(data)(clean.encode("utf-8", "surrogateescape"))

    def _named(self, key: Any, item: Any, depth: int, name: str | None, limit: int | None = None) -> Any:
        if name is None and isinstance(key, str) and self._keys.covers_texts(key):
            name = key
        return self.walk(item, depth, name, limit)

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
        fields = () if self._limit is None else dataclasses.fields(value)
        limits = {one.name: one.metadata["limit"] for one in fields if "limit" in one.metadata}
        changes = {field: self._named(field, item, depth, name, limits.get(field)) for field, item in parts}
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
