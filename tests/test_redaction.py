"""No form of a secret comes through the redactor, and nothing else is lost in it."""

from __future__ import annotations

import base64
import collections
import dataclasses
import html
import json
import re
import sys
import threading
import time
import types
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, quote_plus

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from requests.auth import _basic_auth_str
from requests.utils import requote_uri

from dltobs import Redactor
from dltobs._events import KEEP
from dltobs._redaction.patterns import WITHHELD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECRET = "pl4nted/Secret+value=%1"

# what an operator may put into a password: letters of all kinds, quotes, backslashes, white space
CHARACTERS = st.sampled_from(
    "abcXYZ0189'\"\\\n\t\r /+%&<>=?#@:;,{}[]é\u00df\u4f60\u2028😀\x00\x7f"
) | st.characters(exclude_categories=["Cs"])


def is_searched_anywhere(secret: str) -> bool:
    """Whether it is no word and no number: those are replaced as whole words and numbers alone."""
    lines = [line.strip() for line in (secret, *secret.splitlines())]
    return len(lines[0]) >= 6 and not any(line.isalpha() or line.isdigit() for line in lines)


SECRETS = st.text(CHARACTERS, min_size=6, max_size=30).filter(is_searched_anywhere)
WITH_SURROGATES = st.text(CHARACTERS | st.sampled_from("\ud800\udc80\udfff"), min_size=6, max_size=20).filter(
    is_searched_anywhere
)
AROUND = st.text(CHARACTERS, max_size=20)

ONE_LEVEL: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "json.dumps": json.dumps,
    "json.dumps, wide": lambda text: json.dumps({"a": text}, ensure_ascii=False),
    "orjson.dumps": lambda text: orjson.dumps([text]).decode(),
    "repr": repr,
    "repr in a dict": lambda text: repr({"k": text}),
    "repr of bytes": lambda text: repr([text.encode("utf-8", "surrogatepass")]),
    "f-string": lambda text: f"got {text!r} and {text!a}",
    "exception": lambda text: repr(ValueError(text)),
}


def unicode_escaped(text: str) -> str:
    """JSON in which no character but letters and digits is left as it is."""
    return "".join(
        character
        if character.isascii() and character.isalnum()
        else json.dumps(character)[1:-1]
        if character in "\\\n\t\r"
        else "".join(f"\\u{unit:04X}" for unit in memoryview(character.encode("utf-16-le")).cast("H"))
        for character in text
    )


WIRE: dict[str, Callable[[str], str]] = {
    "quote": quote,
    "quote everything": lambda text: quote(text, safe=""),
    "quote_plus": quote_plus,
    "quote twice": lambda text: quote(quote(text, safe=""), safe=""),
    "lower case": lambda text: re.sub("%..", lambda match: match[0].lower(), quote(text)),
    "requests": lambda text: requote_uri(f"https://x.example/p?q={text}&r=1"),
    "json in a query": lambda text: quote(json.dumps({"a": text})),
    "json in a form": lambda text: quote_plus(json.dumps({"a": text})),
    "wide json in a form": lambda text: quote_plus(json.dumps({"a": text}, ensure_ascii=False)),
    "html": html.escape,
    "html of json": lambda text: html.escape(json.dumps({"a": text})),
    "html in a form": lambda text: quote_plus(html.escape(text)),
    "php": lambda text: json.dumps({"a": text}, ensure_ascii=False).replace("/", "\\/"),
    "unicode escapes": unicode_escaped,
    "unicode escapes in json": lambda text: json.dumps({"a": unicode_escaped(text)}),
    "unicode escapes in a form": lambda text: quote_plus(unicode_escaped(text)),
    "repr of json": lambda text: repr({"a": unicode_escaped(text)}),
}


def known(secret: str, text: str) -> set[str]:
    """The pieces of six characters that the secret and the text have in common."""
    pieces = {secret[index : index + 6] for index in range(len(secret) - 5)}
    return {piece for piece in pieces if piece in text}


@given(secret=SECRETS, before=AROUND, after=AROUND)
@example(secret="withheld", before="[", after="]")
@example(secret="[withheld]", before="", after="[withheld]")
@example(secret="******", before="***", after="*")
@example(secret="password1", before="password1=", after="password1")
@example(secret="secret-", before="", after="s")
def test_no_piece_of_a_secret_is_left_in_any_text(secret, before, after):
    clean = Redactor([secret]).text(f"{before}{secret}{after}")
    assert secret not in clean
    assert known(secret, clean) <= known(secret, before) | known(secret, after)


@given(secret=WITH_SURROGATES, before=AROUND, after=AROUND)
def test_lone_surrogates_are_no_hiding_place(secret, before, after):
    redactor = Redactor([secret])
    assert secret not in redactor.text(f"{before}{secret}\udcff{after}")
    assert secret not in redactor.text(f"{before}{secret}{after}")
    assert repr(secret)[1:-1] not in redactor.text(repr([secret]))
    assert secret.encode("utf-8", "replace").decode() not in redactor.text(
        secret.encode("utf-8", "replace").decode()
    )


