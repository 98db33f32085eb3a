"""Letters at the seams: stages that begin anew, replays cut off, files that fit in part."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from counting import numbers_in
from test_dead_letters import box, chain, counter, pay, run, table

from nvisy_dagster.cli.dead_letters_export import export
from nvisy_dagster.compiler import compile_graph
from nvisy_dagster.engine.checkpoint import CheckpointStore
from nvisy_dagster.engine.dead_letter import DeadLetters, LetterOrigin, listed_as
from nvisy_dagster.engine.dead_letter_box import ALL, DeadLetterBox
from nvisy_dagster.engine.failure import NodeError
from nvisy_dagster.engine.lease import Lease
from nvisy_dagster.engine.rejection import Rejected
from nvisy_dagster.engine.replay import Replay
from nvisy_dagster.graph.load import build_graph
from nvisy_dagster.sdk.envelope import with_envelope
from nvisy_dagster.sdk.identity import root_ids

pytestmark = pytest.mark.anyio


async def test_a_mark_does_not_hide_a_later_failure_in_the_same_chain(tmp_path: Path) -> None:
    """A run that failed goes on in its chain, with a changed stage that begins anew."""
    checkpoint = {"interval_rows": 100}

    def graph(failing: list[int], **params: Any) -> Any:
        source = counter(batch_rows=50, pause_seconds=0.004)
        gentle = {**pay(tmp_path, poison=[7], **params), "materialize": False}
        on_error = "fail" if failing else "dead_letter"
        sink = {**table(tmp_path, refuse=failing), "on_error": on_error}
        return chain(source, gentle, sink, checkpoint=checkpoint)

    with pytest.raises(NodeError, match="800"):
        await run(graph([800]), tmp_path)
    found = box(tmp_path)
    assert found.letters().num_rows == 1
    found.mark(found.letters(), "discarded")
    assert found.letters().num_rows == 0
    result = await run(graph([]), tmp_path)
    assert result.metrics["pay"].counts.dead == 1
    assert found.letters().num_rows == 1


async def test_letters_of_a_stage_without_sinks_survive_a_graph_changed_back(
    tmp_path: Path,
) -> None:
    failing = {**table(tmp_path, refuse=[8]), "on_error": "fail"}
    first = chain(counter(), pay(tmp_path, poison=[7]), failing)
    with pytest.raises(NodeError, match="8 is refused"):
        await run(first, tmp_path)
    assert box(tmp_path).letters().num_rows == 1
    other = chain(counter(), pay(tmp_path, poison=[9]), failing)
    with pytest.raises(NodeError, match="8 is refused"):
        await run(other, tmp_path)
    result = await run(chain(counter(), pay(tmp_path, poison=[7]), table(tmp_path)), tmp_path)
    assert result.metrics["pay"].counts.dead == 1
    [letter] = box(tmp_path).letters().to_pylist()
    assert letter["position"] == 7
    assert numbers_in(tmp_path / "out.db") == [n for n in range(1000) if n != 7]


def batch(first: int, texts: list[str | None]) -> pa.RecordBatch:
    numbers = np.arange(first, first + len(texts))
    ids = root_ids("test:", numbers)
    columns = pa.record_batch({"n": pa.array(texts, pa.string())})
    return with_envelope(columns, ids=ids, uri="test:", positions=numbers)


async def leave(folder: Path, node: str, *batches: pa.RecordBatch) -> DeadLetterBox:
    """A chain that left these letters."""
    graph, progress = folder / "state" / "graphs" / "g", "01HZZZZZZZZZZZZZZZZZZZZZZZ"
    letters = DeadLetters(graph / "dead_letters" / progress, LetterOrigin(node, "run"))
    for one in batches:
        await letters.add(Rejected(one, ["bad"] * one.num_rows, "validation"))
    parts = await letters.commit(1)
    async with Lease(graph / progress / "stage", "run") as lease:
        store = CheckpointStore(graph / progress / "stage" / "checkpoint.json", lease)
        checkpoint = store.claim()
        store.write(checkpoint.model_copy(update={"epoch": 1, "parts": {listed_as(node): parts}}))
    return box(folder)


async def test_letters_of_one_file_are_refused_or_replayed_and_never_both(tmp_path: Path) -> None:
    """What is said to stay must not have gone through."""
    found = await leave(tmp_path, "pay", batch(0, ["1", "2"]), batch(2, ["no number", "4"]))
    source = {"path": str(tmp_path / "in"), "format": "jsonl", "columns": {"n": "int64"}}
    document = {
        "name": "g",
        "nodes": [
            {"id": "read", "type": "source", "connector": "local", "params": source},
            {"id": "pay", "type": "action", "action": "map", "params": {"set": {"m": "n + 1"}}},
            {
                "id": "out",
                "type": "sink",
                "connector": "local",
                "params": {"path": str(tmp_path / "out"), "format": "jsonl"},
            },
        ],
        "edges": [{"from": "read", "to": "pay"}, {"from": "pay", "to": "out"}],
    }
    (tmp_path / "in").mkdir()
    plan = compile_graph(build_graph(document))
    assert found.letters().num_rows == 4
    result = await Replay(plan, tmp_path / "state", "again").run({})
    assert result.letters + sum(one.letters for one in result.refused) == 4
    assert found.letters().num_rows == sum(one.letters for one in result.refused)
    written = [line for file in (tmp_path / "out").glob("*") for line in file.open()]
    assert len(written) == result.letters


async def test_letters_whose_column_was_all_null_are_exported(tmp_path: Path) -> None:
    nothing = batch(0, [None, None])
    place = nothing.schema.get_field_index("n")
    nothing = nothing.set_column(place, pa.field("n", pa.null()), pa.nulls(2))
    found = await leave(tmp_path, "pay", nothing, batch(2, ["a"]))
    assert export(found, found.letters(), tmp_path / "letters.parquet") == 3
    texts = [row["record"]["n"] for row in pq.read_table(tmp_path / "letters.parquet").to_pylist()]
    assert texts == [None, None, "a"]


async def test_what_is_discarded_after_a_replay_was_cut_off_is_not_replayed(
    tmp_path: Path,
) -> None:
    await run(chain(counter(), table(tmp_path, refuse=[7, 8])), tmp_path)
    failing = chain(counter(), {**table(tmp_path, refuse=[7]), "on_error": "fail"})
    with pytest.raises(NodeError, match="7 is refused"):
        await Replay(failing, tmp_path / "state", "again").run({})
    letters = box(tmp_path).letters()
    box(tmp_path).mark(letters.slice(0, 1), "discarded")
    discarded = letters["position"][0].as_py()
    result = await Replay(chain(counter(), table(tmp_path)), tmp_path / "state", "more").run({})
    assert result.letters == 1
    assert numbers_in(tmp_path / "out.db") == [n for n in range(1000) if n != discarded]
    assert sorted(box(tmp_path).letters(ALL)["status"].to_pylist()) == ["discarded", "replayed"]
