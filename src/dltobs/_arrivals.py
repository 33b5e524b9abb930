"""Tells when a module has been imported, without importing it."""

from __future__ import annotations

import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    Welcome = Callable[[ModuleType], None]


class Arrival(MetaPathFinder):
    """Calls back once, with a module that is there already or as soon as it is imported.

    Args:
        name: Of the module, in full.
        welcome: Called with it; it must not raise, or the import fails.
    """

    def __init__(self, name: str, welcome: Welcome) -> None:
        self._name = name
        self._welcome = welcome

    def await_(self) -> None:
        """Begin to wait."""
        module = sys.modules.get(self._name)
        if module is not None:
            self._welcome(module)
        else:
            sys.meta_path.insert(0, self)

    def cancel(self) -> None:
        """Wait no more."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - the protocol's
        target: ModuleType | None = None,  # noqa: ARG002 - the protocol's
    ) -> ModuleSpec | None:
        """Have the other finders find it, and hear of its execution."""
        if fullname != self._name:
            return None
        self.cancel()  # before we ask the others: we are one of them
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Listening(spec.loader, self._welcome)
        return spec


class _Listening(Loader):
    """A loader that passes everything on, and says when the module has been executed."""

    def __init__(self, loader: Loader, welcome: Welcome) -> None:
        self._loader = loader
        self._welcome = welcome

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """As the loader does; then tell."""
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._welcome(module)
