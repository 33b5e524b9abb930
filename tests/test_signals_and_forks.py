"""A signal of a child is not its parent's; what dlt drains goes on; a `shutdown()` in any thread leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from dltobs._process.drain import Drain
from dltobs._process.forks import hold_back, let_through
from dltobs._process.wakeup import WakeupDescriptor, close, pipe
from scripts import run_script

if TYPE_CHECKING:
    from pathlib import Path

PRELUDE = """
import ctypes, multiprocessing, os, signal, subprocess, sys, threading, time

def first_in_child():
    pass

os.register_at_fork(after_in_child=lambda: first_in_child())  # before that of dltobs

import dlt
import dltobs
from dlt.common.runtime import signals as dlts

def say(*what):
    os.write(1, (" ".join(map(str, what)) + "\\n").encode())

class Sink:
    def __init__(self, slowness=0.0):
        self.slowness = slowness

    def emit(self, event):
        if isinstance(event, dltobs.RunFinished):
            time.sleep(self.slowness)
            say(event.outcome)

    def flush(self, timeout):
        return True

    def close(self):
        pass

@dlt.destination(name="nowhere", batch_size=0)
def nowhere(items, table):
    pass

def load(data, destination=nowhere, name="shop"):
    pipeline = dlt.pipeline(name, pipelines_dir="pipelines", destination=destination, dataset_name="shop_data")
    pipeline.run(data, table_name="orders")

def in_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()

def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)

def stay():
    '''Long enough for a main thread that waits for it to be taken for stuck.'''
    time.sleep(1)

def configure(*sinks):
    global wakeup
    dltobs.configure(sinks=sinks)
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)

def signal_of_child():
    '''What the handler does in a child that gets SIGTERM between `fork` and `exec`, which runs no hooks.'''
    write = f"import os; os.write({wakeup}, bytes([{signal.SIGTERM:d}]))"
    subprocess.run([sys.executable, "-S", "-c", write], pass_fds=[wakeup], check=True)
    stay()
"""


def outcome_of(folder: Path, source: str, **variables: str) -> tuple[int, list[str]]:
    """The status of a script, as of `subprocess`, and what it said."""
    done = run_script(source, folder, timeout=100, prelude=PRELUDE, DLTOBS__CONSOLE="off", **variables)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout.splitlines()


FORKING = """
arrived = os.pipe()

def first_in_child():
    os.write(arrived[1], b"x")
    time.sleep(0.5)

def fork():
    child = os.fork()
    if child == 0:
        time.sleep(30)
        os._exit(1)
    os.read(arrived[0], 1)
    os.kill(child, signal.SIGTERM)
    say("child", os.waitpid(child, 0)[1])
    stay()

@dlt.resource
def orders():
    FORK
    yield {"id": 1}

