"""Two graphs of one name in one storage: each replays, closes and counts its own letters."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from counting import numbers_in, registry
from test_dead_letters import box, run
from test_replay import replay

from nvisy_dagster.compiler import Plan, compile_graph
from nvisy_dagster.engine.dead_letter_box import ALL
from nvisy_dagster.engine.dead_letter_origins import FILE
from nvisy_dagster.engine.replay import ReplayError, raise_refused
from nvisy_dagster.graph.load import build_graph

pytestmark = pytest.mark.anyio


def plan(folder: Path, file_in: str | None, *, rows: int = 10, **table: Any) -> Plan:
    """Count and write; what the file's folder is called does not change where."""
    nodes = [
        {"id": "count", "type": "source", "connector": "counter", "params": {"rows": rows}},
        {"id": "out", "type": "sink", "connector": "table",
         "params": {"path": str(folder / "out.db"), **table}},
    ]  # fmt: skip
    edges = [{"from": a["id"], "to": b["id"]} for a, b in pairwise(nodes)]
    document = {"name": "g", "nodes": nodes, "edges": edges, "on_error": "dead_letter"}
    where = None if file_in is None else folder / file_in
    return compile_graph(build_graph(document), registry=registry(), folder=where)


def became(folder: Path) -> dict[tuple[str | None, int], str]:
    return {
        (Path(one["graph_folder"] or "").name or None, one["position"]): one["status"]
        for one in box(folder).letters(ALL).to_pylist()
    }


async def test_letters_of_another_graph_are_refused(tmp_path: Path) -> None:
    one = plan(tmp_path, "one", refuse=[3])
    other = plan(tmp_path, "other", rows=20, table="other", refuse=[15])
    await run(one, tmp_path)
    await run(other, tmp_path)
    # The other one has read the same record and written it: that is no news of this one's letter.
    assert became(tmp_path) == {("one", 3): "open", ("other", 15): "open"}
    mended = plan(tmp_path, "other", rows=20, table="other")
    result = await replay(mended, tmp_path)
    assert (result.letters, result.through) == (1, 1)
    told = (
        rf"1 letter cannot be replayed. 1 of them: another graph of the name 'g', in "
        rf"{tmp_path / 'one'}, left them; it reads and writes nothing that this one does. "
        "Replay them with the file of that one, or discard them"
    )
    with pytest.raises(ReplayError) as caught:
        raise_refused(result.refused)
    assert caught.value.message == told
    assert became(tmp_path) == {("one", 3): "open", ("other", 15): "replayed"}
    result = await replay(plan(tmp_path, "one"), tmp_path, "more")
    assert (result.letters, result.through, list(result.refused)) == (1, 1, [])
    assert numbers_in(tmp_path / "out.db") == list(range(10))


@pytest.mark.parametrize(
    "changed",
    [
        {"file_in": "one", "rows": 12, "table": "new"},  # edited
        {"file_in": "moved"},
        {"file_in": "moved", "table": "new"},  # and edited
        {"file_in": None, "rows": 12, "table": "new"},  # from a document without a file
    ],
)
async def test_a_graph_that_is_edited_or_moved_is_the_same(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    await run(plan(tmp_path, "one", refuse=[3]), tmp_path)
    result = await replay(plan(tmp_path, **changed), tmp_path)
    assert (result.letters, result.through, list(result.refused)) == (1, 1, [])


async def test_letters_of_a_replay_are_of_its_graph(tmp_path: Path) -> None:
    one = plan(tmp_path, "one", refuse=[3])
    await run(one, tmp_path)
    assert (await replay(one, tmp_path)).failed == 1
    result = await replay(plan(tmp_path, "other", rows=20, table="other"), tmp_path, "other")
    assert (result.letters, len(result.refused)) == (0, 1)
    assert (await replay(plan(tmp_path, "one"), tmp_path, "last")).through == 1


async def test_letters_of_unknown_graphs_are_anybodys(tmp_path: Path) -> None:
    await run(plan(tmp_path, "one", refuse=[3]), tmp_path)
    (box(tmp_path).folder / FILE).unlink()
    assert (await replay(plan(tmp_path, "other", rows=20, table="other"), tmp_path)).through == 1


async def test_what_is_known_of_runs_is_kept_as_long_as_their_letters(tmp_path: Path) -> None:
    await run(plan(tmp_path, "one", refuse=[3]), tmp_path, run_id="first")
    for number in range(5):
        await run(plan(tmp_path, "one"), tmp_path, run_id=f"run-{number}")
    known = json.loads((box(tmp_path).folder / FILE).read_text())["runs"]
    assert "first" in known
    assert len(known) <= 3
