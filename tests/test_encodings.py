"""The forms of a secret: whatever a library makes of it must be among them."""

from __future__ import annotations

import base64
import html
import itertools
import json
import re
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus, unquote

import orjson
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from requests.utils import requote_uri

from dltobs._redaction.decoding import decodings
from dltobs._redaction.encodings import (
    MIN_LENGTH,
    base64_forms,
    plain_forms,
    with_border,
    without_surrogates,
)

if TYPE_CHECKING:
    from collections.abc import Callable

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


def test_json_that_escapes_slashes_is_one_of_the_forms():
    assert "a\\/b\\/cdefg" in plain_forms("a/b/cdefg")
    assert "ä\\/b\\/cdefg" in plain_forms("ä/b/cdefg")


@given(secret=SECRETS)
@example(secret=AWKWARD)
def test_every_form_with_a_space_is_also_there_as_html_forms_write_it(secret):
    forms = plain_forms(secret)
    assert {form.replace(" ", "+") for form in forms} <= forms


def test_the_forms_of_an_awkward_secret_are_not_too_many_to_be_searched_for():
    assert len(plain_forms(AWKWARD)) < 1_000
    assert len(base64_forms(AWKWARD)) < 50


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


IN_JSON: dict[str, Callable[[str], str]] = {
    "json": json.dumps,
    "wide json": lambda text: json.dumps(text, ensure_ascii=False),
    "PHP": lambda text: json.dumps(text).replace("/", "\\/"),
    "Go": lambda text: re.sub(
        "[<>&]", lambda match: f"\\u{ord(match[0]):04x}", json.dumps(text, ensure_ascii=False)
    ),
    "System.Text.Json": lambda text: f'"{system_text_json(text)}"',
}


@pytest.mark.parametrize("library", IN_JSON)
@given(secret=SECRETS, key=st.text("abc", max_size=3))
@example(secret=AWKWARD, key="")
@example(secret='"u+/<x', key="a")
def test_base64_of_json_contains_a_form(library, secret, key):
    text = f'{{"{key}":{IN_JSON[library](secret)}}}'
    encoded = base64.b64encode(text.encode()).decode()
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
    texts = [text, *(plain for plain, _ in decodings(text))]
    assert any(form in plain for form in plain_forms(secret) for plain in texts)


def test_the_single_bytes_of_latin_1_are_characters():
    assert next(decodings(quote("pässwörd", encoding="latin-1")))[0] == "pässwörd"


@given(secret=SECRETS)
@example(secret="a%41b%zz-secret")
@example(secret="a%41b%20-secret")
@example(secret="a%41bcd e")
def test_a_secret_that_requests_has_put_into_a_url_is_found(secret):
    assume(len(unquote(secret)) >= MIN_LENGTH)  # with its own quoting undone it may be too short to be told
    text = f"GET {requote_uri(f'https://x.example/?a={secret}&b=1')} failed"
    texts = [text, *(plain for plain, _ in decodings(text))]
    assert any(form in plain for form in plain_forms(secret) for plain in texts)


