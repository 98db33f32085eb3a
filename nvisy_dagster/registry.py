"""Entry points -> components. Names are known at once, modules are imported when asked for.

A connector is registered as `nvisy.connectors: NAME = "module"`, an action as
`nvisy.actions: NAME = "module"`; the module's public component classes of that name are the
connector's source and sink, or the action.
"""

import importlib
import importlib.util
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from nvisy_dagster.sdk import BaseAction, Component, ConfigError, Connection, Router, Sink, Source

CONNECTORS = "nvisy.connectors"
ACTIONS = "nvisy.actions"


@dataclass(frozen=True)
class Connector:
    """One system: how to reach it, read it and write it."""

    name: str
    source: type[Source[Any, Any]] | None
    sink: type[Sink[Any]] | None

    @property
    def connection_type(self) -> type[Connection] | None:
        """The connection that its source and sink share."""
        component = self.source or self.sink
        return component.connection_type if component else None


class Registry:
    """The components of one installation.

    Args:
        connectors: Name -> entry point of the connector's module.
        actions: Name -> entry point of the action's module.
    """

    def __init__(
        self, connectors: Mapping[str, EntryPoint], actions: Mapping[str, EntryPoint]
    ) -> None:
        self._connectors = connectors
        self._actions = actions
        self._loaded_connectors: dict[str, Connector] = {}
        self._loaded_actions: dict[str, type[BaseAction[Any] | Router[Any]]] = {}

    @classmethod
    def from_entry_points(cls) -> "Registry":
        """The registry of everything that is installed.

        Raises:
            ConfigError: Two distributions register one name.
        """
        return cls(_unique(CONNECTORS), _unique(ACTIONS))

    @cached_property
    def connectors(self) -> list[str]:
        """Names of the installed connectors, sorted."""
        return sorted(self._connectors)

    @cached_property
    def actions(self) -> list[str]:
        """Names of the installed actions, sorted."""
        return sorted(self._actions)

    def connector(self, name: str) -> Connector:
        """The connector of this name.

        Raises:
            KeyError: No such connector is installed.
            ConfigError: Its module is broken.
        """
        if name not in self._loaded_connectors:
            module = _load(self._connectors[name])
            found = list(_components(module, name))
            self._loaded_connectors[name] = Connector(
                name=name,
                source=_only(Source, found, module),
                sink=_only(Sink, found, module),
            )
        return self._loaded_connectors[name]

    def action(self, name: str) -> type[BaseAction[Any] | Router[Any]]:
        """The action of this name.

        Raises:
            KeyError: No such action is installed.
            ConfigError: Its module is broken.
        """
        if name not in self._loaded_actions:
            module = _load(self._actions[name])
            found = list(_components(module, name))
            action = _only(BaseAction, found, module) or _only(Router, found, module)
            if action is None:
                raise ConfigError(f"module {module.__name__} has no action named {name!r}")
            self._loaded_actions[name] = action
        return self._loaded_actions[name]

    def connection_types(self) -> dict[str, type[Connection]]:
        """Every connection type by its name, of connectors and of actions alike."""
        types: dict[str, type[Connection]] = {}
        for name in self.connectors:
            if kind := self.connector(name).connection_type:
                types[kind.type] = kind
        for name in self.actions:
            if kind := self.action(name).connection_type:
                types[kind.type] = kind
        return types


@cache
def installed() -> Registry:
    """The registry of this process, read once."""
    return Registry.from_entry_points()


def missing_modules(component: type[Component[Any]]) -> list[str]:
    """Modules that the component requires and that are not installed."""
    return [name for name in component.requires if importlib.util.find_spec(name) is None]


def _unique(group: str) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        # One distribution may be seen twice, through two paths; only a rival is an error.
        if point.name in found and found[point.name].value != point.value:
            raise ConfigError(
                f"{group} {point.name!r} is registered twice: "
                f"{found[point.name].value} and {point.value}",
                remedy="uninstall one of the two distributions",
            )
        found[point.name] = point
    return found


def _load(point: EntryPoint) -> ModuleType:
    try:
        return importlib.import_module(point.module)
    except Exception as error:
        raise ConfigError(
            f"{point.group} {point.name!r} cannot be imported from {point.module}: "
            f"{type(error).__name__}: {error}",
            remedy="install the extra that it belongs to, or uninstall its distribution",
        ) from error


def _components(module: ModuleType, name: str) -> Iterable[type[Component[Any]]]:
    for attribute, value in vars(module).items():
        if (
            not attribute.startswith("_")
            and inspect.isclass(value)
            and issubclass(value, Component)
            and not inspect.isabstract(value)
            and getattr(value, "name", None) == name
        ):
            yield value


def _only(kind: Any, found: list[type[Component[Any]]], module: ModuleType) -> Any:  # noqa: ANN401
    matches = [component for component in found if issubclass(component, kind)]
    if len(matches) > 1:
        names = ", ".join(component.__name__ for component in matches)
        raise ConfigError(f"module {module.__name__} has more than one {kind.__name__}: {names}")
    return matches[0] if matches else None
