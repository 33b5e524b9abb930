"""Reports the open runs before the process dies of SIGTERM.

Nothing is sent or logged in the handler: the main thread, which it interrupts, may hold any lock. It only
wakes a thread (the watch), and waits. The watch takes no lock either: it has another thread report, and when
that is done or the time is up, has the process die.

A Python handler runs in the main thread between two bytecodes, so in a long C call it is late. The wake-up
file descriptor is not: where the main thread has not moved for a while after a signal that is ours to handle,
the watch acts alone, and can then only exit with the status that a shell gives to the signal. (A C call that
keeps the interpreter's lock stops every thread; nothing can be done before it returns.)

Whose handler is in force decides: where dlt intercepts signals (normalize, load) or the application has
installed a handler of its own later, we are not asked. One that was there before is called, and decides.

Source: `man 7 pid_namespaces` (an init process does not die of a signal that it has no handler for).
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

from dltobs._platform import IS_POSIX
from dltobs._process.drain import Drain, is_dlts
from dltobs._process.identity import die_of, main_thread_position
from dltobs._process.wakeup import WakeupDescriptor, close, pipe, readable
from dltobs._runs.open_run import RAISED_BY_SIGNAL

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from dltobs._runs.terminated import TerminationReport
    from dltobs._warnings import Warner

_STOP = b"\0"
_POLL = 0.005
_CONFIRMATION = 0.25
"""Seconds in which a main thread that is not in a C call runs the handler."""
_TICK = 0.05
"""Seconds between two looks at what a process does whose signal dlt has taken."""
_AFTER_HOOK_SHARE = 0.5
"""Of `flush_timeout`: for the report, where a hook of ours has taken all of it then."""
_REPORT_SHARE = 0.9
_BLOCKING_SHARE = 0.5
"""Of `flush_timeout`: for the report; and how long the main thread waits for it at most, because a lock that
it holds may be what the report waits for."""
_LAST_RESORT = 0.3
"""Seconds for the main thread to die before the watch ends the process."""


class TerminationWatch:
    """The handlers of SIGTERM (and of SIGINT where Python has none), from `attach()` until `detach()`.

    Args:
        report: Tells of the open runs.
        flush_timeout: Seconds until the process is gone.
        is_in_hook: Whether the thread of this identifier is in a hook of ours, which should end first.
        runs_are_on: Whether a run has begun and not ended.
        warner: Told if there can be no handler.
    """

    def __init__(
        self,
        report: TerminationReport,
        flush_timeout: float,
        is_in_hook: Callable[[int | None], bool],
        runs_are_on: Callable[[], bool],
        warner: Warner,
    ) -> None:
        self._report = report
        self._timeout = flush_timeout
        self._is_in_hook = is_in_hook
        self._runs_are_on = runs_are_on
        self._warner = warner
        self._handler = self._on_signal  # a bound method is made anew each time it is asked for
        self._previous: dict[int, Any] = {}
        self._wakeup: WakeupDescriptor | None = None
        self._control: tuple[int, int] | None = None
        self._process: int | None = None
        self._forget()

    def _forget(self) -> None:
        self._is_on = False
        self._received: int | None = None
        self._is_holding = False
        self._may_go_on = False
        self._has_to_die = False
        self._is_reported = False

    def redirect(self, other: TerminationWatch) -> None:
        """Report from now on what another watch, which is not attached, would have reported."""
        self._report, self._timeout = other._report, other._timeout
        self._is_in_hook, self._runs_are_on = other._is_in_hook, other._runs_are_on
        self._warner = other._warner

    def attach(self) -> None:
        """Install the handlers where a signal would kill the process, and watch for it.

        A signal that is ignored stays ignored. Python lets only the main thread install handlers.
        """
        if not IS_POSIX or (self._is_on and self._process == os.getpid()):
            return
        if threading.current_thread() is not threading.main_thread():
            self._warner.warn(
                "handle_sigterm",
                "dltobs.configure() was not called in the main thread, where alone Python lets a handler be "
                "installed: a run that SIGTERM ends is not reported by this process",
            )
            return
        found = {number: _found(number) for number in (signal.SIGTERM, signal.SIGINT)}
        if found[signal.SIGINT] is not signal.SIG_DFL:
            del found[signal.SIGINT]  # Python's own raises KeyboardInterrupt, and all hooks run
        # None: installed by C code, which could not be called
        self._previous = {n: old for n, old in found.items() if old not in {None, signal.SIG_IGN}}
        if not self._previous:
            return
        self._forget()
        self._process = os.getpid()
        self._wakeup, self._control = WakeupDescriptor(), pipe()
        threading.Thread(
            target=self._watch, args=(self._wakeup, self._control), name="dltobs-signals", daemon=True
        ).start()
        self._wakeup.attach()
        self._is_on = True
        for number in self._previous:
            signal.signal(number, self._handler)

    def refresh(self) -> None:
        """A run begins: in a forked child watch anew; take back a wake-up descriptor that nobody uses now."""
        if not self._previous or threading.current_thread() is not threading.main_thread():
            return
        if self._process != os.getpid():
            if all(signal.getsignal(number) is self._previous[number] for number in self._previous):
                self.attach()
        elif self._is_on and self._wakeup is not None:
            self._wakeup.take_back()

    def detach(self) -> None:
        """Put everything back that nobody has replaced since. Off the main thread, only pass signals on."""
        if not self._is_on or self._process != os.getpid():
            return
        if self._received is not None:
            return  # the process is about to die
        self._is_on = False
        if threading.current_thread() is threading.main_thread():
            self._put_back()

    def killers(self) -> set[int]:
        """The signals that would kill a child, and that our handler keeps from it until `forked()`."""
        return {n for n, old in self._previous.items() if old is signal.SIG_DFL and self._is_ours(n)}

    def forked(self) -> None:
        """In a forked child: the signals are its own, and its parent's runs are not."""
        if self._process in {None, os.getpid()}:
            return
        self._is_on = False
        with contextlib.suppress(ValueError):  # a fork of a subinterpreter
            self._put_back()

    def hold(self) -> None:
        """Wait for the end of the process, if it is near: a hook of ours, or the exit, is done."""
        if self._received is None or self._process != os.getpid():
            return
        if threading.current_thread() is threading.main_thread():
            self._wait(self._received, may_go_on=False)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        previous = self._previous.get(number, signal.SIG_DFL)
        if callable(previous):
            try:
                previous(number, frame)
            except BaseException as error:
                vars(error)[RAISED_BY_SIGNAL] = signal.Signals(number).name
                raise
            return
        if not self._is_on or self._process != os.getpid() or self._control is None:
            die_of(number)
            return
        if self._received is None:
            self._received = number
            os.write(self._control[1], bytes([number]))
        if self._has_to_die or not self._is_in_hook(threading.get_ident()):
            self._wait(number)

    def _wait(self, number: int, *, may_go_on: bool = True) -> None:
        """In the main thread: do nothing more, until the report is made or may be waiting for us."""
        if self._is_holding:
            return
        self._is_holding = True
        deadline = time.monotonic() + self._timeout
        try:
            while not self._has_to_die and time.monotonic() < deadline:
                if may_go_on and self._may_go_on:
                    return
                time.sleep(_POLL)
            die_of(number)
        finally:
            self._is_holding = False

    def clear_away(self) -> None:
        """In the main thread, where another watch begins: `detach()` may have been called off it."""
        if not self._is_on or self._process != os.getpid():
            self._put_back()

    def _put_back(self) -> None:
        for number, previous in self._previous.items():
            if signal.getsignal(number) is self._handler:
                signal.signal(number, previous)
        if self._wakeup is not None:
            self._wakeup.detach()
        if self._process != os.getpid():
            if self._wakeup is not None:
                self._wakeup.close()
            close(*(self._control or ()))
        elif self._control is not None:
            os.write(self._control[1], _STOP)
        self._wakeup = self._control = None

    def _watch(self, wakeup: WakeupDescriptor, control: tuple[int, int]) -> None:
        """The watch: holds no lock and waits for none."""
        drain: Drain | None = None
        while True:
            ready = readable(None if drain is None else _TICK, wakeup.receiver, control[0])
            asked = os.read(control[0], 1) if control[0] in ready else b""
            woken = wakeup.read() if wakeup.receiver in ready else b""
            if asked == _STOP:
                wakeup.close()
                close(*control)
                return
            number = asked[0] if asked else next((n for n in woken if self._is_stuck(n, control[0])), None)
            if number is not None:
                self._terminate(number, time.monotonic())
            taken = next((n for n in woken if n in self._previous and is_dlts(signal.getsignal(n))), None)
            if taken is not None:
                drain = Drain(taken)
            if drain is not None:
                is_in_hook = self._is_in_hook(threading.main_thread().ident)
                if drain.is_held_up(self._timeout, is_in_hook=is_in_hook):
                    self._terminate(drain.number, time.monotonic() - (1 - _AFTER_HOOK_SHARE) * self._timeout)
                if not is_in_hook and not self._runs_are_on():
                    drain = None

    def _is_stuck(self, number: int, control: int) -> bool:
        """Whether the main thread cannot run our handler for this signal: it is in a long C call."""
        if self._previous.get(number) is not signal.SIG_DFL or not self._is_ours(number):
            return False
        before = main_thread_position()
        ready = readable(_CONFIRMATION, control)
        # a main thread that has moved has run a handler; had it been ours, we had been asked
        return not ready and self._is_ours(number) and before == main_thread_position()

    def _is_ours(self, number: int) -> bool:
        return self._is_on and signal.getsignal(number) is self._handler

    def _terminate(self, number: int, started: float) -> None:
        self._received = number
        rest = started + _REPORT_SHARE * self._timeout - time.monotonic()
        try:
            _thread.start_new_thread(self._send, (signal.Signals(number).name, max(rest, 0.0)))
        except RuntimeError:  # the process exits, and delivers what is left
            self._may_go_on = True
        self._await_report(started + _BLOCKING_SHARE * self._timeout)
        self._may_go_on = not self._is_reported
        self._await_report(started + self._timeout)
        self._has_to_die = True
        if not self._is_holding:
            with contextlib.suppress(OSError):
                os.kill(os.getpid(), number)  # for our handler in the main thread
        time.sleep(_LAST_RESORT)
        os._exit(128 + number)

    def _await_report(self, deadline: float) -> None:
        while not self._is_reported and time.monotonic() < deadline:
            time.sleep(_POLL)

    def _send(self, name: str, timeout: float) -> None:
        with contextlib.suppress(BaseException):  # there is nobody left to tell
            self._report.send(name, timeout)
        self._is_reported = True


def _found(number: int) -> Any:
    """What would handle this signal without dltobs."""
    watch = getattr(signal.getsignal(number), "__self__", None)
    if isinstance(watch, TerminationWatch):
        watch.clear_away()
    return signal.getsignal(number)
