"""Sets dltobs up in the processes of Prefect's `ProcessPoolTaskRunner`, which have nothing of their parent.

Exporters, log handlers, secrets and the trace of the flow come with the function that runs the task.
"""

from __future__ import annotations

import functools
import pickle
from typing import TYPE_CHECKING, Any, NamedTuple

from dltobs import _state
from dltobs._arrivals import Arrival
from dltobs._context.environment import context_of
from dltobs._redaction.redactor import Redactor
from dltobs._settings.settings import FIELDS, Settings
from dltobs._warnings import Warner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextvars import Token
    from types import ModuleType


_MODULE, _FUNCTION = "prefect.task_runners", "_run_task_in_subprocess"


class Luggage(NamedTuple):
    """What goes with a task: settings, pickled one by one, the secrets that are known by then, and the trace
    context of flow runs, by their id.
    """  # noqa: D205 - one sentence

    settings: dict[str, bytes]
    secrets: frozenset[str]
    traces: dict[str, dict[str, str]]


class TaskProcesses:
    """Follows Prefect's sending of tasks to processes.

    Args:
        settings: What the processes are to be like.
        redactor: Knows the secrets.
        warner: Told of what goes wrong.
        traces: The trace context of flow runs.
    """

    def __init__(
        self, settings: Settings, redactor: Redactor, warner: Warner, traces: Mapping[str, dict[str, str]]
    ) -> None:
        self._traces = traces
        self._settings = settings
        self._redactor = redactor
        self._warner = warner
        self._arrival = Arrival(_MODULE, self._wrap)
        self._module: Any = None
        self._carrier: Carrier | None = None

    def attach(self) -> None:
        """Exchange the function, now or when Prefect imports its task runners."""
        self._arrival.await_()

    def detach(self) -> None:
        """Put Prefect's function back, unless somebody has replaced ours."""
        self._arrival.cancel()
        if self._carrier is not None and vars(self._module).get(_FUNCTION) is self._carrier:
            setattr(self._module, _FUNCTION, self._carrier.original)
        self._carrier = None

    def luggage(self) -> Luggage | None:
        """What the next task takes along; None where that fails, and the process is left as it is."""
        try:
            settings = {name: getattr(self._settings, name) for name in (*FIELDS, "sinks", "trace_exporters")}
            pickled = {name: raw for name, value in settings.items() if (raw := self._pickled(name, value))}
            return Luggage(pickled, self._redactor.values, dict(self._traces))
        except Exception as error:  # noqa: BLE001 - the task runs all the same
            self._warner.internal_error("prefect task processes", error)
            return None

    def _wrap(self, module: ModuleType) -> None:
        original = getattr(module, _FUNCTION, None)
        if original is not None:
            self._module, self._carrier = module, Carrier(original, self)
            setattr(module, _FUNCTION, self._carrier)

    def _pickled(self, name: str, value: object) -> bytes | None:
        try:
            return pickle.dumps(value)
        except Exception:  # noqa: BLE001 - whatever its class is, it cannot be sent
            self._warner.warn(
                f"prefect task processes, {name}",
                f"the setting {name} cannot be sent to task processes (an object of it cannot be pickled); "
                "they use its default",
            )
            return None


class Carrier:
    """Stands for Prefect's function; pickled, it becomes the same with luggage."""

    def __init__(self, original: Callable[..., Any], processes: TaskProcesses) -> None:
        self.original = original
        self._processes = processes
        functools.update_wrapper(self, original)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """In this process: what Prefect does."""
        return self.original(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pack at the moment at which a task is sent."""
        return functools.partial, (run_task, self._processes.luggage())


def run_task(luggage: Luggage | None, *args: Any, **kwargs: Any) -> Any:
    """In the process: set up what the parent has, once, and run the task."""
    if luggage is not None:
        try:
            _unpack(luggage)
        except Exception as error:  # noqa: BLE001 - the task runs all the same
            redactor = Redactor()
            redactor.add(*luggage.secrets)
            Warner(redactor).internal_error("prefect task process", error)
    from prefect import task_runners

    token = _enter_flow(luggage, kwargs.get("context"))
    try:
        # the set-up of this process has put a carrier there, too
        return vars(task_runners)[_FUNCTION](*args, **kwargs)
    finally:
        if token is not None:
            from opentelemetry import context

            context.detach(token)


def _enter_flow(luggage: Luggage | None, serialized: Any) -> Token[Any] | None:
    """Make the span of the flow the current one: Prefect's labels, which name it, do not come along."""
    try:
        flow_run = (serialized or {}).get("flow_run_context", {}).get("flow_run")
        flow_run_id = flow_run.get("id") if isinstance(flow_run, dict) else getattr(flow_run, "id", None)
        carrier = {} if luggage is None else luggage.traces.get(str(flow_run_id), {})
        if not carrier:
            return None
        from opentelemetry import context

        return context.attach(context_of(carrier))
    except Exception as error:  # noqa: BLE001 - the task runs all the same
        Warner(_state.current_redactor()).internal_error("prefect task process", error)
        return None


def _unpack(luggage: Luggage) -> None:
    from dltobs import _runtime  # this is a process in which nothing runs yet

    # a `configure()` at the top of the user's script has run here as well, and counts
    if _state.runtime is None:
        values = dict(_unpickled(luggage.settings))
        sources = dict.fromkeys(values, "the process of the flow")
        settings = Settings(**values, sources=sources)
        _runtime.set_up(lambda _: settings)
    _state.current_redactor().add(*luggage.secrets)


def _unpickled(settings: Mapping[str, bytes]) -> Iterator[tuple[str, Any]]:
    for name, raw in settings.items():
        try:
            yield name, pickle.loads(raw)  # noqa: S301 - our own parent wrote it
        except Exception as error:  # noqa: BLE001 - a class that the process does not have; the default serves
            Warner(Redactor()).internal_error(f"prefect task process, setting {name}", error)
