"""From the name of a graph file to its plan and its connections."""

import os
from dataclasses import dataclass
from pathlib import Path

from nvisy_dagster.compiler import Plan, compile_file, connections_beside
from nvisy_dagster.compiler.connection_fields import check_fields
from nvisy_dagster.graph.connections import Connections, find_connections, load_connections
from nvisy_dagster.graph.errors import GraphErrors
from nvisy_dagster.graph.load import UnsoundGraphErrors, load_graph
from nvisy_dagster.graph.model import BranchNode, Graph


class FileErrors(GraphErrors):
    """The mistakes of one file.

    Args:
        errors: What was found.
        path: The file, as the user names it.
    """

    def __init__(self, errors: GraphErrors, path: Path) -> None:
        super().__init__(errors.errors, what=errors.what, file=str(path))
        self.path = path


@dataclass(frozen=True)
class LoadedGraph:
    """A graph file that is ready to run."""

    path: Path
    plan: Plan
    connections: Connections
    connections_path: Path | None


def load(path: Path, connections_file: Path | None = None) -> LoadedGraph:
    """Compile a graph file.

    Args:
        path: The graph file.
        connections_file: Definitions to use instead of those beside the graph.

    Raises:
        FileErrors: Every mistake in the graph, or in its connections.
    """
    found = connections_file or find_connections(path)
    beside = _shown(found) if found else path
    try:
        connections = (
            load_connections(connections_file) if connections_file else connections_beside(path)
        )
    except GraphErrors as errors:
        raise FileErrors(errors, beside) from errors
    try:
        plan = compile_file(path, beside=connections)
    except GraphErrors as errors:
        raise FileErrors(errors, path) from errors
    return LoadedGraph(path, plan, connections, found)


@dataclass(frozen=True)
class ConnectionCheck:
    """What is known of the connections of a graph before it runs."""

    wrong: FileErrors | None
    unset: list[str]
    """What a run needs that is not there now, such as variables that are not set. That is no
    mistake in a file: the machine that runs the graph may well have them."""


def check_connections(path: Path, connections_file: Path | None = None) -> ConnectionCheck:
    """Check the fields of the connections that a graph file uses, whatever else is wrong with it.

    Args:
        path: The graph file.
        connections_file: Definitions to use instead of those beside the graph.
    """
    found = connections_file or find_connections(path)
    if found is None:
        return ConnectionCheck(None, [])
    try:
        connections = load_connections(found)
        graph = _sound_part(path, connections)
    except GraphErrors:
        # Told when the graph was loaded.
        return ConnectionCheck(None, [])
    nodes = graph.nodes if graph else ()
    names = {
        node.connection
        for node in nodes
        if not isinstance(node, BranchNode) and node.connection is not None
    }
    check = check_fields(connections, names, os.environ, folder=Path(os.path.realpath(path)).parent)
    errors = GraphErrors(check.wrong, what="connections") if check.wrong else None
    return ConnectionCheck(
        FileErrors(errors, _shown(found)) if errors else None,
        [error.message for error in check.unset],
    )


def _sound_part(path: Path, connections: Connections) -> Graph | None:
    try:
        return load_graph(path, connections=connections)
    except UnsoundGraphErrors as errors:
        return errors.rest


def _shown(path: Path) -> Path:
    """The path from the working folder, when it lies below it."""
    working = Path.cwd()
    return path.relative_to(working) if path.is_relative_to(working) else path
