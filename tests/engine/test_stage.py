"""Whole plans, run by the engine alone."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pyarrow as pa
import pytest
from counting import SpreadAction, numbers_in, registry

from nvisy_dagster.compiler import Plan, compile_graph
from nvisy_dagster.engine.failure import NodeError, RunConflictError
from nvisy_dagster.engine.metrics import NodeMetrics
from nvisy_dagster.engine.run import RunResult, run_plan
from nvisy_dagster.graph.load import build_graph

pytestmark = pytest.mark.anyio


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "out.db"


def graph(nodes: Sequence[dict[str, Any]], *edges: str, **rest: Any) -> Plan:
    written = [dict(zip(("from", "to", "route"), edge.split(), strict=False)) for edge in edges]
    document = {"name": "g", "nodes": list(nodes), "edges": written, **rest}
    return compile_graph(build_graph(document), registry=registry())


def counter(**params: Any) -> dict[str, Any]:
    return {"id": "count", "type": "source", "connector": "counter", "params": params}


def table(path: Path, node_id: str = "out", **params: Any) -> dict[str, Any]:
    params = {"path": str(path), "table": node_id, **params}
    return {"id": node_id, "type": "sink", "connector": "table", "params": params}


def action(name: str, **params: Any) -> dict[str, Any]:
    return {"id": name, "type": "action", "action": name, "params": params}


async def run(plan: Plan, tmp_path: Path, **options: Any) -> RunResult:
    return await run_plan(plan, {}, storage=tmp_path / "state", **options)


async def test_source_action_sink(tmp_path: Path, database: Path) -> None:
    plan = graph([counter(), action("even"), table(database)], "count even", "even out")
    result = await run(plan, tmp_path)
    assert numbers_in(database, "out") == list(range(0, 1000, 2))
    even = result.metrics["even"].counts
    assert (even.records_in, even.records_out, even.dropped) == (1000, 500, 500)
    out = result.metrics["out"].counts
    assert (out.records_in, out.records_out, out.dead) == (500, 500, 0)
    assert out.bytes_out == out.bytes_in > 500 * 8
    assert not result.resumed


async def test_every_downstream_sees_every_batch(tmp_path: Path) -> None:
    a, b = tmp_path / "a.db", tmp_path / "b.db"
    plan = graph([counter(), table(a, "a"), table(b, "b")], "count a", "count b")
    await run(plan, tmp_path)
    assert numbers_in(a, "a") == numbers_in(b, "b") == list(range(1000))


async def test_fan_in_takes_everything_once(tmp_path: Path, database: Path) -> None:
    second = {**counter(rows=500), "id": "again"}
    plan = graph(
        [counter(pause_seconds=0.002), second, action("spread"), table(database)],
        "count spread",
        "again spread",
        "spread out",
        checkpoint={"interval_rows": 150},
    )
    result = await run(plan, tmp_path)
    assert result.metrics["spread"].counts.records_in == 1500
    assert numbers_in(database, "out") == list(range(1000))


async def test_branch_sends_each_record_down_one_route(tmp_path: Path) -> None:
    branch = {
        "id": "by3",
        "type": "branch",
        "routes": [{"name": "yes", "when": "n % 3 = 0"}],
        "default": "no",
    }
    plan = graph(
        [counter(), branch, table(tmp_path / "a.db", "a"), table(tmp_path / "b.db", "b")],
        "count by3",
        "by3 a yes",
        "by3 b no",
    )
    result = await run(plan, tmp_path)
    assert numbers_in(tmp_path / "a.db", "a") == list(range(0, 1000, 3))
    assert numbers_in(tmp_path / "b.db", "b") == [n for n in range(1000) if n % 3]
    assert result.metrics["by3"].counts.dropped == 0


async def test_calls_overlap_up_to_the_limit_and_keep_order(tmp_path: Path, database: Path) -> None:
    SpreadAction.peak = 0
    spread = {**action("spread", slow_every=700), "concurrency": {"max_per_node": 3}}
    taken: list[int] = []
    plan = graph([counter(batch_rows=10), spread, table(database)], "count spread", "spread out")

    def observe(metrics: Sequence[NodeMetrics]) -> None:
        taken.append(metrics[0].counts.records_out)

    await run(plan, tmp_path, observe=observe)
    assert SpreadAction.peak == 3
    assert numbers_in(database, "out") == list(range(1000))
    assert taken[-1] == 1000


async def test_max_global_limits_the_whole_run(tmp_path: Path, database: Path) -> None:
    SpreadAction.peak = 0
    first, second = action("spread"), {**action("spread"), "id": "spread2"}
    plan = graph(
        [counter(batch_rows=10), first, second, table(database)],
        "count spread",
        "spread spread2",
        "spread2 out",
        concurrency={"max_global": 2},
    )
    await run(plan, tmp_path)
    assert SpreadAction.peak <= 2


async def test_paid_work_is_materialized_and_paid_once(tmp_path: Path, database: Path) -> None:
    ledger = tmp_path / "ledger"
    pay = action("pay", ledger=str(ledger))
    failing = graph(
        [counter(), pay, table(database, refuse=[999])],
        "count pay",
        "pay out",
        checkpoint={"interval_rows": 200},
    )
    with pytest.raises(
        NodeError, match=r"node 'out': record .* from count: at 999: 999 is refused"
    ):
        await run(failing, tmp_path)
    assert sorted(map(int, ledger.read_text().split())) == list(range(1000))
    # The sink's params change, so its stage begins anew; what was paid for stays.
    mended = graph(
        [counter(), pay, table(database)],
        "count pay",
        "pay out",
        checkpoint={"interval_rows": 200},
    )
    result = await run(mended, tmp_path)
    assert numbers_in(database, "out") == list(range(1000))
    assert len(ledger.read_text().split()) == 1000
    assert result.metrics["pay"].counts.records_out == 1000


async def test_a_failed_run_goes_on_from_its_checkpoint(tmp_path: Path, database: Path) -> None:
    ledger = tmp_path / "ledger"
    nodes = [
        counter(batch_rows=50, pause_seconds=0.002),
        {**action("pay", ledger=str(ledger), poison=[777]), "materialize": False},
        table(database),
    ]
    plan = graph(nodes, "count pay", "pay out", checkpoint={"interval_rows": 100})
    with pytest.raises(NodeError, match=r"at 777: poison"):
        await run(plan, tmp_path)
    written = len(numbers_in(database, "out"))
    assert 0 < written < 777
    state = next((tmp_path / "state").rglob("checkpoint.json"))
    cursor = json.loads(state.read_text())["sources"]["count"]["cursor"]["after"]
    assert written >= cursor > 0
    ledger.write_text("")
    with pytest.raises(NodeError, match="poison"):
        await run(plan, tmp_path)
    assert min(map(int, ledger.read_text().split())) == cursor


async def test_success_then_again_is_a_full_run(tmp_path: Path, database: Path) -> None:
    plan = graph([counter(), table(database)], "count out")
    first = await run(plan, tmp_path)
    second = await run(plan, tmp_path)
    assert second.progress != first.progress
    assert not second.resumed
    assert second.metrics["count"].counts.records_out == 1000
    assert numbers_in(database, "out") == list(range(1000))


async def test_fresh_begins_anew_after_a_failure(tmp_path: Path, database: Path) -> None:
    plan = graph(
        [counter(), table(database, refuse=[900])],
        "count out",
        checkpoint={"interval_rows": 100},
    )
    with pytest.raises(NodeError):
        await run(plan, tmp_path)
    state = next((tmp_path / "state").rglob("chains.json"))
    before = json.loads(state.read_text())["current"]
    with pytest.raises(NodeError):
        await run(plan, tmp_path, fresh=True)
    assert json.loads(state.read_text())["current"] != before


async def test_transient_errors_are_retried_and_retry_after_is_honoured(
    tmp_path: Path, database: Path
) -> None:
    pay = {
        **action("pay", ledger=str(tmp_path / "ledger"), fail_first=2, retry_after=0.2),
        "retry": {"max_retries": 2, "initial_delay_seconds": 0.001},
        "concurrency": {"max_per_node": 1},
    }
    plan = graph([counter(hiccup_at=300), pay, table(database)], "count pay", "pay out")
    started = time.perf_counter()
    result = await run(plan, tmp_path)
    assert time.perf_counter() - started >= 0.4
    assert result.metrics["pay"].counts.retries == 2
    assert result.metrics["count"].counts.records_out == 1000
    assert numbers_in(database, "out") == list(range(1000))


async def test_spent_retries_name_the_node_and_may_be_tried_again(
    tmp_path: Path, database: Path
) -> None:
    pay = {
        **action("pay", ledger=str(tmp_path / "ledger"), fail_first=9),
        "retry": {"max_retries": 1, "backoff": "fixed", "initial_delay_seconds": 0.001},
    }
    plan = graph([counter(), pay, table(database)], "count pay", "pay out")
    with pytest.raises(NodeError, match="node 'pay': busy") as caught:
        await run(plan, tmp_path)
    assert caught.value.retryable


async def test_a_pause_that_no_run_should_sit_through_is_told(
    tmp_path: Path, database: Path
) -> None:
    pay = action("pay", ledger=str(tmp_path / "ledger"), fail_first=1, retry_after=999_999)
    plan = graph([counter(), pay, table(database)], "count pay", "pay out")
    with pytest.raises(NodeError, match="called again after 999,999 s"):
        await run(plan, tmp_path)


async def test_dead_letters_stay_small(tmp_path: Path, database: Path) -> None:
    """A letter once held the whole batch's buffers, so that letters grew with their square."""
    refused = list(range(0, 4000, 2))
    plan = graph(
        [counter(rows=4000, batch_rows=4000), table(database, refuse=refused)],
        "count out",
        on_error="dead_letter",
    )
    await run(plan, tmp_path)
    files = list((tmp_path / "state").rglob("dead_letters/**/*.arrow"))
    assert sum(file.stat().st_size for file in files) < 2000 * 500


