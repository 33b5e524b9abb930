"""An alert as what Slack's webhooks take: blocks, and plain text where there can be none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dltobs.sinks.slack_text import (
    CONTEXT,
    FIELD,
    HEADER,
    PLAIN,
    SECTION,
    code,
    code_block,
    escaped,
    joined,
    length,
    link,
)

if TYPE_CHECKING:
    from dltobs.sinks.slack_alert import Alert

_MAX_FIELDS = 10
"""Of one block."""
_CAUSE_TYPE = 300
_VALUE = 200
"""Characters of a value among others."""
_LINE = 500
"""Characters of a line among others."""


def plain_payload(alert: Alert) -> dict[str, Any]:
    """The alert without blocks: nothing in it is markup, and nothing is made a link or a mention."""
    lines = [alert.title, *(f"{label}: {value}" for label, value in alert.facts)]
    if alert.cause is not None:
        lines.append(": ".join(alert.cause))
    if alert.heading:
        lines.append(f"{alert.heading}:")
    lines += [line[:_LINE] for line in alert.details]
    ends = [alert.note, *(f"{label}: {value}" for label, value in (*alert.links, *alert.footer))]
    end = escaped("\n".join(filter(None, ends)), PLAIN // 2)
    body = escaped("\n".join(lines), PLAIN - length(end) - 1)
    return {
        "text": f"{body}\n{end}" if end else body,
        "mrkdwn": False,
        "parse": "none",
        "link_names": False,
        "unfurl_links": False,
        "unfurl_media": False,
    }


def rich_payload(alert: Alert) -> dict[str, Any]:
    """The alert in blocks, beside its plain text."""
    blocks: list[dict[str, Any]] = [{"type": "header", "text": _plain(alert.title, HEADER)}]
    for start in range(0, len(alert.facts), _MAX_FIELDS):
        facts = alert.facts[start : start + _MAX_FIELDS]
        fields = [_markup(_labelled(label, value)) for label, value in facts]
        blocks.append({"type": "section", "fields": fields})
    if alert.cause is not None:
        kind, message = alert.cause
        first = f"*{code(kind, _CAUSE_TYPE)}*\n"
        blocks.append(_section(first + code_block(message or "without a message", SECTION - length(first))))
    if alert.details:
        blocks.append(_section(_details(alert)))
    if alert.note:
        blocks.append({"type": "section", "text": _plain(alert.note, SECTION)})
    ends = [link(url, label, CONTEXT) for label, url in alert.links]
    # the labels are the user's, too
    ends += [code(f"{label}: {value}", _VALUE) for label, value in alert.footer]
    if last := joined(ends, "  ·  ", CONTEXT):
        blocks.append({"type": "context", "elements": [_markup(last)]})
    return {**plain_payload(alert), "blocks": blocks}


def _details(alert: Alert) -> str:
    """The lines in one block of code: as many whole ones as fit, and how many do not."""
    first = f"*{escaped(alert.heading, _VALUE)}*\n" if alert.heading else ""
    room = SECTION - length(first) - 8 - 40  # the fence, and the line that counts the rest
    lines: list[str] = []
    for number, detail in enumerate(alert.details):
        line = " ".join(detail.split())[:_LINE]
        room -= length(escaped(line, 10 * _LINE)) + 1
        if room < 0:
            lines.append(f"and {len(alert.details) - number:,} more")
            break
        lines.append(line)
    return first + code_block("\n".join(lines), SECTION - length(first))


def _labelled(label: str, value: str) -> str:
    name = f"*{escaped(label, _VALUE)}*\n"
    return name + code(value, FIELD - length(name))


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": _markup(text)}


def _plain(text: str, limit: int) -> dict[str, Any]:
    return {"type": "plain_text", "text": escaped(text, limit), "emoji": False}


def _markup(text: str) -> dict[str, Any]:
    # verbatim: an address or a name in the text stays text
    return {"type": "mrkdwn", "text": text, "verbatim": True}
