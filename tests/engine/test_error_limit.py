"""A share of records that may fail: judged of all records of a node, whichever failed last."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from counting import registry

from nvisy_dagster.compiler import Plan, compile_document, compile_graph
from nvisy_dagster.engine.failure import NodeError
from nvisy_dagster.engine.run import RunResult, run_plan
from nvisy_dagster.graph.load import build_graph

pytestmark = pytest.mark.anyio


async def run(plan: Plan, folder: Path, **options: Any) -> RunResult:
    return await run_plan(plan, {}, storage=folder / "state", **options)


def refusing(folder: Path, share: float, checkpoint: dict[str, int]) -> Plan:
    """1000 records into a table that refuses the first 20."""
    params = {"rows": 1000, "batch_rows": 10, "pause_seconds": 0.001}
    nodes = [
        {"id": "count", "type": "source", "connector": "counter", "params": params},
        {
            "id": "out",
            "type": "sink",
            "connector": "table",
            "params": {"path": str(folder / "out.db"), "refuse": list(range(20))},
        },
    ]
    edges = [{"from": a["id"], "to": b["id"]} for a, b in pairwise(nodes)]
    document = {
        "name": "g",
        "nodes": nodes,
        "edges": edges,
        "on_error": "dead_letter",
        "error_limit": {"share": share},
        "checkpoint": checkpoint,
    }
    return compile_graph(build_graph(document), registry=registry())


def reading(folder: Path, lines: int, bad_every: int, share: float, policy: str = "drop") -> Plan:
    """Lines of which some are no JSON, read as one batch."""
    (folder / "in").mkdir(exist_ok=True)
    made = [json.dumps({"n": n})[: None if n % bad_every else -1] for n in range(lines)]
    (folder / "in" / "x.jsonl").write_text("\n".join(made))
    local = {"connector": "local"}
    source = {"path": str(folder / "in"), "format": "jsonl", "columns": {"n": "int64"}}
    read = {"id": "read", "type": "source", **local, "params": source, "on_error": policy}
    return compile_document({
        "name": "lines",
        "nodes": [
            read | {"error_limit": {"share": share}},
            {"id": "out", "type": "sink", **local, "params": {"path": str(folder / "out")}},
        ],
        "edges": [{"from": "read", "to": "out"}],
    })


@pytest.mark.parametrize("checkpoint", [{"interval_seconds": 1000}, {"interval_rows": 50}])
async def test_failures_before_the_hundredth_record_count(
    tmp_path: Path, checkpoint: dict[str, int]
) -> None:
    """Nothing fails any more by the time that the share is judged."""
    with pytest.raises(
        NodeError, match=r"20 of [0-9,]+ records failed, .* 0\.01 of them"
    ) as caught:
        await run(refusing(tmp_path, 0.01, checkpoint), tmp_path)
    assert caught.value.tag == "error_limit"
    await run(refusing(tmp_path, 0.5, checkpoint), tmp_path)


async def test_a_source_is_judged_by_all_that_it_read(tmp_path: Path) -> None:
    """The bad lines of a batch are treated before its good ones are passed on."""
    await run(reading(tmp_path, 40_000, bad_every=200, share=0.01), tmp_path)


async def test_a_source_that_reads_one_batch_is_judged(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="10 of 1,000 records failed"):
        await run(reading(tmp_path, 1000, bad_every=100, share=0.009), tmp_path)


@pytest.mark.parametrize(
    ("policy", "said"), [("dead_letter", "nvisy dead-letters list"), ("drop", "instead of")]
)
async def test_the_remedy_fits_the_policy(tmp_path: Path, policy: str, said: str) -> None:
    with pytest.raises(NodeError) as caught:
        await run(reading(tmp_path, 1000, bad_every=10, share=0.01, policy=policy), tmp_path)
    assert said in str(caught.value.remedy)
