"""W1: JSON lines -> filter -> map -> Parquet, in the engine alone.

`w1.py ROWS OUT [COPIES [deduplicate]]`: with the last word also deduplicated by text.
"""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import data
import duckdb
from measure import tell

from nvisy_dagster.compiler import compile_file
from nvisy_dagster.engine.run import run_plan


def graph(source: Path, out: Path, *, deduplicate: bool = False) -> dict[str, Any]:
    """The graph of the workload."""
    once = {
        "id": "once",
        "type": "action",
        "action": "deduplicate",
        "params": {"by": ["text"]},
    }
    last = "once" if deduplicate else "lower"
    columns = {"text": "lower(text)", "length": "length(text)"}
    return {
        "name": "w1",
        "nodes": [
            {
                "id": "read",
                "type": "source",
                "connector": "local",
                "params": {"path": str(source), "format": "jsonl"},
            },
            {
                "id": "english",
                "type": "action",
                "action": "filter",
                "params": {"where": "lang = 'en' AND score > 0.2"},
            },
            {"id": "lower", "type": "action", "action": "map", "params": {"set": columns}},
            *([once] if deduplicate else []),
            {
                "id": "write",
                "type": "sink",
                "connector": "local",
                "params": {"path": str(out), "format": "parquet"},
            },
        ],
        "edges": [
            {"from": "read", "to": "english"},
            {"from": "english", "to": "lower"},
            *([{"from": "lower", "to": "once"}] if deduplicate else []),
            {"from": last, "to": "write"},
        ],
    }


def prepare(source: Path, out: Path, *, deduplicate: bool = False) -> Path:
    """Write the graph to a file; returns its path."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    path = data.WORK / f"{out.name}.json"
    document = graph(source, out, deduplicate=deduplicate)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def contents(out: Path) -> tuple[Any, ...]:
    """What both contestants must agree on: rows, and sums over the columns."""
    sums = "count(*), sum(id), sum(length), sum(score)::decimal(20, 4), count(distinct text)"
    nested = "sum(meta.author.id), sum(len(meta.tags)), min(ts::timestamp), max(ts::timestamp)"
    query = f"select {sums}, {nested} from read_parquet('{out}/*.parquet')"
    found = duckdb.connect().execute(query).fetchone()
    assert found is not None
    return found


def texts(out: Path) -> tuple[Any, ...]:
    """How many records there are, and of how many texts with what sum of lengths."""
    query = (
        f"select count(*), count(distinct text), sum(length) from read_parquet('{out}/*.parquet')"
    )
    found = duckdb.connect().execute(query).fetchone()
    assert found is not None
    return found


def main(rows: int, out: Path, copies: int = 1, *, deduplicate: bool = False) -> None:
    source = data.copies(data.w1(rows), copies)
    plan = compile_file(prepare(source, out, deduplicate=deduplicate))
    state = data.WORK / "state" / "w1"
    shutil.rmtree(state, ignore_errors=True)
    started = time.perf_counter()
    result = anyio.run(lambda: run_plan(plan, {}, storage=state))
    seconds = time.perf_counter() - started
    busy = {name: round(node.counts.busy_seconds, 3) for name, node in result.metrics.items()}
    tell(seconds=seconds, busy_seconds=busy)


if __name__ == "__main__":
    numbers = (int(word) for word in sys.argv[3:4])
    deduplicate = sys.argv[4:] == ["deduplicate"]
    main(int(sys.argv[1]), Path(sys.argv[2]).resolve(), *numbers, deduplicate=deduplicate)
