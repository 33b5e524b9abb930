"""Secrets that are recognised by how they look.

Each rule names literals, and looks only where one of them stands; `Redactor` searches for all of them in the
same pass that searches for the secret values. Every rule takes time linear in the text: repeats are bounded,
and where an expression would have to go back it is a function.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dltobs._redaction.lazy import lazy
from dltobs._redaction.urls import user_info

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MARKER = "***"
"""Stands where a secret stood. Shorter than any value that is searched for, so it can contain none."""

WITHHELD = "[withheld]"
"""Stands for a whole text when redaction itself has failed."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Finds the secrets of one kind.

    `literals` are strings one of which stands at, or in, each of them. `spans` takes a text and the positions
    of all literals in it, in order, and gives where secrets stand; spans may overlap or be empty.
    """

    literals: tuple[str, ...]
    spans: Callable[[str, list[int]], Iterable[tuple[int, int]]]


def _rule(
    literals: Iterable[str],
    pattern: str,
    flags: int = 0,
    *,
    is_secret: Callable[[str], bool] = lambda _: True,
) -> Rule:
    """Make a rule of an expression that begins with one of the literals; its last group is the secret."""
    expression = lazy(pattern, flags)

    def spans(text: str, starts: list[int]) -> Iterator[tuple[int, int]]:
        position = 0
        for start in starts:
            if start >= position and (match := expression.match(text, start)):
                position = match.end()
                secret = match.lastindex or 0
                if is_secret(match[secret]):
                    yield match.span(secret)

    return Rule(tuple(literals), spans)


def cut(text: str, spans: list[tuple[int, int]]) -> str:
    """The text with overlapping and touching spans replaced by one marker each."""
    if not spans:
        return text
    parts: list[str] = []
    position = 0
    spans = sorted(spans)
    start, end = spans[0]
    for next_start, next_end in spans[1:]:
        if next_start <= end:
            end = max(end, next_end)
            continue
        parts += text[position:start], MARKER
        position, start, end = end, next_start, next_end
    parts += text[position:start], MARKER, text[end:]
    return "".join(parts)


_ARMOUR = lazy("-----BEGIN [A-Z0-9 ]{0,24}PRIVATE KEY-----")


def _user_info(text: str, _: list[int]) -> list[tuple[int, int]]:
    return user_info(text) if "@" in text else []


def _private_keys(text: str, starts: list[int]) -> Iterator[tuple[int, int]]:
    position = 0
    for start in starts:
        if start >= position and (match := _ARMOUR.match(text, start)):
            end = text.find("-----END", match.end())
            position = len(text) if end < 0 else end
            yield match.end(), position


def _is_basic(token: str) -> bool:
    """Return whether `token` decodes to `user:password`: `Basic Authentication` is prose."""
    token = token.replace("-", "+").replace("_", "/")
    try:
        return b":" in base64.b64decode(token + "=" * (-len(token) % 4))
    except ValueError:
        return False


PATTERN_RULES: tuple[Rule, ...] = (
    Rule(("://",), _user_info),
    _rule(
        ("hooks.slack.com", "hooks.slack-gov.com"),
        r"hooks\.slack(?:-gov)?\.com\\?/(?:services|workflows|triggers)\\?/([\w/+%\\\-]+)",
    ),
    _rule(("/api/webhooks/",), r"/api/webhooks/([\w/\-]+)"),
    _rule(("webhook.office.com",), r"webhook\.office\.com/([^\s\"'<>\\]+)"),
    _rule(
        ("bearer", "Bearer", "BEARER"),
        r"bearer(?:[ \t]|%20|\+){1,8}(?=[^\s\"'\\]*\d|[^\s\"'\\]{20})([\w\-.~+/%]{6,}=*)",
        re.IGNORECASE,
    ),
    _rule(("basic", "Basic", "BASIC"), r"(?i:basic[ \t]{1,8})([\w\-+/]{4,}={0,2})", is_secret=_is_basic),
    _rule(("eyJ",), r"(?<![\w\-.])eyJ[\w\-]{8,}\.[\w\-]{4,}(?:\.[\w\-]*)*"),
    _rule(
        ("sk-", "ghp_", "gho_", "ghs_", "ghu_", "ghr_", "github_pat_", "glpat-", "xox", "AKIA", "ASIA",
         "AIza", "dapi", "sk_live_", "rk_live_", "shpat_", "hf_", "ya29."),
        r"(?<![A-Za-z0-9])(?:sk-[\w\-]{16,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w\-]{16,}"
        r"|xox[abeoprs]-[\w\-]{8,}|(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Za-z])|AIza[\w\-]{35}|dapi[0-9a-f]{32}"
        r"|[sr]k_live_\w{16,}|shpat_\w{16,}|hf_[A-Za-z0-9]{20,}|ya29\.[\w\-]{16,})",
    ),
    Rule(("-----BEGIN ",), _private_keys),
)  # fmt: skip
