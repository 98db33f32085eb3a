"""A replay, or a run, in a process of its own, to be killed: `replay_target.py FOLDER replay`."""

import sys
import uuid
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import anyio
from awkward import registry

from nvisy_dagster.compiler import Plan, compile_document, compile_graph
from nvisy_dagster.engine.replay import Replay
from nvisy_dagster.engine.run import run_plan
from nvisy_dagster.graph.load import build_graph


def awkward_plan(folder: Path, *, mended: bool) -> Plan:
    """Pay and write twice, into a table by id and into files by epoch."""
    poison = [200] if mended else list(range(0, 400, 2))
    pay = {"ledger": str(folder / "ledger"), "poison": poison}
    document = {
        "name": "g",
        "nodes": [
            {
                "id": "count",
                "type": "source",
                "connector": "counter",
                "params": {"rows": 400, "batch_rows": 50},
            },
            {"id": "pay", "type": "action", "action": "pay", "params": pay, "materialize": False},
            {
                "id": "out",
                "type": "sink",
                "connector": "table",
                "params": {"path": str(folder / "out.db"), "table": "t"},
            },
            {
                "id": "files",
                "type": "sink",
                "connector": "local",
                "params": {"path": str(folder / "files"), "format": "parquet", "mode": "replace"},
            },
        ],
        "edges": [
            {"from": "count", "to": "pay"},
            {"from": "pay", "to": "out"},
            {"from": "pay", "to": "files"},
        ],
        "on_error": "dead_letter",
        "checkpoint": {"interval_rows": 50},
    }
    return compile_graph(build_graph(document), registry=registry())


def lines_plan(folder: Path, kind: str) -> Plan:
    """Read lines whose column has this type, and write files by epoch."""
    source = {"path": str(folder / "in"), "format": "jsonl", "columns": {"n": kind}}
    sink = {"path": str(folder / "files"), "format": "parquet", "mode": "append"}
    document = {
        "name": "g",
        "nodes": [
            {"id": "read", "type": "source", "connector": "local", "params": source},
            {"id": "files", "type": "sink", "connector": "local", "params": sink},
        ],
        "edges": [{"from": "read", "to": "files"}],
        "on_error": "dead_letter",
        "checkpoint": {"interval_rows": 1000},
    }
    return compile_document(document)


def versions_plan(folder: Path, poison: Sequence[int] = (), between: Sequence[str] = ()) -> Plan:
    """Read lines, do what stands between, pay, which is kept between two stages, and upsert."""
    source = {"path": str(folder / "in"), "format": "jsonl", "columns": {"n": "int64"}}
    pay = {"ledger": str(folder / "ledger"), "poison": list(poison)}
    nodes = [
        {"id": "read", "type": "source", "connector": "local", "params": source},
        *({"id": action, "type": "action", "action": action} for action in between),
        {"id": "pay", "type": "action", "action": "pay", "params": pay},
        {"id": "out", "type": "sink", "connector": "table",
         "params": {"path": str(folder / "out.db")}},
    ]  # fmt: skip
    ids = [node["id"] for node in nodes]
    document = {
        "name": "g",
        "nodes": nodes,
        "edges": [{"from": a, "to": b} for a, b in pairwise(ids)],
        "on_error": "dead_letter",
        "checkpoint": {"interval_rows": 1},
    }
    return compile_graph(build_graph(document), registry=registry())


def main(folder: Path, what: str) -> None:
    if what == "replay-lines":
        plan = lines_plan(folder, "float64")
    elif what == "replay-versions":
        plan = versions_plan(folder)
    elif what == "replay-twice-versions":
        plan = versions_plan(folder, between=["twice"])
    else:
        plan = awkward_plan(folder, mended=True)
    if what == "run":
        anyio.run(lambda: run_plan(plan, {}, storage=folder / "state"))
    else:
        anyio.run(lambda: Replay(plan, folder / "state", str(uuid.uuid4())).run({}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