@pytest.mark.parametrize("level", ONE_LEVEL)
@given(secret=SECRETS, before=AROUND, after=AROUND)
@example(secret="a'b\"c\\d\n<é😀>/&", before="'", after='"')
def test_no_escaped_form_is_left(level, secret, before, after):
    render = ONE_LEVEL[level]
    text = render(before + secret + after)
    clean = Redactor([secret]).text(text)
    assert render(secret).strip("\"'[]") not in clean
    assert "***" in clean


@pytest.mark.parametrize("outer", ONE_LEVEL)
@pytest.mark.parametrize("inner", ONE_LEVEL)
@settings(max_examples=40)
@given(secret=SECRETS, around=AROUND)
@example(secret="a'b\"c\\d\n<é😀>/&", around="'\"")
def test_no_form_that_was_escaped_twice_is_left(inner, outer, secret, around):
    """Each level may add quotes of its own, which decide what the next one escapes."""
    nonce = "0nonce0"
    text = ONE_LEVEL[outer](around + ONE_LEVEL[inner](nonce + secret + nonce))
    clean = Redactor([secret]).text(text)
    assert clean != text
    assert all(piece == "***" for piece in re.findall(f"{nonce}(.*?){nonce}", clean, re.DOTALL))


@pytest.mark.parametrize("wire", WIRE)
@given(secret=SECRETS, before=AROUND)
@example(secret=SECRET, before="")
@example(secret="a'b c%41%zz", before="")
def test_no_quoted_form_is_left(wire, secret, before):
    text = f"GET {WIRE[wire](secret)} {before}"
    redactor = Redactor([secret])
    clean = redactor.text(text)
    assert secret not in clean
    assert WIRE[wire](secret) not in clean
    assert redactor.finds(text)
    assert "***" in clean


TWICE = (
    "quote_plus",
    "json in a form",
    "html",
    "html of json",
    "unicode escapes in json",
    "php",
    "repr of json",
)


@pytest.mark.parametrize("outer", TWICE)
@pytest.mark.parametrize("inner", TWICE)
@settings(max_examples=20)
@given(secret=SECRETS)
@example(secret="a b'c+\\\"<é😀>/&")
def test_no_form_that_was_coded_in_two_ways_is_left(inner, outer, secret):
    nonce = "0nonce0"
    text = WIRE[outer](f"x {WIRE[inner](nonce + secret + nonce)}")
    redactor = Redactor([secret])
    clean = redactor.text(text)
    assert re.findall(f"{nonce}(.*?){nonce}", clean, re.DOTALL) in ([], ["***"])
    assert clean != text
    assert redactor.finds(text)
    assert not redactor.is_clean([text])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            r'{"received":"Ab3\u002BdE/fG7\u0026hI\u003C9kL==","a":"\u002b"}',
            r'{"received":"***","a":"\u002b"}',
        ),
        ("<p>&lt;Ab3&#43;dE/fG7&amp;hI&lt;9kL==&gt;</p>", "<p>&lt;***&gt;</p>"),
        ("<p>&#x3c;Ab3&#x2B;dE/fG7&AMP;hI&LT;9kL&equals;=&amp;", "<p>&#x3c;***&amp;"),
        (r"?q=%22%5Cu0022Ab3%5Cu002BdE%2FfG7%5Cu0026hI%5Cu003C9kL==%5Cu0022", r"?q=%22%5Cu0022***%5Cu0022"),
        (r"\ud83d\ude00Ab3\u002BdE/fG7\u0026hI\u003C9kL==\ud83d\ude00", r"\ud83d\ude00***\ud83d\ude00"),
    ],
)
def test_beside_a_coded_secret_nothing_is_changed(text, expected):
    redactor = Redactor(["Ab3+dE/fG7&hI<9kL=="])
    assert redactor.text(text) == expected
    assert redactor.text(expected) is expected
    assert redactor.redact({"body": [text]}) == {"body": [expected]}


@pytest.mark.parametrize(
    "whole",
    [
        "Ab3+dE/fG7&hI<9kL==",
        r"Ab3\u002BdE/fG7\u0026hI\u003C9kL==",
        "Ab3&#x2B;dE/fG7&amp;hI&lt;9kL==",
        "Ab3%2BdE%2FfG7%26hI%3C9kL%3D%3D",
        "Ab3%5Cu002BdE/fG7%5Cu0026hI%5Cu003C9kL==",
    ],
)
def test_no_beginning_of_a_coded_secret_is_left_where_a_text_was_cut_off(whole):
    redactor = Redactor(["Ab3+dE/fG7&hI<9kL=="])
    for end in range(whole.index("dE") + 2, len(whole) + 1):
        clean = redactor.cut_text(f"50%25 \u00e4 {whole[:end]}")
        assert clean.partition("***")[0] == "50%25 \u00e4 "
        assert len(clean.partition("***")[2]) <= len("%5Cu002")
    assert redactor.cut_text("5 & 100%") == "5 & 100%"


