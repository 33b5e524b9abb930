"""What is the same each time the same thing goes wrong: Sentry groups by it, alerts cool down by it.

Ids, numbers, times and values of data in a message would tell equal failures apart, so they become `#`.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dltobs._events import RunFinished, RunLost, UncaughtError

NAMES = 4
"""Of the parts of a fingerprint, those before the message are names."""
_LENGTH = 200
_PART_LENGTH = 500

_HEADING = re.compile(r":$|^\d+ validation errors? for ")
_LAST_FRAME = re.compile(r'^ +File ".*$', re.MULTILINE)
_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\.?"
_WEEKDAY = r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,?\s+"
_CLOCK = r"\d{1,2}:\d\d(?::\d\d)?(?:[.,]\d+)?(?:\s?[AaPp][Mm]\b)?"
_ZONE = r"(?:\s?(?:Z|UTC|GMT)\b|\s?[+\-]\d\d:?\d\d)?"
_DAY = rf"(?:\d{{1,2}}\s+{_MONTH}|{_MONTH}\s+\d{{1,2}})\b(?:,?\s+\d{{4}})?"
_NUMBER = r"[+\-]?(?:0x[0-9a-fA-F]+|\d(?:[\d.,:_]*\d)?)(?:[eE][+\-]?\d+)?"
_UNIT = r"(?:[mun]?s|m|h|[kKMGT]?i?B|%)?"
_QUOTED = r"""(?:'[^'\n]*'|"[^"\n]*")"""

_CODE = re.compile(
    r"(?i:\b(?:HTTP(?:/\d\.\d)?|status(?:[ _]code)?|answered|returned|code|errno)['\"]?[ :=]{1,3})\d{1,5}\b"
    r"|\b[A-Z]{2,6}-\d{3,5}\b"  # ORA-00942
    r"|\((?=\d*[A-Z])[0-9A-Z]{5}\)"  # SQLSTATE: (42S02)
)
"""A number that says what went wrong, and so stays."""
_KEPT_DIGITS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_DIGITS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
"""No digits to a regular expression; they stand for those of a code while the rules are applied."""

_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # the query of a URL; its path tells one endpoint from another
        (r"""(?:\?[\w%.\-\[\]]+=|(?<=\w)#)[^\s'")>]*""", ""),
        (r"/(?:tmp|var/folders)/[^\s'\"]*/", "/tmp/"),  # noqa: S108 - a name in a message
        # the row that broke a contract, at the end of dlt's `DataValidationError`
        (r"Offending data item: .*", ""),
        # a file of a load job: table.id.retry.format
        (r"(?<![\w\-])([\w\-]+)\.[0-9a-f]{8,}\.\d+\.[a-z_\-]+(?:\.gz)?", r"\1.#"),
        (r"datetime\.\w+\([^)\n]*\)|DateTime\([^)\n]*\)", "#"),
        (rf"\d{{4}}-\d\d-\d\d(?:[T ]{_CLOCK}{_ZONE})?", "#"),
        (rf"\b(?:{_WEEKDAY})?{_DAY}(?:,?\s+{_CLOCK}{_ZONE})?", "#"),
        (r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b", "#"),
        # values of data: `name='Ann'`, `{'name': 'Ann'}`, `could not convert string 'Ann'`
        (rf"(=\s?|['\"]\s?:\s?){_QUOTED}", r"\1#"),
        (rf"\b((?:string|literal|time data)\b[^'\"\n]{{0,40}}){_QUOTED}", r"\1#"),
        (rf"(?<![\w.]){_NUMBER}{_UNIT}(?!\w)", "#"),
        (r"(?<![\w\-])[\w\-]*\d[\w\-]*", "#"),
        (r"#(?:[\s,;:./]*#)+", "#"),
        (r"\s+", " "),
    )
)


def fingerprint_of(event: RunFinished) -> list[str]:
    """Pipeline, step, place, type and message: the same for the same trouble, in each try of a retry.

    Args:
        event: The end of a run that went wrong, redacted.
    """
    run, failure, jobs = event.run, event.failure, event.failed_jobs
    if failure is not None:
        # a trouble that may pass is that of the destination: the table is the one whose turn it was
        table = failure.table if failure.terminal or failure.step != "load" else None
        place = failure.resource or table or ""
        return [run.pipeline, failure.step, place, failure.error_type, stable(failure.message)]
    if jobs:
        # all of them: they fail, and are listed, in any order
        tables = ",".join(sorted({job.table for job in jobs}))
        messages = " | ".join(sorted({stable(job.message) for job in jobs}))
        return [run.pipeline, "load", _bounded(tables), "failed_jobs", _bounded(messages)]
    return [run.pipeline, "run", "", event.outcome, ""]


def lost_fingerprint(event: RunLost) -> list[str]:
    """The pipeline: what killed the process is not known."""
    return [event.run.pipeline, event.outcome]


def uncaught_fingerprint(event: UncaughtError) -> list[str]:
    """The pipeline or script, type and message."""
    return [event.name, "uncaught", "", event.failure.error_type, stable(event.failure.message)]


def _bounded(text: str) -> str:
    """A text of a length that Sentry takes, which is another one where the whole is."""
    if len(text) <= _PART_LENGTH:
        return text
    return f"{text[:_PART_LENGTH]}… {hashlib.sha256(text.encode(errors='replace')).hexdigest()}"


def stable(message: str) -> str:
    """The telling line of a message, without what changes from one time to the next.

    Args:
        message: A message without secrets, or a whole stack trace.
    """
    line = telling_line(message)[: 10 * _LENGTH]
    line = _CODE.sub(lambda code: code[0].translate(_KEPT_DIGITS), line)
    for pattern, replacement in _RULES:
        line = pattern.sub(replacement, line)
    return line.translate(_DIGITS).strip()[:_LENGTH]


def telling_line(message: str) -> str:
    """The line that says what happened: the first one; of a stack trace, the one below its last frame.

    Where that line is a heading, as in Snowflake's and pydantic's messages, the next one belongs to it.
    """
    *_, last_frame = [None, *_LAST_FRAME.finditer(message)]
    if last_frame is not None:
        message = message[last_frame.end() :]
    lines = [line.rstrip() for line in message.splitlines() if line.strip()]
    if last_frame is not None:
        lines = [line for line in lines if not line[0].isspace()] or lines
    if len(lines) > 1 and _HEADING.search(lines[0]):
        return f"{lines[0].strip()} {lines[1].strip()}"
    return lines[0].strip() if lines else ""
