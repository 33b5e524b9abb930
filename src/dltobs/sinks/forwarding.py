"""The meter provider that dltobs sets globally: instruments that stay while what is behind them changes.

OpenTelemetry lets a global provider be set once a process, and a reader cannot be taken off one. So ours
makes nothing itself: each set-up puts a provider of the SDK behind it, with counters that begin at zero, and
takes it away in the end. Instruments that other libraries have made go along.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import Counter, Histogram, Meter, MeterProvider, UpDownCounter

from dltobs._process.fork_safe import fork_safe

if TYPE_CHECKING:
    from collections.abc import Callable


class OwnMeterProvider(MeterProvider):
    """The provider of dltobs, to be known again by its class."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._meters: dict[tuple[Any, ...], _Meter] = {}
        self.inner: MeterProvider | None = None
        fork_safe(self)

    def get_meter(
        self,
        name: str,
        version: str | None = None,
        schema_url: str | None = None,
        attributes: Any = None,
    ) -> Meter:
        """A meter whose instruments forward to what is behind the provider at the time."""
        arguments = (name, version, schema_url, *(() if attributes is None else (attributes,)))
        key = (name, version, schema_url, tuple(sorted((attributes or {}).items(), key=str)))
        with self._lock:
            if key not in self._meters:
                meter = _Meter(name, lambda provider: provider.get_meter(*arguments), self._lock)
                meter.bind(self.inner)
                self._meters[key] = meter
            return self._meters[key]

    def _at_fork_reinit(self) -> None:
        """In a forked child: let go of the parent's provider, whose locks threads of the parent may hold."""
        self._lock._at_fork_reinit()  # type: ignore[attr-defined]  # noqa: SLF001 - all meters share it
        self.switch(None)

    def switch(self, inner: MeterProvider | None) -> None:
        """Put another provider behind all instruments; None: what they are told is forgotten."""
        with self._lock:
            self.inner = inner
            for meter in self._meters.values():
                meter.bind(inner)


class _Instrument:
    """Forwards to an instrument of the provider that is in force."""

    def __init__(self, make: Callable[[Meter], Any]) -> None:
        self._make = make
        self._inner: Any = None

    def bind(self, meter: Meter | None) -> None:
        self._inner = None if meter is None else self._make(meter)

    def add(self, *args: Any, **kwargs: Any) -> None:
        inner = self._inner
        if inner is not None:
            inner.add(*args, **kwargs)

    def record(self, *args: Any, **kwargs: Any) -> None:
        inner = self._inner
        if inner is not None:
            inner.record(*args, **kwargs)

    def set(self, *args: Any, **kwargs: Any) -> None:
        inner = self._inner
        if inner is not None:
            inner.set(*args, **kwargs)


class _Counter(_Instrument, Counter):
    """A counter that forwards."""


class _UpDownCounter(_Instrument, UpDownCounter):
    """A counter that goes down, too."""


class _Histogram(_Instrument, Histogram):
    """A histogram that forwards."""


class _Meter(Meter):
    """A meter that remembers what was asked of it, and asks it again of each new provider.

    An instrument that is asked for twice is the same one, as the SDK has it.
    """

    def __init__(self, name: str, make: Callable[[MeterProvider], Meter], lock: threading.RLock) -> None:
        super().__init__(name)
        self._make = make
        self._lock = lock
        self._inner: Meter | None = None
        self._instruments: dict[tuple[str, str], _Instrument] = {}

    def bind(self, provider: MeterProvider | None) -> None:
        self._inner = None if provider is None else self._make(provider)
        for instrument in self._instruments.values():
            instrument.bind(self._inner)

    def _made(self, kind: type[_Instrument], method: str, name: str, *args: Any, **kwargs: Any) -> Any:
        key = method, name.lower()
        with self._lock:
            if key not in self._instruments:
                instrument = kind(lambda meter: getattr(meter, method)(name, *args, **kwargs))
                instrument.bind(self._inner)
                self._instruments[key] = instrument
            return self._instruments[key]

    def create_counter(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """As OpenTelemetry's, like all below."""
        return self._made(_Counter, "create_counter", name, *args, **kwargs)

    def create_up_down_counter(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """A counter that goes down, too."""
        return self._made(_UpDownCounter, "create_up_down_counter", name, *args, **kwargs)

    def create_histogram(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """A histogram."""
        return self._made(_Histogram, "create_histogram", name, *args, **kwargs)

    def create_gauge(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """A gauge that is set."""
        return self._made(_Instrument, "create_gauge", name, *args, **kwargs)

    def create_observable_counter(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """A counter that is asked."""
        return self._made(_Instrument, "create_observable_counter", name, *args, **kwargs)

    def create_observable_up_down_counter(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """A counter that is asked and goes down, too."""
        return self._made(_Instrument, "create_observable_up_down_counter", name, *args, **kwargs)

    def create_observable_gauge(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """A gauge that is asked."""
        return self._made(_Instrument, "create_observable_gauge", name, *args, **kwargs)