dltobs.configure(sinks=[Sink()])
load(orders())
"""


@pytest.mark.parametrize("how", ["fork()", "in_thread(fork)"])
def test_a_signal_before_the_hooks_of_a_child_ends_it_alone(tmp_path, how):
    """Its handlers and its wake-up descriptor are still those of its parent then, which waits for something."""
    status, said = outcome_of(tmp_path, FORKING.replace("FORK", how))
    assert said == [f"child {int(signal.SIGTERM)}", "ok"]
    assert status == 0


def test_processes_that_are_ended_as_soon_as_they_have_begun_leave_their_parent_alone(tmp_path):
    """`multiprocessing` at its own pace: each child dies of the signal."""
    source = """
    codes = []

    def start_and_end():
        for _ in range(30):
            process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))
            process.start()
            process.terminate()
            process.join()
            codes.append(process.exitcode)
        stay()

    @dlt.resource
    def orders():
        in_thread(start_and_end)
        yield {"id": 1}

    dltobs.configure(sinks=[Sink()])
    load(orders())
    say(*set(codes))
    """
    status, said = outcome_of(tmp_path, source)
    assert said == ["ok", f"{-signal.SIGTERM}"]
    assert status == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel does not tell whose a byte is")
def test_a_child_that_runs_no_hooks_leaves_its_parent_alone(tmp_path):
    source = """
    @dlt.resource
    def orders():
        in_thread(signal_of_child)
        yield {"id": 1}

    configure(Sink())
    load(orders())
    """
    assert outcome_of(tmp_path, source) == (0, ["ok"])


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel does not tell whose a byte is")
def test_a_signal_of_a_child_is_none_that_dlt_drains(tmp_path):
    """While dlt intercepts signals: a slow sink is not thought to hold up the end."""
    source = """
    @dlt.destination(name="forking", batch_size=0)
    def forking(items, table):
        signal_of_child()

    configure(Sink(2))
    load([{"id": 1}], forking)
    """
    assert outcome_of(tmp_path, source, DLTOBS__FLUSH_TIMEOUT="0.5") == (0, ["ok"])


def test_a_program_that_forks_all_the_time_is_still_ended_in_a_long_c_call(tmp_path):
    """A signal of its own is one, however many children there are."""
    source = """
    def fork_on():
        while True:
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)
            time.sleep(0.01)

    def end():
        is_there.wait()
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    is_there = threading.Event()
    sleep = ctypes.CDLL(None).usleep
    sleep.argtypes = [ctypes.c_uint]

    @dlt.resource
    def orders():
        yield {"id": 1}
        for target in (fork_on, end):
            threading.Thread(target=target, daemon=True).start()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # or it would be interrupted
        is_there.set()
        for _ in range(60):
            sleep(60_000_000)

    dltobs.configure(sinks=[Sink()])
    load(orders())
    """
    status, said = outcome_of(tmp_path, source)
    assert said == ["terminated"]
    # the former only where the machine was so busy that it was not in the call yet
    assert status in {-signal.SIGTERM, 128 + signal.SIGTERM}


@pytest.mark.parametrize("is_blocked", [False, True])
def test_a_fork_leaves_the_signal_mask_as_it_was(tmp_path, is_blocked):
    """In both processes, and in the thread that forks as in any other."""
    source = f"""
    def mask():
        return signal.pthread_sigmask(signal.SIG_BLOCK, ())

    def fork():
        if {is_blocked}:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        before = mask()
        child = os.fork()
        if child == 0:
            os._exit(2 * (mask() != before) + (signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL))
        say(os.waitpid(child, 0)[1], mask() == before)

    dltobs.configure(sinks=[Sink()])
    in_thread(fork)
    fork()
    """
    assert outcome_of(tmp_path, source) == (0, ["0 True", "0 True"])


def test_what_is_held_back_is_let_through_once():
    """Even if a fork happens within the hooks of another, or only one of two hooks has run."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        hold_back({signal.SIGUSR1})
        hold_back({signal.SIGUSR1, signal.SIGUSR2})
        held = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        assert held == before | {signal.SIGUSR1, signal.SIGUSR2}
        let_through()
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        let_through()
        assert signal.SIGUSR1 in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel does not tell whose a byte is")
def test_the_numbers_of_another_process_are_only_passed_on():
    """To the descriptor that was there before, which it would have written them to."""
    before, ends = signal.set_wakeup_fd(-1), pipe()
    descriptor = WakeupDescriptor()
    try:
        signal.set_wakeup_fd(ends[1])
        descriptor.attach()
        ours = signal.set_wakeup_fd(-1)
        write = f"import os; os.write({ours}, b'\\x0f')"
        subprocess.run([sys.executable, "-c", write], pass_fds=[ours], check=True)
        os.write(ours, b"\x0c")
        assert [descriptor.read() for _ in range(3)] == [b"", b"\x0c", b""]
        assert os.read(ends[0], 8) == b"\x0f\x0c"
    finally:
        signal.set_wakeup_fd(before)
        descriptor.close()
        close(*ends)


DRAINING = """
sent = []

@dlt.destination(name="draining", batch_size=0)
def draining(items, table):
    sent.append(os.kill(os.getpid(), signal.SIGTERM))
    wait_until(dlts.was_signal_received)

if ON:
    dltobs.configure(sinks=[Sink(3.5)])
load([{"id": 1}], draining)
say("goes on")
"""


