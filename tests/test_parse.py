"""Raw values become typed ones, or a ValueError that does not show them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dltobs._settings import parse

PARSERS = {
    "boolean": parse.boolean,
    "one_of": parse.one_of("auto", "on", "off"),
    "integer": parse.integer(1),
    "seconds": parse.seconds,
    "level": parse.level,
    "text": parse.text,
    "path": parse.path,
    "names": parse.names,
    "pairs": parse.pairs,
    "patterns": parse.patterns,
    "http_url": parse.http_url,
    "endpoint": parse.endpoint("grpc"),
    "sentry_dsn": parse.sentry_dsn,
}

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("name", PARSERS)
@given(value=anything)
def test_whatever_is_given_a_parser_returns_or_raises_value_error(name, value):
    """Numbers, texts, bytes, lists and mappings of everything."""
    refusal: Exception | None = None
    try:
        PARSERS[name](value)
    except Exception as error:
        refusal = error
    assert refusal is None or type(refusal) is ValueError


@pytest.mark.parametrize("name", [name for name in PARSERS if name != "patterns"])
@given(value=st.text(alphabet=st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF), min_size=6))
def test_the_reason_of_a_refusal_does_not_contain_the_value(name, value):
    reason = ""
    try:
        PARSERS[name](value)
    except ValueError as error:
        reason = str(error)
    assert value not in reason


@pytest.mark.parametrize(
    ("parser", "raw", "expected"),
    [
        (parse.boolean, "Yes", True),
        (parse.boolean, " off ", False),
        (parse.boolean, 1, True),
        (parse.one_of("on", "off"), True, "on"),
        (parse.one_of("text", "json"), " JSON", "json"),
        (parse.integer(1), "12", 12),
        (parse.seconds, "0.5", 0.5),
        (parse.seconds, 0, 0.0),
        (parse.level, "warning", logging.WARNING),
        (parse.level, "15", 15),
        (parse.text, 7, "7"),
        (parse.path, "~/x.log", Path("~/x.log").expanduser()),
        (parse.names, "a, b,,c ", ("a", "b", "c")),
        (parse.names, '["a", "b,c"]', ("a", "b,c")),
        (parse.names, ["a", " b"], ("a", "b")),
        (parse.pairs, "team=data, owner=a=b", {"team": "data", "owner": "a=b"}),
        (parse.pairs, '{"team": "data"}', {"team": "data"}),
        (parse.pairs, {"team": 7}, {"team": "7"}),
        (parse.endpoint("grpc"), "collector:4317", "collector:4317"),
        (parse.endpoint("http/protobuf"), " https://c.example/otlp ", "https://c.example/otlp"),
        (parse.sentry_dsn, "https://k@o1.ingest.sentry.io/4", "https://k@o1.ingest.sentry.io/4"),
        (parse.sentry_dsn, "https://k@sentry.example/path/4", "https://k@sentry.example/path/4"),
    ],
)
def test_a_usual_spelling_is_understood(parser, raw, expected):
    assert parser(raw) == expected


@pytest.mark.parametrize(
    ("parser", "raw"),
    [
        (parse.boolean, "maybe"),
        (parse.boolean, 2),
        (parse.boolean, None),
        (parse.one_of("on", "off"), "auto"),
        (parse.integer(1), "0"),
        (parse.integer(1), 1.5),
        (parse.integer(1), True),
        (parse.seconds, "-1"),
        (parse.seconds, "nan"),
        (parse.seconds, "inf"),
        (parse.level, "LOUD"),
        (parse.level, True),
        (parse.text, "  "),
        (parse.text, True),
        (parse.path, ""),
        (parse.path, "a\0b"),
        (parse.path, 5),
        (parse.names, 5),
        (parse.names, ["a", 5]),
        (parse.pairs, "team"),
        (parse.pairs, "=x"),
        (parse.pairs, {"": "x"}),
        (parse.patterns, "("),
        (parse.patterns, "a*"),
        (parse.patterns, [b"x"]),
        (parse.http_url, "localhost:4318"),
        (parse.http_url, "ftp://localhost"),
        (parse.http_url, "http://"),
        (parse.http_url, "http://a b"),
        (parse.http_url, "http://localhost:99999"),
        (parse.http_url, "http://[::1"),
        (parse.endpoint("http/protobuf"), "collector:4317"),
        (parse.endpoint("grpc"), "collector:port"),
        (parse.sentry_dsn, "https://o1.ingest.sentry.io/4"),
        (parse.sentry_dsn, "https://k@o1.ingest.sentry.io/"),
        (parse.sentry_dsn, "https://k@o1.ingest.sentry.io/project"),
    ],
)
def test_a_wrong_value_is_refused(parser, raw):
    with pytest.raises(ValueError):
        parser(raw)


def test_patterns_are_split_at_commas_outside_of_brackets_only():
    """Commas belong to quantifiers and classes."""
    found = parse.patterns(r"x{1,2}, [a,b]+ ,\,y")
    assert [pattern.pattern for pattern in found] == ["x{1,2}", "[a,b]+", r"\,y"]


def test_patterns_may_be_a_json_list():
    assert [one.pattern for one in parse.patterns(r'["a,b", "c\\d"]')] == ["a,b", r"c\d"]
