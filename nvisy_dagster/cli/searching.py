"""Asking a vector sink: find it and the model before it, embed, search, trace the hits."""

import os
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import anyio
import click

from nvisy_dagster.cli.loading import FileErrors, LoadedGraph
from nvisy_dagster.compiler import Node, Plan
from nvisy_dagster.engine.connections import OpenConnections, open_connections
from nvisy_dagster.graph.errors import GraphErrors
from nvisy_dagster.sdk import ConfigError, NvisyError
from nvisy_dagster.sdk.search import Hit, Searchable

WIDEST = 100
INDENT = "   "
WHOLE = {"document", "blob"}
"""Primitives of sources that make one record of an object."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""What a text may hold that a terminal takes for orders."""


@runtime_checkable
class EmbedsTexts(Protocol):
    """An action that can embed a question too, once it is open."""

    async def embed_texts(self, texts: Sequence[str]) -> Any:  # noqa: ANN401 - an array of vectors
        """Vectors of some texts, `(n, d)`."""
        ...


def search(
    loaded: LoadedGraph, question: str, sink: str | None, embed: str | None, limit: int
) -> Sequence[Hit]:
    """The records of a graph's vector sink that are nearest to a question, best first.

    Args:
        loaded: The graph.
        question: Text to embed.
        sink: Id of the sink, if several can be searched.
        embed: Id of the node that embeds, if several stand before the sink.
        limit: Most hits.

    Raises:
        ConfigError: The graph has no such nodes, or more than one, or they refuse.
        TransientError: A system cannot be reached now.
        DataError: The question cannot be embedded.
    """
    plan = loaded.plan
    asked = _choose(plan, _searchable(plan), sink, "sink that can be searched", "--sink")
    embedding = _choose(
        plan, _embedding(plan, asked), embed, f'node before "{asked.id}" that embeds', "--embed"
    )
    # Only the connections of these two: a source's secrets are not needed to ask.
    part = replace(plan, nodes={node.id: node for node in (asked, embedding)})
    try:
        connections = open_connections(part, loaded.connections, os.environ)
    except GraphErrors as errors:
        raise FileErrors(errors, loaded.connections_path or loaded.path) from errors
    scrub = connections.redactor.scrub
    try:
        return anyio.run(_ask, plan, embedding, asked, connections, question, limit)
    except NvisyError as error:
        error.message = scrub(error.message)
        error.remedy = None if error.remedy is None else scrub(error.remedy)
        raise


async def _ask(  # noqa: PLR0913, PLR0917 - what a question needs
    plan: Plan,
    embedding: Node,
    asked: Node,
    connections: OpenConnections,
    question: str,
    limit: int,
) -> Sequence[Hit]:
    def build(node: Node) -> Any:  # noqa: ANN401 - a component with one of our protocols
        connection = connections.by_name.get(node.connection) if node.connection else None
        return node.build(connection, plan.folder)

    async with build(embedding) as action:
        vectors = await action.embed_texts([question])
    async with build(asked) as sink:
        return await sink.search([float(x) for x in vectors[0]], limit)


def _searchable(plan: Plan) -> list[Node]:
    return [node for node in plan.nodes.values() if issubclass(node.component, Searchable)]


def _embedding(plan: Plan, sink: Node) -> list[Node]:
    """Nodes that embed on the way to the sink."""
    found: dict[str, None] = {}
    waiting = [sink.id]
    while waiting:
        for edge in plan.edges_into[waiting.pop()]:
            if edge.output.node not in found:
                found[edge.output.node] = None
                waiting.append(edge.output.node)
    nodes = (plan.nodes[node] for node in found)
    return [node for node in nodes if issubclass(node.component, EmbedsTexts)]


def _choose(
    plan: Plan, candidates: Sequence[Node], wanted: str | None, what: str, option: str
) -> Node:
    ids = ", ".join(node.id for node in candidates)
    if wanted is not None:
        for node in candidates:
            if node.id == wanted:
                return node
        raise ConfigError(
            f'graph "{plan.name}" has no {what} with the id "{wanted}"',
            remedy=f"there are: {ids}" if ids else None,
        )
    if not candidates:
        raise ConfigError(f'graph "{plan.name}" has no {what}')
    if len(candidates) > 1:
        raise ConfigError(
            f'graph "{plan.name}" has more than one {what}', remedy=f"choose with {option}: {ids}"
        )
    return candidates[0]


def describe_hit(hit: Hit) -> dict[str, Any]:
    """A hit as JSON, its trace beside its payload."""
    return {
        "id": hit.id,
        "score": hit.score,
        "text": hit.payload.get("text"),
        "trace": trace(hit),
        "payload": dict(hit.payload),
    }


def trace(hit: Hit) -> dict[str, Any]:
    """From a stored record back to where it came from."""
    payload = hit.payload
    source = payload.get("_source") or {}
    return {
        "id": hit.id,
        "parents": payload.get("_parent_ids") or [],
        "root": payload.get("_root_id"),
        "source": source.get("uri"),
        "position": source.get("position"),
        "start": payload.get("start"),
        "end": payload.get("end"),
    }


def reads_whole_objects(plan: Plan) -> bool:
    """Whether every source makes one record of each object, so that its position says nothing."""
    outputs = [node.output for node in plan.nodes.values() if node.kind == "source"]
    return all(output is not None and output.primitive in WHOLE for output in outputs)


def draw_hit(number: int, hit: Hit, *, whole: bool) -> Iterator[str]:
    """A hit for people.

    Args:
        number: Its place among the hits.
        hit: The hit.
        whole: Whether a source makes one record of each object.
    """
    yield click.style(f"{number}. score {hit.score:.4f}", bold=True)
    width = min(shutil.get_terminal_size((WIDEST, 24)).columns, WIDEST)
    yield from _text_lines(str(hit.payload.get("text") or ""), width)
    found = trace(hit)
    position = found["position"]
    alone = position is None or (whole and position == 0)
    place = "" if alone else f" at position {position}"
    span = "" if found["end"] is None else f", characters {found['start']} to {found['end']}"
    style: Callable[[str], str] = lambda line: click.style(line, dim=True)  # noqa: E731
    yield style(f"   from   {found['source'] or 'an unknown source'}{place}{span}")
    steps = [found["id"], ", ".join(found["parents"]) or "no parent", found["root"] or "no root"]
    yield style(f"   trace  {steps[0]} <- parent {steps[1]} <- root {steps[2]}")
    yield ""


def _text_lines(text: str, width: int) -> Iterator[str]:
    """The lines of a text, as they are, but for those that are too wide: code stays readable."""
    lines = [_CONTROL.sub("", line.expandtabs(4)).rstrip() for line in text.splitlines()]
    kept = [number for number, line in enumerate(lines) if line]
    for line in lines[kept[0] : kept[-1] + 1] if kept else ():
        begins = INDENT + line[: len(line) - len(line.lstrip())]
        if len(begins) > width // 2:
            begins = INDENT
        yield from textwrap.wrap(
            line.lstrip(), width, initial_indent=begins, subsequent_indent=begins
        ) or [""]