def test_a_program_that_goes_on_after_dlt_has_drained_goes_on_with_a_slow_sink(tmp_path):
    """It has the whole `flush_timeout` for the end of the run."""
    (tmp_path / "without").mkdir()
    plain = outcome_of(tmp_path / "without", DRAINING.replace("ON", "False"))
    status, said = outcome_of(tmp_path, DRAINING.replace("ON", "True"), DLTOBS__FLUSH_TIMEOUT="8")
    assert plain == (0, ["goes on"])
    assert said == ["ok", "goes on"]
    assert status == 0


def test_what_dlt_drains_is_held_up_once_a_hook_has_taken_its_time():
    """The time counts for as long as the main thread is in a hook of ours."""
    drain = Drain(signal.SIGTERM)
    assert not drain.is_held_up(60, is_in_hook=True)
    assert drain.is_held_up(-1, is_in_hook=True)
    assert not drain.is_held_up(-1, is_in_hook=False)
    assert not drain.is_held_up(60, is_in_hook=True)


KILLED = """
@dlt.resource
def orders():
    yield {"id": 1}
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)

dltobs.configure(sinks=[Sink()])
SHUTDOWN
dltobs.configure(sinks=[Sink()])
load(orders())
"""
SHUTDOWNS = ["dltobs.shutdown()", "in_thread(dltobs.shutdown)"]


@pytest.mark.parametrize("shutdown", SHUTDOWNS)
def test_a_set_up_after_a_shutdown_in_any_thread_reports_a_signal(tmp_path, shutdown):
    """Python does not let another thread than the main one take a handler away: the next set-up does."""
    status, said = outcome_of(tmp_path, KILLED.replace("SHUTDOWN", shutdown))
    assert said == ["terminated"]
    assert status == -signal.SIGTERM


@pytest.mark.parametrize("shutdown", SHUTDOWNS)
def test_a_handler_of_the_application_decides_after_such_a_shutdown_too(tmp_path, shutdown):
    own = "signal.signal(signal.SIGTERM, lambda *args: (say('own'), sys.exit(3)))\n"
    source = own + KILLED.replace("SHUTDOWN", shutdown)
    done = run_script(source, tmp_path, prelude=PRELUDE, DLTOBS__CONSOLE="off")
    assert done.stdout.splitlines() == ["own", "terminated"]
    assert done.returncode == 3


def test_the_set_up_after_a_shutdown_off_the_main_thread_clears_everything_away(tmp_path):
    """Handler, wake-up descriptor, threads and file descriptors, of both."""
    source = """
    from pathlib import Path

    def opened():
        return set(Path("/proc/self/fd").iterdir()) if sys.platform == "linux" else set()

    def watches():
        return [thread for thread in threading.enumerate() if thread.name == "dltobs-signals"]

    dltobs.configure()
    dltobs.shutdown()
    wait_until(lambda: not watches())
    before = opened()
    for _ in range(3):
        dltobs.configure()
        in_thread(dltobs.shutdown)
    dltobs.configure()
    dltobs.shutdown()
    wait_until(lambda: not watches() and opened() <= before)
    say(len(watches()), len(opened() - before), signal.set_wakeup_fd(-1))
    say(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
    """
    assert outcome_of(tmp_path, source) == (0, ["0 0 -1", "True"])


def test_a_child_that_is_forked_after_such_a_shutdown_has_a_set_up_of_its_own(tmp_path):
    source = """
    @dlt.resource
    def orders():
        yield {"id": 1}
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)

    dltobs.configure(sinks=[Sink()])
    in_thread(dltobs.shutdown)
    child = os.fork()
    if child == 0:
        dltobs.configure(sinks=[Sink()])
        load(orders())
        os._exit(1)
    say(os.waitpid(child, 0)[1])
    dltobs.configure(sinks=[Sink()])
    load([{"id": 1}], name="next")
    """
    assert outcome_of(tmp_path, source) == (0, ["terminated", f"{int(signal.SIGTERM)}", "ok"])
