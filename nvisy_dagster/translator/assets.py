"""Plan -> assets: a graph of ops, an asset per node."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from nvisy_dagster.compiler import Node, Output
from nvisy_dagster.graph.run_tags import is_dagsters
from nvisy_dagster.translator.locations import kind_name, location_key
from nvisy_dagster.translator.metadata import free_metadata, location_value, table_schema
from nvisy_dagster.translator.ops import stage_op
from nvisy_dagster.translator.runtime import Runtime
from nvisy_dagster.translator.stage_names import StageNames


class GraphAssets:
    """The assets of one graph.

    Sinks and materialized outputs are outputs of its ops; nodes that only pass records on are
    external assets between them, which get a materialization from the op that runs them.

    Args:
        runtime: The graph and what its ops share.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._plan = runtime.plan
        self.names = StageNames(runtime.plan)
        self._keys = self._output_keys()

    @property
    def keys(self) -> Sequence[dg.AssetKey]:
        """Assets that the graph's job makes."""
        return list(self._keys.values())

    def definitions(self) -> list[dg.AssetsDefinition | dg.AssetSpec]:
        """The assets, without those of locations."""
        streamed = [
            self._spec(self._plan.nodes[node])
            for stage in self._plan.stages
            for node in self.names.streamed(stage)
        ]
        return [self._executable(), *streamed]

    def _output_keys(self) -> dict[str, dg.AssetKey]:
        names = self.names
        keys = {
            names.outputs[node.id]: names.node_key(node.id)
            for node in self._plan.nodes.values()
            if node.kind == "sink"
        }
        for output in self._outputs():
            keys[names.outputs[output.name]] = names.output_key(output)
        return keys

    def _outputs(self) -> list[Output]:
        return [output for stage in self._plan.stages for output in stage.outputs]

    def _executable(self) -> dg.AssetsDefinition:
        assets = dg.AssetsDefinition.from_graph(
            self._graph(),
            keys_by_output_name=self._keys,
            internal_asset_deps=self._internal_deps(),
            group_name=self.names.graph,
            can_subset=False,
        )
        described = self._described()

        def describe(spec: dg.AssetSpec) -> dg.AssetSpec:
            attributes = dict(described[spec.key])
            # What Dagster noted there itself stays.
            attributes["metadata"] = {**spec.metadata, **attributes["metadata"]}
            return spec.replace_attributes(**attributes)

        return assets.map_asset_specs(describe)

    def _graph(self) -> dg.GraphDefinition:
        names = self.names
        stages = self._plan.stages
        dependencies: dict[Any, dict[str, Any]] = {
            dg.NodeInvocation(names.op(stage), alias=names.steps[stage.id]): {
                names.outputs[output.name]: dg.DependencyDefinition(
                    names.steps[self._plan.stage_of[output.node].id], names.outputs[output.name]
                )
                for output in stage.inputs
            }
            for stage in stages
        }
        return dg.GraphDefinition(
            name=f"{names.graph}__graph",
            description=self._plan.description,
            node_defs=[stage_op(self._runtime, stage, names) for stage in stages],
            dependencies=dependencies,
            output_mappings=[
                dg.OutputMapping(
                    graph_output_name=names.outputs[name],
                    mapped_node_name=names.steps[stage.id],
                    mapped_node_output_name=names.outputs[name],
                )
                for stage in stages
                for name in (
                    *(node for node in stage.nodes if self._plan.nodes[node].kind == "sink"),
                    *(output.name for output in stage.outputs),
                )
            ],
        )

    def _internal_deps(self) -> dict[str, set[dg.AssetKey]]:
        names = self.names
        deps = {
            names.outputs[node.id]: set(self._deps(node))
            for node in self._plan.nodes.values()
            if node.kind == "sink"
        }
        for output in self._outputs():
            node = self._plan.nodes[output.node]
            before = self._deps(node) if output.route is None else [names.node_key(node.id)]
            deps[names.outputs[output.name]] = set(before)
        return deps

    def _deps(self, node: Node) -> list[dg.AssetKey]:
        if node.kind == "source":
            uri = self._runtime.locations.get(node.id)
            return [location_key(uri)] if uri else []
        keys = (self.names.read_key(edge) for edge in self._plan.edges_into[node.id])
        return list(dict.fromkeys(keys))

    def _described(self) -> Mapping[dg.AssetKey, dict[str, Any]]:
        found: dict[dg.AssetKey, dict[str, Any]] = {}
        for node in self._plan.nodes.values():
            found[self.names.node_key(node.id)] = self._attributes(node)
        for output in self._outputs():
            if output.route is not None:
                attributes = self._attributes(self._plan.nodes[output.node])
                attributes["description"] = f"Route {output.route} of branch {output.node}."
                found[self.names.output_key(output)] = attributes
        return found

    @property
    def _labels(self) -> dict[str, str]:
        """The graph's tags but those by which Dagster treats runs."""
        return {key: value for key, value in self._plan.tags.items() if not is_dagsters(key)}

    def _attributes(self, node: Node) -> dict[str, Any]:
        location = self._runtime.locations.get(node.id)
        metadata: dict[str, Any] = {
            "component": node.component_name,
            **free_metadata(node.metadata),
        }
        if location is not None:
            metadata["location"] = location_value(location)
        if node.output is not None:
            metadata["primitive"] = node.output.primitive
            if node.output.schema is not None:
                metadata["dagster/column_schema"] = table_schema(node.output.schema)
        return {
            "description": node.description or _summary(node),
            "owners": list(node.owners or self._plan.owners),
            "tags": {**self._labels, **node.tags},
            "kinds": {kind_name(node.component_name), node.kind},
            "metadata": metadata,
        }

    def _spec(self, node: Node) -> dg.AssetSpec:
        return dg.AssetSpec(
            self.names.node_key(node.id),
            deps=self._deps(node),
            group_name=self.names.graph,
            **self._attributes(node),
        )


def _summary(node: Node) -> str | None:
    """The first paragraph of what the component says of itself."""
    text = (node.component.__doc__ or "").strip().split("\n\n", 1)[0]
    return " ".join(text.split()) or None
