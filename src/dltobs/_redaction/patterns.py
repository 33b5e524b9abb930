"""Secrets that are recognised by how they look.

Each rule names literals one of which must occur before it is worth running; `Redactor` looks for all of
them in the same pass that looks for the secret values. Every rule takes time linear in the text: repeats
are bounded, and where an expression would have to go back it is a function.
"""

from __future__ import annotations

import base64
import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dltobs._redaction.lazy import lazy
from dltobs._redaction.urls import user_info

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MARKER = "***"
"""Stands where a secret stood. Shorter than any value that is searched for, so it can contain none."""

WITHHELD = "[withheld]"
"""Stands for a whole text when redaction itself has failed."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What takes the secrets of one kind out of a text, and the literals without which there is none."""

    literals: tuple[str, ...]
    apply: Callable[[str], str]
    starts: Callable[[str, int], object] = lambda _text, _start: True
    """Whether a match may begin where a literal stands: true too often is fine, never too seldom."""
    needs: str = ""
    """What must stand somewhere in the text besides; looked for once, however many literals there are."""


def _rule(
    literals: Iterable[str],
    pattern: str,
    template: str | Callable[[re.Match[str]], str] = MARKER,
    flags: int = 0,
    *,
    begins_with_literal: bool = False,
) -> Rule:
    if begins_with_literal:
        expression = lazy(pattern, flags)
        return Rule(tuple(literals), functools.partial(_substitute, expression, template), expression.match)
    return Rule(tuple(literals), functools.partial(_substitute, lazy(pattern, flags), template))


def _substitute(
    expression: re.Pattern[str], template: str | Callable[[re.Match[str]], str], text: str
) -> str:
    return expression.sub(template, text)


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


_QUERY_NAME = (
    r"[\w.%\[\]\-]{0,64}?(?:(?:password|passwd|passphrase|secret|token|credential|signature|jwt|hmac|assertion"
    r"|(?:api|app|access|account|auth|private|subscription|functions|license)[_\-]?key)[\w.%\[\]\-]{0,64}"
    r"|(?<![a-z])(?:sig|auth|pass|pwd|session|session_?id|sid)|(?<=[?&])(?:code|key))"
)
_SLACK = (
    r"(?:(?<=hooks\.slack\.com)|(?<=hooks\.slack-gov\.com))"
    r"(\\?/(?:services|workflows|triggers)\\?/)[\w/+%\\\-]+"
)


def _without_basic(match: re.Match[str]) -> str:
    """`Basic Authentication` is prose; what decodes to `user:password` is not."""
    token = match[2].replace("-", "+").replace("_", "/")
    try:
        decoded = base64.b64decode(token + "=" * (-len(token) % 4))
    except ValueError:
        return match[0]
    return match[1] + MARKER if b":" in decoded else match[0]


PATTERN_RULES: tuple[Rule, ...] = (
    Rule(
        ("://",),
        lambda text: cut(text, user_info(text)),
        needs="@",
    ),
    _rule(
        ("?", "&"),
        rf"([?&](?:{_QUERY_NAME})=)[^&#\s\"'<>\\]+",
        rf"\1{MARKER}",
        re.IGNORECASE,
        begins_with_literal=True,
    ),
    _rule(("hooks.slack.com", "hooks.slack-gov.com"), _SLACK, rf"\1{MARKER}"),
    _rule(("/api/webhooks/",), r"(?<=/api/webhooks/)[\w/\-]+"),
    _rule(("webhook.office.com",), r"(?<=webhook\.office\.com/)[^\s\"'<>\\]+"),
    _rule(
        ("bearer", "Bearer", "BEARER"),
        r"(?<=bearer)((?:[ \t]|%20|\+){1,8})(?=[^\s\"'\\]*\d|[^\s\"'\\]{20})[\w\-.~+/%]{6,}=*",
        rf"\1{MARKER}",
        re.IGNORECASE,
    ),
    _rule(("basic", "Basic", "BASIC"), r"(?i:(basic[ \t]{1,8}))([\w\-+/]{4,}={0,2})", _without_basic),
    _rule(("eyJ",), r"(?<![\w\-.])eyJ[\w\-]{8,}\.[\w\-]{4,}(?:\.[\w\-]*)*"),
    _rule(
        ("sk-", "ghp_", "gho_", "ghs_", "ghu_", "ghr_", "github_pat_", "glpat-", "xox", "AKIA", "ASIA",
         "AIza", "dapi", "sk_live_", "rk_live_", "shpat_", "hf_", "ya29."),
        r"(?<![A-Za-z0-9])(?:sk-[\w\-]{16,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w\-]{16,}"
        r"|xox[abeoprs]-[\w\-]{8,}|(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Za-z])|AIza[\w\-]{35}|dapi[0-9a-f]{32}"
        r"|[sr]k_live_\w{16,}|shpat_\w{16,}|hf_[A-Za-z0-9]{20,}|ya29\.[\w\-]{16,})",
    ),
    _rule(
        ("PRIVATE KEY-----",),
        r"(-----BEGIN [A-Z0-9 ]{0,24}PRIVATE KEY-----)(?:(?!-----END).)+",
        rf"\1{MARKER}",
        re.DOTALL,
    ),
)  # fmt: skip
