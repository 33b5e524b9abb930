"""What Sentry takes for the monitor of a scheduled job: slug, crontab line, minutes, time zone.

Sentry drops a check-in that breaks these rules in silence, so they are checked in `configure()`. They are
those of its validators (`sentry/monitors/validators.py`) and of Relay (`relay-monitors`). As in `parse`, a
function returns the right value or raises `ValueError`, whose text does not contain the given one.
"""

from __future__ import annotations

import calendar
import hashlib
import re
from typing import TYPE_CHECKING, NamedTuple

from dltobs._settings import parse
from dltobs.exceptions import ConfigurationError

if TYPE_CHECKING:
    from dltobs._settings.settings import Settings

MAX_MARGIN = 40_320
"""Minutes: 28 days."""
MAX_RUNTIME = 10_080
"""Minutes: 7 days."""

_SLUG_LENGTH = 50
_SLUG = re.compile(rf"(?![0-9]+$)[a-z0-9_\-]{{1,{_SLUG_LENGTH}}}")
_DIGEST_LENGTH = 8

_NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_PART = re.compile(r"(?P<first>\*|\w+)(?:-(?P<last>\w+))?(?:/(?P<step>[0-9]+))?")
_LAST_WEEKDAY = re.compile(r"([0-7]|sun|mon|tue|wed|thu|fri|sat)(?:l|#[1-5])")
_LEAP_YEAR = 2024


class _Field(NamedTuple):
    name: str
    first: int
    last: int
    names: tuple[str, ...] = ()


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of the week", 0, 7, _WEEKDAYS),
)


def monitor(value: object) -> bool | str:
    """False: no check-ins; True: to a monitor named as the pipeline; a text: the slug of a monitor."""
    try:
        return parse.boolean(value)
    except ValueError:
        slug = parse.text(value)
    if not _SLUG.fullmatch(slug):
        message = f"a slug has at most {_SLUG_LENGTH} lower-case letters, digits, - and _, not only digits"
        raise ValueError(message)
    return slug


def slugified(name: str) -> str:
    """The slug for the name of a pipeline.

    Long names, and those of which a slug shows little, are told apart by a digest at their end.
    """
    slug = re.sub(r"[^a-z0-9_\-]+", "-", name.lower()).strip("-_")
    shows_little = not slug or not name.isascii()
    slug = slug or "pipeline"
    if slug.isdigit():
        slug = f"pipeline-{slug}"
    if shows_little or len(slug) > _SLUG_LENGTH:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_LENGTH]
        slug = f"{slug[: _SLUG_LENGTH - _DIGEST_LENGTH - 1]}-{digest}"
    return slug


def schedule(value: object) -> str:
    """A crontab line of five fields, with single spaces; `@daily` and its like are written out."""
    line = " ".join(parse.text(value).split())
    line = _NICKNAMES.get(line.lower(), line)
    given = line.lower().split(" ")
    if len(given) != len(_FIELDS):
        message = f"it has {len(given)} fields"
        raise ValueError(message)
    values = [_values(text, field) for text, field in zip(given, _FIELDS, strict=True)]
    days, months = values[2], values[3]
    if days and all(min(days) > calendar.monthrange(_LEAP_YEAR, month)[1] for month in months):
        message = "no such month has that day"
        raise ValueError(message)
    return line


def _values(text: str, field: _Field) -> set[int]:
    """The values that a field of a crontab line stands for; none where they depend on the month."""
    found: set[int] = set()
    for part in text.split(","):
        if field.name == "day of the month" and part == "l":
            continue
        if field.names is _WEEKDAYS and _LAST_WEEKDAY.fullmatch(part):
            continue
        found.update(_range(part, field))
    return found


def _range(part: str, field: _Field) -> range:
    match = _PART.fullmatch(part)
    problem = f"its {field.name} is malformed"
    if match is None or (match["first"] == "*" and match["last"]):
        raise ValueError(problem)
    step = int(match["step"] or 1)
    first, last = field.first, field.last
    if match["first"] != "*":
        first = _number(match["first"], field)
        if match["last"]:
            last = _number(match["last"], field)
        elif not match["step"]:
            last = first
    if step < 1 or not field.first <= first <= last <= field.last:
        message = f"its {field.name} is not within {field.first} to {field.last}"
        raise ValueError(message)
    return range(first, last + 1, step)


def _number(word: str, field: _Field) -> int:
    if word in field.names:
        return field.names.index(word) + field.first
    if not word.isascii() or not word.isdigit():
        message = f"its {field.name} is malformed"
        raise ValueError(message)
    return int(word)


def timezone(value: object) -> str:
    """The name of a time zone in the IANA database."""
    from zoneinfo import ZoneInfo

    name = parse.text(value)
    try:
        ZoneInfo(name)
    except Exception:  # noqa: BLE001 - KeyError, ValueError or OSError, depending on what is wrong
        message = "the database of time zones does not know it"
        raise ValueError(message) from None
    return name


def check_together(settings: Settings) -> None:
    """Refuse settings of a monitor that would do nothing without another one.

    Raises:
        ConfigurationError: A schedule without a monitor, or what only goes with a schedule.
    """
    if settings.sentry_monitor_schedule is None:
        for name in ("sentry_monitor_max_runtime", "sentry_monitor_margin", "sentry_monitor_timezone"):
            if getattr(settings, name) is not None:
                raise ConfigurationError(
                    name,
                    source=settings.source_of(name),
                    problem="Sentry takes it together with a schedule only",
                    expected="sentry_monitor_schedule beside it",
                )
    elif settings.source_of("sentry_monitor") == "default":
        raise ConfigurationError(
            "sentry_monitor_schedule",
            source=settings.source_of("sentry_monitor_schedule"),
            problem="without a monitor there is nothing to schedule",
            expected="sentry_monitor beside it: true, or a slug",
        )
