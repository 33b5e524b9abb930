"""The search for many strings: with the library, and without it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dltobs._redaction.automaton import python_search, search_for
from scripts import run_script

LETTERS = st.text("ab?\ud800é😀", min_size=1, max_size=6)


@given(patterns=st.lists(LETTERS, min_size=1, max_size=8), text=st.text("ab?\ud800é😀", max_size=40))
def test_every_occurrence_of_every_pattern_is_found(patterns, text):
    expected = sorted(
        (number, start, start + len(pattern))
        for number, pattern in enumerate(patterns)
        for start in range(len(text))
        if text.startswith(pattern, start)
    )
    numbers: dict[str, list[int]] = {}
    for number, pattern in enumerate(patterns):
        numbers.setdefault(pattern, []).append(number)
    assert sorted(search_for(patterns)(text)) == expected
    assert sorted(python_search(numbers)(text)) == expected


def test_secrets_are_found_without_the_library_and_one_warning_says_so(tmp_path):
    """Where no wheel of pyahocorasick exists, everything works, and `configure()` warns once."""
    done = run_script(
        """
        import sys
        sys.modules["ahocorasick"] = None  # as if it were not installed
        import dltobs

        dltobs.configure()
        redactor = dltobs.Redactor(["pl4nted-s3cret"])
        print(redactor.text("pl4nted-s3cret, cGw0bnRlZC1zM2NyZXQ=, ?token=abc123def of 1000 rows"))
        """,
        tmp_path,
        prelude="",
    )
    assert done.stdout == "***, ***, ?token=*** of 1000 rows\n"
    (warning,) = done.stderr.splitlines()
    assert "pip install pyahocorasick" in warning
