"""A plan as text and as JSON."""

from collections.abc import Iterator
from typing import Any

import click

from nvisy_dagster.compiler import Edge, Node, Plan, Stage
from nvisy_dagster.sdk import Capabilities
from nvisy_dagster.sdk.capabilities import guarantee

_ARROWS = {"streamed": "->", "materialized": "=>"}
_WEAKEST_FIRST = ("at least once", "effectively once", "exactly once")


def guarantees(plan: Plan) -> dict[str, str]:
    """Delivery guarantee of each sink: the weakest over the sources that reach it."""
    sources: dict[str, set[str]] = {}
    for stage in plan.stages:
        for node in stage.nodes:
            before = (edge.output.node for edge in plan.edges_into[node])
            own = {node} if plan.nodes[node].kind == "source" else set[str]()
            sources[node] = own.union(*(sources[one] for one in before))
    return {
        node.id: min(
            (
                guarantee(plan.nodes[source].component.capabilities, node.component.capabilities)
                for source in sources[node.id]
            ),
            key=_WEAKEST_FIRST.index,
        )
        for node in plan.nodes.values()
        if node.kind == "sink"
    }


def describe_plan(plan: Plan) -> dict[str, Any]:
    """The plan as JSON."""
    promised = guarantees(plan)
    return {
        "name": plan.name,
        "schedule": plan.schedule.model_dump(mode="json") if plan.schedule else None,
        "stages": [
            {
                "id": stage.id,
                "nodes": [_describe_node(plan.nodes[node], promised) for node in stage.nodes],
            }
            for stage in plan.stages
        ],
        "edges": [
            {
                "from": edge.output.node,
                "route": edge.output.route,
                "to": edge.target,
                "input": edge.input,
                "kind": edge.kind,
                "primitive": _primitive(plan, edge),
            }
            for edge in plan.edges
        ],
    }


def _describe_node(node: Node, promised: dict[str, str]) -> dict[str, Any]:
    return {
        "id": node.id,
        "kind": node.kind,
        "component": node.component_name,
        "connection": node.connection,
        "concurrency": _concurrency(node),
        "expensive": node.component.capabilities.expensive,
        "on_error": node.policies.on_error,
        "guarantee": promised.get(node.id),
    }


def draw_plan(plan: Plan) -> Iterator[str]:
    """The plan as lines of text, a box per stage."""
    promised = guarantees(plan)
    widest = max(len(node) for node in plan.nodes)
    yield click.style(plan.name, bold=True) + (
        f"  at {plan.schedule.cron} ({plan.schedule.timezone})" if plan.schedule else ""
    )
    for number, stage in enumerate(plan.stages, 1):
        yield ""
        title = f"stage {number} of {len(plan.stages)}"
        yield f"╭─ {click.style(title, bold=True)}  {stage.id}"
        yield from _draw_inputs(plan, stage)
        for node in stage.nodes:
            yield f"│  {_draw_node(plan.nodes[node], widest, promised)}"
            edges = plan.edges_from[node]
            for edge in edges:
                corner = "└" if edge is edges[-1] else "├"
                yield f"│  {corner}{_draw_edge(plan, edge)}"
        yield "╰─"


def _draw_inputs(plan: Plan, stage: Stage) -> Iterator[str]:
    for output in stage.inputs:
        yield f"│  reads {output.name} from stage {plan.stage_of[output.node].id}"


def _draw_node(node: Node, widest: int, promised: dict[str, str]) -> str:
    said = node.component_name if node.kind == "branch" else f"{node.kind} {node.component_name}"
    notes = [f"connection {node.connection}"] if node.connection else []
    if (concurrency := _concurrency(node)) > 1:
        notes.append(f"{concurrency} at once")
    if node.component.capabilities.expensive:
        notes.append("expensive")
    if node.policies.on_error != "fail":
        notes.append(f"on error: {node.policies.on_error}")
    if node.id in promised:
        notes.append(promised[node.id])
    tail = f"  ({', '.join(notes)})" if notes else ""
    return f"{click.style(node.id.ljust(widest), fg='cyan')}  {said}{tail}"


def _draw_edge(plan: Plan, edge: Edge) -> str:
    route = f"[{edge.output.route}]" if edge.output.route else ""
    target = f"{edge.target} ({edge.input})" if edge.input else edge.target
    return f"{route}{_ARROWS[edge.kind]} {target}  {_primitive(plan, edge)}"


def _primitive(plan: Plan, edge: Edge) -> str:
    made = plan.nodes[edge.output.node].output
    return made.primitive if made else "?"


def _concurrency(node: Node) -> int:
    capabilities: Capabilities = node.component.capabilities
    return node.policies.concurrency.max_per_node or capabilities.concurrency
