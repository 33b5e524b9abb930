"""What is done around the hooks of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def _nothing() -> None:
    """There is nothing to do."""


class Callbacks(NamedTuple):
    """Called on the run's thread: before the first event of a run, and after each hook.

    `before_run` gives `Run.surroundings`, redacted.
    """

    before_run: Callable[[], Mapping[str, str]] = dict
    after_hook: Callable[[], None] = _nothing
