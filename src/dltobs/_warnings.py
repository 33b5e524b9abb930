"""The one way in which dltobs speaks of its own trouble: a WARNING on the logger `dltobs`."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING

from dltobs._cut import MESSAGE
from dltobs._describe import text_of
from dltobs._process.fork_safe import fork_safe
from dltobs._redaction.patterns import WITHHELD

if TYPE_CHECKING:
    from dltobs._redaction.redactor import Redactor

_LOCK_TIMEOUT = 0.5
"""Seconds."""

_REASONS = 100
"""How many reasons of one subject are remembered; some texts differ each time."""

logger = logging.getLogger("dltobs")


class Warner:
    """Warns once per subject and reason, without secrets.

    Args:
        redactor: What every text passes first; when it fails, only the type of the error is told.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._lock = fork_safe(threading.Lock())
        self._told: dict[str, dict[str, None]] = {}

    def warn(self, subject: str, message: str, *, reason: str | None = None) -> None:
        """Log `message`, unless `subject` was warned of for the same reason before.

        Args:
            subject: What it is about, e.g. `sentry`.
            message: A whole sentence for the log.
            reason: What makes it the same as before; the message itself by default.
        """
        reason = message if reason is None else reason
        # bounded: a signal handler may have interrupted the thread that holds it
        is_locked = self._lock.acquire(timeout=_LOCK_TIMEOUT)
        try:
            told = self._told.setdefault(subject, {})
            if reason in told:
                return
            told[reason] = None
            # each of these is one step for other threads: the lock may not be ours
            for oldest in list(told)[:-_REASONS]:
                told.pop(oldest, None)
        finally:
            if is_locked:
                self._lock.release()
        with contextlib.suppress(Exception):  # somebody's handler may raise; there is nobody left to tell
            logger.warning("%s", self.clean(message))

    def clean(self, text: str, limit: int = MESSAGE) -> str:
        """Return the text without secrets, cut to a number of characters; `[withheld]` if redaction fails."""
        try:
            return self._redactor.text(text, limit)
        except Exception:  # noqa: BLE001 - a warning must not fail for what it warns of
            return WITHHELD

    def internal_error(self, subject: str, error: BaseException) -> None:
        """Warn that something inside dltobs failed, and where; the pipeline goes on."""
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        where = "" if frame is None else f" at {frame.tb_frame.f_code.co_name}:{frame.tb_lineno}"
        self.warn(
            subject,
            f"{subject}: {type(error).__name__}: {text_of(error)}{where}; the pipeline is not affected",
            # the text may differ each time
            reason=f"{type(error).__name__}{where}",
        )
