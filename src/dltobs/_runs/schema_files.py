"""Reads, from a pipeline's working directory, the schema that a load will find at its destination.

dlt keeps no copy of it: the schemas of the pipeline change with extract and normalize. So the files are
looked at when extract begins: by then dlt has restored them from the destination, if the working directory
was empty. Of packages that an earlier run has made, the package that was loaded last tells.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_SCHEMAS = "schemas"
_SUFFIX = ".schema.json"
_MAX_PACKAGES = 20
"""Loaded packages that are looked through for one of the same schema, the newest first."""


def schema_files_of(pipeline: Any) -> dict[str, bytes]:
    """The stored schemas of a pipeline by name, as they are: most runs change none and parse none."""
    folder = Path(pipeline.working_dir) / _SCHEMAS
    return {path.name.removesuffix(_SUFFIX): path.read_bytes() for path in folder.glob(f"*{_SUFFIX}")}


def migrated_packages(pipeline: Any) -> frozenset[str]:
    """The packages in work whose schema changes have been made at the destination."""
    from dlt.common.storages.load_package import PackageStorage

    folder = Path(pipeline.working_dir) / "load" / "normalized"
    name = PackageStorage.APPLIED_SCHEMA_UPDATES_FILE_NAME
    return frozenset(path.parent.name for path in folder.glob(f"*/{name}"))


def tables_before(pipeline: Any, package: Any, at_extract: Mapping[str, bytes] | None) -> Any:
    """The tables with data that a schema had before a package was loaded.

    Args:
        pipeline: In whose working directory to look.
        package: dlt's `LoadPackageInfo`.
        at_extract: The files when extract began; None where the run did not extract.

    Returns:
        dict | None: The tables by name. None where nothing tells: the first load after the working
            directory was lost, of a package that another run has made.
    """
    if at_extract is not None:
        stored = at_extract.get(package.schema_name)
    else:
        stored = _last_loaded(pipeline, package)
    if stored is None:
        return None
    if f'"version_hash": "{package.schema_hash}"'.encode() in stored:
        # only what is made anew at the destination can have changed: no need to parse a big schema
        tables = package.schema.tables
        return _with_data({name: tables[name] for name in package.schema_update if name in tables})
    document = json.loads(stored)
    if document.get("engine_version") != package.schema.ENGINE_VERSION:
        return None  # another version of dlt may have spelled the same hints differently
    return _with_data(document["tables"])


def _last_loaded(pipeline: Any, package: Any) -> bytes | None:
    folder = Path(pipeline.working_dir) / "load" / "loaded"
    earlier = [path for path in folder.glob("*/schema.json") if path.parent.name < package.load_id]
    for path in sorted(earlier, reverse=True)[:_MAX_PACKAGES]:
        stored = path.read_bytes()
        if json.loads(stored).get("name") == package.schema_name:
            return stored
    return None


def _with_data(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Tables that have seen data; the others are declared, but at no destination."""
    return {
        name: table for name, table in tables.items() if (table.get("x-normalizer") or {}).get("seen-data")
    }