def test_no_beginning_of_base64_is_left_where_a_text_was_cut_off():
    redactor = Redactor([SECRET])
    whole = base64.b64encode(f"u:{SECRET}".encode()).decode()
    for end in range(8, len(whole)):
        assert redactor.cut_text(f"sent {whole[:end]}") in ("sent dTp***", "sent dT***")


def test_surrogate_pairs_are_one_character():
    redactor = Redactor(["pass😀word"])
    assert redactor.text(r"x\uD83D\uDE00pass\uD83D\ude00word\ud83d") == r"x\uD83D\uDE00***\ud83d"
    assert redactor.text(r"pass\\ud83d\\ude00word") == "***"
    assert redactor.text("pass&#128512;word pass&#x1F600;word") == "*** ***"


@given(
    secret=SECRETS,
    before=st.binary(max_size=5),
    after=st.binary(max_size=5),
    is_url_safe=st.booleans(),
    is_quoted=st.booleans(),
)
def test_no_base64_of_a_secret_is_left(secret, before, after, is_url_safe, is_quoted):
    encode = base64.urlsafe_b64encode if is_url_safe else base64.b64encode
    encoded = encode(before + secret.encode() + after).decode()
    shown = quote(encoded, safe="") if is_quoted else encoded
    redactor = Redactor([secret])
    left = redactor.text(f"header: {shown}, more")
    assert left.startswith("header: ")
    assert left.endswith(", more")
    rest = left.removeprefix("header: ").removesuffix(", more")
    # what is left on each side is the base64 of what stood beside the secret
    head, marker, tail = rest.partition("***")
    assert marker
    assert len(head) <= (len(before) * 4 + 2) // 3 * 3
    assert len(tail) <= (len(after) * 4 + 2) // 3 * 3 + 4


@given(user=st.text(st.characters(exclude_characters=":", max_codepoint=255), max_size=8), secret=SECRETS)
def test_a_basic_authentication_header_does_not_show_the_password(user, secret):
    try:
        header = _basic_auth_str(user, secret)
    except UnicodeEncodeError:
        header = _basic_auth_str(user, secret.encode())
    redactor = Redactor([secret])
    for text in (f"sent {header} to x", repr({"X-Proxy": header}), json.dumps({"h": header})):
        assert header.partition(" ")[2].rstrip("=")[-7:] not in redactor.text(text)


@given(secrets=st.lists(SECRETS, min_size=1, max_size=4), order=st.permutations(range(4)), glue=AROUND)
def test_secrets_side_by_side_and_in_each_other_are_all_gone(secrets, order, glue):
    overlapping = [secrets[0], secrets[0] + secrets[-1], secrets[0][3:] + secrets[-1][:3] + "abc"]
    everything = [*secrets, *overlapping]
    text = glue.join([*(everything[index % len(everything)] for index in order), *everything, *overlapping])
    clean = Redactor(everything).text(text)
    for secret in everything:
        assert secret not in clean


def test_a_secret_that_is_the_beginning_of_another_does_not_show_its_rest():
    redactor = Redactor(["hunter2", "hunter2-and-more", "and-more-again"])
    assert redactor.text("a hunter2 b hunter2-and-more c hunter2-and-more-again d") == "a *** b *** c *** d"
    assert redactor.text("hunter2hunter2 hunter2,hunter2") == "*** ***,***"


@pytest.mark.parametrize(
    ("secret", "text", "expected"),
    [
        ("250000", "offset 2500000 of 1250000 rows, order 9250000177", None),
        ("250000", "id a250000f, 250000f, 9f250000", None),
        ("250000", "12:00:00.250000Z 1714558200.250000 250000.5", None),
        ("250000", "pin 250000, pin=250000. (250000) '250000' 250000", "pin ***, pin=***. (***) '***' ***"),
        ("250000", "a\\n250000\\t and \\u0022250000\\u0022", "a\\n***\\t and \\u0022***\\u0022"),
        ("250000", "?pin=250000&x=%20250000%20", "?pin=***&x=%20***%20"),
        ("250000", '{"pin": 250000, "n": [1,250000,3]}', '{"pin": ***, "n": [1,***,3]}'),
        ("require", "SSL is required, see requirements.txt", None),
        ("require", "ssl require, requires", "ssl ***, requires"),
        (
            "require",
            "a\\trequire\\n %3Drequire%3D &quot;require&quot;",
            "a\\t***\\n %3D***%3D &quot;***&quot;",
        ),
        (
            "require",
            "\x1b[31mrequire\x1b[0m \\u001b[1mrequire\\u001b[0m",
            "\x1b[31m***\x1b[0m \\u001b[1m***\\u001b[0m",
        ),
        ("require", "user:require@host require_ssl require2", "user:***@host ***_ssl ***2"),
        (
            "geheimnis",
            "Dienstgeheimnisträger, geheimnisvoll, geheimnis",
            "Dienstgeheimnisträger, geheimnisvoll, ***",
        ),
        ("ab12cd34ef", "keyab12cd34efX, xab12cd34ef9", "key***X, x***9"),
    ],
)
def test_words_and_numbers_are_replaced_as_a_whole_only(secret, text, expected):
    """A PIN within a longer number, or a word in another one, is none; a key of letters and digits is one anywhere."""
    assert Redactor([secret]).text(text) == (text if expected is None else expected)


