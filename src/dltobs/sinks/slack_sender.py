"""Sends messages to a webhook on a thread of its own: in order, again where that may help, never for ever."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tenacity import RetryCallState, RetryError, Retrying, retry_if_result, wait_exponential, wait_random

from dltobs.sinks.reasons import without_secrets
from dltobs.sinks.route import Route, Verdict
from dltobs.sinks.slack_http import Answer, Webhook

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dltobs.sinks.delivery import Delivery

_MAX_WAITING = 100
"""Messages in the queue."""
_PATIENCE = 90.0
"""Seconds for which a message is tried, while the process goes on."""
_REQUEST_TIMEOUT = 10.0
"""Seconds."""
_SERVER_ERROR = 500
_SHORTEST_TIMEOUT = 0.1
"""Seconds: a request that is begun shortly before the deadline."""
_PAUSE_IN_FLUSH = 1.0
"""Seconds between two attempts at most, while a flush waits."""
_BACKOFF = wait_exponential(multiplier=0.5, max=16) + wait_random(0, 0.25)


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """A message on its way: what to post, what to post instead if that is refused, whom to tell its end."""

    rich: Mapping[str, Any] | None
    plain: Mapping[str, Any]
    ended: Callable[[bool], None]


class _TooLateError(Exception):
    """The next attempt would come after the deadline."""


class SlackSender:
    """Queues messages and sends them.

    The thread lives as long as there is something to send, so there is none to stop or to miss after a fork.

    Args:
        url: Of the webhook.
        delivery: The counters.
    """

    def __init__(self, url: str, delivery: Delivery) -> None:
        self._url = url
        self._delivery = delivery
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._condition = threading.Condition()
        self._waiting: deque[Message] = deque()
        self._current: Message | None = None
        self._is_working = False
        self._is_closed = False
        self._deadline: float | None = None
        """While a flush waits: when it will have waited long enough."""
        self._webhook = Webhook(self._url)
        parts = urlsplit(self._url)
        self._delivery.address = without_secrets(f"{parts.scheme}://{parts.netloc}")  # the path is secret
        # without its last part, which is the secret one
        self._delivery.route = Route(self._url.rpartition("/")[0], self._rescue, self._resend)

    def send(self, message: Message) -> None:
        """Queue a message. It never waits: if the queue is full, the message is lost and counted."""
        if self._process != os.getpid():
            self._begin()  # the queue and its thread are those of the process we were forked from
        self._delivery.submitted(1)
        with self._condition:
            is_full = len(self._waiting) >= _MAX_WAITING
            if not is_full and not self._is_closed:
                self._waiting.append(message)
                self._start()
                return
        self._delivery.dropped(1, "queue full" if is_full else "shut down")
        message.ended(False)  # noqa: FBT003 - it has one argument

    def flush(self, timeout: float) -> bool:
        """Wait until everything has been sent, at most `timeout` seconds. True: nothing is left."""
        if self._process != os.getpid():
            return True
        deadline = time.monotonic() + timeout
        with self._condition:
            self._deadline = deadline
            self._condition.notify_all()
            is_ours = bool(self._waiting) and not self._is_working
            self._is_working = self._is_working or is_ours
        try:
            if is_ours:
                # no thread could be started, as the process exits
                self._work()
            with self._condition:
                return self._condition.wait_for(self._is_idle, max(deadline - time.monotonic(), 0.0))
        finally:
            self._deadline = None

    def close(self) -> None:
        """Send nothing any more; what was waiting has been kept or is lost."""
        if self._process != os.getpid():
            return
        with self._condition:
            self._is_closed = True
            left = [*([] if self._current is None else [self._current]), *self._waiting]
            self._current = None
            self._waiting.clear()
            self._condition.notify_all()
        for message in left:
            message.ended(False)  # noqa: FBT003 - as above

    def _is_idle(self) -> bool:
        return not self._waiting and not self._is_working

    def _start(self) -> None:
        if self._is_working:
            return
        self._is_working = True
        try:
            threading.Thread(target=self._work, name="dltobs-slack", daemon=True).start()
        except RuntimeError:  # at exit some versions of Python start none; the flush will send it
            self._is_working = False

    def _work(self) -> None:
        while True:
            with self._condition:
                if not self._waiting:
                    # not later: the next thread may be posting by then
                    self._webhook.close()
                    self._is_working = False
                    self._condition.notify_all()
                    return
                message = self._current = self._waiting.popleft()
            try:
                answer = self._deliver(message)
            except Exception as error:  # noqa: BLE001 - those that wait behind it must not be held up
                answer = Answer(type(error).__name__)
            self._end(message, answer)

    def _end(self, message: Message, answer: Answer) -> None:
        with self._delivery.ending() as is_counted:
            if not is_counted:
                return  # closed in the meantime, and kept or lost
            with self._condition:
                is_current, self._current = self._current is message, None
            is_told = is_current and self._count(message, answer)
        if is_current:  # only now: nobody who closes is to wait for what it does
            message.ended(is_told)
        if answer.problem is None:
            self._delivery.recovered()

    def _count(self, message: Message, answer: Answer) -> bool:
        """Whether the message is told, now or, as it is kept, later."""
        if answer.problem is None:
            self._delivery.delivered(1)
            return True
        is_kept = answer.is_passing and self._keep(message)
        if is_kept:
            self._delivery.kept(1, answer.problem)
        else:
            self._delivery.dropped(1, answer.problem)
        return is_kept

    def _keep(self, message: Message) -> bool:
        document = {"rich": message.rich, "plain": message.plain}
        return self._delivery.keep(json.dumps(document).encode(), 1)

    def _rescue(self) -> int:
        """Keep what has no answer yet, as the set-up ends."""
        if self._process != os.getpid():
            return 0
        with self._condition:
            left = [*([] if self._current is None else [self._current]), *self._waiting]
            self._current = None
            self._waiting.clear()
        # each is kept before anybody is told of one: that may take a moment
        kept = [self._keep(message) for message in left]
        for message, is_kept in zip(left, kept, strict=True):
            message.ended(is_kept)
        return sum(kept)

    def _resend(self, payload: bytes) -> Verdict:
        """Post a message that was kept, once."""
        message = json.loads(payload)
        webhook = Webhook(self._url)
        try:
            answer = Answer("nothing to post", is_refusal=True)
            for form in ("rich", "plain"):
                if message.get(form) and answer.is_refusal:
                    answer = webhook.post(message[form], _REQUEST_TIMEOUT)
        finally:
            webhook.close()
        is_taken = answer.problem is None
        return Verdict(
            is_taken,
            is_refused=not is_taken and not answer.is_passing,
            reason=answer.problem,
            may_be_its_own=answer.status == _SERVER_ERROR,
        )

    def _deliver(self, message: Message) -> Answer:
        if message.rich is None:
            return self._post(message.plain)
        answer = self._post(message.rich)
        # better a message without its form than none
        return self._post(message.plain) if answer.is_refusal else answer

    def _post(self, payload: Mapping[str, Any]) -> Answer:
        """Post until the webhook takes it or says that it never will, or it is too late."""
        last = Answer()
        begun = time.monotonic()

        def attempt() -> Answer:
            nonlocal last
            last = self._webhook.post(payload, self._request_timeout())
            return last

        def pause(seconds: float) -> None:
            self._pause(seconds, begun + _PATIENCE, is_asked=last.wait is not None)

        again = Retrying(retry=retry_if_result(_may_pass), wait=_wait, stop=self._is_over, sleep=pause)
        try:
            return again(attempt)
        except (RetryError, _TooLateError):
            return last

    def _request_timeout(self) -> float:
        deadline = self._deadline
        left = _REQUEST_TIMEOUT if deadline is None else deadline - time.monotonic()
        return min(max(left, _SHORTEST_TIMEOUT), _REQUEST_TIMEOUT)

    def _is_over(self, retry_state: RetryCallState) -> bool:  # noqa: ARG002 - passed by its name
        return self._is_closed

    def _pause(self, seconds: float, patience: float, *, is_asked: bool) -> None:
        """Wait for the next attempt. When a flush begins it is now, in one soon, unless Slack asked to wait.

        Raises:
            _TooLateError: There will be none.
        """
        with self._condition:
            was_flushing = self._deadline is not None
            if was_flushing and not is_asked:
                seconds = min(seconds, _PAUSE_IN_FLUSH)
            end = time.monotonic() + seconds
            while not self._is_closed:
                now = time.monotonic()
                is_flushing = self._deadline is not None
                if is_flushing and not was_flushing and not is_asked:
                    return
                if end > (patience if self._deadline is None else self._deadline):
                    raise _TooLateError
                if now >= end:
                    return
                self._condition.wait(end - now)
        raise _TooLateError


def _may_pass(answer: Answer) -> bool:
    return answer.problem is not None and answer.is_passing


def _wait(retry_state: RetryCallState) -> float:
    answer = None if retry_state.outcome is None else retry_state.outcome.result()
    asked = answer.wait if isinstance(answer, Answer) else None
    return max(asked or 0.0, _BACKOFF(retry_state))
