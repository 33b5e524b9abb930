"""Secrets that are recognised by the name they stand under: `password=…`, `"token": "…"`, `--api-key …`."""

from __future__ import annotations

import functools
import re
import string
from typing import TYPE_CHECKING

from dltobs._redaction.lazy import lazy
from dltobs._redaction.patterns import MARKER, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_KEY_STEMS = (
    "password", "passwd", "passphrase", "pass", "pwd", "secret", "token", "credential", "cookie", "signature",
    "authorization", "api_key", "access_key", "account_key", "private_key", "signing_key", "encryption_key",
    "shared_key", "x_auth", "session_id", "connection_string", "dsn", "incoming_hook", "webhook_url",
)  # fmt: skip
"""A `_` may also be a `-`, or be left out."""

_WHOLE_WORDS = {
    "pass": r"(?<![a-z])pass(?![a-z])",
    "dsn": r"(?<![a-z])dsn",
    "token": r"(?<!unexpected )token",
}
_HARMLESS = lazy(
    r"(?:(?<!hook)(?<!hook[_\-.])(?:url|uri|endpoint)|(?<=token)iz\w*|(?:expir|secretar)\w*|(?<=cookie)cutter"
    r"|(?:type|kind|file|path|dir|folder|name|count|length|size|limit|column|field|version|ttl|toml|policy|policie"
    r"|status|statu|state|date|time|timestamp|day|age|since|until|enabled|disabled|required|valid|invalid|verified"
    r"|changed|updated|created|refreshed|rotated|exist|missing|present|less|algorithm|alg|method|mode|scheme|format"
    r"|provider|issuer|audience|scope|manager|store|domain|consent|attempt|strength|usage|bucket|rate|index|position"
    r"|offset|flag|table|schema|dataset|resource|description|title|label|error|exception|warning|expired|failure"
    r"|denied|revoked|mismatch|arn)s?"
    r"|\.(?:parquet|jsonl?|csv|insert_values|sql|reference|gz|py|ya?ml|ini|txt|log|duckdb)"
    r"|[_\-.](?:at|on|by|in)|(?-i:[a-z](?:At|On|By|In))"
    r"|(?:page|next|prev(?:ious)?|continuation|pagination|cursor|sync|delta|skip|scroll|resume)[_\-.]?token)\Z"
    r"|\A-{0,2}(?:(?:has|is|was|needs?|requires?|no|num|max|min|total|should|can|must|allow|enable|disable"
    r"|show|hide)[_\-]|(?-i:(?:has|is|was|needs|requires|num|max|min|should|can|must|allow"
    r"|Invalid|Expired|Missing|Wrong|Bad|No|Unknown|Malformed)(?=[A-Z])))",
    re.IGNORECASE,
)
"""Names that speak of a secret without holding one: `token_url`, `password_changed_at`, `next_page_token`."""

_PROSE = lazy(r"(?:credential|signature|(?<![a-z])pass(?![a-z]))", re.IGNORECASE)
_SEVERAL = lazy(r"(?:token|password|secret|cookie)s\Z", re.IGNORECASE)
_OBJECTS = frozenset(
    {
        "column", "dataset", "field", "index", "job", "pipeline", "relation", "resource", "schema", "source",
        "table", "view",
    }
)  # fmt: skip
"""What stands before a name that is one of the user's things: `Loading table tokens: started`."""
_NOT_PROSE = lazy(r".*\d|.{16}|.*://", re.DOTALL)
_NUMERIC_KEYS = lazy(r"(?:password|passwd|passphrase|pwd|secret|api[_\-]?key)$", re.IGNORECASE)
_NUMBER = lazy(r"[+\-]?\d[\d_.,]*(?:e[+\-]?\d+|[kmg%])?", re.IGNORECASE)
_NOTHING = frozenset({"none", "null", "true", "false", MARKER})
_CODE = lazy(
    r"(?:str|bytes|int|bool|float|Any|Optional|Union|TSecret\w*)(?:\[.*)?"
    r"|(?:dlt\.(?:secrets|config)|os\.(?:environ|getenv)|self\.)[\w.\[(]*|arn:aws[\w:/.\-]*"
)

