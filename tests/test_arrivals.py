"""A module is welcomed once, when it is imported; nobody imports it for that."""

from __future__ import annotations

import importlib
import sys

import pytest

from dltobs._arrivals import Arrival


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module that can be imported."""
    (tmp_path / "newcomer_of_a_test.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "newcomer_of_a_test"
    sys.modules.pop("newcomer_of_a_test", None)


def test_it_is_welcomed_when_it_is_imported_and_once(module):
    seen = []
    arrival = Arrival(module, lambda one: seen.append(one.VALUE))
    arrival.await_()
    assert seen == []
    assert module not in sys.modules
    found = importlib.import_module(module)
    importlib.import_module(module)
    assert seen == [1]
    assert arrival not in sys.meta_path
    assert not type(found.__loader__).__module__.startswith("dltobs")
    assert found.__spec__.loader is found.__loader__


def test_one_that_is_there_is_welcomed_at_once(module):
    importlib.import_module(module)
    seen = []
    arrival = Arrival(module, seen.append)
    arrival.await_()
    assert seen == [sys.modules[module]]
    assert arrival not in sys.meta_path


def test_two_may_wait_for_the_same(module):
    seen = []
    for name in ("first", "second"):
        Arrival(module, lambda _, name=name: seen.append(name)).await_()
    importlib.import_module(module)
    assert sorted(seen) == ["first", "second"]


def test_whoever_has_cancelled_hears_nothing(module):
    seen = []
    arrival = Arrival(module, seen.append)
    arrival.await_()
    arrival.cancel()
    importlib.import_module(module)
    assert seen == []


def test_a_module_that_does_not_exist_is_still_not_found():
    arrival = Arrival("no_such_module_of_a_test", lambda _: None)
    arrival.await_()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("no_such_module_of_a_test")
    assert arrival not in sys.meta_path
