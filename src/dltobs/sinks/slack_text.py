"""Texts as Slack takes them: escaped, so that data is never markup, and within its limits.

The limits are those of https://docs.slack.dev/reference/block-kit/blocks; the rules for escaping and for what
pings somebody those of https://docs.slack.dev/messaging/formatting-message-text.
"""

from __future__ import annotations

import re
from urllib.parse import quote

HEADER = 150
SECTION = 3000
FIELD = 2000
CONTEXT = 2000
PLAIN = 4000
"""Slack advises so for the text of a message; it cuts at 40,000."""

ELLIPSIS = "…"
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# what some of those who understand Slack's webhooks take for a mention in plain text
_MENTION = re.compile(r"@(?=(?:channel|here|everyone|all|group)\b)", re.IGNORECASE)
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_QUOTE = "\N{MODIFIER LETTER GRAVE ACCENT}"
"""Looks like the backtick that would end a code span."""
_IN_ADDRESSES = ":/?#[]@!$&'()*+,;=%"
_ZERO_WIDTH = "\N{ZERO WIDTH SPACE}"


def length(text: str) -> int:
    """The length as the strictest reader counts: in UTF-16 code units, of which an emoji takes two."""
    return len(text) + sum(character > "\uffff" for character in text)


def escaped(text: str, limit: int) -> str:
    """A text that shows as it is, cut to `limit` after escaping, but never within an entity or character."""
    text = _MENTION.sub(f"@{_ZERO_WIDTH}", _UNPRINTABLE.sub(" ", text[: limit + 1]))
    pieces = [_ENTITIES.get(character, character) for character in text]
    sizes = [length(piece) for piece in pieces]
    if sum(sizes) <= limit:
        return "".join(pieces)
    room, kept = limit - length(ELLIPSIS), 0
    for size in sizes:
        if size > room:
            break
        room -= size
        kept += 1
    whole = "".join(pieces[:kept]) + ELLIPSIS if limit > 0 else ""
    mention = _MENTION.search(whole)  # which the cut has completed
    return whole if mention is None else whole[: mention.start()] + ELLIPSIS


def code(text: str, limit: int) -> str:
    """A text in a code span, in which no markup is read; on one line."""
    inner = escaped(" ".join(text.replace("`", _QUOTE).split()), limit - 2)
    return f"`{inner}`" if inner else "-"


def code_block(text: str, limit: int) -> str:
    """A text in a block of code, with its lines."""
    inner = escaped(text.replace("`", _QUOTE).strip("\n"), limit - 8)
    return f"```\n{inner}\n```"


def link(url: str, label: str, limit: int) -> str:
    """A link; nothing where it does not fit, as half an address leads nowhere.

    What RFC 3986 has no place for in an address is percent-encoded.
    """
    address = escaped(quote(url, safe=_IN_ADDRESSES, errors="replace"), limit * 2)
    whole = f"<{address}|{escaped(label, limit).replace('|', ' ')}>"
    return whole if length(whole) <= limit else ""


def joined(parts: list[str], separator: str, limit: int) -> str:
    """As many of the parts as fit, whole, for each may be markup."""
    kept: list[str] = []
    room = limit
    for part in filter(None, parts):
        room -= length(part) + (length(separator) if kept else 0)
        if room < 0:
            break
        kept.append(part)
    return separator.join(kept)
