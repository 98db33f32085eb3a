"""Edges of published graphs: fans dissolve, declared dependencies become edges."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from nvisy_dagster.graph.errors import GraphError
from nvisy_dagster.graph.model import MAX_EDGES
from nvisy_dagster.graph.nvisy_tables import FAN_TYPES
from nvisy_dagster.graph.places import Steps, json_path

_DEPENDENCY_KEYS = ("dependencies", "dependsOn", "depends_on")
Placed = tuple[Any, Steps]
"""An edge, and where the author wrote it."""


@dataclass
class Links:
    """How the nodes of a document hang together, once fans are dissolved.

    Args:
        edges: The edges; `None` when the author's own can stay.
        dissolved: Index of each node that is gone.
    """

    edges: list[Placed] | None = None
    dissolved: set[int] = field(default_factory=set[int])
    _names: Mapping[str, str] = field(default_factory=dict[str, str])
    _ids: Mapping[int, str] = field(default_factory=dict[int, str])
    _after: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    _before: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    def after(self, index: Any) -> list[str]:  # noqa: ANN401 - a step of a path
        """Published names (action or stream) of the nodes that follow a node."""
        return self._near(self._after, index)

    def before(self, index: Any) -> list[str]:  # noqa: ANN401 - a step of a path
        """Published names (action or stream) of the nodes before a node."""
        return self._near(self._before, index)

    def place_before(self, index: Any) -> Steps | None:  # noqa: ANN401 - a step of a path
        """Where the first node before a node stands in the author's document."""
        before = self._before.get(self._ids.get(index, ""), ())
        return next((("nodes", i) for i, name in self._ids.items() if name in before[:1]), None)

    def _near(self, near: Mapping[str, list[str]], index: int) -> list[str]:
        return [self._names.get(other, "") for other in near.get(self._ids.get(index, ""), ())]

    def join(self, edges: list[Placed]) -> None:
        """Remember who follows whom."""
        for edge, _ in edges:
            ends = _ends(edge)
            if ends:
                self._after.setdefault(ends[0], []).append(ends[1])
                self._before.setdefault(ends[1], []).append(ends[0])


def links_of(document: Mapping[str, Any], nodes: list[Any], errors: list[GraphError]) -> Links:
    """The links of a published graph; what is wrong with its fans is added to `errors`."""
    objects = {i: cast("dict[str, Any]", node) for i, node in enumerate(nodes) if _has_id(node)}
    ids = {index: node["id"] for index, node in objects.items()}
    names = {node["id"]: _name(node) for node in reversed(objects.values())}
    links = Links(_names=names, _ids=ids)
    written = document.get("edges", [])
    if not isinstance(written, list):
        return links
    edges: list[Placed] = [(e, ("edges", i)) for i, e in enumerate(cast("list[Any]", written))]
    declared = [edge for i, node in objects.items() for edge in _declared(node, i)]
    fans = {i: n["id"] for i, n in objects.items() if n.get("type") in tuple(FAN_TYPES)}
    if declared or fans:
        links.dissolved = set(fans)
        links.edges = edges = _Dissolving(edges + declared, fans, errors).dissolve()
    links.join(edges)
    return links


def _has_id(node: Any) -> bool:  # noqa: ANN401 - any JSON
    return isinstance(node, dict) and isinstance(cast("dict[str, Any]", node).get("id"), str)


def _name(node: Mapping[str, Any]) -> str:
    name = node.get("action", node.get("stream"))
    return name if isinstance(name, str) else ""


def _ends(edge: Any) -> tuple[str, str] | None:  # noqa: ANN401 - any JSON
    if not isinstance(edge, dict):
        return None
    said = cast("dict[str, Any]", edge)
    start, end = said.get("from"), said.get("to")
    return (start, end) if isinstance(start, str) and isinstance(end, str) else None


def _declared(node: Mapping[str, Any], index: int) -> Iterator[Placed]:
    """Edges that a node declares by naming the nodes it depends on."""
    for key in _DEPENDENCY_KEYS:
        named = node.get(key)
        others = cast("list[Any]", named) if isinstance(named, list) else []
        for position, other in enumerate(others):
            yield {"from": other, "to": node["id"]}, ("nodes", index, key, position)


class _Dissolving:
    """Edges into a fan go on to wherever the fan's own edges go."""

    def __init__(self, edges: list[Placed], fans: dict[int, str], errors: list[GraphError]) -> None:
        self._edges = edges
        self._fans = fans
        self._errors = errors
        self._after: dict[str, list[str]] = {fan: [] for fan in fans.values()}
        self._entered: set[str] = set()
        for edge, _ in edges:
            ends = _ends(edge)
            if ends and ends[0] in self._after:
                self._after[ends[0]].append(ends[1])
            if ends and ends[1] in self._after:
                self._entered.add(ends[1])

    def dissolve(self) -> list[Placed]:
        self._check()
        made: list[Placed] = []
        seen: set[tuple[str, str, str, str]] = set()
        for edge, place in self._edges:
            ends = _ends(edge)
            if ends is None or (ends[0] not in self._after and ends[1] not in self._after):
                made.append((edge, place))
            elif ends[0] not in self._after:
                for end in self._beyond(ends[1]):
                    key = (ends[0], end, str(edge.get("route")), str(edge.get("input")))
                    if key not in seen:
                        seen.add(key)
                        made.append(({**edge, "to": end}, place))
            if len(made) > MAX_EDGES:
                message = f"fanout and fanin nodes make more than {MAX_EDGES:,} edges"
                self._errors.append(GraphError("$.edges", message, "split the graph"))
                return []
        return made

    def _check(self) -> None:
        for index, fan in self._fans.items():
            path = json_path(("nodes", index))
            if not self._after[fan]:
                self._errors.append(GraphError(path, "no edge leaves this node", "add one"))
            if fan not in self._entered:
                self._errors.append(GraphError(path, "no edge reaches this node", "add one"))

    def _beyond(self, fan: str) -> Iterator[str]:
        """Nodes that are reached through a fan and the fans after it, each once."""
        waiting, seen = [fan], {fan}
        while waiting:
            for end in self._after[waiting.pop()]:
                if end in seen:
                    continue
                seen.add(end)
                if end in self._after:
                    waiting.append(end)
                else:
                    yield end
