"""A run that calls a limited API, in a process of its own: `limit_target.py FOLDER NAME URL LIMIT`.

All of them have one connection and one storage; each has a graph of its own.
"""

import sys
from pathlib import Path

import anyio
from pydantic import SecretStr

from nvisy_connectors.ai.openai_connection import OpenAIConnection
from nvisy_dagster.compiler import compile_document
from nvisy_dagster.engine.run import run_plan
from nvisy_dagster.graph.connections import build_connections


def main(folder: Path, name: str, url: str, limit: int) -> None:
    """Embed the texts of a file, one a request."""
    read = {"path": str(folder / f"{name}.jsonl"), "format": "jsonl"}
    write = {"path": str(folder / f"out_{name}"), "format": "jsonl"}
    embed = {"model": "stub", "dimensions": 16, "batch_rows": 1}
    document = {
        "name": name,
        "nodes": [
            {"id": "read", "type": "source", "connector": "local", "params": read},
            {
                "id": "embed",
                "type": "action",
                "action": "embed",
                "connection": "models",
                "params": embed,
            },
            {"id": "write", "type": "sink", "connector": "local", "params": write},
        ],
        "edges": [{"from": "read", "to": "embed"}, {"from": "embed", "to": "write"}],
    }
    limited = {"type": "openai", "rate_limit": {"requests": limit, "per": "second"}}
    plan = compile_document(document, connections=build_connections({"models": limited}))
    models = OpenAIConnection(api_key=SecretStr("k"), base_url=url)
    anyio.run(lambda: run_plan(plan, {"models": models}, storage=folder / "state"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
