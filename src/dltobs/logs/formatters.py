"""Log lines as JSON, without secrets."""

from __future__ import annotations

import json
import time
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from pythonjsonlogger.orjson import OrjsonFormatter

from dltobs import _state
from dltobs._context.surroundings import labels_of
from dltobs._describe import text_of, type_name
from dltobs._redaction.patterns import WITHHELD
from dltobs._state import current_redactor
from dltobs.logs.plain import dumps
from dltobs.logs.records import (
    CORRELATION_ATTRIBUTE,
    EXCEPTION_ATTRIBUTE,
    correlation_of,
    count_of_attributes,
    described_exception,
    exc_info_of,
    extra_of,
    message_of,
    stacktrace_of,
)

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping

    from dltobs._context.current import Correlation
    from dltobs._redaction.redactor import Redactor

_CONTRACT_KEYS = frozenset(
    {"timestamp", "level", "logger", "message", "service", "environment", "pipeline", "step",
     "transaction_id", "trace_id", "span_id", "process", "thread", "file", "line", "function",
     "exception", "stack"}
)  # fmt: skip
_CACHE_SIZE = 1024
_SECOND = 1_000_000


class _Origin(NamedTuple):
    """What every line of one place in the code has in common.

    `before` and `after` stand around the message; `texts` are those of its values that may hold a secret.
    """

    before: str
    after: str
    texts: str


class _Ids(NamedTuple):
    """The ids that many records in a row have in common.

    `marks` is what `CorrelationFilter` has put on them, `attributes` how many a record has without an extra.
    """

    marks: tuple[str | None, ...] | None
    attributes: int
    members: str


_NO_IDS = _Ids(None, count_of_attributes(None), "")
_CALL_SITE = itemgetter("lineno", "funcName", "levelname", "name", "filename", "threadName", "process")


