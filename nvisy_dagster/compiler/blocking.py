"""Nodes that need all records before they make any: what does not go with them."""

from collections.abc import Mapping

from nvisy_dagster.compiler.problems import Problems
from nvisy_dagster.compiler.resolve import Resolved
from nvisy_dagster.compiler.structure import Shape
from nvisy_dagster.graph.model import Graph, SourceNode
from nvisy_dagster.sdk import BaseBlockingAction


def check_blocking(
    graph: Graph, resolved: Mapping[str, Resolved], shape: Shape, problems: Problems
) -> None:
    """Refuse incremental sources before such a node, and such a node whose output is not kept.

    Args:
        graph: The document.
        resolved: Its nodes, as far as their names are known.
        shape: Which node comes before which.
        problems: Where mistakes go.
    """
    incremental = {
        node.id for node in graph.nodes if isinstance(node, SourceNode) and node.incremental
    }
    behind: dict[str, str] = {}
    for node_id in shape.order:
        before = shape.predecessors[node_id]
        source = next((behind.get(b) or b for b in before if b in behind or b in incremental), None)
        if source is not None:
            behind[node_id] = source
        found = resolved.get(node_id)
        if found is None or not issubclass(found.component, BaseBlockingAction):
            continue
        if source is not None:
            problems.add(
                "nodes",
                found.index,
                message=f'"{found.component_name}" needs all records, but "{source}" reads only '
                "what changed",
                remedy=f'remove "incremental" from "{source}"',
            )
        if found.node.materialize is False:
            problems.add(
                "nodes",
                found.index,
                "materialize",
                message=f'"{found.component_name}" needs all records before it makes any: its '
                "output is always kept",
                remedy="remove it",
            )
