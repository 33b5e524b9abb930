"""Shows dlt's log lines under the flow or task that runs the pipeline, in Prefect's UI."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from dltobs.integrations.prefect.context import current_prefect_run
from dltobs.logs.attach import OWN_NAME
from dltobs.logs.dlts import current_logger, is_formatter_of_dlt
from dltobs.logs.handlers import SafeHandler
from dltobs.logs.records import redacted_copy

if TYPE_CHECKING:
    from dltobs._redaction.redactor import Redactor
    from dltobs._warnings import Warner


class PrefectHandler(SafeHandler):
    """Hands records, redacted, to Prefect's own handler for its API; outside of a flow or task to nobody.

    Prefect's settings count: `PREFECT_LOGGING_TO_API_ENABLED`, batch and line sizes.

    Args:
        redactor: Takes the secrets out.
        warner: Told of errors.
    """

    subject = "prefect log"

    def __init__(self, *, redactor: Redactor, warner: Warner) -> None:
        super().__init__(warner)
        self._redactor = redactor
        self._api: logging.Handler | None = None
        self._muted: list[tuple[logging.Handler, _SentAlready]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record for the API; never raises, never waits."""
        try:
            run = current_prefect_run()
            if run is None:
                return
            if self._api is None:
                self._api = _api_handler()
            clean = redacted_copy(record, self._redactor)
            clean.flow_run_id, clean.task_run_id = run.flow_run_id, run.task_run_id
            self._api.emit(clean)
        except Exception:  # noqa: BLE001 - logging's own rule: a handler does not raise
            self.handleError(record)

    def refresh(self) -> None:
        """See that dlt's lines come once, and only redacted, where Prefect has a handler on dlt's logger too.

        `PREFECT_LOGGING_EXTRA_LOGGERS=dlt` puts it there, whenever Prefect is imported. It is shared with
        other loggers, so it stays, and only ceases to send what is sent here. If dlt has met it before us, it
        bears dlt's format, for the lines of all these loggers.
        """
        handlers = sys.modules.get("prefect.logging.handlers")
        logger = current_logger()
        if handlers is None or logger is None or not hasattr(handlers, "APILogHandler"):
            return
        for handler in logger.handlers[:]:
            if not isinstance(handler, handlers.APILogHandler):
                continue
            if is_formatter_of_dlt(handler.formatter):
                handler.setFormatter(None)  # Prefect gives it none
            if not any(isinstance(one, _SentAlready) for one in handler.filters):
                sent_already = _SentAlready(logger.name)
                handler.addFilter(sent_already)
                self._muted.append((handler, sent_already))

    def give_back(self) -> None:
        """Let Prefect's handlers send again."""
        for handler, sent_already in self._muted:
            handler.removeFilter(sent_already)
        self._muted.clear()


class _SentAlready(logging.Filter):
    """Drops the records of dlt's logger, and dltobs' own lines, which pass through it."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.name not in {self.name, OWN_NAME}


def _api_handler() -> logging.Handler:
    from prefect.logging.handlers import APILogHandler

    handler: logging.Handler = APILogHandler()
    # dlt's JSON mode changes the formatter that handlers without one use
    handler.setFormatter(logging.Formatter("%(message)s"))
    return handler
