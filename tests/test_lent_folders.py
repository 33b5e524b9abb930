"""Folders of which each is lent to one process or thread at a time."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import threading
import time

import dlt
import pytest

from dltobs._aside import LeftWaitingError, Target, load_aside
from dltobs._lent_folders import lent, sweep

HOLDER = """
import sys
from pathlib import Path
from dltobs._lent_folders import lent
with lent([Path(sys.argv[1])]) as folder:
    print(folder.name, flush=True)
    sys.stdin.read()
"""


def holder(root):
    """Another process that has a folder until its input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_nobody_gets_what_another_process_has(tmp_path):
    with holder(tmp_path) as other:
        assert other.stdout.readline() == "0\n"
        with lent([tmp_path]) as folder:
            assert folder == tmp_path / "1"
        other.stdin.close()
    with lent([tmp_path]) as folder:
        assert folder == tmp_path / "0"


def test_what_a_dead_process_had_is_lent_again_and_first(tmp_path):
    """Work may have been left in it."""
    with lent([tmp_path]), holder(tmp_path) as other:
        assert other.stdout.readline() == "1\n"
        other.send_signal(signal.SIGKILL)
        other.wait()
    with lent([tmp_path]) as folder:
        assert folder == tmp_path / "1"
    with lent([tmp_path]) as folder:
        assert folder == tmp_path / "0"


def test_after_a_loan_that_ended_badly_it_is_lent_first(tmp_path):
    def fail():
        with lent([tmp_path]), lent([tmp_path]) as folder:
            assert folder.name == "1"
            raise ConnectionError

    with pytest.raises(ConnectionError):
        fail()
    with lent([tmp_path]) as first, lent([tmp_path]) as second:
        assert sorted((first.name, second.name)) == ["0", "1"]
    with lent([tmp_path]) as folder:
        assert folder == tmp_path / "0"


def test_a_child_that_was_forked_meanwhile_does_not_keep_it(tmp_path):
    with lent([tmp_path]):
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
    try:
        with lent([tmp_path]) as folder:
            assert folder == tmp_path / "0"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_where_a_root_cannot_be_written_the_next_one_is_taken(tmp_path):
    (tmp_path / "file").touch()
    first, second = tmp_path / "file" / "a", tmp_path / "second" / "ledger" / "shop"
    with lent([first, second]) as folder:
        assert folder == second / "0"
    assert {stat.S_IMODE(path.stat().st_mode) for path in (second, *second.parents[:2])} == {0o700}
    with pytest.raises(OSError, match="file"), lent([first]):
        pass


def test_there_is_an_end_to_the_number_of_folders(tmp_path):
    def borrow(count):
        if count:
            with lent([tmp_path]):
                borrow(count - 1)

    borrow(32)
    with pytest.raises(OSError, match="too many"):
        borrow(33)


def test_what_nobody_has_used_for_a_long_time_goes(tmp_path):
    """And nothing that is not a root."""
    for name in ("old", "new"):
        with lent([tmp_path / name]) as folder:
            folder.mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "file").touch()
    os.utime(tmp_path / "old" / "0.lock", (time.time() - 100 * 86_400,) * 2)
    os.utime(tmp_path / "foreign", (0, 0))
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "foreign", "new"]
    sweep(tmp_path / "missing")


def test_pipelines_of_ours_at_once_lose_and_double_nothing(tmp_path, pipeline):
    """Of one name, into one destination: each works in a folder of its own.

    What the destination does not take while several make the dataset waits for the next loan of the folder.
    """
    shop = pipeline()
    bucket = dlt.destinations.filesystem((tmp_path / "bucket").as_uri())
    tables = {"notes": {"columns": {"id": {"name": "id", "data_type": "bigint"}}}}
    results = []

    def work(number):
        for row in range(3):
            with contextlib.suppress(LeftWaitingError), lent([tmp_path / "root"]) as folder:
                target = Target("shop", str(folder), "data", bucket, None, None, shop.config)
                rows = {"notes": [{"id": 10 * number + row}]}
                results.append(load_aside(target, "notes", "notes_data", tables, rows, 2))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    turns = 4
    while turns < 10 and any(lock.stat().st_size for lock in (tmp_path / "root").glob("*.lock")):
        work(turns)
        turns += 1
    expected = 3 * turns
    assert sum(one.loaded for one in results) == expected
    assert not any(one.failed for one in results)
    files = (tmp_path / "bucket" / "notes_data" / "notes").iterdir()
    assert sum(file.stat().st_size > 0 for file in files) == expected
