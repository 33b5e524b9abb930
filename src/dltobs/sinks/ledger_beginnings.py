"""Takes the row of a run's beginning out of `runs` once that of its end is there, and `lost` beside others.

`merge` would do so through a staging dataset which all writers of a ledger share: each empties its table
before it fills it, and so takes away what another one is about to merge.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_NOTES = "runs.txt"
_MAX_NOTES = 1000
_TABLE, _KEY, _END, _LOST = "runs", "transaction_id", "outcome", "lost"


class Beginnings:
    """Remembers which runs are to be looked at: loads may fail, and what they have left is loaded later.

    Args:
        folder: The one that is lent, whose packages it is about.
    """

    def __init__(self, folder: Path) -> None:
        self._notes = folder / _NOTES

    def note(self, transaction_id: str) -> None:
        """Remember a run, before a row of it is loaded; of very many the first, which are those that wait."""
        self._notes.parent.mkdir(mode=0o700, exist_ok=True)
        if len(self._noted()) < _MAX_NOTES:
            with self._notes.open("a", encoding="utf-8") as notes:
                notes.write(f"{transaction_id}\n")

    def _noted(self) -> list[str]:
        try:
            return self._notes.read_text(encoding="utf-8").split()
        except OSError:
            return []

    def delete(self, pipeline: Any) -> None:
        """Delete the beginnings of the runs whose ends are there; where that fails, the next load does it.

        Until then such a run has two rows, as it has where rows cannot be deleted at all.
        """
        with contextlib.suppress(Exception):
            _delete(pipeline, dict.fromkeys(self._noted()))
            self._notes.unlink()


def _delete(pipeline: Any, runs: Iterable[str]) -> None:
    naming = pipeline.default_schema.naming
    with pipeline.sql_client() as client:
        table = client.make_qualified_table_name(naming.normalize_table_identifier(_TABLE))
        key, end = (client.escape_column_name(naming.normalize_identifier(name)) for name in (_KEY, _END))
        for run in runs:
            of_run = f"FROM {table} WHERE {key} = %s"
            ends = {one for (one,) in client.execute_sql(f"SELECT {end} {of_run}", run) or ()}
            if None in ends and len(ends) > 1:
                client.execute_sql(f"DELETE {of_run} AND {end} IS NULL", run)
            if _LOST in ends and ends - {None, _LOST}:
                # its process died when the end was loaded, but not its marker taken away
                client.execute_sql(f"DELETE {of_run} AND {end} = %s", run, _LOST)