_QUOTE = lazy(r"""[bBrRuUfF]{0,2}(?P<slashes>\\{0,32})(?P<mark>["'`])""")
_LIST = lazy(r"""[\[(]([^\[\](){}\n]{1,4000})[\])]""")
_IN_CODE = lazy(
    r"(?:(?P<annotation>[A-Za-z_][\w.]{0,64}(?:\[[\w., \[\]|]{0,64}\])?(?:\s?\|\s?[\w.]{1,32}){0,3}\s?=\s?)"
    r"|[A-Za-z_][\w.]{0,64}\()(?=[bBrRuUfF]{0,2}[\"'])"
)
"""What may stand between name and value in a line of code: `password: str = "…"`, `token = str("…")`."""
_MARKED = lazy(r"""["'`]?\*\*\*(?:["'`\s,;&)}\]]|\Z)""")
_CLOSING = {mark: lazy(rf"(?<!\\)(\\*){mark}|\n") for mark in "\"'`"}
_NOWHERE = (0, 0)
_MAX_KNOWN, _MAX_KNOWN_LENGTH = 4096, 128
_ODBC_NAMES = frozenset({"pwd", "password"})
_BRACES = lazy(r"\{[^}\n]{0,128}(?:\}\}[^}\n]{0,128}){0,8}\}")
_INSIDE = r"""[^\s"'`,;:&)}\]\\<>]|\\(?!\\{0,8}[nrt"'])|:(?!\s|\Z)|[,;&](?![\s,;&]|\Z|[\w.\-]{1,64}\s?[=:])"""
"""A separator belongs to a value where neither a space nor the next assignment follows."""

_WORD = rf"""(?![({{\[,;&])(?:{_INSIDE})+"""
_BARE = lazy(rf"(?:(?:bearer|basic|digest)[ \t]+)?{_WORD}", re.IGNORECASE)
_HEADER = lazy(rf"(?:[a-z][\w\-]{{0,40}}[ \t]+)?{_WORD}", re.IGNORECASE)
_COOKIES = lazy(r"""[^\r\n"'\\]+""")


_WORD_CHARACTERS = f"{string.ascii_letters}{string.digits}_-"
_QUERY_NAME = lazy(
    r"password|passwd|passphrase|secret|token|credential|signature|jwt|hmac|assertion"
    r"|(?:api|app|access|account|auth|private|subscription|functions|license)[_\-]?key"
    r"|(?<![a-z])(?:sig|auth|pass|pwd|session|session_?id|sid)\Z|\A(?:code|key)\Z",
    re.IGNORECASE,
)
_QUERY = lazy(r"[?&]([\w.%\[\]\-]{1,140})=")
_QUERY_VALUE = lazy(r"""(?:[^&#\s"'<>\\:;,.)\]]|[:;,.)\]]+(?![\s"'<>\\:;,.)\]]|\Z))+""")
_MIN_CODE = 16
"""Of the codes in a query (`?code=`), those that are shorter are countries, currencies, products."""


def _cases(literal: str) -> set[str]:
    """The ways in which a literal is usually written: upper, title and camel case, with `-`, without `_`."""
    words = literal.lower().split("_")
    camel = words[0] + "".join(map(str.capitalize, words[1:]))
    cases = {literal, camel, camel[0].upper() + camel[1:]}
    for separator in ("_", "-", ""):
        word = separator.join(words)
        cases.update((word, word.upper(), word.title(), word.capitalize()))
    return cases