@pytest.mark.parametrize("secret", ["250000", "require"])
def test_words_and_numbers_are_found_in_base64(secret):
    redactor = Redactor([secret])
    for text in (f"user:{secret}", json.dumps({"pin": secret}), json.dumps({"a": f"x {secret}"})):
        assert "***" in redactor.text(base64.b64encode(text.encode()).decode())


def test_pieces_of_a_secret_with_a_lone_surrogate_are_found():
    redactor = Redactor(["Zk4q9\udcffTw1bN7xUe2Rm", "Zk4q9\ufffdTw1-x9Kq8"])
    assert redactor.text("'Zk4q9\udcffTw1b...' \udcff") == "'***...' \udcff"
    assert redactor.text("x...\udcff1bN7xUe2Rm'") == "x...\udcff1bN7xUe2Rm'"
    assert redactor.text("x...Tw1bN7xUe2Rm'") == "x...***'"


LONG = "Zk4q9Tw1bN7xUe2RmLs8VhCy3GdKf6JpQa5WoXiE0BtHz9Mv2Ycr8Ln4Pu6Ds1Fj"
HEAD, TAIL = LONG[:20], LONG[-20:]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"LINE 1: ...{LONG[7:]}' USE_SSL", "LINE 1: ...***' USE_SSL"),
        (f"LINE 1: CREATE KEY '{HEAD}...\n   ^", "LINE 1: CREATE KEY '***...\n   ^"),
        (f"input_value='{HEAD}...{TAIL}', input_type=str", "input_value='***...***', input_type=str"),
        (f"('{HEAD} ... (32 characters truncated) ... {TAIL}',)", "('*** ... (32 characters truncated) ... ***',)"),
        (f"key {HEAD}… and …{TAIL}", "key ***… and …***"),
        (f"key {HEAD}\\u2026 and \\u2026{TAIL}", "key ***\\u2026 and \\u2026***"),
        (f"key {HEAD} [...] {TAIL}", "key *** [...] ***"),
        (f"key {HEAD} [truncated]", "key *** [truncated]"),
        (f"key {HEAD}..{TAIL}.", "key ***..***."),
        (f"key '{HEAD}' is wrong", "key '***' is wrong"),
        (f"key {HEAD}", "key ***"),
        (f"{TAIL} is wrong", "*** is wrong"),
        (f"| {HEAD}\n{TAIL} |", "| ***\n*** |"),
        (repr(f"it's {HEAD}\n{TAIL} \"x\""), repr('it\'s ***\n*** "x"')),
        (f"%22{HEAD}...%22", "%22***...%22"),
        (f"&quot;{HEAD}&hellip;&quot;", "&quot;***&hellip;&quot;"),
        (f"x{HEAD[:8]}...", "x***..."),
        (f"key {HEAD[:12]}****{LONG[-9:]} set", "key ********** set"),
        (f"keys {HEAD}, ... given", "keys ***, ... given"),
        (f"key ({HEAD} +54 chars)", "key (*** +54 chars)"),
        (f"key '{HEAD}'... is wrong", "key '***'... is wrong"),
    ],
)  # fmt: skip
def test_a_piece_of_a_secret_at_a_cut_is_not_left(text, expected):
    """What a library leaves of a value that it abbreviates is no longer the exact value."""
    redactor = Redactor([LONG, "another-0ne-2", *(f"{LONG[:8]}{number}{LONG[-8:]}" for number in range(99))])
    assert redactor.text(text) == expected
    assert redactor.finds(text)
    assert redactor.redact({"a": [text]}) == {"a": [expected]}


@pytest.mark.parametrize("length", [8, 12, 30, 63])
def test_reprlib_and_slices_let_out_nothing(length):
    import reprlib
    import textwrap

    redactor = Redactor([LONG])
    short = reprlib.Repr()
    short.maxstring = length
    texts = [
        short.repr(LONG),
        repr(LONG[:length]),
        f"{LONG[:length]}...",
        f"...{LONG[-length:]}",
        LONG[-length:],
    ]
    texts += [textwrap.shorten(f"{LONG} is wrong", 79 - length), json.dumps({"k": f"{LONG[:length]}…"})]
    for text in texts:
        assert known_pieces(LONG, redactor.text(text)) == set()