SHORT_ESCAPES = {"\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def system_text_json(text: str, digits: str = "04X") -> str:
    """What .NET writes between quotes, unless it is told otherwise."""
    written = []
    for character in text:
        units = memoryview(character.encode("utf-16-le")).cast("H")
        is_left_alone = " " <= character <= "~" and character not in "\"&'+<>`"
        escaped = character if is_left_alone else "".join(f"\\u{unit:{digits}}" for unit in units)
        written.append(SHORT_ESCAPES.get(character, escaped))
    return "".join(written)


CODED: dict[str, Callable[[str], str]] = {
    "System.Text.Json": system_text_json,
    "lower case": lambda text: system_text_json(text, "04x"),
    "in JSON": lambda text: json.dumps(system_text_json(text))[1:-1],
    "in the repr of JSON": lambda text: repr(json.dumps(system_text_json(text)))[2:-2],
    "in a query": lambda text: quote_plus(system_text_json(text)),
    "JavaScript": lambda text: "".join(f"\\x{byte:02X}" for byte in text.encode()),
    "bytes of HTML": lambda text: repr(html.escape(text).encode("ascii", "xmlcharrefreplace"))[2:-1],
    "in HTML": lambda text: html.escape(system_text_json(text)),
    "html.escape": html.escape,
    "HTML without quotes": lambda text: html.escape(text, quote=False),
    "html.escape twice": lambda text: html.escape(html.escape(text)),
    "numbers": lambda text: "".join(f"&#{ord(character)};" for character in text),
    "hexadecimal": lambda text: "".join(f"&#x{ord(character):X};" for character in text),
    "ASCII": lambda text: html.escape(text).encode("ascii", "xmlcharrefreplace").decode(),
    "HTML of JSON": lambda text: html.escape(json.dumps(text)[1:-1]),
    "JSON of HTML": lambda text: system_text_json(html.escape(text)),
    "HTML in a query": lambda text: quote_plus(html.escape(text)),
    "query in HTML": lambda text: html.escape(quote_plus(text)),
    "JSON in a query": lambda text: quote_plus(json.dumps(text)),
    "wide JSON in a query": lambda text: quote_plus(json.dumps(text, ensure_ascii=False)),
    "repr in a query": lambda text: quote_plus(repr(text)[1:-1]),
}


@pytest.mark.parametrize("coding", CODED)
@given(secret=SECRETS)
@example(secret=AWKWARD)
@example(secret="Ab3+dE/fG7&hI<9kL==")
@example(secret='\\+\\\\"\\u002B%2B&amp;')
@example(secret="a 'b' \"ü\\ +")
def test_a_coded_secret_is_found_in_the_decoded_text(coding, secret):
    text = f"answer: {CODED[coding](secret)} (400)"
    texts = [text, *(plain for plain, _ in decodings(text))]
    assert any(form in plain for form in plain_forms(secret) for plain in texts)


def test_named_entities_are_those_of_html():
    assert next(decodings("a&uuml;b&szlig;&lt;&nbsp;&apos;"))[0] == "aübß<\xa0'"


@pytest.mark.parametrize(
    "text",
    [
        "a & b; c", "&unknown;", "&;", "&#;", "&#x;", "&#1114112;", "&#x110000;", "&#99999999;", "&#123456789;",
        "&NotEqualTilde;", "&amp", "x=1&lt=2", "\\u", "\\u12", "\\uzzzz", r"C:\users\unicode", r"a\x\d", "\\x4", "\\xg1", "&#x 1;",
    ],
)  # fmt: skip
def test_what_only_resembles_a_code_is_left_as_it_is(text):
    assert list(decodings(text)) == []


CODES = {" ": "%20", "é": "%C3%A9", "ÿ": "%ff", "😀": "%F0%9F%98%80", "+": "\\u002B", "\U0001f601": "\\ud83d\\uDE01",
         "&": "&amp;", "ß": "&szlig;", "'": "&#39;", "!": "&#x21;", "ö": "\\xC3\\xb6", "§": "\\xa7", "\n": "\\n", '"': '\\"'}  # fmt: skip


@given(characters=st.lists(st.sampled_from("abz04u;#x") | st.sampled_from(sorted(CODES)), max_size=12))
def test_positions_lead_back_to_the_original_text(characters):
    characters = ["+", *characters, " ", "&", "-"]
    codes = [CODES.get(character, character) for character in characters]
    text = "".join(codes)
    for plain, position in decodings(text):
        assert position(0) == 0
        assert position(len(plain)) == len(text)
        ends = [position(index) for index in range(len(plain) + 1)]
        assert ends == sorted(set(ends))
    plain, position = next(each for each in decodings(text) if each[0] == "".join(characters))
    assert [text[position(index) : position(index + 1)] for index in range(len(plain))] == codes


@given(text=st.text(st.sampled_from("%4é😀zA1\\u&#;") | st.characters(), max_size=40))
def test_positions_rise_whatever_the_text(text):
    for plain, position in decodings(quote(text, errors="surrogatepass") + text + "%ff\\udc00&lt;"):
        ends = [position(index) for index in range(len(plain) + 1)]
        assert ends == sorted(set(ends))


@given(text=st.text(max_size=60))
@example(text="100% of 5%")
@example(text="%41")
def test_a_text_without_codes_is_not_decoded(text):
    has_codes = re.search(r"%[0-9A-Fa-f]{2}|\\|&", text) is not None
    assert has_codes or not list(decodings(text))


@pytest.mark.parametrize(("text", "most"), [("%25" * 40, 3), ("%5Cu0025&amp;#37;" * 40, 20)])
def test_a_text_has_few_decodings(text, most):
    assert len(list(decodings(text))) <= most


def test_lone_surrogates_have_stand_ins_of_the_same_length():
    assert without_surrogates("a\udc80b") == "a\ufffdb"
    forms = plain_forms("secret\udc80")
    assert {"secret\ufffd", "secret?", "secret\\udc80"} <= forms
    assert all(form.encode() for form in forms)
    assert base64_forms("secret\udc80")
