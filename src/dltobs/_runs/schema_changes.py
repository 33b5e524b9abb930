"""Compares what a load did to the schema of its destination, and tells it to people.

dlt's `schema_update` of a load package holds the tables and columns that were made at the destination, and a
new table looks there like an old one with new columns. It has no changed hints; and destinations that keep
no tables (`filesystem`, functions) leave out columns that were declared by hints. So it is read together
with the schema of the package and with the one before, where that is known (all as of dlt 1.23 … 1.31).
"""

from __future__ import annotations

from collections import Counter
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from dltobs._describe import text_of
from dltobs._events import SchemaChange, SchemaChangeKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    Tables = Mapping[str, Any]
    """Tables of a stored schema by name: `{"columns": {name: {"data_type": …, hints}}, hints}`."""

_INTERNAL = "_dlt_"
_TABLE_HINTS = ("write_disposition", "x-merge-strategy", "schema_contract", "table_format", "file_format")
_NO_HINTS = frozenset({"name", "description", "variant"})
_KINDS: dict[SchemaChangeKind, tuple[str, str]] = {
    "new_table": ("new table", "new tables"),
    "new_column": ("new column", "new columns"),
    "variant_column": ("type conflict", "type conflicts"),
    "changed_hint": ("changed hint", "changed hints"),
}
"""In the order in which they are told: one and many of each."""


def changes_of(package: Any, before: Tables | None) -> tuple[SchemaChange, ...]:
    """The changes that the load of a package has made, without dlt's own tables and columns.

    Args:
        package: dlt's `LoadPackageInfo`, after the load has migrated the schema.
        before: The tables that had data before it; None where that is not known: changed hints are not
            found then.
    """
    names = {*(package.schema_update or ()), *(before or ())}
    found: list[SchemaChange] = []
    for name in sorted(names & package.schema.tables.keys()):
        if not name.startswith(_INTERNAL):
            found += _TableChange(package, name).compare(None if before is None else before.get(name))
    return tuple(sorted(found, key=_order))


def _order(change: SchemaChange) -> tuple[int, str, str, str]:
    return list(_KINDS).index(change.kind), change.schema, change.table, change.column or ""


class _TableChange:
    """What has changed in one table."""

    def __init__(self, package: Any, name: str) -> None:
        self._identity = (package.load_id, package.schema_name, name)
        self._table = package.schema.tables[name]
        self._after = _complete(self._table)
        made = (package.schema_update or {}).get(name)
        self._made = {} if made is None else _complete(made)
        self._was_dropped = name in (getattr(package, "dropped_tables", None) or ())  # newer than dlt 1.23

    def compare(self, before: Any) -> Iterator[SchemaChange]:
        if self._is_new(before):
            count = sum(not name.startswith(_INTERNAL) for name in self._after)
            yield self._change("new_table", columns=count)
            return
        known = None if before is None else _complete(before)
        for name, column in self._after.items():
            if name.startswith(_INTERNAL):
                continue
            if known is not None and name in known:
                yield from self._hints(name, _column_hints(known[name]), _column_hints(column))
            elif name in self._made or known is not None:
                yield self._new_column(name, column)
        if before is not None:
            yield from self._hints(None, _table_hints(before), _table_hints(self._table))

    def _is_new(self, before: Any) -> bool:
        """Whether the destination had no such table: then all of its columns were made."""
        if not self._made or (self._was_dropped and before is not None):
            return False  # what `refresh` has dropped is made anew: the difference to what was there counts
        return self._made.keys() >= self._after.keys()

    def _new_column(self, name: str, column: Mapping[str, Any]) -> SchemaChange:
        data_type = text_of(column["data_type"])
        if not column.get("variant"):
            return self._change("new_column", name, data_type)
        base = self._base_of(name, data_type)
        base_type = None if base is None else text_of(self._after[base]["data_type"])
        return self._change("variant_column", name, data_type, base_column=base, base_type=base_type)

    def _base_of(self, variant: str, data_type: str) -> str | None:
        """The column whose values did not fit: dlt names the variant `<column>__v_<type>`."""
        if not variant.endswith(f"v_{data_type}"):
            return None  # shortened
        bases = [
            name
            for name, column in self._after.items()
            if variant.startswith(name) and name != variant and not column.get("variant")
        ]
        return max(bases, key=len, default=None)

    def _hints(
        self, column: str | None, before: Mapping[str, Any], after: Mapping[str, Any]
    ) -> Iterator[SchemaChange]:
        changed = tuple(
            f"{hint}: {before.get(hint)} -> {after.get(hint)}"
            for hint in sorted({*before, *after})
            if before.get(hint) != after.get(hint)
        )
        if changed:
            data_type = None if column is None else text_of(self._after[column]["data_type"])
            yield self._change("changed_hint", column, data_type, hints=changed)

    def _change(
        self, kind: SchemaChangeKind, column: str | None = None, data_type: str | None = None, **more: Any
    ) -> SchemaChange:
        load_id, schema, table = self._identity
        return SchemaChange(kind, load_id, schema, table, column, data_type, **more)


