"""Names -> components, params -> their models."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from nvisy_dagster.compiler.plan import Kind
from nvisy_dagster.compiler.problems import Problems
from nvisy_dagster.graph.connections import NamedConnection
from nvisy_dagster.graph.errors import suggest
from nvisy_dagster.graph.model import ActionNode, BranchNode, Graph, SinkNode, SourceNode
from nvisy_dagster.graph.planned import PLANNED_ACTIONS, PLANNED_CONNECTORS, PLANNED_PROVIDERS
from nvisy_dagster.registry import Registry, missing_modules
from nvisy_dagster.sdk import Component, Connection, Params, Router

BRANCH = "branch"

GraphNode = SourceNode | ActionNode | SinkNode | BranchNode


@dataclass(frozen=True)
class Resolved:
    """One node of the graph with its component."""

    index: int
    node: GraphNode
    kind: Kind
    component_name: str
    component: type[Component[Any]]
    params: Params

    @property
    def connection(self) -> str | None:
        """Name of its connection."""
        return None if isinstance(self.node, BranchNode) else self.node.connection


class Resolver:
    """Resolves the nodes of one graph.

    Args:
        graph: The graph.
        registry: What is installed.
        connections: What is defined; `None` when that is not known while compiling.
        problems: Where mistakes go.
    """

    def __init__(
        self,
        graph: Graph,
        registry: Registry,
        connections: Mapping[str, NamedConnection] | None,
        problems: Problems,
    ) -> None:
        self._graph = graph
        self._registry = registry
        self._connections = connections
        self._problems = problems
        self._missing: dict[type[Component[Any]], list[str]] = {}

    def resolve(self) -> dict[str, Resolved]:
        """Every node that could be resolved, by id; of two with one id the first."""
        found: dict[str, Resolved] = {}
        for index, node in enumerate(self._graph.nodes):
            resolved = self._node(index, node)
            if resolved is not None:
                found.setdefault(node.id, resolved)
        return found

    def _node(self, index: int, node: GraphNode) -> Resolved | None:
        component = self._component(index, node)
        if component is None or not self._installed(index, component):
            return None
        document: Mapping[str, Any]
        where: tuple[str | int, ...] = ("nodes", index)
        if isinstance(node, BranchNode):
            routes = [route.model_dump() for route in node.routes]
            document, name = {"routes": routes, "default": node.default}, BRANCH
        else:
            document, where = node.params, (*where, "params")
            name = node.action if isinstance(node, ActionNode) else node.connector
            self._connection(index, node, component)
        try:
            params = component.params_type.model_validate(document)
        except ValidationError as error:
            self._problems.add_invalid(error, component.params_type, *where)
            return None
        return Resolved(index, node, node.type, name, component, params)

    def _component(self, index: int, node: GraphNode) -> type[Component[Any]] | None:
        match node:
            case SourceNode() | SinkNode():
                return self._of_connector(index, node)
            case ActionNode():
                action = self._known_action(index, node.action)
                if action is not None and issubclass(action, Router):
                    self._problems.add(
                        "nodes",
                        index,
                        "type",
                        message=f'"{node.action}" sends records down routes',
                        remedy='write a node of "type": "branch"',
                    )
                    return None
                return action
            case BranchNode():
                return self._known_action(index, BRANCH)

    def _of_connector(self, index: int, node: SourceNode | SinkNode) -> type[Component[Any]] | None:
        name = node.connector
        if name not in self._registry.connectors:
            self._unknown(index, "connector", name, self._registry.connectors, PLANNED_CONNECTORS)
            return None
        connector = self._registry.connector(name)
        component = connector.source if isinstance(node, SourceNode) else connector.sink
        if component is None:
            verb = "read from" if isinstance(node, SourceNode) else "written to"
            self._problems.add("nodes", index, "connector", message=f'"{name}" cannot be {verb}')
        return component

    def _known_action(self, index: int, name: str) -> type[Component[Any]] | None:
        if name in self._registry.actions:
            return self._registry.action(name)
        self._unknown(index, "action", name, self._registry.actions, PLANNED_ACTIONS)
        return None

    def _unknown(
        self, index: int, what: str, name: str, known: list[str], planned: frozenset[str]
    ) -> None:
        if name in planned:
            message = f'{what} "{name}" is not built yet'
            remedy = f"built today: {', '.join(known)}"
        else:
            message = f'unknown {what} "{name}"'
            remedy = suggest(name, known) or f"valid here: {', '.join(known)}"
        self._problems.add("nodes", index, what, message=message, remedy=remedy)

    def _installed(self, index: int, component: type[Component[Any]]) -> bool:
        if component not in self._missing:
            self._missing[component] = missing_modules(component)
        if missing := self._missing[component]:
            extra = component.extra
            self._problems.add(
                "nodes",
                index,
                message=f'"{component.name}" needs {", ".join(missing)}, not installed here',
                remedy=f"pip install 'nvisy-dagster[{extra}]'" if extra else None,
            )
        return not missing

    def _connection(
        self,
        index: int,
        node: SourceNode | ActionNode | SinkNode,
        component: type[Component[Any]],
    ) -> None:
        kind = component.connection_type
        name = node.connection
        if name is None:
            if kind is not None and component.connection_required:
                self._problems.add(
                    "nodes",
                    index,
                    message=f'"{component.name}" needs a connection of type "{kind.type}"',
                    remedy='name one with "connection", defined in connections.json',
                )
            return
        where = ("nodes", index, "connection")
        if kind is None:
            self._problems.add(*where, message=f'"{component.name}" takes no connection')
        elif self._connections is not None:
            self._defined(where, node, name, kind)

    def _defined(
        self,
        where: tuple[str | int, ...],
        node: SourceNode | ActionNode | SinkNode,
        name: str,
        kind: type[Connection],
    ) -> None:
        connections = self._connections or {}
        named = connections.get(name)
        if named is None:
            self._problems.add(
                *where,
                message=f'connection "{name}" is not defined',
                remedy=suggest(name, connections)
                or "define it in connections.json beside the graph",
            )
        elif named.type != kind.type and self._is_unbuilt(named.type):
            # A provider that is not built is told at the param that asks for it.
            if node.params.get("provider") != named.type:
                message = f'connection "{name}" is of type "{named.type}", which is not built yet'
                self._problems.add(*where, message=message, remedy=f'use one of "{kind.type}"')
        elif named.type != kind.type:
            self._problems.add(
                *where,
                message=f'connection "{name}" is of type "{named.type}", not "{kind.type}"',
                remedy=f'name a connection of type "{kind.type}"',
            )

    def _is_unbuilt(self, kind: str) -> bool:
        """Whether a connection type is planned, and nothing here can use it."""
        planned = kind in PLANNED_CONNECTORS | PLANNED_PROVIDERS
        return planned and kind not in self._registry.connection_types()
