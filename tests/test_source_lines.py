"""What leaves of the user's source: no text of a statement that names a secret."""

from __future__ import annotations

import linecache

import pytest

from dltobs._redaction.redactor import Redactor
from dltobs.sinks.source_lines import SourceLines

HIDDEN = [
    'api_key = "h4rdcoded"',
    'password: str = "h4rdcoded"',
    'api_key = (\n    "h4rdcoded"\n)',
    'api_key = \\\n    "h4rdcoded"',
    'api_key = """h4rdcoded"""',
    'api_key = "h4rd" "h4rdcoded"',
    'settings = {\n    "password":\n        "h4rdcoded",\n}',
    'settings = dict(password="h4rdcoded")',
    'os.environ.setdefault("DB_PASSWORD", "h4rdcoded")',
    'user, password = "me", "h4rdcoded"',
    'set_password("h4rdcoded")',
    'if token == "h4rdcoded": pass',
    'def connect(password="h4rdcoded"): pass',
    'headers = {"Authorization": f"Token h4rdcoded {1 + 1}"}',
    'token = f"{1}h4rdcoded{f"{2}"}"'
    if __import__("sys").version_info >= (3, 12)
    else 'token = f"{1}h4rdcoded"',
]


def lines_of(tmp_path, source, redactor=None):
    path = tmp_path / "module.py"
    path.write_text(source)
    linecache.checkcache(str(path))
    return SourceLines(redactor or Redactor()).of(str(path))


@pytest.mark.parametrize("statement", HIDDEN)
def test_the_texts_of_a_statement_that_names_a_secret_are_taken_out(tmp_path, statement):
    """However it is written, and what stands beside it stays."""
    lines = lines_of(tmp_path, f'first = "stays"\n{statement}\nlast = "stays"\n')
    assert lines[0] == 'first = "stays"'
    assert lines[-1] == 'last = "stays"'
    assert len(lines) == statement.count("\n") + 3
    assert "h4rd" not in "\n".join(lines)
    assert "***" in "\n".join(lines)


def test_a_key_over_many_lines_is_taken_out_whole(tmp_path):
    """The lines around a frame may not contain the one by which it is known."""
    body = "\n".join(f"h4rdcoded{number:02}" + 40 * "A" for number in range(20))
    source = (
        f'KEY = """-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----"""\nraise ValueError("x")\n'
    )
    lines = lines_of(tmp_path, source)
    assert len(lines) == source.count("\n")
    assert "h4rdcoded" not in "\n".join(lines)
    assert lines[-1] == 'raise ValueError("x")'


@pytest.mark.parametrize(
    "source",
    [
        'url = "https://shop.example/orders"\nquery = f"select {url}"\n',
        '"""Where the password of a user is kept: see the manual."""\n',
        "def connect(password: str, token: str | None = None) -> None:\n    pass\n",
        'token_url = "https://shop.example/oauth"\n',
    ],
)
def test_other_lines_are_as_they_stand_in_the_file(tmp_path, source):
    assert "\n".join(lines_of(tmp_path, source)) == source.rstrip("\n")


@pytest.mark.parametrize("source", ["", "password = (\n", 'x = "unclosed\n', 1_000_001 * "#"])
def test_what_cannot_be_read_gives_no_lines(tmp_path, source):
    """A file that is torn, or far too large."""
    assert lines_of(tmp_path, source) == []


def test_names_of_the_users_own_count(tmp_path):
    redactor = Redactor(keys=["shop_pin"])
    assert lines_of(tmp_path, 'shop_pin = "h4rdcoded"\n', redactor) == ['shop_pin = "***"']
