"""What the engine costs by itself: tiny batches through an action that does nothing.

`overhead.py BATCHES ACTION`. A checkpoint every second. The data is nothing, so the time is the
engine's; a batch makes two hops, from the source to the action and from there to the sink.
"""

import shutil
import sys
import time

import anyio
import components
import data
from measure import tell

from nvisy_dagster.compiler import compile_graph
from nvisy_dagster.engine.run import run_plan
from nvisy_dagster.graph.load import build_graph

HOPS = 2


def main(batches: int, action: str) -> None:
    document = {
        "name": "overhead",
        "nodes": [
            {
                "id": "count",
                "type": "source",
                "connector": "counter",
                "params": {"batches": batches},
            },
            {"id": "act", "type": "action", "action": action},
            {"id": "discard", "type": "sink", "connector": "discard"},
        ],
        "edges": [{"from": "count", "to": "act"}, {"from": "act", "to": "discard"}],
        "checkpoint": {"interval_seconds": 1},
    }
    plan = compile_graph(build_graph(document), registry=components.registry())
    state = data.WORK / "state" / "overhead"
    shutil.rmtree(state, ignore_errors=True)
    started = time.perf_counter()
    result = anyio.run(lambda: run_plan(plan, {}, storage=state))
    seconds = time.perf_counter() - started
    assert result.metrics["discard"].counts.calls >= batches
    tell(seconds=seconds, milliseconds_per_hop=1000 * seconds / batches / HOPS)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