async def test_drop_counts_and_goes_on(tmp_path: Path, database: Path) -> None:
    pay = {**action("pay", ledger=str(tmp_path / "l"), poison=[5, 6, 400]), "on_error": "drop"}
    plan = graph([counter(), pay, table(database)], "count pay", "pay out")
    result = await run(plan, tmp_path)
    assert result.metrics["pay"].counts.dropped == 3
    assert numbers_in(database, "out") == sorted(set(range(1000)) - {5, 6, 400})


async def test_dead_letters_are_kept_with_their_reasons(tmp_path: Path, database: Path) -> None:
    pay = action("pay", ledger=str(tmp_path / "l"), poison=[7])
    plan = graph(
        [counter(), pay, table(database, refuse=[8])],
        "count pay",
        "pay out",
        on_error="dead_letter",
    )
    result = await run(plan, tmp_path)
    assert result.metrics["pay"].counts.dead == 1
    assert result.metrics["out"].counts.dead == 1
    letters = [
        letter
        for file in (tmp_path / "state").rglob("dead_letters/**/*.arrow")
        for letter in pa.ipc.open_file(file).read_all().to_pylist()
    ]
    assert {(x["node"], x["message"]) for x in letters} == {
        ("pay", "poison"),
        ("out", "8 is refused"),
    }
    assert sorted(x["record"]["n"] for x in letters) == [7, 8]
    assert numbers_in(database, "out") == sorted(set(range(1000)) - {7, 8})


