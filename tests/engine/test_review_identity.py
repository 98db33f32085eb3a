"""A checkpoint is gone on from only where it is true: same places, same parts, nobody since."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from awkward import PlaceConnection
from counting import numbers_in
from review_graphs import action, graph, run, sink, source

from nvisy_dagster.compiler import Plan
from nvisy_dagster.engine.failure import NodeError

pytestmark = pytest.mark.anyio

SLOW = {"rows": 1000, "batch_rows": 50, "pause_seconds": 0.005}


def placed(node_id: str = "out") -> dict[str, Any]:
    return {**sink("placed", node_id), "connection": "db", "retry": {"max_retries": 0}}


def chain(*nodes: dict[str, Any]) -> Plan:
    edges = [f"{a['id']} {b['id']}" for a, b in pairwise(nodes)]
    return graph(nodes, *edges, checkpoint={"interval_rows": 50})


def checkpoints(tmp_path: Path) -> dict[str, dict[str, Any]]:
    found = (tmp_path / "state").rglob("checkpoint.json")
    return {path.parent.name.rpartition("-")[0]: json.loads(path.read_text()) for path in found}


async def fail(plan: Plan, tmp_path: Path, path: Path, *, at: int = 900) -> None:
    """Run until the sink's disk is full."""
    full = path.parent / "full"
    full.write_text(str(at))
    with pytest.raises(NodeError, match="the disk is full"):
        await run(plan, tmp_path, connections={"db": PlaceConnection(path=path)})
    full.unlink()


async def test_a_connection_that_leads_elsewhere_gets_every_record(tmp_path: Path) -> None:
    """The disk was full, so the user moved the sink: what the old place holds is not there."""
    plan = chain(source(**SLOW), placed())
    await fail(plan, tmp_path, tmp_path / "small.db")
    assert checkpoints(tmp_path)["count__out"]["epoch"] > 0
    roomy = tmp_path / "roomy.db"
    result = await run(plan, tmp_path, connections={"db": PlaceConnection(path=roomy)})
    assert numbers_in(roomy) == list(range(1000))
    assert not result.resumed


async def test_the_same_place_is_gone_on_with(tmp_path: Path) -> None:
    plan = chain(source(**SLOW), placed())
    path = tmp_path / "out.db"
    await fail(plan, tmp_path, path)
    result = await run(plan, tmp_path, connections={"db": PlaceConnection(path=path)})
    assert numbers_in(path) == list(range(1000))
    assert result.resumed


async def test_one_name_in_two_folders(tmp_path: Path) -> None:
    """Copies of a graph share a storage; their relative paths mean different files."""

    def copy(name: str) -> Plan:
        files = tmp_path / name / "in"
        files.mkdir(parents=True)
        for n in range(60):
            (files / f"{n:02d}.txt").write_text(f"{name} {n}")
        nodes = [
            source("docs", "local", path="in", batch_rows=2),
            action("spread"),
            sink("local", path="out"),
        ]
        cut = {"interval_rows": 2}
        return graph(nodes, "docs spread", "spread out", folder=tmp_path / name, checkpoint=cut)

    spoilt, sound = copy("a"), copy("b")
    (tmp_path / "a" / "in" / "59.txt").write_bytes(b"\xff")
    with pytest.raises(NodeError, match=r"59\.txt"):
        await run(spoilt, tmp_path)
    await run(sound, tmp_path)
    parts = (tmp_path / "b" / "out").glob("*.jsonl")
    texts = [json.loads(line)["text"] for part in parts for line in part.read_text().splitlines()]
    assert sorted(texts) == sorted(f"b {n}" for n in range(60))


async def test_changed_and_changed_back(tmp_path: Path) -> None:
    """The version in between wrote over what the first one's checkpoint vouches for."""
    path = tmp_path / "out.db"
    first = chain(source(**SLOW), placed())
    await fail(first, tmp_path, path)
    await fail(chain(source(**SLOW), action("negate"), placed()), tmp_path, path)
    await run(first, tmp_path, connections={"db": PlaceConnection(path=path)})
    assert numbers_in(path) == list(range(1000))


async def test_an_earlier_stage_that_began_anew(tmp_path: Path) -> None:
    """Its parts are cut otherwise, so a position among the old ones means nothing."""
    path, side = tmp_path / "out.db", tmp_path / "side.db"

    def plan(interval: int, *, refuse: int = -1) -> Plan:
        return graph(
            [
                source(**SLOW),
                {**action("pay", ledger=str(tmp_path / "ledger"))},
                placed(),
                sink("table", "side", path=str(side), refuse=[refuse]),
            ],
            "count pay",
            "pay out",
            "count side",
            checkpoint={"interval_rows": interval},
        )

    await fail(plan(50), tmp_path, path, at=500)
    assert checkpoints(tmp_path)["out"]["epoch"] > 0
    # Another version of the first stage writes to its sink, so the first version is not trusted.
    with pytest.raises(NodeError, match="is refused"):
        await run(plan(50, refuse=999), tmp_path)
    path.unlink()
    path.touch()
    await run(plan(400), tmp_path, connections={"db": PlaceConnection(path=path)})
    assert numbers_in(path) == list(range(1000))
