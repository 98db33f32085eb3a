"""`on_error` of a source, through the engine: letters, drops, failure, kills and resumes."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from review_graphs import run

from nvisy_dagster.compiler import Plan, compile_document
from nvisy_dagster.engine.dead_letter_box import DeadLetterBox
from nvisy_dagster.engine.failure import NodeError
from nvisy_dagster.graph.errors import GraphErrors

pytestmark = pytest.mark.anyio


def plan(folder: Path, own: str | None, **graph: Any) -> Plan:
    source = {
        "id": "read",
        "type": "source",
        "connector": "local",
        "params": {"path": str(folder / "in"), "format": "jsonl", "batch_rows": 500},
    }
    sink = {
        "id": "out",
        "type": "sink",
        "connector": "local",
        "params": {"path": str(folder / "out")},
    }
    document = {
        "name": "bad",
        "nodes": [source | ({"on_error": own} if own else {}), sink],
        "edges": [{"from": "read", "to": "out"}],
        **graph,
    }
    return compile_document(document)


def make(folder: Path, rate: float) -> dict[int, bytes]:
    """A file of lines, and the bad ones by their number."""
    draw = random.Random(3)
    (folder / "in").mkdir()
    bad: dict[int, bytes] = {}
    made: list[bytes] = []
    for number in range(1, 20_001):
        line = json.dumps({"n": number, "text": "lorem"}).encode()
        if draw.random() < rate:
            line = bad[number] = line[:-3]
        made.append(line)
    (folder / "in" / "x.jsonl").write_bytes(b"\n".join(made))
    return bad


def written(folder: Path) -> list[int]:
    parts = (folder / "out").glob("*.jsonl")
    return sorted(json.loads(line)["n"] for part in parts for line in part.read_text().splitlines())


def letters(folder: Path) -> list[dict[str, Any]]:
    box = DeadLetterBox(folder / "state", "bad")
    return [row for _, batch in box.read(box.letters()) for row in batch.to_pylist()]


@pytest.mark.parametrize("rate", [1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("on_graph", [False, True])
async def test_the_letters_are_exactly_the_injected(
    tmp_path: Path, rate: float, on_graph: bool
) -> None:
    bad = make(tmp_path, rate)
    said: dict[str, Any] = {"on_error": "dead_letter"} if on_graph else {}
    chosen = plan(tmp_path, None if on_graph else "dead_letter", **said)
    result = await run(chosen, tmp_path)
    found = letters(tmp_path)
    assert {one["record"]["_source"]["position"]: one["record"]["data"] for one in found} == bad
    assert len(found) == len(bad)
    for one in found:
        place = one["record"]["_source"]
        byte = json.loads(one["record"]["_metadata"])["byte"]
        assert place["uri"] == (tmp_path / "in" / "x.jsonl").as_uri()
        assert f"line {place['position']} (byte {byte}): it is not JSON" in one["message"]
        assert (one["node"], one["tag"]) == ("read", "format")
    assert written(tmp_path) == [n for n in range(1, 20_001) if n not in bad]
    counts = result.metrics["read"].counts
    assert (counts.records_out, counts.dead) == (20_000 - len(bad), len(bad))


async def test_dropped(tmp_path: Path) -> None:
    bad = make(tmp_path, 1e-3)
    result = await run(plan(tmp_path, "drop"), tmp_path)
    assert result.metrics["read"].counts.dropped == len(bad)
    assert letters(tmp_path) == []
    assert len(written(tmp_path)) == 20_000 - len(bad)


async def test_failing_names_the_line(tmp_path: Path) -> None:
    bad = make(tmp_path, 1e-3)
    with pytest.raises(NodeError, match=rf"x\.jsonl, line {min(bad)} \(byte \d+\): it is not JSON"):
        await run(plan(tmp_path, None), tmp_path)


async def test_a_run_that_failed_half_way_letters_each_line_once(tmp_path: Path) -> None:
    bad = make(tmp_path, 1e-2)
    chosen = plan(tmp_path, "dead_letter", checkpoint={"interval_rows": 1000})
    (tmp_path / "out").mkdir()
    from nvisy_connectors.object.formats.writers import JsonlWriter

    real = JsonlWriter.write
    for fail_at in (4, 9, 15):
        calls = [0]

        def torn(self: Any, batch: Any, calls: list[int] = calls, fail_at: int = fail_at) -> None:
            calls[0] += 1
            if calls[0] == fail_at:
                raise RuntimeError("torn")
            real(self, batch)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(JsonlWriter, "write", torn)
            with pytest.raises(NodeError, match="torn"):
                await run(chosen, tmp_path)
    result = await run(chosen, tmp_path)
    assert result.resumed
    positions = [one["record"]["_source"]["position"] for one in letters(tmp_path)]
    assert sorted(positions) == sorted(bad)
    assert written(tmp_path) == [n for n in range(1, 20_001) if n not in bad]
    assert result.metrics["read"].counts.dead == len(bad)


def test_a_source_that_cannot_tell_is_refused(tmp_path: Path) -> None:
    from counting import registry

    document = {
        "name": "refused",
        "nodes": [
            {"id": "count", "type": "source", "connector": "counter", "on_error": "drop"},
            {
                "id": "out",
                "type": "sink",
                "connector": "table",
                "params": {"path": str(tmp_path / "x")},
            },
        ],
        "edges": [{"from": "count", "to": "out"}],
    }
    with pytest.raises(GraphErrors) as caught:
        compile_document(document, registry=registry())
    (error,) = caught.value.errors
    assert error.path == "$.nodes[0].on_error"
    assert "'counter' cannot" in error.message
    assert compile_document(
        {
            **document,
            "on_error": "drop",
            "nodes": [
                {**document["nodes"][0], "on_error": "fail"},
                document["nodes"][1],
            ],
        },
        registry=registry(),
    )
