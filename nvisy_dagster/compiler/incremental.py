"""Whether sources that are to read only what changed can, and their sinks can follow them."""

from collections.abc import Iterator, Mapping
from typing import Any

from nvisy_dagster.compiler.problems import Problems
from nvisy_dagster.compiler.resolve import Resolved
from nvisy_dagster.compiler.structure import Shape
from nvisy_dagster.graph.model import Graph, SourceNode
from nvisy_dagster.sdk import Component, ConfigError, SequentialAction, Sink, Source

_READ_ALL = 'remove "incremental", so that every run reads everything'


def check_incremental(
    graph: Graph, resolved: Mapping[str, Resolved], shape: Shape, problems: Problems
) -> None:
    """Refuse `incremental` on a source, or before a sink, that cannot.

    Args:
        graph: The document.
        resolved: Its nodes, as far as their names are known.
        shape: Which node comes before which.
        problems: Where mistakes go.
    """
    for index, node in enumerate(graph.nodes):
        if not isinstance(node, SourceNode):
            continue
        if not node.incremental:
            if node.on_removed != "remove":
                message = '"on_removed" says nothing without "incremental": true'
                problems.add("nodes", index, "on_removed", message=message, remedy="remove it")
            continue
        found = resolved.get(node.id)
        if found is not None and not _bookmarks(found.component):
            problems.add(
                "nodes",
                index,
                "incremental",
                message=f'"{node.connector}" cannot tell what changed since the last run',
                remedy=_READ_ALL,
            )
            continue
        if found is not None:
            _check_source(index, found, problems)
        for behind in _behind(node.id, resolved, shape):
            if behind.kind == "sink":
                _check_sink(node, index, behind, problems)
            else:
                _check_action(node, behind, problems)


def _bookmarks(component: type[Component[Any]]) -> bool:
    return issubclass(component, Source) and component.bookmarks


def _check_source(index: int, found: Resolved, problems: Problems) -> None:
    source = found.component(found.params, node_id=found.node.id)
    try:
        if isinstance(source, Source):
            source.check_incremental()
    except ConfigError as error:
        problems.add_refused(error, "nodes", index, "params")


def _behind(source: str, resolved: Mapping[str, Resolved], shape: Shape) -> Iterator[Resolved]:
    reached = {source}
    for node_id in shape.order:
        if reached.intersection(shape.predecessors[node_id]):
            reached.add(node_id)
            found = resolved.get(node_id)
            if found is not None:
                yield found


def _check_action(source: SourceNode, action: Resolved, problems: Problems) -> None:
    component = action.component
    if issubclass(component, SequentialAction) and component.drops:
        problems.add(
            "nodes",
            action.index,
            message=f'"{action.component_name}" goes by how many records came before, but '
            f'"{source.id}" reads only what changed: what it leaves out would not come again',
            remedy=f'remove "incremental" from "{source.id}"',
        )


def _check_sink(source: SourceNode, index: int, sink: Resolved, problems: Problems) -> None:
    component = sink.component(sink.params, node_id=sink.node.id)
    if isinstance(component, Sink) and not component.keeps_earlier():
        problems.add(
            "nodes",
            sink.index,
            "params",
            message=f'it replaces what earlier runs wrote, but "{source.id}" reads only what '
            "changed: what did not change would be lost",
            remedy=f'set "mode" to "append", or remove "incremental" from "{source.id}"',
        )
    elif not sink.component.capabilities.removes and source.on_removed != "ignore":
        problems.add(
            "nodes",
            index,
            "incremental",
            message=f'"{sink.node.id}" ({sink.component_name}) cannot remove the records of what '
            "was deleted or replaced",
            remedy='add "on_removed": "ignore" to let them stay, or remove "incremental"',
        )
