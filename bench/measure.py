"""Measures contenders side by side, and turns their times into ratios.

On a machine that does other things as well, a time says little; two times taken one right after the other
still say how they compare. So each round runs every contender once, the next round in another order, a ratio
is taken within its round, and what counts is the median of these ratios. Times are CPU time.
"""

from __future__ import annotations

import gc
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

Contender = Callable[[], float]
"""Does its work once, and says how many seconds of CPU time one unit of it took."""


@dataclass(frozen=True, slots=True)
class Figure:
    """What one comparison gave.

    Args:
        title: One sentence for people.
        subject: The contender that the figure is about.
        peer: The contender it is compared with.
        goal: What the ratio shall not exceed; None where there is none.
        unit: What one number of `seconds` is spent on.
        seconds: CPU seconds of each contender, one number a round. Contenders other than subject and peer are
            shown beside them.
        quantity: What the numbers are if not `seconds`: `bytes`.
        details: Whatever else a reader needs: what each contender does, sizes.
    """

    title: str
    subject: str
    peer: str
    goal: float | None
    unit: str
    seconds: Mapping[str, Sequence[float]]
    details: Mapping[str, Any] = field(default_factory=dict)
    quantity: str = "seconds"

    def ratios(self, subject: str, peer: str) -> list[float]:
        """One contender's time over another's, round by round."""
        return [ours / theirs for ours, theirs in zip(self.seconds[subject], self.seconds[peer], strict=True)]

    @property
    def ratio(self) -> float:
        """The figure itself: below 1 the subject is the faster one."""
        return statistics.median(self.ratios(self.subject, self.peer))

    def as_json(self) -> dict[str, Any]:
        """The figure, the raw numbers it was made of, and the other contenders' ratios to the subject."""
        others = [name for name in self.seconds if name not in {self.subject, self.peer}]
        return {
            "title": self.title,
            "subject": self.subject,
            "peer": self.peer,
            "goal": self.goal,
            "ratio": _summary(self.ratios(self.subject, self.peer)),
            "beside": {name: _summary(self.ratios(self.subject, name)) for name in others},
            "unit": self.unit,
            self.quantity: {name: list(values) for name, values in self.seconds.items()},
            "details": dict(self.details),
        }

    def as_text(self, heading: str) -> str:
        """The figure for the terminal: the ratio to the peer first, those to the others below it."""
        ratios = self.ratios(self.subject, self.peer)
        goal = "no goal" if self.goal is None else f"goal {self.goal:g}, {_verdict(self.ratio, self.goal)}"
        lines = [f"{heading}: {_span(ratios)}  {goal}", f"    {self.title}"]
        scale, shown_as = (1e6, "us ") if self.quantity == "seconds" else (2**-20, "MiB")
        for name, values in self.seconds.items():
            ratio = "" if name == self.subject else f"   ratio to it {_span(self.ratios(self.subject, name))}"
            lines.append(
                f"    {name:<36} {statistics.median(values) * scale:12.2f} {shown_as} {self.unit}{ratio}"
            )
        return "\n".join(lines)


def side_by_side(
    contenders: Mapping[str, Contender], rounds: int, *, warm_up: bool | None = None
) -> dict[str, list[float]]:
    """Run all contenders in each round, in a rotating order, after one round that does not count.

    Args:
        contenders: By name.
        rounds: How many count.
        warm_up: Whether to run that first round; by default, unless one round is all there is.
    """
    warm_up = rounds > 1 if warm_up is None else warm_up
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for contender in contenders.values() if warm_up else ():
        contender()
    for number in range(rounds):
        shift = number % len(names)
        for name in (*names[shift:], *names[:shift]):
            seconds[name].append(contenders[name]())
    return seconds


def in_process(work: Callable[[], object], units: int) -> Contender:
    """A contender that runs in this process; garbage is collected before it is timed, not meanwhile."""
    return prepared(lambda: None, lambda _: work(), units)


def prepared(prepare: Callable[[], Any], work: Callable[[Any], object], units: int) -> Contender:
    """As `in_process`, where `work` needs something new each time whose making does not count."""

    def run() -> float:
        prepared_input = prepare()
        gc.collect()
        gc.disable()
        try:
            before = time.process_time()
            work(prepared_input)
            return (time.process_time() - before) / units
        finally:
            gc.enable()

    return run


def child_process(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Contender:
    """A contender that is a whole process, from its start to its end: user and system time.

    Raises:
        subprocess.CalledProcessError: It failed; its standard error is shown.
    """

    def run() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, env=dict(environment), cwd=folder, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    return run


def _summary(ratios: Sequence[float]) -> dict[str, Any]:
    return {
        "median": statistics.median(ratios),
        "min": min(ratios),
        "max": max(ratios),
        "rounds": len(ratios),
        "by_round": list(ratios),
    }


def _span(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def _verdict(ratio: float, goal: float) -> str:
    return "met" if ratio <= goal else "missed"
