"""Reads which flow run and task run of Prefect the current code belongs to, without importing Prefect."""

from __future__ import annotations

import contextvars
import importlib.util
import sys
from typing import Any, NamedTuple

from dltobs._process.deadline import run_within

_LOOKUP_TIMEOUT = 2.0
"""Seconds, once for each deployment in a process: only the API knows its name."""


class PrefectRun(NamedTuple):
    """Prefect's contexts at one moment; `flow_run` and `task_run` are its own objects, or None."""

    flow: Any
    flow_run: Any
    task: Any
    task_run: Any

    @property
    def flow_run_id(self) -> Any:
        """The id under which Prefect keeps logs and artifacts; None for a task outside of any flow."""
        if self.task_run is not None:
            return self.task_run.flow_run_id
        return None if self.flow_run is None else self.flow_run.id

    @property
    def task_run_id(self) -> Any:
        """Likewise, where it is a task that runs."""
        return None if self.task_run is None else self.task_run.id


def is_installed() -> bool:
    """Whether Prefect could be imported."""
    return "prefect" in sys.modules or importlib.util.find_spec("prefect") is not None


def current_prefect_run() -> PrefectRun | None:
    """The innermost flow or task that is running in the current context; None outside of both."""
    contexts = sys.modules.get("prefect.context")
    # it is there before it has been imported to its end
    if contexts is None or not hasattr(contexts, "TaskRunContext"):
        return None
    flow, task = contexts.FlowRunContext.get(), contexts.TaskRunContext.get()
    flow_run = None if flow is None else flow.flow_run
    if task is not None and flow_run is not None and task.task_run.flow_run_id != flow_run.id:
        task = None  # a flow that a task has called, as in `prefect.context.get_run_context`
    if task is None and flow_run is None:
        return None
    return PrefectRun(
        None if flow is None else flow.flow,
        flow_run,
        None if task is None else task.task,
        None if task is None else task.task_run,
    )


def current_labels() -> dict[str, str]:
    """Names and ids of the current flow, deployment and task; empty outside of Prefect.

    The names are those of Prefect's own telemetry (`prefect.flow.name`, `prefect.flow-run.id`,
    `prefect.deployment.id`), and the rest is formed likewise.
    """
    run = current_prefect_run()
    if run is None:
        return {}
    flow_run, task_run = run.flow_run, run.task_run
    deployment_id = getattr(flow_run, "deployment_id", None)
    found = {
        "prefect.flow.name": getattr(run.flow, "name", None),
        "prefect.flow-run.id": run.flow_run_id,
        "prefect.flow-run.name": getattr(flow_run, "name", None),
        "prefect.deployment.id": deployment_id,
        "prefect.deployment.name": None if deployment_id is None else _deployment_name(deployment_id),
        "prefect.task.name": getattr(run.task, "name", None),
        "prefect.task-run.id": run.task_run_id,
        "prefect.task-run.name": getattr(task_run, "name", None),
    }
    return {name: str(value) for name, value in found.items() if value}


def api_client(timeout: float) -> Any:
    """A client for Prefect's API of our own: that of the flow is closed when the flow ends."""
    from prefect.client.orchestration import get_client

    # settings that differ from those of the flow's client: else we would be given that one
    return get_client(httpx_settings={"timeout": timeout}, sync_client=True)


_deployment_names: dict[Any, str | None] = {}


def _deployment_name(deployment_id: Any) -> str | None:
    if deployment_id not in _deployment_names:
        _deployment_names[deployment_id] = None  # it is asked for once, whatever comes of it

        def look_up() -> None:
            with api_client(_LOOKUP_TIMEOUT) as client:
                _deployment_names[deployment_id] = client.read_deployment(deployment_id).name

        context = contextvars.copy_context()  # Prefect's settings are in it
        run_within(_LOOKUP_TIMEOUT, lambda: context.run(look_up))
    return _deployment_names[deployment_id]
