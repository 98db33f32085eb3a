"""The shape of a graph: ids, edges, arity, cycles, reachability."""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence

from nvisy_dagster.compiler.problems import Problems
from nvisy_dagster.graph.errors import suggest
from nvisy_dagster.graph.model import BranchNode, Edge, Graph, SinkNode, SourceNode

SHOWN_CYCLE = 12


class Shape:
    """The sound edges of a graph, and its nodes in topological order where there is one."""

    def __init__(self, graph: Graph, edges: Sequence[tuple[int, Edge]]) -> None:
        self.edges = edges
        self.successors: Mapping[str, list[str]] = {node: [] for node in graph.by_id}
        self.predecessors: Mapping[str, list[str]] = {node: [] for node in graph.by_id}
        for _, edge in edges:
            self.successors[edge.from_].append(edge.to)
            self.predecessors[edge.to].append(edge.from_)
        self.order = self._topological()

    def _topological(self) -> list[str]:
        waiting = {node: len(before) for node, before in self.predecessors.items()}
        ready = deque(node for node, count in waiting.items() if count == 0)
        order: list[str] = []
        while ready:
            node = ready.popleft()
            order.append(node)
            for after in self.successors[node]:
                waiting[after] -= 1
                if waiting[after] == 0:
                    ready.append(after)
        return order

    @property
    def cyclic(self) -> set[str]:
        """Nodes on a cycle or behind one."""
        return set(self.successors) - set(self.order)


def check_structure(graph: Graph, problems: Problems) -> Shape:
    """Find every mistake in the graph's shape.

    Returns:
        The shape without the edges that are mistakes.
    """
    _check_ids(graph, problems)
    shape = Shape(graph, list(_sound_edges(graph, problems)))
    _check_arity(graph, shape, problems)
    _check_routes(graph, shape, problems)
    _report_cycles(graph, shape, problems)
    _check_reach(graph, shape, problems)
    return shape


def _check_ids(graph: Graph, problems: Problems) -> None:
    first: dict[str, int] = {}
    for index, node in enumerate(graph.nodes):
        if node.id in first:
            problems.add(
                "nodes",
                index,
                "id",
                message=f'id "{node.id}" is already taken by node {first[node.id]}',
                remedy="give every node an id of its own",
            )
        first.setdefault(node.id, index)


def _sound_edges(graph: Graph, problems: Problems) -> Iterable[tuple[int, Edge]]:
    seen: dict[tuple[str, str, str | None, str | None], int] = {}
    for index, edge in enumerate(graph.edges):
        sound = True
        for end, key in ((edge.from_, "from_"), (edge.to, "to")):
            if end not in graph.by_id:
                sound = False
                problems.add(
                    "edges",
                    index,
                    key,
                    message=f'there is no node "{end}"',
                    remedy=suggest(end, graph.by_id),
                )
        if sound and edge.from_ == edge.to:
            sound = False
            problems.add(
                "edges",
                index,
                message=f'this edge leads from "{edge.from_}" to itself',
                remedy="remove it",
            )
        whole = (edge.from_, edge.to, edge.route, edge.input)
        if sound and whole in seen:
            sound = False
            problems.add(
                "edges", index, message=f"the same as edge {seen[whole]}", remedy="remove it"
            )
        seen.setdefault(whole, index)
        if sound:
            yield index, edge


def _check_arity(graph: Graph, shape: Shape, problems: Problems) -> None:
    reported: set[str] = set()
    for index, node in enumerate(graph.nodes):
        if node.id in reported:
            continue
        reported.add(node.id)
        before, after = shape.predecessors[node.id], shape.successors[node.id]
        if isinstance(node, SourceNode) and before:
            message = f'source "{node.id}" cannot be the end of an edge (from "{before[0]}")'
            problems.add("nodes", index, message=message, remedy="remove the edge")
        if isinstance(node, SinkNode) and after:
            message = f'sink "{node.id}" cannot be the start of an edge (to "{after[0]}")'
            problems.add("nodes", index, message=message, remedy="remove the edge")
        if not isinstance(node, SourceNode) and not before:
            message = f'no edge leads to {node.type} "{node.id}"'
            problems.add("nodes", index, message=message, remedy="add an edge, or remove the node")
        if not isinstance(node, SinkNode) and not after:
            message = f'no edge leads from {node.type} "{node.id}": what it makes goes nowhere'
            problems.add("nodes", index, message=message, remedy="add an edge, or remove the node")


