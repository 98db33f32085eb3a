"""A graph as a Dagster Component, for `defs.yaml`."""

from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg

from nvisy_dagster.compiler import compile_graph, connections_beside
from nvisy_dagster.graph.connections import FILE_NAME, load_connections
from nvisy_dagster.graph.load import build_graph
from nvisy_dagster.sdk import ConfigError
from nvisy_dagster.translator.definitions import (
    LoadedGraph,
    load_one,
    make_runtime,
    translate,
)
from nvisy_dagster.translator.runtime import Runtime


class NvisyGraph(dg.Component, dg.Model, dg.Resolvable):
    """A Nvisy graph: sources, actions and sinks in plain JSON, run as a stream of Arrow batches."""

    graph: str | dict[str, Any]
    """The graph's file, relative to this component's folder, or the graph itself."""
    connections: str | None = None
    """The connections file, relative to this component's folder; by default the one beside the
    graph."""
    preview: bool = True
    """Whether the nodes' pages show a few records."""
    folder: str | None = None
    """Folder that relative paths begin at; by default this component's."""

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """How Dagster lists it."""
        return dg.ComponentTypeSpec(
            description="Compiles a Nvisy graph to assets, a job and a schedule.", tags=["nvisy"]
        )

    @classmethod
    def load(cls, attributes: Any, context: dg.ComponentLoadContext) -> "NvisyGraph":  # noqa: ANN401 - Dagster's own signature
        """The component, its paths made absolute: others look at it without its context."""
        loaded = super().load(attributes, context)
        home = context.path.resolve()
        folder = str(home / (loaded.folder or "."))
        return loaded.model_copy(update={"folder": folder})

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The graph's definitions.

        Raises:
            GraphErrors: Everything that is wrong with the graph, or with its connections.
        """
        return translate([self.runtime], [self.runtime, *self._others(context)])

    def _others(self, context: dg.ComponentLoadContext) -> list[Runtime]:
        """The other graphs of the project, which may share a location with this one."""
        try:
            components = context.component_tree.get_all_components(NvisyGraph)
        except ImportError:
            # A component that is built alone, as tests do, stands in no project.
            return []
        others: list[Runtime] = []
        for component in components:
            if component is not self:
                # What is wrong with another graph is told by its own component.
                with suppress(ConfigError):
                    others.append(component.runtime)
        return others

    @cached_property
    def runtime(self) -> Runtime:
        """The compiled graph."""
        return make_runtime(self._loaded(), preview=self.preview)

    def _loaded(self) -> LoadedGraph:
        folder = Path(self.folder or ".")
        named = load_connections(folder / self.connections) if self.connections else None
        if isinstance(self.graph, str):
            return load_one(folder / self.graph, connections=named)
        defined = named if named is not None else connections_beside(folder / FILE_NAME)
        graph = build_graph(self.graph, name=folder.name, connections=defined)
        plan = compile_graph(graph, connections=defined, folder=folder)
        return LoadedGraph(plan, defined)
