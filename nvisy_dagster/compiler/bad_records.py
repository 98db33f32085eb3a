"""Whether sources can do what `on_error` asks of them."""

from collections.abc import Iterable

from nvisy_dagster.compiler.problems import Problems
from nvisy_dagster.compiler.resolve import Resolved
from nvisy_dagster.graph.model import Graph
from nvisy_dagster.sdk import ConfigError, Source


def check_bad_records(graph: Graph, nodes: Iterable[Resolved], problems: Problems) -> None:
    """Refuse `on_error` on a source that cannot tell which records are bad, or is told otherwise.

    The graph's own `on_error` is a default: it holds for the sources that can.
    """
    for resolved in nodes:
        node, component = resolved.node, resolved.component
        if issubclass(component, Source):
            source = component(resolved.params, node_id=node.id)
            try:
                source.check_on_error(graph.policies(node).on_error)
            except ConfigError as error:
                problems.add_refused(error, "nodes", resolved.index, "params")
        if node.type != "source" or node.on_error in {None, "fail"}:
            continue
        if issubclass(component, Source) and not component.skips_bad_records:
            problems.add(
                "nodes",
                resolved.index,
                "on_error",
                message=f'"{node.on_error}" needs a source that can tell which records are bad, '
                f"and {resolved.component_name!r} cannot",
                remedy="remove it: what such a source cannot read fails the run",
            )
