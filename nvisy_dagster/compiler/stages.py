"""Which edges are streamed, which are materialized, and the stages that follow."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from nvisy_dagster.compiler.plan import Edge, Node, Output, Stage
from nvisy_dagster.graph.model import Graph

LONGEST_ID = 60


def plan_edges(graph: Graph, nodes: Mapping[str, Node], order: Sequence[str]) -> list[Edge]:
    """The edges with how their data travels.

    A node whose work costs money, or that is told to, has its output materialized. Nodes get the
    level of the deepest of their inputs, one more behind a materialized edge; an edge between two
    levels is materialized too, so that no two stages ever wait for each other. What a node that
    needs all records before it makes any reads is materialized, and what it makes as well, unless
    a sink alone takes it all as one epoch.
    What a node chose among records that might come in another order next time is materialized: no
    sink sees what an attempt that was cut off had chosen. So is what it chose among records that
    cost money, instead of all of those: no more is paid for than it lets through.
    """
    wanted: dict[str, bool] = {}
    by_chance: dict[str, bool] = {}
    """Whether records may reach the node in another order when they come again."""
    into: defaultdict[str, list[str]] = defaultdict(list)
    for edge in graph.edges:
        into[edge.to].append(edge.from_)
    choosing = _choosing(graph, nodes, into)
    handing_on = _handing_on(graph, nodes, into)
    level: dict[str, int] = {}
    for node in order:
        alone = nodes[node].blocks
        level[node] = max((level[b] + (wanted[b] or alone) for b in into[node]), default=0)
        streamed = any(by_chance[b] and level[b] == level[node] for b in into[node])
        source = nodes[node].kind == "source" and not nodes[node].component.capabilities.replayable
        by_chance[node] = not alone and (source or streamed or len(into[node]) > 1)
        expensive = nodes[node].component.capabilities.expensive and node not in choosing
        chosen = nodes[node].compares and (by_chance[node] or node in choosing.values())
        kept = alone and node not in handing_on
        wanted[node] = kept or _materialized(graph, nodes[node], auto=expensive or chosen)
    return [
        Edge(
            Output(edge.from_, edge.route),
            edge.to,
            "streamed" if level[edge.from_] == level[edge.to] else "materialized",
            edge.input,
        )
        for edge in graph.edges
    ]


def _choosing(
    graph: Graph, nodes: Mapping[str, Node], into: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """Of each node whose work costs money the one behind it that ends that work, if it is alone."""
    behind: defaultdict[str, list[str]] = defaultdict(list)
    for edge in graph.edges:
        behind[edge.from_].append(edge.to)
    found: dict[str, str] = {}
    for node in nodes.values():
        here = node
        while node.component.capabilities.expensive and len(behind[here.id]) == 1:
            here = nodes[behind[here.id][0]]
            if len(into[here.id]) > 1 or here.kind != "action" or here.blocks:
                break
            if here.compares:
                own = [graph.by_id[one.id].materialize for one in (node, here)]
                if own[0] is None and own[1] is not False:
                    found[node.id] = here.id
                break
    return found


def _handing_on(
    graph: Graph, nodes: Mapping[str, Node], into: Mapping[str, Sequence[str]]
) -> set[str]:
    """The nodes that need all records and may hand what they make to a sink at once.

    It is one epoch: whatever of it is not whole, the sink discards, and the node makes it again.
    """
    behind = Counter(edge.from_ for edge in graph.edges)
    return {
        edge.from_
        for edge in graph.edges
        if nodes[edge.from_].blocks
        and behind[edge.from_] == len(into[edge.to]) == 1
        and nodes[edge.to].kind == "sink"
        and nodes[edge.to].component.capabilities.write_mode == "epoch"
    }


def _materialized(graph: Graph, node: Node, *, auto: bool) -> bool:
    own = graph.by_id[node.id].materialize
    if own is not None:
        return own
    match graph.execution.edges:
        case "materialized":
            return True
        case "streamed":
            return False
        case "auto":
            return auto


def plan_stages(
    nodes: Mapping[str, Node], edges: Sequence[Edge], order: Sequence[str]
) -> list[Stage]:
    """The stages in topological order: the nodes that streamed edges join."""
    group = _groups(order, edges)
    members: defaultdict[str, list[str]] = defaultdict(list)
    for node in order:
        members[group[node]].append(node)
    inputs: defaultdict[str, dict[Output, None]] = defaultdict(dict)
    outputs: defaultdict[str, dict[Output, None]] = defaultdict(dict)
    internal: defaultdict[str, list[Edge]] = defaultdict(list)
    for edge in edges:
        internal[group[edge.target]].append(edge)
        if edge.kind == "materialized":
            inputs[group[edge.target]][edge.output] = None
            outputs[group[edge.output.node]][edge.output] = None
    ids = _stage_ids(members)
    hashes: dict[str, str] = {}
    stages: list[Stage] = []
    for key in _stage_order(members, inputs, group):
        before = [hashes[group[output.node]] for output in inputs[key]]
        hashes[key] = _hash(members[key], nodes, internal[key], before)
        stages.append(
            Stage(ids[key], members[key], list(inputs[key]), list(outputs[key]), hashes[key])
        )
    return stages


def _groups(order: Sequence[str], edges: Iterable[Edge]) -> dict[str, str]:
    parent = {node: node for node in order}

    def root(node: str) -> str:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for edge in edges:
        if edge.kind == "streamed":
            parent[root(edge.target)] = root(edge.output.node)
    return {node: root(node) for node in order}


def _stage_order(
    members: Mapping[str, Sequence[str]],
    inputs: Mapping[str, Mapping[Output, None]],
    group: Mapping[str, str],
) -> list[str]:
    done: list[str] = []
    placed: set[str] = set()
    waiting = list(members)
    while waiting:
        later: list[str] = []
        for key in waiting:
            if all(group[output.node] in placed for output in inputs[key]):
                placed.add(key)
                done.append(key)
            else:
                later.append(key)
        waiting = later
    return done


def _stage_ids(members: Mapping[str, Sequence[str]]) -> dict[str, str]:
    ids: dict[str, str] = {}
    for key, nodes in members.items():
        joined = "__".join(nodes)
        if len(joined) > LONGEST_ID:
            joined = f"{nodes[0]}__to__{nodes[-1]}" if len(nodes) > 1 else nodes[0]
        ids[key] = joined
    taken: set[str] = set()
    for key, name in ids.items():
        unique, number = name, 2
        while unique in taken:
            unique, number = f"{name}__{number}", number + 1
        taken.add(unique)
        ids[key] = unique
    return ids


def _hash(
    members: Sequence[str],
    nodes: Mapping[str, Node],
    edges: Sequence[Edge],
    before: Sequence[str],
) -> str:
    document = {
        "before": sorted(before),
        "edges": sorted(
            [e.output.name, e.target, e.kind, *([e.input] if e.input else [])] for e in edges
        ),
        "nodes": [
            [
                node.id,
                node.component_name,
                node.connection,
                node.policies.on_error,
                node.params.model_dump(mode="json"),
                *(["incremental", _removes(node)] if node.incremental else []),
            ]
            for node in (nodes[member] for member in members)
        ],
    }
    text = json.dumps(document, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _removes(node: Node) -> str:
    # Consent to remove everything changes nothing of what is made, so nothing is read again for it.
    return "remove" if node.on_removed == "all" else node.on_removed
