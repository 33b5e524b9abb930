"""What redaction costs, against the bare search for the same secrets, and whether their number matters."""

from __future__ import annotations

import logging
from functools import cache, partial
from typing import TYPE_CHECKING

from ahocorasick import Automaton
from material import info_records, secrets, stack_trace
from measure import Contender, Figure, in_process, side_by_side

import dltobs

if TYPE_CHECKING:
    from collections.abc import Callable

_COUNTS = (10, 100, 1_000)
_CHARACTERS_A_ROUND = 400_000


def redacted_line(count: int, rounds: int) -> Figure:
    """Log lines, as `JsonFormatter` writes them, over `count` secrets."""
    return _against_bare("a log line", _lines(), count, rounds)


def redacted_stack_trace(count: int, rounds: int) -> Figure:
    """The stack trace of a failed pipeline over `count` secrets."""
    return _against_bare("a stack trace", (stack_trace(),), count, rounds)


def flat_for_lines(rounds: int) -> Figure:
    """Log lines over the most secrets against the fewest."""
    return _flat("a log line", _lines(), rounds)


def flat_for_stack_traces(rounds: int) -> Figure:
    """The stack trace over the most secrets against the fewest."""
    return _flat("a stack trace", (stack_trace(),), rounds)


FIGURES: dict[str, Callable[[int], Figure]] = {
    **{f"redaction_of_line_{count}_secrets": partial(redacted_line, count) for count in _COUNTS},
    **{
        f"redaction_of_stack_trace_{count}_secrets": partial(redacted_stack_trace, count) for count in _COUNTS
    },
    "redaction_of_line_is_flat": flat_for_lines,
    "redaction_of_stack_trace_is_flat": flat_for_stack_traces,
}


def _against_bare(what: str, texts: tuple[str, ...], count: int, rounds: int) -> Figure:
    bare = "pyahocorasick"
    contenders = {
        "Redactor.text": _contender(_redactor(count).text, texts),
        bare: _contender(_bare(count), texts),
    }
    return Figure(
        title=f"Redaction of {what} without a secret in it over {count:,} secrets in all their encodings, "
        "and patterns, against the search for the bare values",
        subject="Redactor.text",
        peer=bare,
        goal=2.0,
        unit=what,
        seconds=side_by_side(contenders, rounds),
        details=_details(texts),
    )


def _flat(what: str, texts: tuple[str, ...], rounds: int) -> Figure:
    contenders = {f"{count} secrets": _contender(_redactor(count).text, texts) for count in _COUNTS}
    return Figure(
        title=f"Redaction of {what} over {_COUNTS[-1]:,} secrets against {_COUNTS[0]}",
        subject=f"{_COUNTS[-1]} secrets",
        peer=f"{_COUNTS[0]} secrets",
        goal=1.25,
        unit=what,
        seconds=side_by_side(contenders, rounds),
        details=_details(texts),
    )


def _contender(search: Callable[[str], object], texts: tuple[str, ...]) -> Contender:
    repeats = max(1, _CHARACTERS_A_ROUND // sum(map(len, texts)))

    def search_all() -> None:
        for _ in range(repeats):
            for text in texts:
                search(text)

    return in_process(search_all, repeats * len(texts))


@cache
def _redactor(count: int) -> dltobs.Redactor:
    return dltobs.Redactor(secrets(count))


def _bare(count: int) -> Callable[[str], object]:
    automaton = Automaton()
    for secret in secrets(count):
        automaton.add_word(secret, len(secret))
    automaton.make_automaton()
    return lambda text: list(automaton.iter(text))


@cache
def _lines() -> tuple[str, ...]:
    formatter = dltobs.JsonFormatter(redactor=dltobs.Redactor(), service="dlt")
    return tuple(formatter.format(logging.makeLogRecord(record.__dict__)) for record in info_records())


def _details(texts: tuple[str, ...]) -> dict[str, object]:
    if any(_redactor(_COUNTS[-1]).text(text) != text for text in texts):
        message = "there is something to redact in a text that should hold no secret"
        raise ValueError(message)
    return {"texts": len(texts), "characters_mean": sum(map(len, texts)) / len(texts)}
