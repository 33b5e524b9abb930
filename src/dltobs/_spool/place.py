"""The folder for what back ends do not take: where it is. It is made when there is something to keep."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

from dltobs._spool.spool import Spool
from dltobs.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dltobs._settings.settings import Settings
    from dltobs._warnings import Warner
    from dltobs.sinks.delivery import Delivery


def spool_of(settings: Settings, warner: Warner, deliveries: Mapping[str, Delivery]) -> Spool | None:
    """The spool of a set-up; None where `spool_max_bytes` is 0.

    Raises:
        ConfigurationError: `spool_dir` cannot be a folder.
    """
    if not settings.spool_max_bytes:
        return None
    if settings.spool_dir is not None and (problem := _no_folder(settings.spool_dir)) is not None:
        raise ConfigurationError(
            "spool_dir",
            source=settings.source_of("spool_dir"),
            problem=f"{str(settings.spool_dir)!r} {problem}",
            expected="the path of a folder",
        )

    def evicted(kind: str, items: int) -> None:
        reason = "removed from the spool, which is full"
        if kind in deliveries:
            deliveries[kind].lost_from_spool(items, reason)
        else:
            warner.warn("spool", f"spool: {items} items of {kind} {reason}", reason=f"{kind} {reason}")

    return Spool(spool_folder(settings), settings.spool_max_bytes, warner, evicted)


def spool_folder(settings: Settings) -> Path:
    """The folder of `spool_dir`, also where nothing of the back ends is kept; it need not be there."""
    return (settings.spool_dir or _default_spool_dir()).absolute()


def _no_folder(path: Path) -> str | None:
    """Why a path cannot be that of a folder; one that is not there may be made."""
    try:
        return None if stat.S_ISDIR(path.stat().st_mode) else "is a file"
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return f"cannot be used ({(error.strerror or type(error).__name__).lower()})"
    except ValueError:  # lone surrogates, or what the encoding of the file system does not have
        return "cannot be used (not every character may stand in a path)"


def _default_spool_dir() -> Path:
    """Below dlt's data directory: the home folder's `.dlt`, or what `DLT_DATA_DIR` says."""
    from dlt.common.configuration.container import Container
    from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

    return Path(Container()[PluggableRunContext].context.data_dir) / "dltobs" / "spool"
