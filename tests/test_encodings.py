"""The forms of a secret: whatever a library makes of it must be among them."""

from __future__ import annotations

import base64
import itertools
import json
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from requests.utils import requote_uri

from dltobs._redaction.encodings import (
    MIN_LENGTH,
    QUOTED_BYTES,
    base64_forms,
    plain_forms,
    unquoted,
    with_border,
    without_surrogates,
)

if TYPE_CHECKING:
    from collections.abc import Callable

settings.register_profile("without deadline", deadline=None)
settings.load_profile("without deadline")

SECRETS = st.text(st.characters(exclude_categories=["Cs"]), min_size=MIN_LENGTH, max_size=24).filter(
    lambda text: len(text.strip()) >= MIN_LENGTH
)
AWKWARD = "a'b\"c\\d\n<é😀>/&%41 +"

ESCAPES: dict[str, Callable[[str], str]] = {
    "json": lambda text: json.dumps(text)[1:-1],
    "wide json": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "orjson": lambda text: orjson.dumps(text).decode()[1:-1],
    "repr": lambda text: repr(text)[1:-1],
    "repr beside a quote": lambda text: repr([text + '"'])[2:-3],
    "repr beside both quotes": lambda text: repr("'\"" + text)[4:-1],
    "ascii": lambda text: ascii(text)[1:-1],
    "repr of bytes": lambda text: repr(text.encode())[2:-1],
}


@pytest.mark.parametrize("escape", ESCAPES)
@given(secret=SECRETS)
@example(secret=AWKWARD)
def test_an_escaped_secret_is_one_of_its_forms(escape, secret):
    assert ESCAPES[escape](secret) in plain_forms(secret)


@pytest.mark.parametrize(("inner", "outer"), [*itertools.product(ESCAPES, repeat=2)])
@settings(max_examples=40)
@given(secret=SECRETS)
@example(secret=AWKWARD)
def test_a_secret_that_is_escaped_twice_is_one_of_its_forms(inner, outer, secret):
    assert ESCAPES[outer](ESCAPES[inner](secret)) in plain_forms(secret)


@pytest.mark.parametrize(("inner", "outer"), [*itertools.product(ESCAPES, repeat=2)])
def test_json_may_escape_a_third_time_because_a_log_line_does(inner, outer):
    twice = ESCAPES[outer](ESCAPES[inner](AWKWARD))
    assert {ESCAPES["json"](twice), ESCAPES["orjson"](twice)} <= plain_forms(AWKWARD)


def test_web_safe_json_is_one_of_the_forms():
    assert "a\\/b\\/cdefg" in plain_forms("a/b/cdefg")
    assert "a\\u003cb\\u003e\\u0026cdefg" in plain_forms("a<b>&cdefg")


def test_a_plain_word_has_no_other_form_than_itself():
    assert plain_forms("abcDEF123") == {"abcDEF123"}


def test_forms_that_are_too_short_to_be_told_from_ordinary_text_are_left_out():
    assert plain_forms("abc\ndefgh") == {"abc\ndefgh", "abc\\ndefgh", "abc\\\\ndefgh", "abc\\\\\\\\ndefgh"}
    assert base64_forms("ab") == set()


def test_each_line_is_a_form_but_not_the_armour_of_a_key():
    key = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADAN\n  c2Vjb25kTGluZQ==\n-----END PRIVATE KEY-----\n"
    forms = plain_forms(key)
    assert {key, key.strip(), "MIIEvQIBADAN", "c2Vjb25kTGluZQ=="} <= forms
    assert not any(form.startswith("-----") and "MII" not in form for form in forms)


def test_the_lines_of_a_json_document_are_no_forms():
    """`"type": "service_account",` says nothing; the secrets in the document are learned by their names."""
    document = json.dumps({"type": "service_account", "private_key": "abcdefgh"}, indent=2)
    assert document in plain_forms(document)
    assert '"type": "service_account",' not in plain_forms(document)
    assert '{"broken",' in plain_forms('{"broken",\n"secret"')


@given(secret=SECRETS, before=st.binary(max_size=5), after=st.binary(max_size=5), is_url_safe=st.booleans())
@example(secret="abcdef", before=b"", after=b"", is_url_safe=False)
def test_base64_of_any_surroundings_contains_a_form(secret, before, after, is_url_safe):
    encode = base64.urlsafe_b64encode if is_url_safe else base64.b64encode
    encoded = encode(before + secret.encode() + after).decode()
    assert any(form in encoded for form in base64_forms(secret))


