"""Kills many runs at random moments, and holds that each is accounted for once and each process is gone in time.

Each run is a process of its own, forked from this one, which has imported everything. Some are the first process
of a process-id namespace, some have a sink that holds its lock, some fail by themselves. A run is accounted for
by its end (`ok`, `failed`, `terminated`) or by the next run of the pipeline, which reports it as `lost`.

It may be told a second time, as `lost`, in one case: who told of it first was killed (by SIGKILL, or because
`flush_timeout` was over) between telling and taking the run's marker away.

Usage: python tests/torture.py [--runs 500] [--seed N] [--limit 2]
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import ctypes
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dlt
from dlt.normalize.normalize import Normalize

import dltobs
from dltobs._runs.marker_files import FOLDER

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell has started us in the background; the runs would ignore it, too
    signal.signal(signal.SIGINT, signal.default_int_handler)

FLUSH_TIMEOUT = 1.0
LIMIT = FLUSH_TIMEOUT + 1.0
"""Seconds from the signal until the process is gone, where nothing else holds it up."""
MOMENTS = 1.0
"""Seconds after `configure()` in which the signal comes: a run takes about as long."""
PIPELINES = 6
AT_ONCE = 3
LONGEST = 30.0
_CLONE_NEWPID = 0x20000000


@dataclass
class Plan:
    """What is to happen to a run."""

    number: int
    pipeline: str
    signals: tuple[int, ...]
    moment: float
    is_first_process: bool
    holds_lock: bool
    fails: bool


@dataclass
class Active:
    plan: Plan
    child: int
    target: int | None
    ready: int
    due: float | None = None
    sent_at: float | None = None


def write_down(**what: Any) -> None:
    """In one write that needs no lock."""
    file = os.open("ends.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, (json.dumps(what) + "\n").encode())
    finally:
        os.close(file)


def write_down_markers(number: int) -> None:
    """Write each marker down that this process takes away: of these runs nobody may tell again."""
    original = Path.unlink

    def unlink(self: Path, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if self.parent.name == FOLDER and self.suffix != ".tmp":
            write_down(id=self.name[:32], outcome="unmarked", by=number)

    Path.unlink = unlink  # type: ignore[method-assign]  # there is no hook for it


class EndsSink:
    """Writes each start and end down."""

    def __init__(self, number: int) -> None:
        self._number = number

    def emit(self, event: Any) -> None:
        if isinstance(event, dltobs.RunStarted):
            outcome = "started"
        elif isinstance(event, (dltobs.RunFinished, dltobs.RunLost)):
            outcome = event.outcome
        else:
            return
        write_down(id=event.run.transaction_id, outcome=outcome, by=self._number)

    def flush(self, timeout: float) -> bool:
        return True

    def close(self) -> None:
        pass


class LockedSink:
    """Needs a lock that a thread of its own takes now and then, once for too long."""

    def __init__(self, chance: random.Random) -> None:
        self._lock = threading.Lock()
        threading.Thread(target=self._hold, args=(chance,), daemon=True).start()

    def _hold(self, chance: random.Random) -> None:
        while True:
            time.sleep(chance.uniform(0, MOMENTS / 2))
            with self._lock:
                time.sleep(chance.choice([0.01, 0.1, LONGEST]))

    def emit(self, event: Any) -> None:
        with self._lock:
            pass

    def flush(self, timeout: float) -> bool:
        with self._lock:
            return True

    def close(self) -> None:
        with self._lock:
            pass


@dlt.destination(name="nowhere", batch_size=0)
def nowhere(items: Any, table: Any) -> None:
    time.sleep(0.1)


def slow_normalize() -> None:
    original = Normalize.spool_schema_files

    def slow(self: Any, *args: Any, **kwargs: Any) -> Any:
        time.sleep(0.1)
        return original(self, *args, **kwargs)

    Normalize.spool_schema_files = slow  # type: ignore[method-assign]  # so that a signal may hit it


def run(plan: Plan, ready: int) -> int:
    """In the process of the run: configure, say so, run the pipeline, exit as a script does."""
    chance = random.Random(plan.number)
    write_down_markers(plan.number)
    sinks: list[Any] = [EndsSink(plan.number), *([LockedSink(chance)] if plan.holds_lock else [])]

    @dlt.resource
    def rows() -> Any:
        for number in range(20):
            yield {"id": number}
            time.sleep(0.02)
            if plan.fails and number == 10:
                message = "planned"
                raise ValueError(message)

    dltobs.configure(sinks=sinks, flush_timeout=FLUSH_TIMEOUT, console="off")
    os.write(ready, b"!")
    try:
        dlt.pipeline(plan.pipeline, pipelines_dir="pipelines", destination=nowhere()).run(
            rows(), table_name="rows"
        )
    except BaseException as error:
        return 0 if "planned" in str(error) else 1
    return 0


def start(plan: Plan) -> Active:
    """Fork the process of a run; with a namespace of its own there is one in between."""
    ready, ready_end = os.pipe()
    pids, pids_end = os.pipe()
    child = os.fork()
    if child == 0:
        if plan.is_first_process:
            ctypes.CDLL(None).unshare(_CLONE_NEWPID)
            inner = os.fork()
            if inner:
                os.write(pids_end, str(inner).encode())
                code = os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1])
                os._exit(code if code >= 0 else 128 - code)  # as a shell has it
        status = 1
        with contextlib.suppress(OSError):
            output = os.open("output.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            os.dup2(output, 1)
            os.dup2(output, 2)
        with contextlib.suppress(BaseException):
            status = run(plan, ready_end)
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
        os._exit(status)
    os.close(ready_end)
    os.close(pids_end)
    target = int(os.read(pids, 16)) if plan.is_first_process else child
    os.close(pids)
    return Active(plan, child, target, ready)


def was_killed(code: int, seconds: float) -> bool:
    """Whether a process was killed by SIGKILL, or by SIGTERM when its time was over, whatever it was doing.

    Args:
        code: How it ended, as of `subprocess` or a shell.
        seconds: How long after its signals.
    """
    number = -code if code < 0 else code - 128
    return number == signal.SIGKILL or (number == signal.SIGTERM and seconds >= FLUSH_TIMEOUT)


def is_gone(active: Active, limit: float, killed: set[int], problems: list[str]) -> bool:
    """Send what is due, and see whether the process has ended, within so many seconds."""
    now = time.monotonic()
    if active.due is None and select.select([active.ready], [], [], 0)[0]:
        os.read(active.ready, 1)
        active.due = now + active.plan.moment
    if active.due is not None and active.sent_at is None and now >= active.due:
        active.sent_at = now
        for number in active.plan.signals:
            with contextlib.suppress(ProcessLookupError):
                os.kill(active.target or active.child, number)
    pid, status = os.waitpid(active.child, os.WNOHANG)
    if pid:
        os.close(active.ready)
        if active.plan.signals and active.sent_at is not None:
            if now - active.sent_at > limit:
                problems.append(f"{active.plan}: gone after {now - active.sent_at:.2f} s")
            if was_killed(os.waitstatus_to_exitcode(status), time.monotonic() - active.sent_at):
                killed.add(active.plan.number)
        return True
    if active.sent_at is not None and now - active.sent_at > (limit if active.plan.signals else LONGEST) + 1:
        problem = f"{active.plan}: still there after {limit:.0f} s"
        problems += [problem] if problem not in problems else []
        os.kill(active.target or active.child, signal.SIGKILL)
    return False


def plan_of(number: int, pipeline: str, chance: random.Random, *, namespaces: bool) -> Plan:
    holds_lock = chance.random() < 0.25
    kinds = [(signal.SIGTERM,)] * 8 + [(signal.SIGTERM, signal.SIGTERM)] * 2
    if not holds_lock:  # Ctrl-C goes through Python, which waits for such a sink as the pipeline does
        kinds += [(signal.SIGKILL,)] * 3 + [(signal.SIGINT,)] * 2 + [()] * 2
    return Plan(
        number=number,
        pipeline=pipeline,
        signals=chance.choice(kinds),
        moment=chance.uniform(0, MOMENTS),
        is_first_process=namespaces and chance.random() < 0.2,
        holds_lock=holds_lock,
        fails=chance.random() < 0.15,
    )


def torture(
    runs: int, chance: random.Random, limit: float, problems: list[str], *, namespaces: bool
) -> set[int]:
    """Make the runs; gives the numbers of those that were killed."""
    killed: set[int] = set()
    active: list[Active] = []
    number = 0
    while number < runs or active:
        free = {f"p{one}" for one in range(PIPELINES)} - {one.plan.pipeline for one in active}
        if number < runs and len(active) < AT_ONCE:
            active.append(start(plan_of(number, chance.choice(sorted(free)), chance, namespaces=namespaces)))
            number += 1
        active = [one for one in active if not is_gone(one, limit, killed, problems)]
        time.sleep(0.002)
    return killed


def sweep(problems: list[str]) -> None:
    """One more run of each pipeline, long after: those that cannot be asked whether they live are silent."""
    for number in range(PIPELINES):
        name = f"p{number}"
        for path in Path("pipelines", name, "dltobs_runs").glob("*"):
            os.utime(path, (0, 0))
        one = start(Plan(-1, name, (), moment=0.0, is_first_process=False, holds_lock=False, fails=False))
        while not is_gone(one, LIMIT, set(), problems):
            time.sleep(0.01)
    problems += [f"left: {path}" for path in Path("pipelines").glob("*/dltobs_runs/*")]


def account(killed: set[int], problems: list[str]) -> Counter[str]:
    started: set[str] = set()
    unmarked: set[tuple[str, int]] = set()
    ends: dict[str, list[tuple[str, int]]] = {}
    for line in Path("ends.jsonl").read_text().splitlines():
        told = json.loads(line)
        if told["outcome"] == "started":
            started.add(told["id"])
        elif told["outcome"] == "unmarked":
            unmarked.add((told["id"], told["by"]))
        else:
            ends.setdefault(told["id"], []).append((told["outcome"], told["by"]))
    problems += [f"not accounted for: {one}" for one in sorted(started - ends.keys())]
    for one, told in ends.items():
        had_no_time = all(by in killed and (one, by) not in unmarked for _, by in told[:-1])
        if not had_no_time or any(outcome != "lost" for outcome, _ in told[1:]):
            problems.append(f"told more than once: {one}: {told}")
    return Counter(told[0][0] for told in ends.values())


def can_make_namespaces() -> bool:
    child = os.fork()
    if child == 0:
        os._exit(0 if ctypes.CDLL(None).unshare(_CLONE_NEWPID) == 0 else 1)
    return os.waitpid(child, 0)[1] == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds from the signal to the end")
    options = parser.parse_args()
    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
    namespaces = can_make_namespaces()
    print(
        f"seed {options.seed}, {options.runs} runs, {'some' if namespaces else 'none'} as PID 1", flush=True
    )
    slow_normalize()
    folder = tempfile.mkdtemp()  # not what cleans itself up at exit: that of the children, too
    os.environ["DLT_DATA_DIR"] = f"{folder}/dlt"
    os.chdir(folder)
    problems: list[str] = []
    killed = torture(
        options.runs, random.Random(options.seed), options.limit, problems, namespaces=namespaces
    )
    sweep(problems)
    outcomes = account(killed, problems)
    os.chdir("/")
    if problems:
        print(f"see {folder}")
    else:
        shutil.rmtree(folder)
    print(", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())))
    print(*problems, sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