def _check_routes(graph: Graph, shape: Shape, problems: Problems) -> None:
    used: defaultdict[str, set[str]] = defaultdict(set)
    for index, edge in shape.edges:
        node = graph.by_id[edge.from_]
        if not isinstance(node, BranchNode):
            if edge.route is not None:
                message = f'"{node.id}" is no branch and has no routes'
                problems.add("edges", index, "route", message=message, remedy="remove the route")
            continue
        names = _route_names(node)
        if edge.route is None:
            message = f'an edge out of branch "{node.id}" must name its route'
            remedy = f'add "route": one of {", ".join(names)}'
            problems.add("edges", index, message=message, remedy=remedy)
        elif edge.route not in names:
            message = f'branch "{node.id}" has no route "{edge.route}"'
            problems.add(
                "edges", index, "route", message=message, remedy=suggest(edge.route, names)
            )
        else:
            used[node.id].add(edge.route)
    for index, node in enumerate(graph.nodes):
        if isinstance(node, BranchNode) and shape.successors[node.id]:
            _check_branch(index, node, used[node.id], problems)


def _route_names(node: BranchNode) -> list[str]:
    names = [route.name for route in node.routes]
    return names if node.default is None else [*names, node.default]


def _check_branch(index: int, node: BranchNode, used: set[str], problems: Problems) -> None:
    for place, name in enumerate(_route_names(node)):
        if name not in used:
            where = ("routes", place, "name") if place < len(node.routes) else ("default",)
            message = f'route "{name}" of branch "{node.id}" leads nowhere'
            remedy = "add an edge with this route, or remove the route"
            problems.add("nodes", index, *where, message=message, remedy=remedy)


def _report_cycles(graph: Graph, shape: Shape, problems: Problems) -> None:
    place = {node.id: index for index, node in reversed(list(enumerate(graph.nodes)))}
    for cycle in _cycles(shape):
        # Told from its first node in the document; the edge that leads back there is to blame.
        start = min(range(len(cycle)), key=lambda i: place[cycle[i]])
        nodes = [*cycle[start:], *cycle[:start]]
        back = (nodes[-1], nodes[0])
        edge = next(i for i, e in shape.edges if (e.from_, e.to) == back)
        if len(nodes) > SHOWN_CYCLE:
            nodes = [*nodes[: SHOWN_CYCLE - 2], "...", nodes[-1]]
        problems.add(
            "edges",
            edge,
            message=f"these nodes form a cycle: {' -> '.join([*nodes, back[1]])}",
            remedy="records flow one way; remove one of the edges between them",
        )


def _check_reach(graph: Graph, shape: Shape, problems: Problems) -> None:
    sources = [node.id for node in graph.nodes if isinstance(node, SourceNode)]
    reached = _reachable(sources, shape.successors)
    for index, node in enumerate(graph.nodes):
        # A cycle, or a missing edge, is reported as itself; this is for what lies behind it.
        if (
            node.id not in reached
            and node.id not in shape.cyclic
            and shape.predecessors[node.id]
            and graph.by_id[node.id] is node
        ):
            problems.add(
                "nodes",
                index,
                message=f'no source reaches "{node.id}"',
                remedy="connect a source to it or to a node before it",
            )


def _reachable(start: Iterable[str], successors: Mapping[str, list[str]]) -> set[str]:
    found = set(start)
    queue = deque(found)
    while queue:
        for after in successors[queue.popleft()]:
            if after not in found:
                found.add(after)
                queue.append(after)
    return found


def _cycles(shape: Shape) -> Iterable[list[str]]:
    """One cycle of each knot of cycles, as the nodes along it."""
    left = _trimmed(shape.cyclic, shape)
    while left:
        # Every node left has a predecessor that is left, so walking backwards must repeat a node.
        walk: list[str] = [min(left)]
        seen = {walk[0]: 0}
        while True:
            before = next(node for node in shape.predecessors[walk[-1]] if node in left)
            if before in seen:
                break
            seen[before] = len(walk)
            walk.append(before)
        cycle = list(reversed(walk[seen[before] :]))
        yield cycle
        knot = _reachable(cycle, shape.successors) & _reachable(cycle, shape.predecessors)
        left = _trimmed(left - knot, shape)


def _trimmed(nodes: set[str], shape: Shape) -> set[str]:
    """The nodes that lie on a cycle among them, or between two cycles."""
    left = set(nodes)
    for neighbours, others in (
        (shape.predecessors, shape.successors),
        (shape.successors, shape.predecessors),
    ):
        count = {node: sum(n in left for n in neighbours[node]) for node in left}
        ends = [node for node, n in count.items() if n == 0]
        while ends:
            end = ends.pop()
            left.discard(end)
            for node in others[end]:
                if node in left:
                    count[node] -= 1
                    if count[node] == 0:
                        ends.append(node)
    return left