async def test_a_slow_call_times_out(tmp_path: Path, database: Path) -> None:
    out = {
        **table(database, write_seconds=5),
        "timeout": {"call_seconds": 0.05},
        "retry": {"max_retries": 0},
    }
    plan = graph([counter(), out], "count out")
    with pytest.raises(NodeError, match=r"longer than 0\.05 s") as caught:
        await run(plan, tmp_path)
    assert caught.value.tag == "timeout"


async def test_a_slow_node_times_out(tmp_path: Path, database: Path) -> None:
    source = {**counter(pause_seconds=0.05), "timeout": {"node_seconds": 0.1}}
    plan = graph([source, table(database)], "count out")
    with pytest.raises(NodeError, match=r"node 'count': it took longer than 0\.1 s"):
        await run(plan, tmp_path)


async def test_two_live_runs_of_one_graph_are_told_apart(tmp_path: Path, database: Path) -> None:
    plan = graph([counter(pause_seconds=0.05), table(database)], "count out")
    async with anyio.create_task_group() as tasks:

        async def first() -> None:
            await run(plan, tmp_path, run_id="first")

        tasks.start_soon(first)
        await anyio.sleep(0.2)
        with pytest.raises(RunConflictError, match="run first is running this graph now"):
            await run(plan, tmp_path, run_id="second")


async def test_cancelling_closes_clients_and_the_next_run_goes_on(
    tmp_path: Path, database: Path
) -> None:
    plan = graph(
        [counter(pause_seconds=0.02), table(database)],
        "count out",
        checkpoint={"interval_rows": 100},
    )
    with anyio.move_on_after(0.15) as scope:
        await run(plan, tmp_path)
    assert scope.cancelled_caught
    before = len(numbers_in(database, "out"))
    assert before < 1000
    result = await run(plan, tmp_path)
    assert result.resumed
    assert numbers_in(database, "out") == list(range(1000))
    assert result.metrics["count"].counts.records_out == 1000
