"""The tables of the run ledger: flat, with fixed columns."""

from __future__ import annotations

from typing import Any

_ID = {"data_type": "text", "precision": 64}
_KEY = {**_ID, "nullable": False}
_TEXT = {"data_type": "text"}
_NUMBER = {"data_type": "bigint"}
_YES_OR_NO = {"data_type": "bool"}
_SECONDS = {"data_type": "double"}
_TIME = {"data_type": "timestamp", "precision": 6}

COLUMNS: dict[str, dict[str, dict[str, Any]]] = {
    "runs": {
        "transaction_id": _KEY,
        "trace_id": _ID,
        "pipeline": {**_TEXT, "nullable": False},
        "started_at": {**_TIME, "nullable": False},
        "finished_at": _TIME,
        "outcome": _TEXT,
        "error_type": _TEXT,
        "error_message": _TEXT,
        "rows": _NUMBER,
        "bytes": _NUMBER,
        "failed_jobs": _NUMBER,
        "dlt_version": _TEXT,
        "host": _TEXT,
        "tags": _TEXT,
        "attempt": _NUMBER,
        "will_retry": _YES_OR_NO,
        "retry_id": _ID,
    },
    "steps": {
        "transaction_id": _KEY,
        "load_id": _TEXT,
        "step": {**_TEXT, "nullable": False},
        "depth": _NUMBER,
        "started_at": _TIME,
        "finished_at": _TIME,
        "duration": _SECONDS,
        "rows": _NUMBER,
        "bytes": _NUMBER,
        "error_type": _TEXT,
        "error_message": _TEXT,
        "span_id": _ID,
    },
    "tables": {
        "transaction_id": _KEY,
        "load_id": _TEXT,
        "step": {**_TEXT, "nullable": False},
        "table_name": {**_TEXT, "nullable": False},
        "started_at": _TIME,
        "finished_at": _TIME,
        "duration": _SECONDS,
        "rows": _NUMBER,
        "bytes": _NUMBER,
        "jobs": _NUMBER,
    },
    "jobs": {
        "transaction_id": _KEY,
        "load_id": _TEXT,
        "job_id": {**_TEXT, "nullable": False},
        "table_name": {**_TEXT, "nullable": False},
        "state": _TEXT,
        "file_format": _TEXT,
        "started_at": _TIME,
        "finished_at": _TIME,
        "duration": _SECONDS,
        "rows": _NUMBER,
        "bytes": _NUMBER,
        "retry_count": _NUMBER,
        "error_message": _TEXT,
    },
    "schema_changes": {
        "transaction_id": _KEY,
        "load_id": _TEXT,
        "changed_at": _TIME,
        "kind": {**_TEXT, "nullable": False},
        "table_name": {**_TEXT, "nullable": False},
        "column_name": _TEXT,
        "data_type": _TEXT,
        "base_column": _TEXT,
        "base_type": _TEXT,
        "hints": _TEXT,
    },
}
"""Tables and columns, with dlt's hints."""


def hints() -> dict[str, dict[str, Any]]:
    """Arguments of `dlt.resource` for each table."""
    contract = {"tables": "evolve", "columns": "evolve", "data_type": "discard_value"}
    return {
        name: {
            "columns": {
                column: {"name": column, **hint, **({"nullable": True} if "nullable" not in hint else {})}
                for column, hint in columns.items()
            },
            "write_disposition": "append",
            "schema_contract": contract,
            "max_table_nesting": 0,
        }
        for name, columns in COLUMNS.items()
    }
