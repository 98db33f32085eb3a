"""Documents in the published format, and what is made of them."""

from pathlib import Path
from typing import Any

import pytest

from nvisy_dagster.graph.connections import load_connections
from nvisy_dagster.graph.errors import GraphErrors
from nvisy_dagster.graph.load import build_graph

PUBLISHED = Path(__file__).parent / "published"
CONNECTIONS = load_connections(PUBLISHED / "connections.json")


def chain(*nodes: dict[str, Any], **graph: Any) -> dict[str, Any]:
    named = [{"id": f"n{i}", **node} for i, node in enumerate(nodes)]
    edges = [{"from": f"n{i}", "to": f"n{i + 1}"} for i in range(len(nodes) - 1)]
    return {"id": "4c1b5f0e-9f63-4d56-b7c2-6f5e7f1c2002", "nodes": named, "edges": edges, **graph}


def action(name: str, **params: Any) -> dict[str, Any]:
    return {"type": "action", "action": name, "params": params}


def read(**changes: Any) -> dict[str, Any]:
    return {"type": "source", "provider": "object/s3", "stream": "object/read", **changes}


def translated(name: str, **params: Any) -> tuple[str, dict[str, Any]]:
    node = build_graph(chain(action(name, **params))).nodes[0]
    return node.action, node.params


def mistakes(document: dict[str, Any]) -> list[tuple[str, str, str | None]]:
    with pytest.raises(GraphErrors) as caught:
        build_graph(document)
    return [(error.path, error.message, error.remedy) for error in caught.value.errors]