def known_pieces(secret: str, text: str) -> set[str]:
    """The pieces of eight characters that the secret and the text have in common."""
    return {secret[at : at + 8] for at in range(len(secret) - 7)} & {
        text[at : at + 8] for at in range(len(text) - 7)
    }


def test_a_piece_of_the_base64_of_a_secret_at_a_cut_is_not_left():
    encoded = base64.b64encode(f"user:{LONG}".encode()).decode()
    redactor = Redactor([LONG])
    assert known_pieces(encoded, redactor.text(f"sent {encoded[:40]}...")) <= known_pieces(
        encoded, encoded[:8]
    )
    assert redactor.text(f"sent ...{encoded[-40:].rstrip('=')}'") == "sent ...***'"


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        ("postgresql://u:hunter2-pw@db.example.com/wh", "Connecting to 'postgresql' ... postgresql://..."),
        ("postgresql://u:hunter2-pw@db.example.com/wh", 'could not reach "db.example.com/wh"'),
        ("https://hooks.example.com/services/T0/B0/abcdefgh", "see https://..., 'https://hooks.example.com'"),
        ("analytics-2024-x9Kq", 'relation "analytics" does not exist, loading analytics...'),
        ("database password", "Connecting to database..."),
        ("correct horse battery staple", "that is 'correct horse', and the 'battery staple'"),
        ("prod-warehouse-9f8a7b6c5d", "dataset 'prod-warehouse' in prod-warehouse\n"),
        ("org_12345678_Zk4q9Tw1bN", "organisation 'org_12345678' not found"),
        ("AKIAIOSFODNN7EXAMPLE", "the prefix AKIA... of a key"),
        ("Zk4q9Tw1bN7x", "Zk4q9Tw1 and bN7x..., a Zk4q9Tw in the middle"),
        ("Zk4q9Tw1b", "eleven characters at most: 'Zk4q9Tw1'"),
    ],
)  # fmt: skip
def test_ordinary_text_that_begins_like_a_secret_is_left(secret, text):
    redactor = Redactor()
    redactor.add(secret)
    assert redactor.text(text) == text


def test_each_line_of_a_secret_of_several_lines_is_one():
    key = "-----BEGIN KEY-----\r\n  MIIEvQIBADANBgkq\n\tabcdefghijkl==\n-----END KEY-----\n"
    redactor = Redactor([key])
    assert redactor.text("at line 2: abcdefghijkl==") == "at line 2: ***"
    assert redactor.text("\t\tMIIEvQIBADANBgkq\n\t\tabcdefghijkl==") == "\t\t***\n\t\t***"


def test_a_value_from_a_mounted_file_is_known_without_its_line_break():
    redactor = Redactor(["hunter2-secret\n"])
    assert redactor.text("got hunter2-secret.") == "got ***."
    assert redactor.text(base64.b64encode(b"u:hunter2-secret").decode()) == "dT***"


def test_values_of_less_than_six_characters_are_ordinary_text():
    redactor = Redactor(["admin", "abc  \n", " " * 20])
    assert redactor.values == frozenset()
    assert redactor.text("admin abc") == "admin abc"


@given(
    text=st.text(st.sampled_from("abc ,.-[]()0123456789\n") | st.characters(), max_size=60), secret=SECRETS
)
def test_a_text_in_which_nothing_is_found_is_the_very_same_object(text, secret):
    redactor = Redactor([secret])
    if not redactor.finds(text):
        assert redactor.text(text) is text


@pytest.mark.parametrize(
    "text",
    [
        "50%25 done",
        "see https://x.example/?page=2&q=1",
        "the token is missing",
        "pass",
        r"C:\users\ubuntu, \u00e4",
        "Tom &amp; Jerry &#39;",
    ],
)
def test_a_text_that_only_looks_suspicious_is_the_very_same_object(text):
    redactor = Redactor([SECRET])
    assert redactor.text(text) is text


@given(secrets=st.lists(SECRETS, max_size=3), text=AROUND, index=st.integers(0, 2))
@example(secrets=["******", "a***b*"], text="***", index=0)
def test_redacting_twice_changes_nothing_more(secrets, text, index):
    redactor = Redactor(secrets)
    planted = secrets[index] if index < len(secrets) else ""
    clean = redactor.text(f"{text}{planted}{text} password={planted} ?token={planted}&x=//u:{planted}@h")
    assert redactor.text(clean) == clean


def test_a_marker_cannot_complete_another_secret():
    redactor = Redactor(["abcdef***", "hunter2"])
    assert redactor.text("abcdefhunter2") == "***"
    assert Redactor(["?key=***&x"]).text("https://h/?key=abc&x=1") == "https://h/***=1"


