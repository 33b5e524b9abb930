"""Where the process runs is on every event."""

from __future__ import annotations

import os
import subprocess

import dlt
import pytest
from dlt.pipeline.exceptions import PipelineStepFailed

import dltobs
from conftest import SECRET
from dltobs.sinks import sentry_tags


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch):
    """Neither on GitHub nor on Kubernetes, and built by nobody."""
    for name in list(os.environ):
        if name.startswith(("GITHUB_", "KUBE", "POD_", "NODE_NAME", "HEROKU_", "CI_COMMIT", "COMMIT_SHA")):
            monkeypatch.delenv(name)


@pytest.fixture
def event(sentry, pipeline):
    """Makes a pipeline fail and gives the event."""

    @dlt.resource
    def broken():
        yield {"id": 1}
        raise ValueError("no such order")

    def make(**settings):
        dltobs.configure(sentry_dsn=sentry.dsn, **settings)
        with pytest.raises(PipelineStepFailed):
            pipeline().run(broken())
        dltobs.shutdown()
        return sentry.events[-1]

    return make


def test_versions_are_tags_and_nothing_else_is_made_up(event):
    tags = event()["tags"]
    assert tags["dlt.version"] == dlt.__version__
    assert tags["dltobs.version"] == dltobs.__version__
    assert not [name for name in tags if name.startswith(("k8s", "github"))]


def test_kubernetes_has_its_pod_namespace_and_node(monkeypatch, event):
    """Under the variables that dlt reads."""
    monkeypatch.setenv("KUBE_POD_NAME", "shop-1")
    monkeypatch.setenv("KUBE_POD_NAMESPACE", "data")
    monkeypatch.setenv("KUBE_NODE_NAME", "node-7")
    tags = event()["tags"]
    assert tags["k8s.pod.name"] == "shop-1"
    assert tags["k8s.namespace.name"] == "data"
    assert tags["k8s.node.name"] == "node-7"


def test_a_pod_that_says_nothing_is_known_by_what_every_pod_has(monkeypatch, tmp_path):
    """Its host name is that of the pod; the namespace lies beside the token of its account."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("HOSTNAME", "shop-29-abcde")
    (tmp_path / "namespace").write_text("data\n")
    monkeypatch.setattr(sentry_tags, "_NAMESPACE_FILE", tmp_path / "namespace")
    tags = sentry_tags.process_tags()
    assert tags["k8s.pod.name"] == "shop-29-abcde"
    assert tags["k8s.namespace.name"] == "data"
    monkeypatch.setattr(sentry_tags, "_NAMESPACE_FILE", tmp_path / "missing")
    assert "k8s.namespace.name" not in sentry_tags.process_tags()


def test_a_host_name_alone_is_no_pod(monkeypatch):
    monkeypatch.setenv("HOSTNAME", "laptop")
    assert "k8s.pod.name" not in sentry_tags.process_tags()


def test_github_has_repository_run_and_url(monkeypatch, event):
    monkeypatch.setenv("GITHUB_REPOSITORY", "shop/loads")
    monkeypatch.setenv("GITHUB_RUN_ID", "17")
    monkeypatch.setenv("GITHUB_WORKFLOW", "nightly")
    monkeypatch.setenv("GITHUB_SHA", "f00d" * 10)
    made = event()
    assert made["tags"]["github.repository"] == "shop/loads"
    assert made["tags"]["github.run_id"] == "17"
    assert made["tags"]["github.workflow"] == "nightly"
    assert made["tags"]["github.run_url"] == "https://github.com/shop/loads/actions/runs/17"
    assert made["release"] == "f00d" * 10


def test_a_release_that_is_set_wins_and_without_one_there_is_none(monkeypatch, event):
    """No process is started to ask git."""

    def never(*args, **kwargs):
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", never)
    assert "release" not in event()
    monkeypatch.setenv("GITHUB_SHA", "f00d" * 10)
    assert event(sentry_release="1.2")["release"] == "1.2"


def test_tags_of_the_user_are_given_the_form_that_sentry_takes(event):
    """Else Sentry drops them in silence."""
    tags = event(tags={"team name": "data\nops", "x" * 40: "y" * 300, "empty": ""})["tags"]
    assert tags["team_name"] == "data ops"
    assert tags["x" * 32] == "y" * 200
    assert "empty" not in tags


def test_a_secret_at_the_length_where_sentry_cuts_is_not_cut_in_half(event, monkeypatch, sentry):
    monkeypatch.setenv("SHOP__API_KEY", SECRET)
    assert dlt.secrets["shop.api_key"] == SECRET
    dltobs.configure(sentry_dsn=sentry.dsn)
    assert dlt.secrets["shop.api_key"] == SECRET  # resolved, and so known
    tags = event(tags={"note": "a" * 190 + SECRET, "b" * 20 + SECRET: "yes"})["tags"]
    assert tags["note"] == "a" * 190 + "***"
    assert not any(SECRET[:6] in f"{name}{value}" for name, value in tags.items())
