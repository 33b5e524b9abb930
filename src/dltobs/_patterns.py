"""Secrets that are recognised by how they look or by the name they stand under.

Each rule names literals that must occur before its expression is worth running; `Redactor` looks for
all of them in the same pass that looks for the secret values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MARKER = "***"
"""Stands where a secret stood. Shorter than any value that is searched for, so it can contain none."""

_KEY_STEMS = (
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "token",
    r"api[_\-]?key",
    r"access[_\-]?key",
    r"account[_\-]?key",
    r"private[_\-]?key",
    r"signing[_\-]?key",
    r"encryption[_\-]?key",
    r"authorization",
    r"x[_\-]auth",
    "credential",
    "cookie",
    r"session[_\-]?id",
    "signature",
    r"connection[_\-]?string",
    r"(?<![a-z])dsn",
    r"incoming[_\-]?hook",
    r"webhook[_\-]?url",
)
_KEY_LITERALS = (
    "pass", "pwd", "secret", "token", "key", "author", "auth", "cred", "cookie", "session", "sign",
    "connection", "dsn", "hook",
)  # fmt: skip
_NUMERIC_KEYS = re.compile(r"(?:password|passwd|passphrase|pwd|secret|api[_\-]?key)$", re.IGNORECASE)

_NOTHING = r"(?:None|null|NULL|true|false|True|False|\*\*\*)(?![\w])"
_QUOTED = r"""(?P<quote>\\*["'])(?P<quoted>(?:(?!(?P=quote)).)*)(?P=quote)"""
_BARE = r"""(?P<bare>(?:(?:bearer|basic|token|digest)\s+)?[^\s"'`,;&)}\]\\<>]+)"""


@dataclass(frozen=True, slots=True)
class Rule:
    """A pattern and the literals without which it cannot match (in lower case)."""

    literals: tuple[str, ...]
    pattern: re.Pattern[str]
    template: str

    def apply(self, text: str) -> str:
        """The text with each match replaced."""
        return self.pattern.sub(self.template, text)


def _rule(literals: Iterable[str], pattern: str, template: str = MARKER, flags: int = re.IGNORECASE) -> Rule:
    return Rule(tuple(literals), re.compile(pattern, flags), template)


_URL_RULES = (
    # everything up to the last @ before the path: passwords do contain unquoted @ and /
    _rule(("://",), r"""(?<=://)[^\s/?#"'<>\\@]*(?:[^\s?#"'<>\\]*:[^\s"'<>\\]*?)?@(?=[\w\[])""", MARKER),
    _rule(
        ("?", "&"),
        r"""([?&][\w.%\[\]\-]*(?:key|sig|auth|pass|pwd|token|secret|cred|session|sid|jwt|hmac|assertion)"""
        r"""[\w.%\[\]\-]*=|[?&]code=)[^&#\s"'<>\\]+""",
        rf"\1{MARKER}",
    ),
    _rule(("hooks.slack.com", "hooks.slack-gov.com"), r"(?<=/)(?:services|workflows|triggers)/[\w/+%\-]+"),
    _rule(("/api/webhooks/",), r"(?<=/api/webhooks/)[\w/\-]+"),
    _rule(("webhook.office.com",), r"(?<=webhook\.office\.com/)[^\s\"'<>\\]+"),
)
_TOKEN_RULES = (
    _rule(("bearer",), r"(?<=bearer )\s*(?=[^\s\"'\\]*\d|[^\s\"'\\]{20})[\w\-.~+/]{6,}=*"),
    _rule(("basic",), r"(?<=basic )\s*(?=[^\s\"'\\]*[\dA-Z=])(?-i:(?=\S*[A-Z\d=]))[\w\-+/]{8,}=*"),
    _rule(("eyj",), r"\beyJ[\w\-]{8,}\.[\w\-]{4,}(?:\.[\w\-]*)*", flags=0),
    _rule(
        ("sk-", "ghp_", "gho_", "ghs_", "ghu_", "ghr_", "github_pat_", "glpat-", "xox", "akia", "asia", "aiza",
         "dapi", "sk_live_", "rk_live_", "shpat_"),
        r"\b(?:sk-[\w\-]{16,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w\-]{16,}|xox[abeoprs]-[\w\-]{8,}"
        r"|(?:AKIA|ASIA)[0-9A-Z]{16}|AIza[\w\-]{35}|dapi[0-9a-f]{32}|[sr]k_live_\w{16,}|shpat_\w{16,})",
        flags=0,
    ),
    _rule(
        ("private key",),
        r"(?<=PRIVATE KEY-----).*?(?=-----END|\Z)",
        flags=re.DOTALL,
    ),
)  # fmt: skip


class KeyNames:
    """Names under which a value is taken for a secret, whatever it is.

    Args:
        extra: More names, compared without case; a name matches where it is contained.
    """

    def __init__(self, extra: Iterable[str] = ()) -> None:
        names = tuple(name.strip() for name in extra if name.strip())
        stems = "|".join((*_KEY_STEMS, *(re.escape(name) for name in names)))
        self._name = re.compile(stems, re.IGNORECASE)
        self._extra = re.compile("|".join(re.escape(name) for name in names) or "(?!)", re.IGNORECASE)
        self.rule = _rule(
            (*_KEY_LITERALS, *(name.lower() for name in names)),
            rf"""((?:{stems})[\w.\-]*\\*["'`]?\]?\s*(?::|=>?|:=)\s*)(?!{_NOTHING})(?:{_QUOTED}|{_BARE})""",
            "",
        )

    def covers(self, name: str, value: object) -> bool:
        """Whether `value`, found under `name`, is to be withheld.

        Numbers are only where the name leaves no doubt: `token_count` is no secret, nor is None.
        """
        if value is None or isinstance(value, bool):
            return False
        if isinstance(value, (int, float)):
            return bool(_NUMERIC_KEYS.search(name) or self._extra.search(name))
        return bool(self._name.search(name))

    def apply(self, text: str) -> str:
        """The text without the values that follow such a name: `password=…`, `"token": "…"`."""
        return self.rule.pattern.sub(_withhold_value, text)


def _withhold_value(match: re.Match[str]) -> str:
    quote = match["quote"]
    if quote is not None:
        return f"{match[1]}{quote}{MARKER if match['quoted'] else ''}{quote}"
    return f"{match[1]}{MARKER}"


PATTERN_RULES: tuple[Rule, ...] = (*_URL_RULES, *_TOKEN_RULES)
