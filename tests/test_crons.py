"""What Sentry takes for a monitor is checked in `configure()`."""

from __future__ import annotations

import re

import pytest

import dltobs
from dltobs import _state
from dltobs._settings import crons

DSN = "http://publickey00@127.0.0.1:9/42"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0 3 * * *", "0 3 * * *"),
        ("  */15   0-6,20  1,15 jan-MAR mon-fri ", "*/15 0-6,20 1,15 jan-MAR mon-fri"),
        ("5/10 * * * 7", "5/10 * * * 7"),
        ("0 0 L * *", "0 0 L * *"),
        ("0 9 * * 1#1", "0 9 * * 1#1"),
        ("0 0 29 2 *", "0 0 29 2 *"),
        ("@daily", "0 0 * * *"),
        ("@Hourly", "0 * * * *"),
    ],
)
def test_a_crontab_line_is_taken_with_single_spaces(line, expected):
    assert crons.schedule(line) == expected


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("0 3 * *", "4 fields"),
        ("0 0 3 * * *", "6 fields"),
        ("@reboot", "1 fields"),
        ("60 3 * * *", "minute is not within 0 to 59"),
        ("0 24 * * *", "hour is not within 0 to 23"),
        ("0 3 0 * *", "day of the month is not within 1 to 31"),
        ("0 3 * 13 *", "month is not within 1 to 12"),
        ("0 3 * * 8", "day of the week is not within 0 to 7"),
        ("0 3 * * fry", "day of the week is malformed"),
        ("0 5-3 * * *", "hour is not within"),
        ("*/0 3 * * *", "minute is not within"),
        ("0, 3 * * *", "5 fields|4 fields|minute is malformed"),
        ("0,,5 3 * * *", "minute is malformed"),
        ("*-5 3 * * *", "minute is malformed"),
        ("٣ 3 * * *", "minute is malformed"),
        ("0 0 31 2,4 *", "no such month has that day"),
    ],
)
def test_a_crontab_line_that_sentry_would_drop_is_refused(line, problem):
    with pytest.raises(ValueError, match=problem):
        crons.schedule(line)


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("shop", "shop"),
        ("Shop Orders/2", "shop-orders-2"),
        ("__shop__", "shop"),
        ("2026", "pipeline-2026"),
    ],
)
def test_the_name_of_a_pipeline_becomes_a_slug(name, slug):
    assert crons.slugified(name) == slug
    assert crons.monitor(slug) == slug


def test_names_that_a_slug_cannot_show_stay_apart():
    """One pipeline's check-ins would hide that another one never ran."""
    names = ["日本語", "データ", "Ünïcödé", "ünïcödê", "///", "__", "shop_données"]
    slugs = [crons.slugified(name) for name in names]
    assert len(set(slugs)) == len(names)
    assert slugs == [crons.monitor(slug) for slug in slugs]
    assert slugs[-1].startswith("shop_donn-es-")


def test_long_names_stay_apart():
    """Sentry cuts a slug after 50 characters."""
    first, second = (crons.slugified("orders_of_the_shop_" * 5 + end) for end in ("a", "b"))
    assert first != second
    assert len(first) == len(second) == 50
    assert crons.monitor(first) == first


@pytest.mark.parametrize("slug", ["Nightly", "a b", "2026", "-" * 51, "naïve", ""])
def test_a_slug_that_sentry_does_not_take_is_refused(slug):
    if slug == "2026":
        assert crons.monitor("1") is True
    with pytest.raises(ValueError):
        crons.monitor(slug)


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("sentry_monitor", "Nightly Shop", "a slug such as nightly-shop"),
        ("sentry_monitor_schedule", "every night", "crontab line of five fields"),
        ("sentry_monitor_max_runtime", 0, "1 to 10080"),
        ("sentry_monitor_max_runtime", 10_081, "1 to 10080"),
        ("sentry_monitor_margin", "soon", "1 to 40320"),
        ("sentry_monitor_timezone", "Middle/Earth", "time zone such as Europe/Berlin"),
        ("sentry_monitor_timezone", "../etc/passwd", "time zone such as Europe/Berlin"),
        ("sentry_monitor_timezone", "America", "time zone such as Europe/Berlin"),
    ],
)
def test_configure_refuses_it_and_says_what_is_expected(setting, value, expected):
    settings = {"sentry_monitor": True, "sentry_monitor_schedule": "@daily", setting: value}
    with pytest.raises(dltobs.ConfigurationError, match=re.escape(expected)) as info:
        dltobs.configure(sentry_dsn=DSN, **settings)
    assert str(info.value).startswith(f"{setting} (argument of configure())")
    assert _state.runtime is None


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({"sentry_monitor_schedule": "@daily"}, "sentry_monitor beside it"),
        ({"sentry_monitor": True, "sentry_monitor_margin": 5}, "sentry_monitor_schedule beside it"),
        ({"sentry_monitor": True, "sentry_monitor_max_runtime": 5}, "sentry_monitor_schedule beside it"),
        ({"sentry_monitor": True, "sentry_monitor_timezone": "UTC"}, "sentry_monitor_schedule beside it"),
    ],
)
def test_what_would_do_nothing_is_refused(settings, missing):
    with pytest.raises(dltobs.ConfigurationError, match=missing):
        dltobs.configure(sentry_dsn=DSN, **settings)


def test_a_monitor_that_is_switched_off_may_keep_its_schedule(monkeypatch):
    """As in development, where the configuration file is the same."""
    monkeypatch.setenv("DLTOBS__SENTRY_MONITOR", "false")
    dltobs.configure(sentry_dsn=DSN, sentry_monitor_schedule="@daily", sentry_monitor_margin=5)
    assert _state.runtime is not None
    assert _state.runtime.settings.sentry_monitor is False


def test_the_environment_has_them_as_well(monkeypatch):
    monkeypatch.setenv("DLTOBS__SENTRY_MONITOR", "nightly-shop")
    monkeypatch.setenv("DLTOBS__SENTRY_MONITOR_SCHEDULE", "0 3 * * *")
    monkeypatch.setenv("DLTOBS__SENTRY_MONITOR_MAX_RUNTIME", "90")
    monkeypatch.setenv("DLTOBS__SENTRY_MONITOR_MARGIN", "10")
    monkeypatch.setenv("DLTOBS__SENTRY_MONITOR_TIMEZONE", "Europe/Berlin")
    dltobs.configure()
    assert _state.runtime is not None
    settings = _state.runtime.settings
    assert settings.sentry_monitor == "nightly-shop"
    assert settings.sentry_monitor_schedule == "0 3 * * *"
    assert settings.sentry_monitor_max_runtime == 90
    assert settings.sentry_monitor_margin == 10
    assert settings.sentry_monitor_timezone == "Europe/Berlin"