class KeyNames:
    """Names under which a value is taken for a secret, whatever it is.

    Args:
        extra: More names, compared without case; a name matches where it is contained.
    """

    def __init__(self, extra: Iterable[str] = ()) -> None:
        names = tuple(name.strip() for name in extra if name.strip())
        stems = "|".join(
            (
                *map(re.escape, names),
                *(_WHOLE_WORDS.get(stem, stem.replace("_", r"[_\-]?")) for stem in _KEY_STEMS),
            )
        )
        self._known: dict[str, bool] = {}
        self._name = lazy(stems, re.IGNORECASE)
        self._extra = lazy("|".join(map(re.escape, names)) or "(?!)", re.IGNORECASE)
        self._assignment = lazy(
            rf"""(?P<name>(?:{stems})[\w.\-]{{0,64}})"""
            r"""\\{0,32}["'`]?\]?(?P<gap>\s{0,8}(?::=|=>|[:=])\s{0,8}|[ \t]{1,8})""",
            re.IGNORECASE,
        )
        literals = {case for literal in (*_KEY_STEMS, *names) for case in _cases(literal)}
        self.rules = (Rule(tuple(sorted(literals)), self._assigned), Rule(("?", "&"), _in_queries))

    def covers_texts(self, name: str) -> bool:
        """As `covers()` for a text; remembered, as the same names come again and again."""
        known = self._known.get(name)
        if known is None:
            known = self.covers(name, "")
            if len(name) <= _MAX_KNOWN_LENGTH:
                if len(self._known) >= _MAX_KNOWN:
                    self._known.clear()
                self._known[name] = known
        return known

    def covers(self, name: str, value: object) -> bool:
        """Whether `value`, found under `name`, is to be withheld.

        Numbers are only where the name leaves no doubt: `token_count` is no secret, nor is None.
        """
        if value is None or isinstance(value, bool):
            return False
        if self._extra.search(name):
            return True
        if isinstance(value, (int, float)):
            return bool(_NUMERIC_KEYS.search(name))
        return bool(self._name.search(name)) and not _HARMLESS.search(name)

    def _assigned(self, text: str, starts: list[int]) -> Iterator[tuple[int, int]]:
        """Yield where the values stand that follow such a name: `password=…`, `"token": "…"`."""
        cursor = 0
        for start in starts:
            if start < cursor or not (match := self._assignment.match(text, start)):
                continue
            cursor = match.end("name")
            if _MARKED.match(text, match.end()):
                continue
            span = self._value(text, match)
            yield span
            cursor = max(span[1], cursor)

    def are_in(self, text: str, starts: Iterable[int]) -> bool:
        """Return whether something is assigned to such a name; it may be more than a text, as in JSON."""
        matches = (self._assignment.match(text, start) for start in starts)
        return any(
            match
            and not match["gap"].isspace()
            and self.covers_texts(_before(text, match)[0] + match["name"])
            for match in matches
        )

    def _value(self, text: str, match: re.Match[str]) -> tuple[int, int]:
        """Where the value of an assignment stands; nowhere if it is no secret."""
        name, start = match["name"], match.end()
        word, before = _before(text, match)
        is_sql = name.isupper() and text.startswith("'", start)
        is_assigned = not match["gap"].isspace() or is_sql or word.startswith("--")
        is_arn = match["gap"] == ":" and not word and before.endswith(":")
        if not is_assigned or is_arn or not self.covers_texts(word + name):
            return _NOWHERE
        code = _IN_CODE.match(text, start)
        if code is not None and (code["annotation"] is None or ":" in match["gap"]):
            start = code.end()
        if quote := _QUOTE.match(text, start):
            start, end = _quoted_value(text, quote)
            is_name = quote["mark"] == "`" and not _NOT_PROSE.match(text, start, end)
            return _NOWHERE if is_name else (start, end)
        if several := _LIST.match(text, start):
            has_text = "'" in several[1] or '"' in several[1]
            return several.span(1) if has_text and not _PROSE.search(name) else _NOWHERE
        if name.lower() in _ODBC_NAMES and (braced := _BRACES.match(text, start)) and ":" not in braced[0]:
            return braced.span()
        return self._bare_value(text, match, before)

    def _bare_value(self, text: str, match: re.Match[str], before: str) -> tuple[int, int]:
        name, start = match["name"], match.end()
        lower = name.lower()
        if "cookie" in lower and ":" in match["gap"]:
            expression = _COOKIES
        else:
            expression = _HEADER if "auth" in lower else _BARE
        bare = expression.match(text, start)
        if bare is None:
            return _NOWHERE
        value = bare[0]
        is_harmless = (
            value.rstrip(".").lower() in _NOTHING
            or value.endswith(f" {MARKER}")
            or (value == name and text[bare.end() : bare.end() + 1] in {",", ")"})
            # `Invalid token: token has expired`
            or (lower.endswith(value.lower()) and ":" in match["gap"] and text.startswith(" ", bare.end()))
            or (name == "PWD" and value.startswith("/"))  # the working directory of a shell
            or _is_call(value, text[bare.end() : bare.end() + 2])
            or _CODE.fullmatch(value)
            or (_NUMBER.fullmatch(value) and not self.covers(name, 0))
            or (_may_be_prose(name, before) and not _NOT_PROSE.match(value))
        )
        return _NOWHERE if is_harmless else bare.span()


