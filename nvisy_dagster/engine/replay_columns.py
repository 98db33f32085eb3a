"""Columns that a graph has gained since its dead letters were written."""

from collections.abc import Sequence

import pyarrow as pa

from nvisy_dagster.compiler import Plan
from nvisy_dagster.sdk import BaseAction, ConfigError, EdgeType, Router, Sink


def lacks(plan: Plan, node: str, had: pa.Schema, schema: pa.Schema) -> str | None:
    """Why letters without some columns are of no use to their node; `None` if they are.

    A column that the graph has gained is null in older letters. Where the node itself asks for it,
    that would be another record, and it is refused. Nodes behind it take the null.

    Args:
        plan: The compiled graph, as it is now.
        node: The node that failed them.
        had: The columns of the letters.
        schema: The columns that reach the node now.
    """
    gained = [name for name in schema.names if name not in had.names]
    before = [plan.nodes[edge.output.node].output for edge in plan.edges_into[node]]
    if not gained or not before or before[0] is None:
        return None
    without = pa.schema([field for field in schema if field.name not in gained])
    incoming = EdgeType(before[0].primitive, without)
    component = plan.nodes[node].build(folder=plan.folder)
    try:
        # With all columns it has compiled: what it refuses now, it refuses for those.
        if isinstance(component, BaseAction):
            component.output(incoming)
        elif isinstance(component, Sink | Router):
            component.check(incoming)
    except ConfigError as error:
        return f"it needs {_quoted(gained)}, which these letters do not have: {error.message}"
    return None


def _quoted(names: Sequence[str]) -> str:
    return ("a column " if len(names) == 1 else "columns ") + ", ".join(map(repr, names))
