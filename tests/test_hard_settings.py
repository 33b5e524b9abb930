"""Settings, log set-ups and ends of runs that are seldom met."""

from __future__ import annotations

import logging
import logging.config
import re
from pathlib import Path

import dlt
import pytest

import dltobs
from dltobs._event_parts import Failure
from dltobs.logs import run_lines
from scripts import run_script


def warnings(caplog):
    return [record.message for record in caplog.records if record.name == "dltobs"]


def test_a_process_without_a_home_folder(monkeypatch):
    """A container with a user id that is in no list."""

    def fail(_self):
        message = "Could not determine home directory."
        raise RuntimeError(message)

    monkeypatch.setattr(Path, "expanduser", fail)
    with pytest.raises(dltobs.ConfigurationError, match=r"log_file.*no home folder is known"):
        dltobs.configure(log_file="~/logs/dlt.jsonl")


def test_a_home_folder_of_nobody():
    with pytest.raises(dltobs.ConfigurationError, match="no home folder is known"):
        dltobs.configure(log_file="~nobody-of-that-name/dlt.jsonl")


def test_a_time_that_no_float_holds():
    with pytest.raises(dltobs.ConfigurationError, match="flush_timeout"):
        dltobs.configure(flush_timeout=10**400)


def test_a_level_in_digits_that_are_none():
    with pytest.raises(dltobs.ConfigurationError, match="expected a level name"):
        dltobs.configure(log_level="²")


@dlt.destination(name="nowhere")
def nowhere(items, table):
    pass


DICT_CONFIG = {"version": 1, "root": {"level": "INFO"}}
"""It disables all loggers that are there, unless it is told not to."""


def test_a_dict_config_before_it_does_not_silence_our_warnings(tmp_path):
    logging.config.dictConfig(DICT_CONFIG)
    assert logging.getLogger("dltobs").disabled
    dltobs.configure(ledger=True, console="off", log_file=str(tmp_path / "dlt.jsonl"))
    dlt.pipeline("shop", destination=nowhere).run([{"id": 1}], table_name="orders")
    assert "runs of shop are not recorded" in (tmp_path / "dlt.jsonl").read_text()


def test_a_dict_config_after_it_does_not_silence_our_warnings(caplog):
    dltobs.configure(ledger=True)
    logging.config.dictConfig(DICT_CONFIG)
    logging.getLogger().addHandler(caplog.handler)
    foreign = logging.getLogger("foreign")
    foreign.disabled = True
    dlt.pipeline("shop", destination=nowhere).run([{"id": 1}], table_name="orders")
    (warning,) = warnings(caplog)
    assert "runs of shop are not recorded" in warning
    assert foreign.disabled


def test_the_line_of_a_run_that_ctrl_c_has_ended_names_it(tmp_path):
    """A `KeyboardInterrupt` has no text."""
    script = """
    import signal, time
    import dltobs
    dltobs.configure(log_level="INFO")

    @dlt.resource
    def orders():
        for number in range(600):
            yield {"id": number}
            if number == 1:
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)

    try:
        pipeline().run(orders())
    except BaseException:
        pass
    """
    ended = run_script(script, tmp_path)
    assert re.search(
        r"Run of shop terminated in extract after \d+\.\d s: KeyboardInterrupt",
        ended.stderr,
    )


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ("SIGTERM", "KeyboardInterrupt: SIGTERM"),
        ("", "KeyboardInterrupt"),
        (" \n", "KeyboardInterrupt"),
        ("first\nsecond", "KeyboardInterrupt: first second"),
        ("x" * 1000, f"KeyboardInterrupt: {'x' * 300}…"),
    ],
)
def test_what_has_ended_a_run_is_told_in_a_few_words(message, named):
    failure = Failure("extract", "KeyboardInterrupt", message, terminal=False, chain=(), stacktrace="")
    assert run_lines._cause_of(failure) == named