def _before(text: str, match: re.Match[str]) -> tuple[str, str]:
    """Return the beginning of the word in which a match begins, and what stands before the word."""
    return _last_word(text[max(0, match.start() - 80) : match.start()])


def _last_word(text: str) -> tuple[str, str]:
    """Return the word at the end of the text, which may be empty, and what stands before it."""
    before = text.rstrip(_WORD_CHARACTERS)
    return text[len(before) :], before


def _may_be_prose(name: str, before: str) -> bool:
    """Return whether words behind `name:` may be prose, as in `Loading table token: started`."""
    word, _ = _last_word(before.rstrip(" \t\"'`"))
    is_object = word.lower().removesuffix("s") in _OBJECTS
    return is_object or bool(_PROSE.search(name) or _SEVERAL.search(name))


def _in_queries(text: str, starts: list[int]) -> Iterator[tuple[int, int]]:
    """Yield where the values of secret names stand in the queries of URLs."""
    position = 0
    for start in starts:
        name = _QUERY.match(text, start) if start >= position else None
        if name is None or not _is_secret_in_query(name[1]):
            continue
        value = _QUERY_VALUE.match(text, name.end())
        if value and (name[1].lower() != "code" or len(value[0]) >= _MIN_CODE):
            position = value.end()
            yield value.span()


@functools.lru_cache(maxsize=1024)
def _is_secret_in_query(name: str) -> bool:
    return bool(_QUERY_NAME.search(name)) and not _HARMLESS.search(name)


def _is_call(value: str, following: str) -> bool:
    """Whether a value is that of a line of code: `token = client.get_token()`."""
    callee = value.removesuffix("(")
    is_closed = following[:1] == ")" and not following[1:].isalnum()
    return callee != value and is_closed and all(part.isidentifier() for part in callee.split("."))


def _quoted_value(text: str, quote: re.Match[str]) -> tuple[int, int]:
    start = quote.end()
    end = _closing(text, start, quote["slashes"], quote["mark"])
    if end is not None:
        return start, end
    # cut off: what is left of it
    bare = _BARE.match(text, start)
    return (start, bare.end()) if bare else _NOWHERE


def _closing(text: str, start: int, slashes: str, mark: str) -> int | None:
    """Where the closing quote of a literal begins, on the same line.

    Behind n backslashes an escape is n + 1 of them, so a quote that closes has n, or n and pairs of
    escaped backslashes before it.
    """
    depth = len(slashes)
    for candidate in _CLOSING[mark].finditer(text, start):
        if candidate[0] == "\n":
            return None
        count = len(candidate[1])
        if count >= depth and (count - depth) % (2 * (depth + 1)) == 0:
            return candidate.end() - 1 - depth
    return None
