"""The wake-up descriptor is shared: with what was there before, and with what comes later."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import time
from typing import TYPE_CHECKING

import pytest

from dltobs._process.wakeup import WakeupDescriptor, close, pipe, readable

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def descriptor() -> Iterator[WakeupDescriptor]:
    before = signal.set_wakeup_fd(-1)
    handler = signal.signal(signal.SIGUSR1, lambda *args: None)
    one = WakeupDescriptor()
    yield one
    signal.set_wakeup_fd(-1)
    one.close()
    signal.signal(signal.SIGUSR1, handler)
    signal.set_wakeup_fd(before)


def receive() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)
    time.sleep(0.01)


def test_it_reads_the_numbers_of_signals(descriptor):
    descriptor.attach()
    receive()
    assert descriptor.read() == bytes([signal.SIGUSR1])
    assert descriptor.read() == b""


def test_what_was_there_before_gets_the_numbers_too(descriptor):
    """And is put back in the end."""
    ends = pipe()
    signal.set_wakeup_fd(ends[1])
    descriptor.attach()
    receive()
    descriptor.read()
    assert os.read(ends[0], 8) == bytes([signal.SIGUSR1])
    descriptor.detach()
    assert signal.set_wakeup_fd(-1) == ends[1]
    close(*ends)


def test_a_number_that_is_used_again_is_another_descriptor(descriptor, tmp_path):
    """Nothing is written to a file that happens to have it now."""
    ends = pipe()
    signal.set_wakeup_fd(ends[1])
    descriptor.attach()
    with (tmp_path / "file").open("wb", buffering=0) as file:
        os.dup2(file.fileno(), ends[1])
        receive()
        descriptor.read()
        descriptor.detach()
    assert (tmp_path / "file").read_bytes() == b""
    assert signal.set_wakeup_fd(-1) == -1
    close(*ends)


def test_it_is_taken_back_only_from_nobody(descriptor):
    """asyncio leaves nothing behind; what an application has set later stays."""
    descriptor.attach()
    signal.set_wakeup_fd(-1)
    descriptor.take_back()
    receive()
    assert descriptor.read() == bytes([signal.SIGUSR1])
    ends = pipe()
    signal.set_wakeup_fd(ends[1])
    descriptor.take_back()
    descriptor.detach()
    assert signal.set_wakeup_fd(-1) == ends[1]
    close(*ends)


def test_it_does_without_sockets(monkeypatch):
    """Test suites forbid them."""

    def refused(*_):
        raise RuntimeError("no sockets in tests")

    monkeypatch.setattr("socket.socketpair", refused)
    before = signal.set_wakeup_fd(-1)
    handler = signal.signal(signal.SIGUSR1, lambda *_: None)
    one = WakeupDescriptor()
    try:
        one.attach()
        receive()
        assert one.read() == bytes([signal.SIGUSR1])
        one.detach()
    finally:
        one.close()
        signal.signal(signal.SIGUSR1, handler)
        signal.set_wakeup_fd(before)


def test_it_is_waited_for_without_poll(monkeypatch):
    """eventlet takes it away."""
    monkeypatch.delattr("select.poll")
    low, writer = pipe()
    try:
        assert readable(0.01, low) == set()
        os.write(writer, b"1")
        assert readable(None, low) == {low}
    finally:
        close(low, writer)


def test_descriptors_of_any_number_are_waited_for():
    """A server may have a thousand files open before."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit[1] != resource.RLIM_INFINITY and limit[1] < 1200:
        pytest.skip("so many files may not be opened here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit[0], 1200), limit[1]))
    low, writer = pipe()
    high = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 1100)
    try:
        assert readable(0.01, high) == set()
        os.write(writer, b"1")
        assert readable(None, high) == {high}
    finally:
        close(low, writer, high)
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
