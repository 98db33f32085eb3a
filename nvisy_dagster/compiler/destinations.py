"""Where records are written: no two sinks in one place, and no sink where a source reads."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import ValidationError

from nvisy_dagster.compiler.problems import Problems
from nvisy_dagster.compiler.resolve import Resolved
from nvisy_dagster.graph.connections import NamedConnection
from nvisy_dagster.sdk import Connection, Sink, Source

Connections = Mapping[str, NamedConnection] | None
Place = tuple[str | None, str]
"""Name of the connection, since two systems may say one URI, and the URI."""


def check_destinations(
    nodes: Iterable[Resolved], connections: Connections, folder: Path | None, problems: Problems
) -> None:
    """Refuse sinks that would discard each other's files, or whose files a source would read.

    Only what the graph and its connections say without any secret is compared; two sinks that turn
    out to share a place are refused again when they run.

    Args:
        nodes: The resolved nodes.
        connections: What is defined; `None` when that is not known while compiling.
        folder: Folder that relative paths in params are resolved against.
        problems: Where mistakes go.
    """
    taken: dict[Place, Resolved] = {}
    read: dict[Place, Resolved] = {}
    for node in nodes:
        place = _place(node, connections, folder)
        if place is None:
            continue
        if node.kind == "source":
            # A source with a pattern may well leave out what is written below its folder.
            if getattr(node.params, "glob", None) is None:
                read.setdefault(place, node)
            continue
        other = taken.setdefault(place, node)
        if other is not node:
            problems.add(
                "nodes",
                node.index,
                "params",
                message=f'it writes to {place[1]}, where "{other.node.id}" writes too',
                remedy="give each sink a folder or prefix of its own",
            )
    for place, sink in taken.items():
        source = _reader(place, read)
        if source is not None:
            problems.add(
                "nodes",
                sink.index,
                "params",
                message=f'it writes to {place[1]}, which "{source.node.id}" reads: '
                "each run would read what the run before wrote",
                remedy="write elsewhere, or leave it out of what is read with a glob",
            )


def _reader(place: Place, read: Mapping[Place, Resolved]) -> Resolved | None:
    """The source that reads this place, or a folder around it."""
    connection, uri = place
    ends = [end for end, character in enumerate(uri) if character == "/"]
    around = (uri[:end] for end in [len(uri), *reversed(ends)])
    return next((found for one in around if (found := read.get((connection, one)))), None)


def _place(node: Resolved, connections: Connections, folder: Path | None) -> Place | None:
    if node.kind == "sink" and node.component.capabilities.write_mode != "epoch":
        return None
    connection = _connection(node, connections, folder)
    if node.connection is not None and connection is None:
        return None
    component = node.component(node.params, connection, node_id=node.node.id, folder=folder)
    if not isinstance(component, Source | Sink):
        return None
    location = component.location()
    return None if location is None else (node.connection, location.rstrip("/"))


def _connection(node: Resolved, connections: Connections, folder: Path | None) -> Connection | None:
    """The connection as it is written; a reference in it stands for whatever it will be."""
    kind = node.component.connection_type
    named = (connections or {}).get(node.connection or "")
    if kind is None or named is None or named.type != kind.type:
        return None
    try:
        return kind.model_validate(dict(named.fields), context={"folder": folder})
    except ValidationError:
        return None
