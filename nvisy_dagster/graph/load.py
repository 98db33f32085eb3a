"""From a file or a text to a `Graph`, or to everything that is wrong with it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from nvisy_dagster.graph.connections import Connections
from nvisy_dagster.graph.errors import GraphError, GraphErrors
from nvisy_dagster.graph.explain import describe, explain
from nvisy_dagster.graph.json_text import parse_json, unfit_values
from nvisy_dagster.graph.model import MAX_EDGES, MAX_NODES, Graph
from nvisy_dagster.graph.nvisy_format import Translation, is_published, translate_graph
from nvisy_dagster.graph.places import Places, Steps, json_path
from nvisy_dagster.graph.reading import read_bytes
from nvisy_dagster.graph.salvage import salvage, without_echoes

WIDEST = 1000
"""Most entries of an object or array that is neither params nor metadata."""
_FREE = {("nodes",), ("edges",), ("params",), ("metadata",)}


class UnsoundGraphErrors(GraphErrors):
    """A graph that does not fit the model.

    Args:
        errors: What does not fit.
        rest: The graph without it, to look for further mistakes in; `None` if little is left.
        file: Name of the file it came from, if it came from one.
    """

    def __init__(
        self, errors: Sequence[GraphError], *, rest: Graph | None, file: str | None = None
    ) -> None:
        super().__init__(errors, file=file)
        self.rest = rest


def load_graph(path: Path, *, connections: Connections | None = None) -> Graph:
    """Read a graph file, ours or a published Nvisy one.

    Args:
        path: The file; its name is the graph's, if the graph has none.
        connections: What is defined beside it. A published graph takes some params from there:
            the model, the collection.

    Raises:
        GraphErrors: Everything that is wrong with it.
    """
    data = read_bytes(path, what="graph")
    return parse_graph(data, name=path.stem, file=path.name, connections=connections)


def parse_graph(
    data: bytes | str,
    *,
    name: str | None = None,
    file: str | None = None,
    connections: Connections | None = None,
) -> Graph:
    """The graph that a JSON text holds.

    Args:
        data: The text.
        name: Name of a graph that does not say its own.
        file: Name of the file, for messages.
        connections: As in `load_graph`.

    Raises:
        GraphErrors: Everything that is wrong with it.
    """
    document = parse_json(data, file=file)
    return _build(document, name, file, connections)


def build_graph(
    document: Any,  # noqa: ANN401 - any JSON
    *,
    name: str | None = None,
    file: str | None = None,
    connections: Connections | None = None,
) -> Graph:
    """The graph that a JSON value describes; arguments as in `parse_graph`.

    Raises:
        GraphErrors: Everything that is wrong with it.
    """
    errors = list(unfit_values(document))
    if errors:
        raise GraphErrors(errors, file=file)
    return _build(document, name, file, connections)


def _build(
    document: Any,  # noqa: ANN401 - any JSON
    name: str | None,
    file: str | None,
    connections: Connections | None,
) -> Graph:
    if not isinstance(document, dict):
        message = f"a graph should be an object, not {describe(document)}"
        remedy = 'the least graph is {"nodes": [...], "edges": [...]}'
        raise GraphErrors([GraphError("$", message, remedy)], file=file)
    written = cast("dict[str, Any]", document)
    wide = list(_too_wide(written))
    if wide:
        raise GraphErrors(wide, file=file)
    translation = Translation(written)
    if is_published(written):
        given = {key: named.params for key, named in (connections or {}).items()}
        translation = translate_graph(written, given)
    places = Places(written, translation.moved)
    graph, errors = _validate(_named(translation.document, name), places)
    errors = [*translation.errors, *errors]
    if graph is None or errors:
        raise UnsoundGraphErrors(errors, rest=graph, file=file)
    return graph


def _too_wide(document: Mapping[str, Any]) -> Iterator[GraphError]:
    """Objects and arrays so large that saying all that is wrong with them would take minutes."""
    nodes, edges = document.get("nodes"), document.get("edges")
    for key, value, most in (("nodes", nodes, MAX_NODES), ("edges", edges, MAX_EDGES)):
        if isinstance(value, list) and len(cast("list[Any]", value)) > most:
            yield GraphError(f"$.{key}", f"should have at most {most:,} entries", "split the graph")
            return
    places: list[tuple[Steps, Any]] = [((), document)]
    for key, values in (("nodes", nodes), ("edges", edges)):
        if isinstance(values, list):
            places.extend(((key, i), one) for i, one in enumerate(cast("list[Any]", values)))
    for steps, one in places:
        if isinstance(one, dict):
            inner = {(*steps, key): value for key, value in cast("dict[str, Any]", one).items()}
            for place, value in {steps: one, **inner}.items():
                size = len(cast("list[Any]", value)) if isinstance(value, dict | list) else 0
                if size > WIDEST and place[-1:] not in _FREE:
                    message = f"should have at most {WIDEST:,} entries"
                    yield GraphError(json_path(place), message, "split it")


def _validate(document: Mapping[str, Any], places: Places) -> tuple[Graph | None, list[GraphError]]:
    errors: list[GraphError] = []
    try:
        graph = Graph.model_validate(document).placed(places)
    except ValidationError as error:
        graph, errors = salvage(document, error, places), explain(error, Graph, places)
        if graph is None:
            return None, errors
    found = contradictions(graph)
    if not found:
        return graph, errors
    errors += without_echoes(list(found.values()), errors)
    nodes = [
        node.model_copy(update={"retry": None, "timeout": None}) if index in found else node
        for index, node in enumerate(graph.nodes)
    ]
    return graph.model_copy(update={"nodes": tuple(nodes)}).placed(places), errors


def contradictions(graph: Graph) -> dict[int, GraphError]:
    """Policies of nodes that contradict the graph's own, by the index of the node."""
    found: dict[int, GraphError] = {}
    for index, node in enumerate(graph.nodes):
        try:
            graph.policies(node)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            at = first.get("ctx", {}).get("at", ())
            remedy = "the graph's own policy is the default of what the node does not say"
            policy = error.title.lower()
            path = graph.path("nodes", index, policy, *at)
            found[index] = GraphError(path, first["msg"], remedy)
    return found


def _named(document: Mapping[str, Any], name: str | None) -> Mapping[str, Any]:
    if name is None or "name" in document:
        return document
    return {**document, "name": word(name)}


def word(text: str) -> str:
    """A free text as a name: `My graph!` -> `My_graph`."""
    return re.sub(r"[^A-Za-z0-9_.\-]+", "_", text).strip("_.-")[:128] or "graph"
