"""What a run happens in, as labels: the names and ids that an orchestrator gives to its own work.

Who knows some is a source: a function that gives the labels of the current context (`prefect.flow.name` and
the like). The tracker asks when a run starts. Log lines find the labels of their run here; spans, Sentry,
Slack and sinks find them on the event, in `Run.surroundings`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Source = Callable[[], Mapping[str, str]]

_MAX_RUNS = 1000
"""Lines may be rendered after their run has ended (by a `QueueListener`), so labels outlive it."""

_NONE: Mapping[str, str] = {}

_known: dict[str, Mapping[str, str]] = {}


def remember(transaction_id: str, labels: Mapping[str, str]) -> None:
    """Keep that dltobs watches a run, with the labels, redacted, for its log lines."""
    _known[transaction_id] = labels or _NONE
    for oldest in list(_known)[:-_MAX_RUNS]:
        _known.pop(oldest, None)  # another thread may do the same


def labels_of(transaction_id: str | None) -> Mapping[str, str]:
    """The labels of a run; none where nobody has given it some."""
    return _NONE if transaction_id is None else _known.get(transaction_id, _NONE)


def was_watched(transaction_id: str) -> bool:
    """Whether dltobs was there when a run began in this process, so that it knows what is secret in it."""
    return transaction_id in _known
