"""Saves the last trace of a pipeline in its destination, in dlt's own shape, by hand."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dltobs import _state
from dltobs._aside import CannotLoadAsideError, Loaded, load_aside, target_of
from dltobs._borrowed import borrowed
from dltobs._context.surroundings import was_watched
from dltobs._cut import MESSAGE
from dltobs._describe import root_cause, text_of, type_name
from dltobs._redaction.encodings import without_surrogates
from dltobs.exceptions import SaveError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dlt.common.pipeline import SupportsPipeline

    from dltobs._aside import Target
    from dltobs._redaction.redactor import Redactor

_FOLDER = "dltobs_save"
_MAX_PENDING = 1
"""A save that failed is not made up for: the next one has a newer trace."""
_ERROR_TEXTS = frozenset({"step_exception", "message", "stack_trace", "exception_attrs", "failed_message"})
"""Where dlt keeps what exceptions and destinations say."""


def save(pipeline: SupportsPipeline) -> None:
    """Save what dlt knows of the last run beside its data: what it did, and how it went.

    Three tables in the pipeline's dataset, each with those that dlt nests below it: `_trace`, and where there
    was a load `_load_info` and `_new_tables`. They are what dlt's documentation has one load as
    `pipeline.run([pipeline.last_trace], table_name="_trace")` and so on, but without secrets, after a failed
    run too, and without a trace of the saving: `last_trace`, the pipeline's schema and state and the active
    pipeline stay what they were. Of a run that was not watched, because it was before `configure()` or in
    another process, the texts of errors are withheld.

    Args:
        pipeline: One that has run.

    Raises:
        SaveError: It has never run, has no destination, or the destination does not take it.
    """
    trace: Any = getattr(pipeline, "last_trace", None)
    if trace is None:
        message = f"pipeline {pipeline.pipeline_name} has no trace: it has not run, or tracing is off in dlt"
        raise SaveError(message)
    clean = _cleaner_for(trace)
    try:
        target = target_of(pipeline)
    except CannotLoadAsideError as error:
        raise SaveError(str(error)) from None
    if target is None:
        message = f"pipeline {pipeline.pipeline_name} has no destination yet"
        raise SaveError(message)
    rows: dict[str, list[Any]] = {"_trace": [clean(_plain(trace))]}
    info = trace.last_load_info
    if info is not None:
        rows["_load_info"] = [clean(_plain(info))]
        tables = [clean(_plain(package))["tables"] for package in info.load_packages]
        rows["_new_tables"] = [table for several in tables for table in several]
    hints: dict[str, Any] = {name: {"write_disposition": "append"} for name in rows}
    loaded = _in_thread(lambda: _load(target, hints, rows))
    if loaded.failed:
        message = "the destination has refused a part of it"
        raise SaveError(message)


def _cleaner_for(trace: Any) -> Callable[[Any], Any]:
    """What takes the secrets out of the rows.

    dlt keeps no values of secrets in a trace, and not even the names of all: those of a source that was made
    for an earlier try are missing. So of a run that dltobs has not watched, nobody knows what may stand in
    the texts of its errors.
    """
    redactor = _state.last_redactor()
    if was_watched(trace.transaction_id):
        return redactor.redact
    return lambda value: redactor.redact(_without_errors(value, redactor))


def _without_errors(value: Any, redactor: Redactor) -> Any:
    if isinstance(value, Mapping):
        return {
            key: redactor.withhold(one) if key in _ERROR_TEXTS else _without_errors(one, redactor)
            for key, one in value.items()
        }
    return [_without_errors(one, redactor) for one in value] if isinstance(value, list) else value


def _load(target: Target, hints: dict[str, Any], rows: dict[str, list[Any]]) -> Loaded:
    # the dataset is the user's, so his schema alone is listed there
    with borrowed(target, is_listed=False) as own:
        return load_aside(own, _FOLDER, target.dataset, hints, rows, _MAX_PENDING)


def _plain(value: Any) -> Any:
    """Dicts and lists out of dlt's objects, which say by `asdict()` what is to be loaded of them.

    No database takes lone surrogates, which come from file names and broken input.
    """
    if hasattr(value, "asdict"):
        value = value.asdict()
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, str):
        return without_surrogates(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(one) for one in value]
    return value


def _in_thread(call: Callable[[], Loaded]) -> Loaded:
    """Run it in a thread of its own, whose active pipeline is not the caller's."""
    results: list[Loaded] = []
    errors: list[str] = []

    def work() -> None:
        try:
            results.append(call())
        except Exception as error:  # noqa: BLE001 - told below, without secrets
            cause = root_cause(error)
            errors.append(_state.last_redactor().text(f"{type_name(type(cause))}: {text_of(cause)}", MESSAGE))

    thread = threading.Thread(target=work, name="dltobs-save")
    thread.start()
    thread.join()
    if errors:
        raise SaveError(errors[0])
    return results[0]
