"""Lends the user's destination to a pipeline of ours, which has its own connection where DuckDB's is his."""

from __future__ import annotations

import contextlib
import copy
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dltobs._aside import Target


@contextlib.contextmanager
def borrowed(target: Target, *, is_listed: bool = True) -> Iterator[Target]:
    """The same destination for a while, for a pipeline of ours.

    Args:
        target: The user's, which is not changed.
        is_listed: Whether the dataset lists our schema, so that `dlt.dataset()` finds it there.
    """
    destination = copy.copy(target.destination)
    destination.config_params = dict(destination.config_params)
    destination.client = _client_maker(destination.client, is_listed=is_listed)
    credentials = destination.config_params.get("credentials")
    connection = _connection_of(credentials)
    cursor = None
    if connection is not None:
        # a closed one has no cursor; dlt is to find that out, so that the rows wait
        with contextlib.suppress(Exception):
            cursor = connection.cursor()
    if cursor is None:
        yield replace(target, destination=destination)
        return
    try:
        destination.config_params["credentials"] = _with(cursor, credentials)
        yield replace(target, destination=destination)
    finally:
        cursor.close()  # the database stays locked as long as anybody has it open


def _connection_of(credentials: Any) -> Any:
    """The user's own connection to DuckDB, itself or in dlt's credentials.

    dlt sets `search_path` on it to the dataset that it loads, which would be ours.
    """
    duckdb = sys.modules.get("duckdb")
    if duckdb is None:
        return None
    connection = getattr(credentials, "_external_conn", credentials)
    return connection if isinstance(connection, duckdb.DuckDBPyConnection) else None


def _with(cursor: Any, credentials: Any) -> Any:
    """The same credentials, with another connection."""
    if not hasattr(credentials, "_external_conn"):
        return cursor
    made = copy.copy(credentials)
    made._external_conn = cursor  # noqa: SLF001 - dlt has no other way
    pool = getattr(made, "conn_pool", None)
    if pool is not None:
        made.conn_pool = type(pool)(made)
    return made


def _client_maker(make: Callable[..., Any], *, is_listed: bool) -> Callable[..., Any]:
    """Have clients look which tables are there, and make all that the schema has.

    dlt goes by the list of schemas (`_dlt_version`, in most destinations): what is in there has its tables,
    it says. But it makes those that have rows only, and somebody may have deleted others.

    `dlt.dataset()` takes the newest one of that list for the user's: where the dataset is his, ours must not
    be in it.
    """

    def client(*args: Any, **kwargs: Any) -> Any:
        made = make(*args, **kwargs)
        update, store = made.update_stored_schema, getattr(made, "_update_schema_in_storage", None)
        find = getattr(made, "get_stored_schema_by_hash", None)

        def update_all(_only_tables: Any = None, *args: Any, **kwargs: Any) -> Any:
            kwargs.pop("only_tables", None)
            return update(None, *args, **kwargs)

        def store_once(schema: Any) -> None:
            if is_listed and store is not None and (find is None or find(schema.stored_version_hash) is None):
                store(schema)

        made.update_stored_schema = update_all
        made._update_schema_in_storage = store_once  # noqa: SLF001 - dlt has no other way
        if find is not None:
            made.get_stored_schema_by_hash = lambda _hash: None
        return made

    return client
