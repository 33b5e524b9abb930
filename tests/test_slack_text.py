"""Data in a message to Slack is never markup, and fits."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dltobs.sinks.slack_text import code, code_block, escaped, joined, length, link
from slack_server import size

TEXTS = st.text(st.one_of(st.sampled_from("&<>`*_~|@\n 😀a"), st.characters()), max_size=400)
HALF_ENTITY = re.compile(r"&(?!amp;|lt;|gt;)")


@given(TEXTS, st.integers(1, 300))
def test_an_escaped_text_fits_and_no_entity_or_character_is_cut(text, limit):
    """What is left after unescaping is the beginning of the text, with an ellipsis where it was cut."""
    result = escaped(text, limit)
    assert size(result) <= limit
    assert not HALF_ENTITY.search(result)
    assert "<" not in result
    assert ">" not in result
    result.encode()  # no half of a surrogate pair
    shown = html.unescape(result).replace("@\u200b", "@")
    if shown.endswith("…") and not text.endswith("…"):
        shown = shown[:-1]
        assert size(result) > limit - 8  # one more might not have fitted
    printable = re.sub(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", " ", text)
    assert printable.replace("@\u200b", "@").startswith(shown)


@given(TEXTS, st.integers(20, 300))
def test_a_code_span_is_closed_and_has_no_backtick_inside(text, limit):
    for result, fence in ((code(text, limit), "`"), (code_block(text, limit), "```")):
        assert size(result) <= limit
        if result != "-":
            inner = result[len(fence) : -len(fence)]
            assert result == f"{fence}{inner}{fence}"
            assert "`" not in inner


@given(st.lists(TEXTS), st.integers(0, 300))
def test_parts_are_joined_whole_as_long_as_they_fit(parts, limit):
    result = joined(parts, " · ", limit)
    assert length(result) <= limit
    whole = [part for part in parts if part]
    assert result in [" · ".join(whole[:count]) for count in range(len(whole) + 1)]


@pytest.mark.parametrize("word", ["channel", "here", "everyone", "all", "Channel"])
def test_nobody_is_pinged(word):
    """Neither by Slack's own markup nor by what compatible servers read in plain text."""
    result = escaped(f"<!{word}> @{word} <@U012AB3CD>", 200)
    assert "<" not in result
    assert f"@{word}" not in result
    assert "@" in result


def test_an_address_of_mail_stays_as_it_is():
    assert escaped("ann@channels.example", 50) == "ann@channels.example"


def test_a_link_is_whole_or_not_there():
    """A bar or bracket in the address would end it."""
    assert link("https://j/a|b>c", "Trace", 100) == "<https://j/a%7Cb%3Ec|Trace>"
    assert link("https://j/" + "a" * 100, "Trace", 100) == ""
    assert link("https://j/", "a|b>", 100) == "<https://j/|a b&gt;>"


def test_lines_stay_in_a_block_and_become_one_in_a_span():
    assert code("a\n  b", 50) == "`a b`"
    assert code_block("a\n  b\n", 50) == "```\na\n  b\n```"
    assert code(" ", 50) == "-"
