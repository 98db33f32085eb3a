"""From the name of a graph file to its plan and its connections."""

from dataclasses import dataclass
from pathlib import Path

from nvisy_dagster.compiler import Plan, compile_file, connections_beside
from nvisy_dagster.graph.connections import Connections, find_connections, load_connections
from nvisy_dagster.graph.errors import GraphErrors


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


def _shown(path: Path) -> Path:
    """The path from the working folder, when it lies below it."""
    working = Path.cwd()
    return path.relative_to(working) if path.is_relative_to(working) else path