def test_base64_of_latin_1_is_found_too_for_it_is_what_http_libraries_send():
    encoded = base64.b64encode("user:pässwörd".encode("latin-1")).decode()
    assert any(form in encoded for form in base64_forms("pässwörd"))


@given(secret=SECRETS, before=st.binary(min_size=3, max_size=5), after=st.binary(min_size=3, max_size=5))
def test_what_is_left_of_base64_tells_no_byte_of_the_secret(secret, before, after):
    """The characters beside a hit hold bits of the secret: with them gone, the rest is the neighbours'."""
    encoded = base64.b64encode(before + secret.encode() + after).decode()
    form = max((form for form in base64_forms(secret) if form in encoded), key=len)
    start, end = with_border(encoded, encoded.index(form), encoded.index(form) + len(form))
    assert start <= len(before) * 8 // 6
    assert (end + 1) * 6 // 8 >= len(before + secret.encode())


def test_the_border_of_base64_ends_where_base64_ends():
    assert with_border("key=ABCDEF==;", 4, 10) == (4, 12)
    assert with_border("xABCDEFy z", 1, 7) == (0, 8)
    assert with_border("ABCDEF", 0, 6) == (0, 6)


QUOTINGS: dict[str, Callable[[str], str]] = {
    "quote": quote,
    "quote everything": lambda text: quote(text, safe=""),
    "quote_plus": quote_plus,
    "SQLAlchemy": lambda text: quote(text, safe=" +"),
    "lower case": lambda text: quote(text, safe="").replace("%2F", "%2f").replace("%C3", "%c3"),
    "quote twice": lambda text: quote(quote(text, safe=""), safe=""),
    "quote_plus twice": lambda text: quote_plus(quote_plus(text)),
    "quote three times": lambda text: quote(quote(quote(text))),
    "latin-1": lambda text: quote(text, encoding="latin-1", errors="replace"),
}


@pytest.mark.parametrize("quoting", [name for name in QUOTINGS if name != "latin-1"])
@given(secret=SECRETS)
@example(secret=AWKWARD)
@example(secret="100%25 secret")
def test_a_quoted_secret_is_found_in_the_text_without_quoting(quoting, secret):
    text = f"https://x.example/?a={QUOTINGS[quoting](secret)}&b=1"
    texts = [text, *(plain for plain, _ in unquoted(text))]
    assert any(form in plain for form in plain_forms(secret) for plain in texts)


def test_the_single_bytes_of_latin_1_are_characters():
    assert next(unquoted(quote("pässwörd", encoding="latin-1")))[0] == "pässwörd"


@given(secret=SECRETS)
@example(secret="a%41b%zz-secret")
@example(secret="a%41b%20-secret")
@example(secret="a%41bcd e")
def test_a_secret_that_requests_has_put_into_a_url_is_found(secret):
    text = f"GET {requote_uri(f'https://x.example/?a={secret}&b=1')} failed"
    texts = [text, *(plain for plain, _ in unquoted(text))]
    assert any(form in plain for form in plain_forms(secret) for plain in texts)


@given(text=st.text(st.sampled_from("%4é😀zA1") | st.characters(), max_size=40))
def test_positions_lead_back_to_the_quoted_text(text):
    quoted = "x%20" + quote(text, errors="surrogatepass") + "%C3%A9%ff%F0%9F%98%80 z"
    for plain, position in unquoted(quoted):
        assert position(0) == 0
        assert position(len(plain)) == len(quoted)
        ends = [position(index) for index in range(len(plain) + 1)]
        assert ends == sorted(set(ends))
    plain, position = next(unquoted(quoted))
    assert quoted[position(1) : position(2)] == "%20"
    assert quoted[position(len(plain) - 3) :] == "%F0%9F%98%80 z"


@given(text=st.text(max_size=60))
@example(text="100% of 5%")
@example(text="%41")
def test_a_text_without_quoted_bytes_is_not_decoded(text):
    has_quoting = any(literal in text for literal in QUOTED_BYTES)
    assert has_quoting or not list(unquoted(text))


def test_lone_surrogates_have_stand_ins_of_the_same_length():
    assert without_surrogates("a\udc80b") == "a\ufffdb"
    forms = plain_forms("secret\udc80")
    assert {"secret\ufffd", "secret?", "secret\\udc80"} <= forms
    assert all(form.encode() for form in forms)
    assert base64_forms("secret\udc80")
