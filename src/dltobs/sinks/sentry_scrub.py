"""Takes the secrets out of an event of Sentry's; `before_send` does so for the application's own client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from dltobs._cut import TEXT
from dltobs._redaction.patterns import WITHHELD
from dltobs._state import last_redactor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dltobs._redaction.redactor import Redactor


class Kept(NamedTuple):
    """What of an event is no secret whatever it looks like, by the part of the event in which it stands."""

    top: tuple[str, ...]
    tags: tuple[str, ...] = ()
    contexts: tuple[tuple[str, tuple[str, ...]], ...] = ()
    lists: tuple[tuple[str, tuple[str, ...]], ...] = ()


_TOP = (
    "event_id", "timestamp", "start_timestamp", "type", "platform", "level", "release", "environment", "dist",
    "sdk",
)  # fmt: skip
_TRACE = ("trace_id", "span_id", "parent_span_id", "op", "status")
_BREADCRUMB = ("timestamp", "level", "type")

OURS = Kept(
    (*_TOP, "logger", "transaction", "monitor_slug", "check_in_id", "status", "monitor_config"),
    (
        "dlt.pipeline.name", "dlt.step", "dlt.transaction_id", "dlt.load_id", "dlt.destination.name",
        "dlt.destination.type", "dlt.dataset.name", "dlt.outcome", "dlt.terminal", "dlt.attempt",
        "dlt.failure.kind", "dlt.version", "dltobs.version", "error.type",
    ),
    (
        ("trace", _TRACE),
        ("runtime", ("name", "version")),
        ("dlt", (
            "pipeline", "step", "transaction_id", "load_id", "destination", "destination_type", "dataset",
            "outcome", "pending_packages", "partly_loaded_packages", "aborted_packages", "steps",
            "started_at", "last_seen_at", "noticed_by",
        )),
    ),
    (("exception", ("type", "module", "mechanism")), ("breadcrumbs", _BREADCRUMB)),
)  # fmt: skip
"""Of an event of dltobs': names and ids of dlt's, and words of our own."""

FOREIGN = Kept(
    _TOP,
    contexts=(("trace", _TRACE), ("runtime", ("name", "version"))),
    lists=(
        ("exception", ("type", "module")),
        ("breadcrumbs", _BREADCRUMB),
        ("spans", (*_TRACE, "start_timestamp", "timestamp", "origin")),
    ),
)
"""Of an event of the application's: what Sentry's protocol makes of it."""


def before_send(event: Any, hint: Any = None) -> Any:  # noqa: ARG001 - the signature is Sentry's
    """Take the secrets out of an event of the application's own Sentry client.

    `sentry_sdk.init(before_send=dltobs.before_send, before_send_transaction=dltobs.before_send)` gives the
    application's events the redactor that dltobs has: it knows what dlt has resolved, and what looks like a
    secret; before `configure()` only the latter, after `shutdown()` still both. The arguments of the command
    line are withheld.

    Args:
        event: An event or a transaction, as Sentry's client has serialised it.
        hint: Not looked at.

    Returns:
        The event without secrets; if it cannot be redacted, with every text `[withheld]`. It never raises.
    """
    if not isinstance(event, dict):
        return event
    extra = event.get("extra")
    if isinstance(extra, dict) and isinstance(argv := extra.get("sys.argv"), (list, tuple)):
        event = {**event, "extra": {**extra, "sys.argv": [*argv[:1], *(WITHHELD for _ in argv[1:2])]}}
    return scrub(event, last_redactor(), FOREIGN)


def scrub(event: dict[str, Any], redactor: Redactor, kept: Kept) -> dict[str, Any]:
    """The event without secrets. If redaction fails, its texts are withheld; what is `kept` stays."""
    try:
        clean = redactor.redact(event, TEXT)
    except Exception:  # noqa: BLE001 - a failure must be reported all the same
        clean = _withheld(event, 0)
    _copy(event, clean, kept.top)
    _copy(event.get("tags"), clean.get("tags"), kept.tags)
    for name, names in kept.contexts:
        _copy(_part(event.get("contexts"), name), _part(clean.get("contexts"), name), names)
    for name, names in kept.lists:
        for before, after in zip(_values(event.get(name)), _values(clean.get(name)), strict=False):
            _copy(before, after, names)
    return clean


def _part(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _values(value: Any) -> Iterable[Any]:
    """The items of what the protocol writes as a list, or as `{"values": list}`."""
    found = value.get("values") if isinstance(value, dict) else value
    return found if isinstance(found, (list, tuple)) else ()


def _copy(source: Any, target: Any, names: Iterable[str]) -> None:
    if isinstance(source, dict) and isinstance(target, dict):
        target.update((name, source[name]) for name in names if name in source)


_MAX_DEPTH = 32


def _withheld(value: Any, depth: int) -> Any:
    """The same shape with every text withheld; the names in it are ours or Sentry's."""
    if depth > _MAX_DEPTH:
        return WITHHELD
    if isinstance(value, dict):
        return {key: _withheld(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_withheld(item, depth + 1) for item in value]
    return value if value is None or isinstance(value, (bool, int, float)) else WITHHELD