class JsonFormatter(OrjsonFormatter):
    """One JSON object a line, with the ids of the run; safe for a `dictConfig` of your own.

    Keys: `timestamp` (RFC 3339, UTC, microseconds), `level`, `logger`, `message`, `service`, `environment`,
    `pipeline`, `step`, `transaction_id`, `trace_id`, `span_id`, `process`, `thread`, `file`, `line`,
    `function`, `exception` (`type`, `message`, `stacktrace`), `stack` (of `stack_info=True`), and the fields
    of `extra` beside them (one that bears the name of a key above is written as `extra.<name>`). The keys of
    a message that is a dict are fields likewise. What is not known is left out. After the ids come the names
    of what the run happens in (`prefect.flow.name`).

    A line without secrets is put together from parts that were rendered before. Values that may hold a
    secret are redacted one by one; levels, ids and numbers never are.

    Args:
        redactor: Takes the secrets out. By default the one of the running `dltobs.configure()`, so the
            formatter may be created before it; the other arguments likewise.
        service: Value of `service`.
        environment: Value of `environment`; left out when None.
        tags: Fixed fields for every line.
    """

    def __init__(
        self,
        *_: object,  # what `dictConfig` gives to a formatter's class: format, date format, style
        redactor: Redactor | None = None,
        service: str | None = None,
        environment: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._redactor = redactor
        self._service = service
        self._environment = environment
        self._tags = tags
        self._second = (0, "")
        self._prepare()

    def format(self, record: logging.LogRecord) -> str:
        """The line, without the newline at its end; never raises."""
        try:
            return self._quick_line(record) or self._line(record)
        except Exception:  # noqa: BLE001 - the record must appear all the same
            return self._rendered(record, _origin(record), WITHHELD, {})

    def _prepare(self) -> None:
        """Render what is the same in all lines."""
        self._runtime = runtime = _state.runtime
        settings = None if runtime is None else runtime.settings
        service, environment, tags = self._service, self._environment, self._tags
        if settings is not None:
            service = service or settings.service_name
            environment = environment or settings.environment
            tags = settings.tags if tags is None else tags
        self._fixed = _members(_known(service=service, environment=environment))
        self._fixed_extra = _renamed(tags or {})
        self._fixed_members = _members(self._fixed_extra)
        self._origins: dict[Any, _Origin] = {}
        self._ids: dict[tuple[Correlation, bool], _Ids] = {}
        self._last_ids = _NO_IDS

    def _quick_line(self, record: logging.LogRecord) -> str | None:
        """The line of a record with a plain message and no secret; None for any other."""
        if self._runtime is not _state.runtime:
            self._prepare()
        message = record.msg
        if record.exc_info or record.exc_text or record.stack_info or type(message) is not str:
            return None
        if record.args:
            try:
                message %= record.args
            except Exception:  # noqa: BLE001 - whatever a foreign __str__ raises
                message = message_of(record)
        attributes = record.__dict__
        before, after, texts = self._origins.get(_CALL_SITE(attributes)) or self._origin_of(record)
        marks = attributes.get(CORRELATION_ATTRIBUTE)
        ids = self._last_ids
        if marks is None or ids.marks is not marks:
            ids = self._ids_of(record)
        members = self._fixed_members
        # most records have no extra, and their number of attributes tells
        if len(attributes) != ids.attributes:
            if EXCEPTION_ATTRIBUTE in attributes:
                return None
            members = self._members_of(extra_of(record))
        if (self._redactor or current_redactor()).finds(f"{message}\n{texts}{members}"):
            return None
        start = self._timestamp(record.created)
        return f"{start}{before}{dumps(message)}{self._fixed}{ids.members}{after}{members}}}"

    def _line(self, record: logging.LogRecord) -> str:
        """The line of any record, its values redacted one by one."""
        redactor = self._redactor or current_redactor()
        redact = redactor.redact
        message: object = message_of(record)
        extra = extra_of(record)
        if isinstance(record.msg, dict):
            given = {text_of(key): value for key, value in record.msg.items()}
            message = text_of(given.pop("message", ""))
            extra = {**given, **extra}
        more: dict[str, Any] = {}
        stacktrace = stacktrace_of(record)
        if stacktrace:
            more["exception"] = {"stacktrace": redact(stacktrace)}
        info = exc_info_of(record)
        if info is not None:
            described = {"type": redact(type_name(info[0])), "message": redact(text_of(info[1]))}
            more["exception"] = {**described, **more["exception"]}
        told = described_exception(record, redactor)
        if told is not None:
            parts = zip(("type", "message", "stacktrace"), told, strict=True)
            more["exception"] = {name: text for name, text in parts if text}
        if record.stack_info:
            more["stack"] = redact(record.stack_info)
        # once they have met the encoder, there are no objects left that could hide a secret
        more.update(redact(json.loads(dumps({**self._fixed_extra, **_renamed(extra)}))))
        origin = _origin(record, *redact([record.threadName, record.filename, record.funcName]))
        return self._rendered(record, origin, redact(message), more)

    def _rendered(
        self, record: logging.LogRecord, origin: _Origin, message: object, more: Mapping[str, Any]
    ) -> str:
        return (
            f"{self._timestamp(record.created)}{origin.before}{dumps(message)}{self._fixed}"
            f"{self._ids_of(record).members}{origin.after}{_members(more)}}}"
        )

    def _timestamp(self, created: float) -> str:
        """The beginning of a line."""
        second, rendered = self._second
        microseconds = int((created - second) * _SECOND + 0.5)
        if not 0 <= microseconds < _SECOND:
            second = int(created // 1)
            rendered = time.strftime('{"timestamp":"%Y-%m-%dT%H:%M:%S.', time.gmtime(second))
            self._second = (second, rendered)
            microseconds = min(int((created - second) * _SECOND + 0.5), _SECOND - 1)
        return "%s%06dZ" % (rendered, microseconds)  # noqa: UP031 - twice as fast here

    def _origin_of(self, record: logging.LogRecord) -> _Origin:
        if len(self._origins) >= _CACHE_SIZE:
            self._origins.clear()
        origin = _origin(record, record.threadName, record.filename, record.funcName)
        self._origins[_CALL_SITE(record.__dict__)] = origin
        return origin

    def _ids_of(self, record: logging.LogRecord) -> _Ids:
        correlation = correlation_of(record)
        if correlation is None:
            return _NO_IDS
        marks = record.__dict__.get(CORRELATION_ATTRIBUTE)
        key = (correlation, marks is None)
        ids = self._ids.get(key)
        if ids is None:
            if len(self._ids) >= _CACHE_SIZE:
                self._ids.clear()
            labels = labels_of(correlation.transaction_id)
            members = _members({**_known(**correlation._asdict()), **labels})
            ids = _Ids(marks, count_of_attributes(marks), members)
            self._ids[key] = ids
        if marks is not None:
            self._last_ids = ids
        return ids

    def _members_of(self, extra: Mapping[str, Any]) -> str:
        if not extra:
            return self._fixed_members
        if not _CONTRACT_KEYS.isdisjoint(extra):
            extra = _renamed(extra)
        if self._fixed_extra.keys().isdisjoint(extra):
            return f"{self._fixed_members}{_members(extra)}"
        return _members({**self._fixed_extra, **extra})


def _origin(
    record: logging.LogRecord,
    thread: str | None = None,
    file: str | None = None,
    function: str | None = None,
) -> _Origin:
    after = _known(process=record.process, thread=thread, file=file, line=record.lineno, function=function)
    return _Origin(
        f'","level":{dumps(record.levelname)},"logger":{dumps(record.name)},"message":',
        _members(after),
        f"{thread}\n{file}\n{function}\n",
    )


def _known(**values: object) -> dict[str, object]:
    """Our own fields: what is not known is left out."""
    return {name: value for name, value in values.items() if value is not None}


def _members(values: Mapping[str, Any]) -> str:
    """The members of a JSON object, each after a comma."""
    return f",{dumps(values)[1:-1]}" if values else ""


def _renamed(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Fields beside our own keys, none of which they replace."""
    return {f"extra.{name}" if name in _CONTRACT_KEYS else name: value for name, value in extra.items()}
