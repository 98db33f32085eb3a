"""Counts that add up: in every kind of graph, over resumed runs; and they catch what does not."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from counting import EvenAction, SpreadAction, ThirdRouter, numbers_in
from pausing import registry
from review_graphs import NO_PAUSE, action, sink, source

from nvisy_dagster.compiler import Plan, compile_graph
from nvisy_dagster.engine.accounting import sum_in_words, totals
from nvisy_dagster.engine.channel import Channel
from nvisy_dagster.engine.failure import NodeError
from nvisy_dagster.engine.materialized import PartWriter
from nvisy_dagster.engine.nodes import action as action_task
from nvisy_dagster.engine.nodes import edges
from nvisy_dagster.engine.run import RunResult, run_plan
from nvisy_dagster.graph.load import build_graph

pytestmark = pytest.mark.anyio

OFTEN = {"interval_rows": 100}
BY = {"id": "by", "type": "branch", "routes": [{"name": "third", "when": "n % 3 = 0"}]}


def graph(nodes: Sequence[dict[str, Any]], *edges: str, **rest: Any) -> Plan:
    written = [dict(zip(("from", "to", "route"), edge.split(), strict=False)) for edge in edges]
    document = {"name": "g", "retry": NO_PAUSE, "nodes": list(nodes), "edges": written, **rest}
    return compile_graph(build_graph(document), registry=registry())


async def run(plan: Plan, folder: Path) -> RunResult:
    return await run_plan(plan, {}, storage=folder / "state")


def appending(folder: Path, node_id: str = "out", **params: Any) -> dict[str, Any]:
    return sink("appending", node_id, path=str(folder / f"{node_id}.db"), **params)


def table(folder: Path, node_id: str = "out", **params: Any) -> dict[str, Any]:
    return sink("table", node_id, path=str(folder / f"{node_id}.db"), **params)


def sums(result: RunResult) -> dict[str, str]:
    return {name: sum_in_words(metrics) for name, metrics in result.metrics.items()}


def letters(folder: Path) -> int:
    """Dead letters on storage, read without the engine."""
    files = (folder / "state").rglob("dead_letters/**/*.arrow")
    return sum(pa.ipc.open_file(file).read_all().num_rows for file in files)


async def test_every_kind_of_node(tmp_path: Path) -> None:
    """Fan-out, fan-in, a branch, one to many, edges that are kept, records that are refused."""
    refusing = table(tmp_path, "third", refuse=[3, 300, 999]) | {"on_error": "dead_letter"}
    dropping = action("pay", ledger=str(tmp_path / "l"), poison=[7, 8]) | {"on_error": "drop"}
    plan = graph(
        [
            source(rows=1000),
            source("again", rows=500),
            action("even"),
            BY | {"default": "rest"},
            action("twice"),
            dropping,
            appending(tmp_path, "plain"),
            refusing,
            appending(tmp_path, "doubled", tells=True),
            appending(tmp_path, "paid"),
        ],
        "count plain",
        "count by",
        "again by",
        "by third third",
        "by even rest",
        "even twice",
        "twice doubled",
        "count pay",
        "pay paid",
        checkpoint=OFTEN,
    )
    result = await run(plan, tmp_path)
    third = len([*range(0, 1000, 3), *range(0, 500, 3)])
    even = len([n for n in [*range(1000), *range(500)] if n % 3 and n % 2 == 0])
    # 3 comes twice, and so does 300.
    assert letters(tmp_path) == 5
    assert sums(result) == {
        "count": "1,000 read = 1,000 sent + 0 dropped + 0 dead",
        "again": "500 read = 500 sent + 0 dropped + 0 dead",
        "by": "1,500 in = 1,500 passed on + 0 dropped + 0 dead",
        "even": f"{1500 - third} in = {even} passed on + {1500 - third - even} dropped + 0 dead",
        "twice": f"{even} in = {even} passed on + 0 dropped + 0 dead",
        "plain": "1,000 in = 1,000 written + 0 dropped + 0 dead",
        "third": f"{third} in = {third - 5} written + 0 dropped + 5 dead",
        "doubled": f"{2 * even} in = {2 * even} written + 0 dropped + 0 dead",
        "pay": "1,000 in = 998 passed on + 2 dropped + 0 dead",
        "paid": "998 in = 998 written + 0 dropped + 0 dead",
    }
    assert len(numbers_in(tmp_path / "doubled.db")) == 2 * even
    assert totals(result.metrics.values()) == {
        "read": 1500,
        "written": 1000 + third - 5 + 2 * even + 998,
        "dropped": 1500 - third - even + 2,
        "dead": 5,
    }


async def test_over_a_run_that_failed_and_went_on(tmp_path: Path) -> None:
    plan = graph(
        [source(rows=1000), action("even"), BY, table(tmp_path, refuse=[600])],
        "count even",
        "even by",
        "by out third",
        checkpoint=OFTEN,
    )
    with pytest.raises(NodeError, match="600 is refused"):
        await run(plan, tmp_path)
    forgiving = graph(
        [source(rows=1000), action("even"), BY, table(tmp_path, refuse=[600])],
        "count even",
        "even by",
        "by out third",
        checkpoint=OFTEN,
        on_error="dead_letter",
    )
    result = await run(forgiving, tmp_path)
    assert sums(result)["even"] == "1,000 in = 500 passed on + 500 dropped + 0 dead"
    assert sums(result)["by"] == "500 in = 167 passed on + 333 dropped + 0 dead"
    assert sums(result)["out"] == "167 in = 166 written + 0 dropped + 1 dead"
    # A run that is complete tells the sums again, from its checkpoint.
    assert letters(tmp_path) == 1


async def red(plan: Plan, folder: Path, at: str, told: str, missing: int) -> None:
    """The run fails of its counts, says so, and is not taken for complete.

    Args:
        told: What is said, each number as `#`.
        missing: By how much the numbers after the first one fall short of it.
    """
    with pytest.raises(NodeError, match=told.replace("#", r"(-?[\d,]+)")) as caught:
        await run(plan, folder)
    found = re.search(told.replace("#", r"(-?[\d,]+)"), caught.value.message)
    assert found is not None
    first, *others = (int(number.replace(",", "")) for number in found.groups())
    assert first - sum(others) == missing
    assert caught.value.node == at
    assert caught.value.tag == "bug"
    assert not caught.value.retryable
    assert "do not add up" in caught.value.message
    chains = json.loads(next((folder / "state").rglob("chains.json")).read_text())
    assert not chains["chains"][chains["current"]]["complete"]


async def test_a_sink_that_swallows_a_record_is_found_out(tmp_path: Path) -> None:
    swallowing = appending(tmp_path, tells=True, swallow=[432])
    plan = graph([source(), swallowing], "count out", checkpoint=OFTEN)
    await red(plan, tmp_path, "out", "# in, but # written, # dropped, # dead", 1)
    # The checkpoint does not cover it: put right, the next run writes it.
    for path in (tmp_path / "state").rglob("checkpoint.json"):
        assert json.loads(path.read_text())["sources"]["count"]["cursor"]["after"] <= 432


async def test_a_sink_that_never_sees_a_unit_is_found_out(tmp_path: Path) -> None:
    plan = graph([source(), appending(tmp_path, split_loses=432)], "count out", checkpoint=OFTEN)
    await red(plan, tmp_path, "out", "it took # records, but count sent it #", -25)


async def test_without_any_barrier_it_is_found_out_at_the_end(tmp_path: Path) -> None:
    plan = graph(
        [source(), appending(tmp_path, split_loses=432)],
        "count out",
        checkpoint={"interval_seconds": 1000.0},
    )
    await red(plan, tmp_path, "out", "it took # records, but count sent it #", -25)


def losing_once(function: Callable[..., Any], result: Any) -> Callable[..., Any]:
    """The function, whose fifth call for a batch does nothing."""
    calls: list[int] = []

    async def lossy(self: Any, *arguments: Any) -> Any:
        if isinstance(arguments[0], pa.RecordBatch):
            calls.append(1)
            if len(calls) == 5:
                return result
        return await function(self, *arguments)

    return lossy


async def test_a_channel_that_loses_a_batch_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Channel, "send", losing_once(Channel.send, None))
    plan = graph([source(), appending(tmp_path)], "count out", checkpoint=OFTEN)
    await red(plan, tmp_path, "out", "it took # records, but count sent it #", -100)


async def test_a_writer_between_stages_that_loses_a_batch_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PartWriter, "write", losing_once(PartWriter.write, None))
    pay = action("pay", ledger=str(tmp_path / "l"))
    plan = graph([source(), pay, appending(tmp_path)], "count pay", "pay out", checkpoint=OFTEN)
    await red(plan, tmp_path, "pay", "it sent # records, # of them are kept", 50)


async def test_a_reader_between_stages_that_loses_a_batch_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lossy(*arguments: Any) -> Any:
        number = 0
        async for found in real(*arguments):
            number += 1
            if number != 2:
                yield found

    real = edges.read_part
    monkeypatch.setattr(edges, "read_part", lossy)
    pay = action("pay", ledger=str(tmp_path / "l"))
    plan = graph(
        [source(), pay, appending(tmp_path)],
        "count pay",
        "pay out",
        checkpoint={"interval_rows": 400},
    )
    await red(plan, tmp_path, "out", "it took # records, but pay sent it #", -50)


async def test_an_action_that_never_sees_a_unit_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def split(self: SpreadAction, batch: pa.RecordBatch) -> Any:
        if batch["n"][0].as_py() != 400:
            yield batch

    monkeypatch.setattr(SpreadAction, "split", split)
    plan = graph(
        [source(), action("spread"), appending(tmp_path)], "count spread", "spread out",
        checkpoint=OFTEN,
    )  # fmt: skip
    await red(plan, tmp_path, "spread", "it took # records, but count sent it #", -100)


async def test_an_engine_that_forgets_to_hand_a_batch_on_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bisecting once lost the second half: what was taken is less than what came in."""

    async def lossy(call: Any, batch: pa.RecordBatch, reject: Any) -> Any:
        return (await real(call, batch, reject))[: 0 if batch["n"][0].as_py() == 400 else None]

    real = action_task.apply_isolating
    monkeypatch.setattr(action_task, "apply_isolating", lossy)
    plan = graph(
        [source(), action("even"), appending(tmp_path)], "count even", "even out", checkpoint=OFTEN
    )
    await red(plan, tmp_path, "even", "# in, but # passed on, # dropped, # dead", 100)


async def test_an_action_that_makes_records_of_nothing_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def transform(self: EvenAction, batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.Table.from_batches([batch, batch]).combine_chunks().to_batches()[0]

    monkeypatch.setattr(EvenAction, "transform", transform)
    plan = graph([source(), action("even"), appending(tmp_path)], "count even", "even out",
                 checkpoint=OFTEN)  # fmt: skip
    await red(plan, tmp_path, "even", "# in, but # passed on, -# dropped, # dead", -200)


async def test_a_branch_that_sends_a_record_down_two_routes_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def route(self: ThirdRouter, batch: pa.RecordBatch) -> Any:
        return dict.fromkeys(self.routes(), batch)

    monkeypatch.setattr(ThirdRouter, "route", route)
    plan = graph(
        [source(), BY | {"default": "rest"}, appending(tmp_path, "a"), appending(tmp_path, "b")],
        "count by",
        "by a third",
        "by b rest",
        checkpoint=OFTEN,
    )
    await red(plan, tmp_path, "by", "# in, but # passed on, -# dropped, # dead", -200)
