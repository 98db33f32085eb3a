"""What checkpoints cost.

`checkpoint.py rows COPIES SECONDS OUT` or `checkpoint.py each BATCHES EVERY`.

`rows`: workload W1, so many times over, with a checkpoint every so many seconds; 0 for none but the
last. `each`: a graph that does nothing, with a checkpoint every so many batches; 0 for none: the
difference, divided by the checkpoints, is what one acknowledgement takes: barrier, commit, file.
"""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import components
import data
import w1
from measure import tell

from nvisy_dagster.compiler import Plan, compile_graph
from nvisy_dagster.engine.run import run_plan
from nvisy_dagster.graph.load import build_graph

ROWS = 1_000_000
BATCH_ROWS = 200_000
"""More than a channel holds: a source that is let run ahead is asked for few barriers."""
NEVER_SECONDS = 366 * 24 * 3600


def rows(copies: int, seconds: float, out: Path) -> None:
    """W1 with a checkpoint every so many seconds."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    document = w1.graph(data.copies(data.w1(ROWS), copies), out)
    document["name"] = "checkpoint"
    document["checkpoint"] = {"interval_seconds": seconds or NEVER_SECONDS}
    _run(compile_graph(build_graph(document)))


def each(batches: int, every: int) -> None:
    """Batches that go nowhere, with a checkpoint every so many."""
    document: dict[str, Any] = {
        "name": "checkpoint",
        "nodes": [
            {
                "id": "count",
                "type": "source",
                "connector": "counter",
                "params": {"batches": batches, "batch_rows": BATCH_ROWS},
            },
            {"id": "act", "type": "action", "action": "pass"},
            {"id": "discard", "type": "sink", "connector": "discard"},
        ],
        "edges": [{"from": "count", "to": "act"}, {"from": "act", "to": "discard"}],
        "checkpoint": {"interval_seconds": NEVER_SECONDS},
    }
    if every:
        document["checkpoint"]["interval_rows"] = every * BATCH_ROWS
    _run(compile_graph(build_graph(document), registry=components.registry()))


def _run(plan: Plan) -> None:
    state = data.WORK / "state" / "checkpoint"
    shutil.rmtree(state, ignore_errors=True)
    started = time.perf_counter()
    anyio.run(lambda: run_plan(plan, {}, storage=state))
    seconds = time.perf_counter() - started
    tell(seconds=seconds, checkpoints=_written(state))


def _written(state: Path) -> int:
    """Checkpoints of the run: the last one's epoch."""
    files = list(state.rglob("checkpoint*.json"))
    return max(json.loads(file.read_text(encoding="utf-8")).get("epoch", 0) for file in files)


if __name__ == "__main__":
    if sys.argv[1] == "rows":
        rows(int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]).resolve())
    else:
        each(int(sys.argv[2]), int(sys.argv[3]))
