"""One look at a whole value, which may doubt too often but never see nothing where there is something."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from datetime import datetime, timezone
from types import MappingProxyType

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dltobs._events import Job, Run, StepFinished
from dltobs._redaction.redactor import Redactor
from dltobs._redaction.walk import Walk

SECRETS = ("hunter2hunter2", "p@ss word/ü", "line one secret\nline two secret")
REDACTOR = Redactor(SECRETS)
NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


@dataclasses.dataclass
class Pair:
    name: str
    item: object


@dataclasses.dataclass
class Login:
    user: str
    password: str


class Name(str):
    """A text of somebody's own."""

    __slots__ = ()


_PIECES = st.one_of(
    st.sampled_from(
        [*SECRETS, "aHVudGVyMmh1bnRlcjI", "p%40ss%20word%2F%C3%BC", "password", "=", "token:", "Bearer ", "://u:p@h",
         "?code=", "\n", " ", "\ud800", "eyJhbGciOi", ".abcdef.ghijkl", "x"]
    ),
    st.text(max_size=8),
)  # fmt: skip
_TEXTS = st.lists(_PIECES, max_size=5).map("".join)
_LEAVES = st.one_of(
    _TEXTS,
    _TEXTS.map(Name),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
    st.binary(max_size=8),
    st.just(NOW),
)
_KEYS = st.one_of(st.sampled_from(["password", "api_key", "token_count", "name", "dlt.rows"]), _TEXTS)
VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(_KEYS, inner, max_size=4),
        st.dictionaries(_KEYS, inner, max_size=4).map(MappingProxyType),
        st.dictionaries(_KEYS, inner, max_size=4).map(OrderedDict),
        st.builds(Pair, _TEXTS, inner),
        st.builds(Login, _TEXTS, _TEXTS),
    ),
    max_leaves=12,
)


@given(VALUES)
@example(["password", "= hunter2hunter2"])
@example({"password": 12345})
@example({"a": ["x", {"secret": "s"}]})
@example(("Bearer abcdefghijklmnopqrstuvwx1",))
@example("?code=abc")
def test_what_is_called_clean_is_what_the_walk_leaves_alone(value):
    """Whatever the value: a clean one is the same object after redaction, text by text."""
    if REDACTOR.is_clean(value):
        assert Walk(REDACTOR.text, REDACTOR._keys).walk(value, 0) is value


@given(VALUES)
def test_redaction_gives_the_same_with_and_without_the_glance(value):
    """The glance saves time and changes nothing."""
    walked = Walk(REDACTOR.text, REDACTOR._keys).walk(value, 0)
    assert repr(REDACTOR.redact(value)) == repr(walked)


@pytest.mark.parametrize(
    "value",
    [
        ["a", ("b", {"c": "d"}), {1, 2}],
        Job("orders.1234.parquet", "orders", internal=False, state="completed", rows=3, started_at=NOW),
        MappingProxyType({"dlt.rows": 5, "http.url": "https://example.com/orders"}),
        {"token_count": 3, "nothing": None},
        StepFinished(Run("p", "0" * 32), "load", 0, NOW, NOW, load_jobs=()),
    ],
    ids=["containers", "a job", "attributes", "a harmless name", "an event"],
)
def test_ordinary_values_are_clean_at_a_glance(value):
    """Else nothing would be saved."""
    assert REDACTOR.is_clean(value)


@pytest.mark.parametrize(
    "value",
    [
        ["a", ("b", {"c": "my hunter2hunter2"})],
        {"hunter2hunter2": 1},
        Login("ann", ""),
        {"password": 123456},
        {"password": Name("x")},
        b"bytes",
        OrderedDict(a=1),
        {("a", "hunter2hunter2"): 1},
    ],
    ids=["nested", "key", "secret field", "number", "own text", "bytes", "own mapping", "tuple as key"],
)
def test_a_doubt_leads_to_the_closer_look(value):
    """Secrets, names that tell of one, and whatever it does not know."""
    assert not REDACTOR.is_clean(value)


def test_a_value_that_contains_itself_is_doubted():
    """It comes to an end."""
    value: list[object] = []
    value.append(value)
    assert not REDACTOR.is_clean(value)


def test_parts_that_are_shared_a_thousandfold_are_doubted():
    """Its time is bounded: each level of this would double it."""
    value: list[object] = []
    for _ in range(30):
        value = [value, value]
    assert not REDACTOR.is_clean(value)


def test_with_patterns_of_the_users_nothing_is_clean_at_a_glance():
    """They may hold anchors, which mean something else in a text of many."""
    redactor = Redactor(patterns=["^abc$"])
    assert not redactor.is_clean(["abc"])
    assert redactor.redact(["abc"]) == ["***"]


def test_an_object_that_raises_is_doubted():
    """Whatever it raises."""

    @dataclasses.dataclass
    class Broken:
        name: str

        def __getattribute__(self, name):
            if name == "name":
                raise RuntimeError
            return super().__getattribute__(name)

    assert not REDACTOR.is_clean(Broken("a"))


def test_one_secret_among_many_values_is_replaced_and_the_others_stay():
    """The others are the same objects."""
    jobs = tuple(Job(f"t{number}.parquet", "t", internal=False, state="completed") for number in range(100))
    jobs += (Job("t.parquet", "t", internal=False, state="failed", failed_message="no hunter2hunter2"),)
    clean = REDACTOR.redact(jobs)
    assert clean[-1].failed_message == "no ***"
    assert all(before is after for before, after in zip(jobs[:-1], clean[:-1], strict=True))


def test_what_was_clean_is_looked_at_again_when_a_secret_was_learned():
    """Names are remembered, as they come again and again; texts are not."""
    redactor = Redactor(["another secret"])
    value = {"column hunter2hunter2": {"note": "hunter3hunter3"}}
    assert redactor.is_clean(value)
    redactor.add("hunter2hunter2")
    assert redactor.redact(value) == {"column ***": {"note": "hunter3hunter3"}}
    redactor.add("hunter3hunter3")
    assert redactor.redact(value) == {"column ***": {"note": "***"}}
