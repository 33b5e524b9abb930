"""Cuts long texts to what back ends take. A cut keeps the beginning and the end of a text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MESSAGE = 8 * 1024
"""Characters of the message of an exception, a job or a log line in an event.

Sentry keeps 8,192 characters of an exception's value and of a breadcrumb.
"""
TEXT = 64 * 1024
"""Characters of any other text: a stack trace, an attribute of a span, a text in a log line.

OTLP has no limit, but collectors refuse requests of some megabytes with all spans in them. CloudWatch, Google
Cloud Logging and Loki refuse or cut log lines of more than 256 KB; a message, its exception and the stack
trace together do not reach that.
"""
MARGIN = 4096
"""Characters beside a cut that are searched for secrets, and then dropped; a private key is shorter."""

_MOST = 4
"""How many times what is kept and the margin may be searched in a text that is full of secrets."""
_MARK_LENGTH = 48
_MARK = re.compile(r"… \(([\d,]+) characters cut\) …")


def cut(text: str, limit: int) -> str:
    """Return the beginning and the end of a long text, and between them how many characters are missing.

    Args:
        text: A text without secrets: a cut could leave a piece of one, which nobody finds any more.
        limit: The most characters to return.
    """
    if len(text) <= limit:
        return text
    half = _half(limit)
    return _joined(text, text[:half], text[len(text) - half :])


def redacted_and_cut(text: str, limit: int, redact: Callable[[str], str], longest: int) -> str:
    """Return the beginning and the end of a long text without secrets. The middle is not searched.

    A secret that reaches over an edge of what is searched stands in the margin, which is dropped.

    Args:
        text: Any text.
        limit: The most characters to return.
        redact: Takes the secrets out of a text.
        longest: Characters of the longest secret.
    """
    half, margin = _half(limit), MARGIN + longest
    reach = half + margin
    while True:
        if len(text) <= 2 * reach:
            return cut(redact(text), limit)
        begin, end = redact(text[:reach]), redact(text[-reach:])
        # a text that is full of secrets becomes so short that nothing of it would be left beside the margin
        if min(len(begin), len(end)) >= margin + half // 2 or reach >= _MOST * (half + margin):
            break
        reach *= 2
    return _joined(text, begin[: max(len(begin) - margin, 0)][:half], end[max(len(end) - half, margin) :])


def _half(limit: int) -> int:
    return max(limit - _MARK_LENGTH, 0) // 2


def _joined(text: str, begin: str, end: str) -> str:
    missing = len(text) - len(begin) - len(end)
    earlier = _MARK.search(text, len(begin), len(text) - len(end))
    if earlier is not None:
        missing += int(earlier[1].replace(",", "")) - len(earlier[0])
    return f"{begin}… ({missing:,} characters cut) …{end}"