@given(secret=SECRETS)
@example(secret="a'b\"c\\d\n<é😀>/&")
def test_a_rendered_json_line_is_suspicious_whenever_a_text_in_it_is(secret):
    """A log line is scanned after it was rendered, which escapes once more what was escaped twice."""
    redactor = Redactor([secret])
    for inner in ONE_LEVEL.values():
        for outer in ONE_LEVEL.values():
            message = outer(inner(secret))
            if redactor.text(message) is not message:
                assert redactor.finds(orjson.dumps({"message": message}).decode())
                assert redactor.finds(json.dumps({"message": message}))


def test_own_patterns_and_keys_are_used_beside_the_built_in_ones():
    redactor = Redactor(keys=["Kunden-Nr", "bearer"], patterns=[r"\bC-\d+", re.compile("x{3}")])
    assert redactor.text("C-123 xxx kunden-nr: 42, KUNDEN-NR=7") == "*** *** kunden-nr: ***, KUNDEN-NR=***"
    assert redactor.text("sent Bearer abcdef123456") == "sent Bearer ***"
    assert redactor.redact({"kunden-nr": 42, "n": 1}) == {"kunden-nr": "***", "n": 1}
    assert redactor.redact({"KUNDEN-NR": "0815"}) == {"KUNDEN-NR": "***"}
    assert redactor.finds("whatever")


def test_its_repr_says_how_many_secrets_it_knows_and_none_of_them():
    assert repr(Redactor([SECRET])) == "<Redactor: 1 values>"
    assert Redactor([SECRET]).values == {SECRET}


def test_a_failing_automaton_is_told_to_the_caller(monkeypatch):
    def fail(*_: object, **__: object) -> Any:
        raise RuntimeError

    redactor = Redactor([SECRET])
    redactor.text("builds it")
    monkeypatch.setattr(redactor, "_automaton", redactor._automaton._replace(find=fail))
    for method in (redactor.text, redactor.finds, redactor.redact):
        with pytest.raises(RuntimeError):
            method("text")
    value = {"message": SECRET, "n": 1, "nested": [SECRET, 2.5, None]}
    assert redactor.withhold(list(value.values())) == [WITHHELD, 1, [WITHHELD, 2.5, None]]


class Point(NamedTuple):
    name: str
    password: str
    x: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    pipeline: str = field(metadata=KEEP)
    message: str
    rows: int = 0
    tags: tuple[str, ...] = ()
    token: str | None = None


@dataclass
class Derived:
    text: str
    size: int = field(init=False, default=0)
    note: str = field(init=False, default="")

    def __post_init__(self) -> None:
        self.note = self.text


class Raising(collections.UserDict[str, Any]):
    def items(self) -> Any:
        message = f"no {SECRET}"
        raise RuntimeError(message)


class Gone:
    @property
    def __class__(self) -> Any:
        raise RuntimeError


class Picky(list[Any]):
    def __init__(self, first: Any, second: Any) -> None:
        super().__init__([first, second])


REDACTOR = Redactor([SECRET, "123456", "duckdb"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": f"x {SECRET}", "n": 123456}, {"a": "x ***", "n": 123456}),
        ([f"{SECRET}", 123456, 1.5, None, True], ["***", 123456, 1.5, None, True]),
        ((SECRET, ("b", SECRET)), ("***", ("b", "***"))),
        ({SECRET, "b"}, {"***", "b"}),
        (frozenset({SECRET}), frozenset({"***"})),
        (f"a {SECRET}".encode(), b"a ***"),
        (bytearray(SECRET.encode() + b"\xff\x00"), bytearray(b"***\xff\x00")),
        (memoryview(SECRET.encode()), b"***"),
        (collections.deque([SECRET]), ["***"]),
        ({"k": SECRET}.values(), ["***"]),
        ({SECRET: 1}.keys(), ["***"]),
        (types.MappingProxyType({"k": [SECRET]}), {"k": ["***"]}),
        (collections.OrderedDict(b=SECRET, a=1), {"b": "***", "a": 1}),
        ({SECRET: 1, b"duckdb": 2, ("duckdb", 3): 4}, {"***": 1, b"***": 2, ("***", 3): 4}),
        (Point("n", "abc", 5), Point("n", "***", 5)),
        (Event("duckdb", f"in {SECRET}", 123456), Event("duckdb", "in ***", 123456)),
        (Event("p", "m", token="abc"), Event("p", "m", token="***")),
        ([Event("duckdb", "m", tags=("duckdb",))], [Event("duckdb", "m", tags=("***",))]),
        (Picky(SECRET, 1), ["***", 1]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_keeps_its_shape(value, expected):
    clean = REDACTOR.redact(value)
    assert clean == expected
    if not isinstance(value, (memoryview, collections.abc.ValuesView, collections.abc.KeysView)):
        assert isinstance(clean, type(expected))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"password": "x"}, {"password": "***"}),
        ({"password": 4711}, {"password": "***"}),
        ({"password": None, "token": True, "secret": ""}, {"password": None, "token": True, "secret": ""}),
        ({"token_count": 5, "tokens": 7}, {"token_count": 5, "tokens": 7}),
        ({"token_url": "https://x.example/token"}, {"token_url": "https://x.example/token"}),
        ({"token": b"abc"}, {"token": b"***"}),
        ({"token": memoryview(b"abc")}, {"token": b"***"}),
        (
            {"credentials": {"host": "h", "port": 5432, "nested": [{"x": "y"}, 1]}},
            {"credentials": {"host": "***", "port": 5432, "nested": [{"x": "***"}, 1]}},
        ),
        ({"secrets": {"pin": [1, "a"]}}, {"secrets": {"pin": [1, "***"]}}),
        ({"api_key": object}, {"api_key": "***"}),
        ({"primary_key": "id", "author": "Ann"}, {"primary_key": "id", "author": "Ann"}),
    ],
)
def test_what_stands_under_a_secret_name_is_withheld_in_its_shape(value, expected):
    assert Redactor().redact(value) == expected


