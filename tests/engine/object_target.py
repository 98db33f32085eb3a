"""A run whose state is where the environment says, to be stopped: `object_target.py FOLDER`.

While its first stage is at work nothing but the state is written: another run is not kept waiting
by a database that a stopped one has locked.
"""

import sys
from pathlib import Path

import anyio
from counting import numbers_in, registry

from nvisy_dagster.compiler import Plan, compile_graph
from nvisy_dagster.engine.run import run_plan
from nvisy_dagster.graph.load import build_graph

ROWS = 1000
REFUSED = [7, 170, 555]


def plan(folder: Path) -> Plan:
    """Count, pay (kept between stages; some are refused), write."""
    document = {
        "name": "target",
        "nodes": [
            {
                "id": "count",
                "type": "source",
                "connector": "counter",
                "params": {"rows": ROWS, "batch_rows": 50, "pause_seconds": 0.015},
            },
            {
                "id": "pay",
                "type": "action",
                "action": "pay",
                "params": {"ledger": str(folder / "ledger"), "poison": REFUSED},
                "on_error": "dead_letter",
            },
            {
                "id": "paid",
                "type": "sink",
                "connector": "table",
                "params": {"path": str(folder / "paid.db")},
            },
        ],
        "edges": [{"from": "count", "to": "pay"}, {"from": "pay", "to": "paid"}],
        "checkpoint": {"interval_rows": 100},
    }
    return compile_graph(build_graph(document), registry=registry())


def check_complete(folder: Path, output: str) -> None:
    """Nothing lost, nothing doubled, counts that add up over all attempts."""
    assert numbers_in(folder / "paid.db") == [n for n in range(ROWS) if n not in REFUSED]
    counts = {line.split()[0]: list(map(int, line.split()[1:])) for line in output.splitlines()}
    paid = ROWS - len(REFUSED)
    assert counts == {
        "count": [ROWS, ROWS, 0],
        "pay": [ROWS, paid, len(REFUSED)],
        "paid": [paid, paid, 0],
    }


def main(folder: Path) -> None:
    """Run the graph."""
    result = anyio.run(lambda: run_plan(plan(folder), {}))
    for one in result.metrics.values():
        print(one.node, one.counts.records_in, one.counts.records_out, one.counts.dead)  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
