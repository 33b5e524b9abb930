"""Under which id one back end knows a run, for the alerts of another that link to it.

The sinks get each event one after the other, on the run's thread: the one that has sent something publishes
its id, the one that follows reads it. Neither knows the other.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_RUNS = 256
_NOTHING: Mapping[str, str] = MappingProxyType({})

_published: dict[str, dict[str, str]] = {}
"""By transaction id, the oldest run first."""


def publish(transaction_id: str, back_end: str, reference: str) -> None:
    """Remember what a back end has made of a run.

    Args:
        transaction_id: The run, as dlt names it.
        back_end: E.g. `sentry`.
        reference: What it is known by there, e.g. the id of an event; no secret.
    """
    # no lock: each of these is one step for other threads, and a fork cannot leave it held
    _published.setdefault(transaction_id, {})[back_end] = reference
    for oldest in list(_published)[:-_MAX_RUNS]:
        _published.pop(oldest, None)


def published(transaction_id: str) -> Mapping[str, str]:
    """The references of a run by back end; empty where nobody has sent anything of it."""
    return _published.get(transaction_id, _NOTHING)
