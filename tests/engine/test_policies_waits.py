"""What waits, and how long, is told: of whole runs, per node, in Dagster and as JSON."""

from pathlib import Path
from typing import Any

import pytest
from counting import registry

from nvisy_dagster.cli.run_record import NodeRecord
from nvisy_dagster.compiler import compile_graph
from nvisy_dagster.engine.gate import Gates
from nvisy_dagster.engine.metrics import SECONDS, Counts, NodeMetrics
from nvisy_dagster.engine.run import RunResult, run_plan
from nvisy_dagster.graph.load import build_graph
from nvisy_dagster.graph.redaction import Redactor
from nvisy_dagster.translator.metadata import Shown, node_metadata, stage_table

pytestmark = pytest.mark.anyio

WAITS = {
    "retry_wait_seconds",
    "breaker_wait_seconds",
    "rate_limit_wait_seconds",
    "concurrency_wait_seconds",
}


async def run(
    tmp_path: Path,
    *,
    pay: dict[str, Any] | None = None,
    source: dict[str, Any] | None = None,
    policies: dict[str, Any] | None = None,
    **graph: Any,
) -> RunResult:
    ledger, database = str(tmp_path / "ledger"), str(tmp_path / "out.db")
    document = {
        "name": "g",
        "nodes": [
            {"id": "count", "type": "source", "connector": "counter", **(source or {})},
            {
                "id": "pay",
                "type": "action",
                "action": "pay",
                "params": {"ledger": ledger, **(pay or {})},
                **(policies or {}),
            },
            {"id": "out", "type": "sink", "connector": "table", "params": {"path": database}},
        ],
        "edges": [{"from": "count", "to": "pay"}, {"from": "pay", "to": "out"}],
        **graph,
    }
    plan = compile_graph(build_graph(document), registry=registry())
    return await run_plan(plan, {}, storage=tmp_path / "state")


async def test_waits_of_retries(tmp_path: Path) -> None:
    slow = {"retry": {"initial_delay_seconds": 0.2}}
    result = await run(tmp_path, pay={"fail_first": 3}, policies=slow)
    counts = result.metrics["pay"].counts
    assert counts.retries == 3
    assert counts.retry_wait_seconds == pytest.approx(0.6, abs=0.3)
    assert counts.records_out == 1000
    assert counts.breaker_wait_seconds == 0
    assert result.metrics["out"].counts.retry_wait_seconds == 0


async def test_waits_in_an_outage_that_is_ridden_out(tmp_path: Path) -> None:
    # Two calls at once: five failures in a row open the breaker.
    quick = {"retry": {"max_retries": 9, "initial_delay_seconds": 0.05}}
    result = await run(tmp_path, pay={"fail_first": 8}, policies=quick)
    counts = result.metrics["pay"].counts
    assert counts.retries == 8
    assert counts.breaker_wait_seconds > 0.25 + 0.5
    assert counts.records_out == 1000


async def test_waits_of_a_source(tmp_path: Path) -> None:
    source = {
        "params": {"hiccup_at": 300},
        "retry": {"initial_delay_seconds": 0.3},
        "rate_limit": {"records": 2000, "per": "second"},
    }
    result = await run(tmp_path, source=source)
    counts = result.metrics["count"].counts
    assert counts.retries == 1
    assert counts.retry_wait_seconds == pytest.approx(0.3, abs=0.2)
    assert counts.rate_limit_wait_seconds > 0.1
    assert counts.records_out == 1000


async def test_waits_of_a_rate_limit(tmp_path: Path) -> None:
    # 1000 records in calls of 50: 20 calls at 50 a second.
    result = await run(tmp_path, policies={"rate_limit": {"requests": 50, "per": "second"}})
    assert result.metrics["pay"].counts.rate_limit_wait_seconds > 0.2


async def test_waits_for_room(tmp_path: Path) -> None:
    result = await run(tmp_path, concurrency={"max_global": 1})
    assert result.metrics["pay"].counts.concurrency_wait_seconds > 0


def test_waits_survive_a_checkpoint() -> None:
    counts = Counts(retry_wait_seconds=1.5, breaker_wait_seconds=2.5)
    assert Counts.from_json(counts.to_json()) == counts
    assert set(SECONDS) == WAITS | {"busy_seconds"}


def test_waits_are_shown() -> None:
    counts = Counts(
        retry_wait_seconds=1.25,
        breaker_wait_seconds=2.5,
        rate_limit_wait_seconds=3.5,
        concurrency_wait_seconds=4.5,
    )
    metrics = NodeMetrics("n", "action", counts)
    shown = node_metadata(metrics, Shown(1.0, False, Redactor(()), False), None)
    assert {name: shown[name].value for name in WAITS} == {
        name: getattr(counts, name) for name in WAITS
    }
    table = stage_table([metrics])
    (row,) = table.records
    assert row.data["rate_limit_wait_seconds"] == 3.5
    assert {column.name for column in table.schema.columns} == set(row.data)
    record = NodeRecord("n", "action", "pay")
    record.observe(metrics, 0.0)
    assert {name: record.to_json()[name] for name in WAITS} == {
        name: getattr(counts, name) for name in WAITS
    }


def test_nodes_of_one_connection_share_a_gate_and_others_do_not() -> None:
    from nvisy_dagster.compiler import compile_document
    from nvisy_dagster.graph.connections import build_connections

    def embed(name: str, connection: str | None, **policies: Any) -> dict[str, Any]:
        node = {"id": name, "type": "action", "action": "embed", "params": {"dimensions": 64}}
        said = {"connection": connection} if connection else {}
        return {**node, **said, **policies}

    nodes = [
        {
            "id": "read",
            "type": "source",
            "connector": "local",
            "params": {"path": "in.jsonl", "format": "jsonl"},
        },
        embed("a", "one", rate_limit={"requests": 5}),
        embed("b", "one"),
        embed("c", "two"),
        embed("d", None),
    ]
    sinks = [
        {
            "id": f"out_{name}",
            "type": "sink",
            "connector": "local",
            "params": {"path": name, "format": "jsonl"},
        }
        for name in "abcd"
    ]
    edges = [{"from": "read", "to": name} for name in "abcd"]
    edges += [{"from": name, "to": f"out_{name}"} for name in "abcd"]
    limited = {"type": "openai", "model": "m", "rate_limit": {"tokens": 1000}}
    plan = compile_document(
        {"name": "g", "nodes": nodes + sinks, "edges": edges},
        connections=build_connections({"one": limited, "two": {"type": "openai", "model": "m"}}),
    )
    gates = Gates(plan)
    a, b, c, d = (gates.of(plan.nodes[name]) for name in "abcd")
    assert gates.of(plan.nodes["a"]) is a
    assert a.breaker is b.breaker
    assert a.budget is b.budget
    assert (len(a.limiters), len(b.limiters), len(c.limiters)) == (2, 1, 0)
    assert a.limiters[1] is b.limiters[0]
    assert len({id(gate.breaker) for gate in (a, c, d)}) == 3
