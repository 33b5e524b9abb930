"""Where the process runs, as Sentry's tags: versions, Kubernetes, GitHub; a release where none is set."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from dltobs._version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

_KEY_LENGTH, _VALUE_LENGTH = 32, 200
"""Sentry drops a tag whose name is longer, and cuts a value."""

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

_RELEASES = (
    # those that sentry_sdk knows; it asks git as well, which would be a process in the user's folder
    "HEROKU_BUILD_COMMIT", "HEROKU_SLUG_COMMIT", "SOURCE_VERSION", "CODEBUILD_RESOLVED_SOURCE_VERSION",
    "CIRCLE_SHA1", "GAE_DEPLOYMENT_ID", "K_REVISION",
    # GitHub, GitLab, and what dlt reads in its own images
    "GITHUB_SHA", "CI_COMMIT_SHA", "COMMIT_SHA",
)  # fmt: skip

_GITHUB = {
    "github.repository": "GITHUB_REPOSITORY",
    "github.run_id": "GITHUB_RUN_ID",
    "github.run_attempt": "GITHUB_RUN_ATTEMPT",
    "github.workflow": "GITHUB_WORKFLOW",
}


def default_release() -> str | None:
    """The commit or revision that the platform names; None where it names none."""
    return _first(*_RELEASES)


def process_tags() -> dict[str, str]:
    """The tags that are the same for every run of this process."""
    from dlt.version import __version__ as dlt_version

    tags = {"dlt.version": dlt_version, "dltobs.version": __version__, **_kubernetes(), **_github()}
    return {name: value for name, value in tags.items() if value}


def tidied(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags with names and values that Sentry takes."""
    return {
        re.sub(r"[^\w.:\-]", "_", name, flags=re.ASCII)[:_KEY_LENGTH]: " ".join(value.split())[:_VALUE_LENGTH]
        for name, value in tags.items()
        if value.strip()
    }


def _first(*variables: str) -> str | None:
    return next((os.environ[name] for name in variables if os.environ.get(name)), None)


def _kubernetes() -> dict[str, str | None]:
    """Pod, namespace and node: from the variables that dlt reads, the usual ones, and what a pod has."""
    is_pod = "KUBERNETES_SERVICE_HOST" in os.environ
    return {
        "k8s.pod.name": _first("KUBE_POD_NAME", "POD_NAME", *(["HOSTNAME"] if is_pod else [])),
        "k8s.namespace.name": _first("KUBE_POD_NAMESPACE", "POD_NAMESPACE")
        or (_namespace() if is_pod else None),
        "k8s.node.name": _first("KUBE_NODE_NAME", "NODE_NAME") if is_pod else _first("KUBE_NODE_NAME"),
    }


def _namespace() -> str | None:
    try:
        return _NAMESPACE_FILE.read_text("utf-8").strip()
    except (OSError, ValueError):  # the pod has no account
        return None


def _github() -> dict[str, str | None]:
    tags = {name: os.environ.get(variable) for name, variable in _GITHUB.items()}
    repository, run = tags["github.repository"], tags["github.run_id"]
    if repository and run:
        server = os.environ.get("GITHUB_SERVER_URL") or "https://github.com"
        tags["github.run_url"] = f"{server}/{repository}/actions/runs/{run}"
    return tags