def _complete(table: Any) -> dict[str, Any]:
    """The columns whose type is known; the others are at no destination."""
    return {name: column for name, column in table["columns"].items() if column.get("data_type")}


def _column_hints(column: Mapping[str, Any]) -> dict[str, Any]:
    """The hints of a column. A stored schema leaves out defaults."""
    hints = {
        name: value
        for name, value in column.items()
        if name not in _NO_HINTS and not name.startswith("x-") and value is not None and value is not False
    }
    return {**hints, "nullable": column.get("nullable", True) is not False}


def _table_hints(table: Mapping[str, Any]) -> dict[str, Any]:
    if table.get("parent"):
        return {}  # those of the table that it is nested in
    return {name: table[name] for name in _TABLE_HINTS if table.get(name) is not None}


def without_ignored(changes: Iterable[SchemaChange], patterns: Sequence[str]) -> tuple[SchemaChange, ...]:
    """The changes that none of the patterns names.

    Args:
        changes: Any.
        patterns: Globs on `table.column`; `table` and `table.*` name all of a table. Case does not matter.
    """
    lowered = [pattern.lower() for pattern in patterns]
    return tuple(change for change in changes if not any(_names(one, change) for one in lowered))


def _names(pattern: str, change: SchemaChange) -> bool:
    table = change.table.lower()
    whole = pattern.removesuffix(".*")
    if "." not in whole and fnmatchcase(table, whole):
        return True
    return change.column is not None and fnmatchcase(f"{table}.{change.column.lower()}", pattern)


def told(changes: Sequence[SchemaChange], *, first_run: bool, limit: int | None = None) -> tuple[str, ...]:
    """The changes in lines for people, the first of them a headline; none if nothing has changed.

    Args:
        changes: Of one load or several.
        first_run: Of the pipeline: all is new then, and the headline says it all.
        limit: How many changes have a line; the last line counts the others.
    """
    if not changes:
        return ()
    if first_run:
        tables = sum(change.kind == "new_table" for change in changes)
        columns = sum(change.columns or change.column is not None for change in changes)
        return (f"first run: {_count(tables, 'table', 'tables')}, {_count(columns, 'column', 'columns')}",)
    ordered = sorted(changes, key=_order)
    shown = ordered[:limit]
    rest = len(ordered) - len(shown)
    lines = [_headline(ordered), *(_line(change) for change in shown)]
    if rest:
        lines.append(f"… and {rest} more")
    return tuple(lines)


def _headline(changes: Sequence[SchemaChange]) -> str:
    counts = Counter(change.kind for change in changes)
    parts = [_count(counts[kind], *words) for kind, words in _KINDS.items() if counts[kind]]
    return f"{', '.join(sorted({change.schema for change in changes}))}: {', '.join(parts)}"


def _line(change: SchemaChange) -> str:
    place = change.table if change.column is None else f"{change.table}.{change.column}"
    if change.kind == "new_table":
        return f"new table {place} ({_count(change.columns, 'column', 'columns')})"
    if change.kind == "new_column":
        return f"new column {place} ({change.data_type})"
    if change.kind == "changed_hint":
        return f"changed hint {place}: {', '.join(change.hints)}"
    if change.base_column is None:
        return f"type conflict {place} ({change.data_type})"
    return (
        f"type conflict {change.table}.{change.base_column} ({change.base_type}): "
        f"values of type {change.data_type} went to {change.column}"
    )


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
