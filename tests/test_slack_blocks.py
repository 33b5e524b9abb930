"""Every alert is a message that Slack takes."""

from __future__ import annotations

import re

from hypothesis import example, given, settings
from hypothesis import strategies as st

from dltobs.sinks.slack_alert import Alert
from dltobs.sinks.slack_blocks import plain_payload, rich_payload
from slack_server import problem_of, texts_of


def marked_up(payload):
    """The texts in which Slack reads markup."""
    return [
        part["text"]
        for block in payload.get("blocks", [])
        for part in [*block.get("fields", []), *block.get("elements", []), block.get("text")]
        if part and part["type"] == "mrkdwn"
    ]


TEXTS = st.one_of(
    st.text(st.one_of(st.sampled_from("&<>`*_~|@\n 😀a"), st.characters()), max_size=60),
    st.builds(lambda text, times: text * times, st.text(max_size=5), st.sampled_from([400, 1500, 3000])),
    st.sampled_from(["&" * 5000, "<!channel>" * 500, "😀" * 4000, "```" * 1200, "a"]),
)
OURS = st.sampled_from(["Trace", "Step", "Failed jobs"])
PAIRS = st.tuples(TEXTS, TEXTS)
ALERTS = st.builds(
    Alert,
    title=TEXTS.map(lambda text: f"🔴 {text}"),
    facts=st.lists(st.tuples(OURS, TEXTS), max_size=14).map(tuple),
    cause=st.none() | PAIRS,
    heading=OURS,
    details=st.lists(TEXTS, max_size=20).map(tuple),
    note=TEXTS,
    links=st.lists(st.tuples(OURS, TEXTS), max_size=3).map(tuple),
    footer=st.lists(PAIRS, max_size=8).map(tuple),
)


@given(ALERTS)
@example(Alert("🔴 ", links=(("Trace", "`"), ("Trace", "`"))))
@example(Alert("🔴 ", links=(("Trace", "`"),), footer=(("", ""),)))
@settings(max_examples=40, deadline=None)
def test_limits_hold_and_nothing_in_the_data_is_markup(alert):
    """The one markup with brackets is our own link."""
    for payload in (plain_payload(alert), rich_payload(alert)):
        assert problem_of(payload) is None
        for text in texts_of(payload):
            rest = re.sub(r"<[^<>|]*\|[^<>|]*>", "", text) if text is not payload["text"] else text
            assert "<" not in rest
            assert not re.search(r"&(?!amp;|lt;|gt;)", text)
            assert not re.search(r"@(?:channel|here|everyone)\b", text)
        for text in marked_up(payload):
            outside = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
            outside = re.sub(r"<[^<>]*>", "", outside)
            assert not set("`_~") & set(outside)
            assert outside.count("*") in {0, 2}


def test_names_with_markup_in_them_show_as_they_are():
    """They stand in code spans, and addresses are not made links."""
    payload = rich_payload(Alert("🔴 my_shop_x: load failed", facts=(("Destination", "a_b_c *x* ~y~"),)))
    header, section = payload["blocks"]
    assert header["text"] == {"type": "plain_text", "text": "🔴 my_shop_x: load failed", "emoji": False}
    assert section["fields"] == [
        {"type": "mrkdwn", "text": "*Destination*\n`a_b_c *x* ~y~`", "verbatim": True}
    ]
    assert payload["mrkdwn"] is False
    assert payload["unfurl_links"] is False
    assert payload["link_names"] is False


def test_details_that_do_not_fit_are_counted():
    lines = tuple(f"new column orders.column_{number:05} (text)" for number in range(500))
    payload = rich_payload(Alert("🔵 shop: 500 schema changes", details=lines))
    assert problem_of(payload) is None
    shown = payload["blocks"][1]["text"]["text"].strip("`\n").split("\n")
    rest = int(shown[-1].removeprefix("and ").removesuffix(" more").replace(",", ""))
    assert tuple(shown[:-1]) == lines[: len(shown) - 1]
    assert len(shown) - 1 + rest == 500


def test_the_plain_text_has_everything():
    alert = Alert(
        "🔴 shop: load failed",
        facts=(("Step", "load"),),
        cause=("KeyError", "no such order"),
        heading="Failed jobs",
        details=("orders: refused",),
        note="and 4 more since 12:03 UTC",
        links=(("Trace", "https://j/1"),),
        footer=(("Run", "abc"),),
    )
    assert plain_payload(alert)["text"].split("\n") == [
        "🔴 shop: load failed",
        "Step: load",
        "KeyError: no such order",
        "Failed jobs:",
        "orders: refused",
        "and 4 more since 12:03 UTC",
        "Trace: https://j/1",
        "Run: abc",
    ]


def test_a_long_message_leaves_room_for_what_stands_below_it():
    alert = Alert("🔴 shop", cause=("KeyError", "x" * 10_000), note="and 4 more since 12:03 UTC")
    assert plain_payload(alert)["text"].endswith("…\nand 4 more since 12:03 UTC")
