"""Prints how dltobs compares with its peers, and writes all numbers to a JSON file.

A figure is a function that takes a number of rounds and returns a `Figure`; give it a name in `FIGURES`.
"""

from __future__ import annotations

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ledger import cost_of_ledger
from log_line import json_line, json_line_against_bare
from memory import memory_of_10000_jobs
from redaction import FIGURES as REDACTION_FIGURES
from replay import replayed_load
from run_cost import own_code_in_run, run_with_dlts_json_and_sentry, run_with_everything_on
from start_up import start_up, start_up_without_runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from measure import Figure

FIGURES: dict[str, Callable[[int], Figure]] = {
    "json_line": json_line,
    "json_line_against_bare": json_line_against_bare,
    **REDACTION_FIGURES,
    "start_up": start_up,
    "start_up_without_runtime": start_up_without_runtime,
    "replayed_load": replayed_load,
    "own_code_in_run": own_code_in_run,
    "run_with_everything_on": run_with_everything_on,
    "run_with_dlts_json_and_sentry": run_with_dlts_json_and_sentry,
    "cost_of_ledger": cost_of_ledger,
}
LONG_FIGURES: dict[str, Callable[[int], Figure]] = {"memory_of_10000_jobs": memory_of_10000_jobs}
"""Take minutes: measured with `--long`, or by name."""

_PACKAGES = (
    "dltobs", "dlt", "pyahocorasick", "opentelemetry-api",
    "opentelemetry-exporter-otlp-proto-http", "opentelemetry-sdk", "orjson", "python-json-logger",
    "sentry-sdk", "structlog",
)  # fmt: skip
_ROUNDS = 25
_QUICK_ROUNDS = 1


def main() -> None:
    """Measure, print each figure when it is there, write the file."""
    options = _options()
    figures = {}
    known = {**FIGURES, **LONG_FIGURES}
    for name in options.only or (known if options.long else FIGURES):
        figures[name] = known[name](options.rounds)
        print(figures[name].as_text(name), flush=True)
    options.output.write_text(json.dumps(_document(figures), indent=2) + "\n", encoding="utf-8")
    print(f"written to {options.output}")


def _document(figures: Mapping[str, Figure]) -> dict[str, Any]:
    return {
        "versions": {
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            **{package: version(package) for package in _PACKAGES},
        },
        "platform": f"{platform.system()} {platform.machine()}",
        "figures": {name: figure.as_json() for name, figure in figures.items()},
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rounds", type=_positive, default=None, help=f"of each figure, {_ROUNDS} by default"
    )
    parser.add_argument(
        "--quick", action="store_true", help="one round: to see that it works, not to believe"
    )
    parser.add_argument("--long", action="store_true", help="also the figures that take minutes")
    parser.add_argument(
        "--only", action="append", choices=[*FIGURES, *LONG_FIGURES], help="this figure; may be repeated"
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results.json"))
    options = parser.parse_args()
    if options.rounds is None:
        options.rounds = _QUICK_ROUNDS if options.quick else _ROUNDS
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        message = f"{number} is not a positive number"
        raise argparse.ArgumentTypeError(message)
    return number


if __name__ == "__main__":
    main()
