"""Limits that a graph asks for: rate limits that can be kept, and the pool of each stage."""

from collections.abc import Iterable, Mapping, Sequence

from nvisy_dagster.compiler.plan import Stage
from nvisy_dagster.compiler.problems import Problems
from nvisy_dagster.compiler.resolve import Resolved
from nvisy_dagster.graph.connections import NamedConnection
from nvisy_dagster.graph.model import Graph
from nvisy_dagster.sdk import BaseAction, Router, Sink

_SILENT = {BaseAction.cost, Router.cost, Sink.cost}


def check_rate_limits(graph: Graph, nodes: Sequence[Resolved], problems: Problems) -> None:
    """Refuse limits that would limit nothing."""
    remedy = "limit its requests or records"
    for resolved in nodes:
        own = resolved.node.rate_limit
        if own is not None and own.tokens is not None and not _tells_tokens(resolved):
            problems.add(
                "nodes",
                resolved.index,
                "rate_limit",
                "tokens",
                message=f'"{resolved.component_name}" does not tell the tokens of its calls',
                remedy=remedy,
            )
    limit = graph.rate_limit
    if limit is None:
        return
    held = [one for one in nodes if one.node.rate_limit is None and one.connection is not None]
    if not held:
        message = "no node takes it: none without its own has a connection"
        problems.add("rate_limit", message=message, remedy="set it on a node, or remove it")
    elif limit.tokens is not None and not any(map(_tells_tokens, held)):
        message = "no node that takes it tells the tokens of its calls"
        problems.add("rate_limit", "tokens", message=message, remedy=remedy)


def _tells_tokens(node: Resolved) -> bool:
    return getattr(node.component, "cost", BaseAction.cost) not in _SILENT


def stage_pools(
    graph: Graph,
    nodes: Mapping[str, Resolved],
    connections: Mapping[str, NamedConnection] | None,
    stages: Iterable[Stage],
    problems: Problems,
) -> dict[str, str]:
    """The pool that each stage waits for, by its id.

    It is what a node of the stage names, else the connection of a node, else the graph. A stage is
    one op of Dagster, and that has one pool: two in one stage are refused.
    """
    pools: dict[str, str] = {}
    for stage in stages:
        named = [found for node in stage.nodes if (found := _own_pool(nodes[node], connections))]
        for index, pool in named:
            if pool != named[0][1]:
                problems.add(
                    "nodes",
                    index,
                    message=f'it waits for the pool "{pool}", and another node of its stage for '
                    f'"{named[0][1]}": a stage has one',
                    remedy='name one pool, or part them with "materialize": true on a node between',
                )
        pool = named[0][1] if named else graph.concurrency.pool
        if pool is not None:
            pools[stage.id] = pool
    return pools


def _own_pool(
    node: Resolved, connections: Mapping[str, NamedConnection] | None
) -> tuple[int, str] | None:
    own = node.node.concurrency
    if own is not None and own.pool is not None:
        return node.index, own.pool
    defined = (connections or {}).get(node.connection or "")
    shared = defined.policies.concurrency if defined else None
    return None if shared is None else (node.index, shared.pool)