def test_the_input_is_not_changed_and_what_did_not_change_is_shared():
    clean_part: list[Any] = [{"a": 1}, ("b", {"c"}), Event("p", "m")]
    value = {"clean": clean_part, "dirty": [SECRET]}
    before = repr(value)
    clean = REDACTOR.redact(value)
    assert repr(value) == before
    assert clean["clean"] is clean_part
    assert REDACTOR.redact(clean_part) is clean_part
    for unchanged in ("text", b"bytes", 5, 2.5, None, {}, Event("duckdb", "m"), sys, range(10**12)):
        assert REDACTOR.redact(unchanged) is unchanged


def test_two_secrets_as_keys_do_not_become_one_entry():
    clean = Redactor(["secret-1", "secret-2"]).redact({"secret-1": 1, "secret-2": 2, "***": 3})
    assert sorted(clean.values()) == [1, 2, 3]
    assert not any("secret" in key for key in clean)


def test_fields_that_are_no_arguments_of_the_dataclass_are_redacted_too():
    clean = REDACTOR.redact(Derived(f"x {SECRET}"))
    assert (clean.text, clean.note) == ("x ***", "x ***")


def test_what_contains_itself_comes_to_an_end():
    cycle: list[Any] = [SECRET]
    cycle += [cycle, cycle, {"again": cycle}]
    assert REDACTOR.redact(cycle) == ["***", WITHHELD, WITHHELD, {"again": WITHHELD}]
    mapping: dict[str, Any] = {"s": SECRET}
    mapping["self"] = mapping
    assert REDACTOR.redact(mapping) == {"s": "***", "self": WITHHELD}


def test_what_is_nested_too_deep_is_withheld():
    value: Any = SECRET
    for _ in range(500):
        value = [value]
    assert SECRET not in repr(REDACTOR.redact(value))
    assert WITHHELD in repr(REDACTOR.redact(value))


def test_a_part_that_occurs_often_is_walked_once():
    value: Any = [SECRET]
    for _ in range(25):
        value = [value, value]
    clean = REDACTOR.redact(value)  # 2^25 leaves
    assert clean[0] is clean[1]
    for _ in range(25):
        clean = clean[0]
    assert clean == ["***"]


def test_the_same_part_under_a_secret_name_and_under_another_is_treated_by_name():
    part = ["plain"]
    assert Redactor().redact({"a": part, "token": part}) == {"a": ["plain"], "token": ["***"]}


def test_an_object_that_cannot_be_read_is_withheld_and_the_rest_is_not():
    gone = Gone()
    value = {"a": Raising(x=1), "b": SECRET, "c": gone, "d": 5}
    clean = REDACTOR.redact(value)
    assert clean == {"a": WITHHELD, "b": "***", "c": gone, "d": 5}
    assert REDACTOR.withhold(list(value.values())) == [WITHHELD, WITHHELD, gone, 5]


@given(
    value=st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.sampled_from([SECRET, "x", "123456"]),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3)
        ),
        max_leaves=12,
    )
)
def test_json_stays_json_of_the_same_shape(value):
    clean = json.loads(json.dumps(REDACTOR.redact(value)))
    assert list(shape(clean)) == list(shape(value))
    assert "123456" not in list(texts(clean))
    assert SECRET not in json.dumps(clean)


