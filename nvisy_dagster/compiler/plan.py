"""The plan: what a graph becomes once every name is resolved and every edge is typed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from nvisy_dagster.graph.policies import (
    Checkpoint,
    ConnectionPolicies,
    Execution,
    Policies,
    Schedule,
)
from nvisy_dagster.sdk import (
    BaseAction,
    BaseBlockingAction,
    Component,
    Connection,
    EdgeType,
    Params,
    SequentialAction,
)
from nvisy_dagster.sdk.push_down import NO_HINT, Hint

Kind = Literal["source", "action", "branch", "sink"]
EdgeKind = Literal["streamed", "materialized"]


@dataclass(frozen=True)
class Node:
    """One node, its component chosen and its params validated."""

    id: str
    kind: Kind
    component_name: str
    """Name of the connector or action."""
    component: type[Component[Any]]
    params: Params
    connection: str | None
    policies: Policies
    output: EdgeType | None
    """What it sends on; `None` for a sink."""
    description: str | None = None
    owners: Sequence[str] = ()
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Free for the writer; shown, never interpreted."""
    incremental: bool = False
    """Source: it reads only what changed since the last successful run."""
    on_removed: Literal["remove", "all", "ignore"] = "remove"
    """Source: what an incremental run does about records that are gone."""

    hint: Hint = NO_HINT
    """Source: what it may leave out."""

    @property
    def blocks(self) -> bool:
        """Whether it needs all records before it makes any."""
        return issubclass(self.component, BaseBlockingAction)

    @property
    def compares(self) -> bool:
        """Whether what becomes of a record depends on others."""
        kind = self.component
        return issubclass(kind, BaseBlockingAction | SequentialAction) and kind.drops

    def build(
        self, connection: Connection | None = None, folder: Path | None = None
    ) -> Component[Any]:
        """The node's component; pure until it is opened."""
        component = self.component(self.params, connection, node_id=self.id, folder=folder)
        if isinstance(component, BaseAction):
            component.made = self.output
        return component


@dataclass(frozen=True)
class Output:
    """What a node sends on: everything or, of a branch, the records of one route."""

    node: str
    route: str | None = None

    @property
    def name(self) -> str:
        """`node` or `node@route`; unique in a plan, since no id has an `@`."""
        return self.node if self.route is None else f"{self.node}@{self.route}"


@dataclass(frozen=True)
class Edge:
    """One edge, with how its data travels."""

    output: Output
    target: str
    kind: EdgeKind
    input: str | None = None
    """Which input of the target it leads to, if those have names."""


@dataclass(frozen=True)
class Stage:
    """Nodes joined by streamed edges: one Dagster op."""

    id: str
    nodes: Sequence[str]
    """In topological order."""
    inputs: Sequence[Output]
    """Materialized outputs of earlier stages that it reads."""
    outputs: Sequence[Output]
    """Outputs of its own that later stages read."""
    hash: str
    """Changes with anything that changes what the stage or those before it compute."""


@dataclass(frozen=True)
class Plan:
    """A compiled graph; immutable."""

    name: str
    nodes: Mapping[str, Node]
    edges: Sequence[Edge]
    stages: Sequence[Stage]
    """In topological order."""
    checkpoint: Checkpoint
    defaults: Policies
    """The graph's own policies: what a node does not say, and the limits of the whole run."""
    connections: Mapping[str, ConnectionPolicies] = field(
        default_factory=dict[str, ConnectionPolicies]
    )
    """What is said of the connections that its nodes use, by name, where something is."""
    pools: Mapping[str, str] = field(default_factory=dict[str, str])
    """Stage id -> the pool of Dagster that it waits for, where one is named."""
    folder: Path | None = None
    """Folder of the graph's file."""
    description: str | None = None
    schedule: Schedule | None = None
    execution: Execution = field(default_factory=Execution)
    owners: Sequence[str] = ()
    tags: Mapping[str, str] = field(default_factory=dict[str, str])

    @cached_property
    def stage_of(self) -> Mapping[str, Stage]:
        """Node id -> its stage."""
        return {node: stage for stage in self.stages for node in stage.nodes}

    @cached_property
    def edges_into(self) -> Mapping[str, Sequence[Edge]]:
        """Node id -> edges that end there."""
        found: dict[str, list[Edge]] = {node: [] for node in self.nodes}
        for edge in self.edges:
            found[edge.target].append(edge)
        return found

    @cached_property
    def edges_from(self) -> Mapping[str, Sequence[Edge]]:
        """Node id -> edges that start there."""
        found: dict[str, list[Edge]] = {node: [] for node in self.nodes}
        for edge in self.edges:
            found[edge.output.node].append(edge)
        return found

    def reached_from(self, node_id: str) -> set[str]:
        """The node and all that its records can reach."""
        found = {node_id}
        waiting = [node_id]
        while waiting:
            for edge in self.edges_from[waiting.pop()]:
                if edge.target not in found:
                    found.add(edge.target)
                    waiting.append(edge.target)
        return found

    def stage(self, stage_id: str) -> Stage:
        """The stage of this id.

        Raises:
            KeyError: There is none.
        """
        for stage in self.stages:
            if stage.id == stage_id:
                return stage
        raise KeyError(stage_id)
