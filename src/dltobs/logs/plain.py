"""Makes JSON of anything: whatever a log call was given, the line stays well-formed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
from pythonjsonlogger.orjson import orjson_default

from dltobs._describe import text_of, type_name

_MAX_DEPTH = 16
_MAX_INTEGER_BITS = 14_000
"""Longer ones Python refuses to write in decimal (`sys.set_int_max_str_digits`)."""

_SCALARS = (datetime, date, time, timedelta, Decimal, UUID)


def dumps(value: Any) -> str:
    """`value` as JSON in one line; never raises.

    What JSON has no word for becomes text, NaN and infinities `null`. Circular references are cut.
    """
    try:
        return orjson.dumps(value, default=_default, option=orjson.OPT_NON_STR_KEYS).decode()
    except (TypeError, ValueError, RecursionError):
        # what orjson cannot write: integers of over 64 bits, lone surrogates, circular references
        return json.dumps(plain(value), default=_text_of_scalar, ensure_ascii=False, separators=(",", ":"))


def plain(value: Any) -> Any:
    """The same value out of mappings, lists, text, numbers, dates and None alone.

    Other objects become their text: nobody could take a secret out of them otherwise.
    """
    return _plain(value, frozenset())


def to_ascii(line: str) -> str:
    """A line of JSON for a stream that cannot write every character."""
    return "".join(character if character.isascii() else json.dumps(character)[1:-1] for character in line)


def _plain(value: Any, parents: frozenset[int]) -> Any:  # noqa: PLR0911 - one for each kind of value
    if value is None or isinstance(value, bool) or type(value) in _SCALARS:
        return value
    if isinstance(value, str):
        return _encodable(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, int):
        bits = value.bit_length()
        return int(value) if bits <= _MAX_INTEGER_BITS else f"<int of {bits} bits>"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode("utf-8", "backslashreplace")
    if not isinstance(value, (Mapping, list, tuple, AbstractSet)):
        return _encodable(text_of(value))
    if id(value) in parents or len(parents) >= _MAX_DEPTH:
        return f"<{type_name(type(value))}>"
    parents |= {id(value)}
    if isinstance(value, Mapping):
        return {_encodable(text_of(key)): _plain(item, parents) for key, item in value.items()}
    return [_plain(item, parents) for item in value]


def _default(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, AbstractSet):
        return list(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode("utf-8", "backslashreplace")
    return orjson_default(value)


def _text_of_scalar(value: Any) -> str:
    return str(value.isoformat()) if isinstance(value, (date, time)) else text_of(value)


def _encodable(text: str) -> str:
    r"""Lone surrogates (file names, broken input) as `\udc80`: strict parsers refuse them even escaped."""
    return str(text) if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