def shape(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from shape(item)
    elif isinstance(value, list):
        yield len(value)
        for item in value:
            yield from shape(item)
    else:
        yield "text" if isinstance(value, str) else value


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts(item)


def test_an_ordinary_line_costs_one_scan():
    redactor = Redactor([SECRET])
    redactor.text("builds the automaton")
    scans: list[str] = []
    find = redactor._automaton.find

    def counting(text: str, **options: Any) -> Any:
        scans.append(text)
        return find(text, **options)

    redactor._automaton = redactor._automaton._replace(find=counting)
    line = (
        "2024-05-01 12:00:00,123|[INFO]|4242|123456|dlt|load.py|run:210|Loaded 5 rows into `orders` (12.5%)"
    )
    assert redactor.text(line) is line
    assert not redactor.finds(line)
    assert scans == [line, line]
    scans.clear()
    for clean in (r"in C:\users\ubuntu", r"\u001b[32mgreen\x1b[0m", "a?b=1&c=2;d", "this & that;"):
        assert redactor.text(clean) is clean
        assert not redactor.finds(clean)
    assert len(scans) == 8


def test_the_cost_of_a_line_does_not_grow_with_the_number_of_secrets():
    line = "2024-05-01 12:00:00,123|[INFO]|4242|123456|dlt|load.py|run:210|Loaded 5 rows into `orders`" * 20

    def cost(redactor: Redactor) -> float:
        redactor.text(line)
        best = float("inf")
        for _ in range(20):
            start = time.perf_counter()
            for _ in range(20):
                redactor.text(line)
            best = min(best, time.perf_counter() - start)
        return best

    few, many = Redactor([SECRET]), Redactor(f"{SECRET}-{number:05}" for number in range(1000))
    assert cost(many) < 20 * cost(few)


def test_secrets_may_be_learned_while_others_redact():
    redactor = Redactor()
    errors: list[str] = []
    start = threading.Barrier(5)

    def learn(part: int) -> None:
        start.wait()
        for number in range(100):
            secret = f"secret-{part}-{number:03}"
            redactor.add(secret)
            clean = redactor.text(f"x {secret} y")
            if clean != "x *** y":
                errors.append(clean)

    threads = [threading.Thread(target=learn, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    start.wait()
    while any(thread.is_alive() for thread in threads):
        assert redactor.text("nothing here") == "nothing here"
        assert len(redactor.values) <= 400
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(redactor.values) == 400


def test_the_forms_of_a_secret_are_made_once(monkeypatch):
    made: list[str] = []
    forms = sys.modules["dltobs._redaction.redactor"].plain_forms

    def counting(secret: str) -> set[str]:
        made.append(secret)
        return forms(secret)

    monkeypatch.setattr("dltobs._redaction.redactor.plain_forms", counting)
    redactor = Redactor()
    for number in range(50):
        redactor.add(f"secret-{number:03}")
        assert redactor.text(f"secret-{number:03}") == "***"
    redactor.add(*redactor.values)
    assert len(made) == 50


def test_it_can_be_asked_from_a_signal_handler_while_it_builds(monkeypatch):
    """A handler runs between two bytecodes of the main thread: a lock that is held there stays held."""
    redactor = Redactor([SECRET])
    build = redactor._build
    answers: list[str] = []

    def interrupted() -> Any:
        monkeypatch.setattr(redactor, "_build", build)
        answers.append(redactor.text(SECRET))
        return build()

    monkeypatch.setattr(redactor, "_build", interrupted)
    assert redactor.text(SECRET) == "***"
    assert answers == ["***"]


def test_event_fields_have_no_name_that_would_withhold_them():
    """The redactor goes by names in dataclasses too; those of our own events mean no secret."""
    from dltobs import _events

    names = {
        field.name
        for kind in vars(_events).values()
        if isinstance(kind, type) and dataclasses.is_dataclass(kind)
        for field in dataclasses.fields(kind)
    }
    assert len(names) > 20
    assert [name for name in names if Redactor().redact({name: "text"}) != {name: "text"}] == []


def test_a_text_full_of_urls_without_credentials_takes_time_linear_in_its_length():
    """Ten times the text, not a hundred times the time."""
    redactor = Redactor([SECRET])
    one = '{"next": "https://api.example.com/v2/orders/12345?page=2&q=1", "id": 12345}, '

    def seconds(count):
        text = one * count
        begin = time.process_time()
        assert not redactor.finds(text)
        return time.process_time() - begin

    seconds(100)
    short, long = (min(seconds(count) for _ in range(3)) for count in (2_000, 20_000))
    assert long < 40 * max(short, 1e-3)


@pytest.mark.parametrize(
    "one", [r"\u00e4\n", r"\\\u0022", "&lt;p&gt;", "&amp;lt;", "%5Cu0026amp;", "&", r"\u", "&#1"]
)
def test_a_text_full_of_codes_takes_time_linear_in_its_length(one):
    redactor = Redactor([SECRET])

    def seconds(count):
        text = f"&lt;{one * count}"
        begin = time.process_time()
        assert redactor.text(text) is text
        return time.process_time() - begin

    seconds(100)
    short, long = (min(seconds(count) for _ in range(3)) for count in (1_000, 10_000))
    assert long < 40 * max(short, 1e-3)
