"""How the stages, outputs and nodes of one graph are called in Dagster."""

from collections.abc import Mapping
from functools import cached_property

import dagster as dg

from nvisy_dagster.compiler import Edge, Output, Plan, Stage
from nvisy_dagster.translator.names import dagster_name, dagster_names


class StageNames:
    """The Dagster names of one plan.

    Args:
        plan: The compiled graph.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._materialized = {output for stage in plan.stages for output in stage.outputs}
        self.graph = dagster_name(plan.name)
        """Of the job, the group and the op graph."""
        self.steps: Mapping[str, str] = dagster_names(stage.id for stage in plan.stages)
        """Stage id -> last part of its step key."""
        sinks = [node.id for node in plan.nodes.values() if node.kind == "sink"]
        kept = [output.name for stage in plan.stages for output in stage.outputs]
        self.outputs: Mapping[str, str] = dagster_names([*sinks, *kept])
        """Sink id or name of a materialized output -> output of its op."""

    def op(self, stage: Stage) -> str:
        """Name of the op's definition, which must be unique among all graphs."""
        return f"{self.graph}__stage__{self.steps[stage.id]}"

    def node_key(self, node: str) -> dg.AssetKey:
        """The asset of a node."""
        return dg.AssetKey([self._plan.name, node])

    def output_key(self, output: Output) -> dg.AssetKey:
        """The asset that a materialized output is: its node's or, of a branch, the route's own."""
        if output.route is None:
            return self.node_key(output.node)
        return dg.AssetKey([self._plan.name, output.node, output.route])

    def read_key(self, edge: Edge) -> dg.AssetKey:
        """The asset that the edge's reader depends on."""
        if edge.output in self._materialized:
            return self.output_key(edge.output)
        return self.node_key(edge.output.node)

    @cached_property
    def _output_nodes(self) -> set[str]:
        kept = {output.node for output in self._materialized if output.route is None}
        return kept | {node.id for node in self._plan.nodes.values() if node.kind == "sink"}

    def streamed(self, stage: Stage) -> dict[str, dg.AssetKey]:
        """Nodes of a stage whose assets are no outputs of its op, with their keys."""
        return {node: self.node_key(node) for node in stage.nodes if node not in self._output_nodes}
