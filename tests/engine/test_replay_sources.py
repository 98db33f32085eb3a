"""Letters of a source: decoded again with what the source is told now."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from replay_target import lines_plan
from test_dead_letters import box, letters_on_storage, run
from test_replay import in_a_process, parquet, replay
from test_superseded import became, lines

from nvisy_dagster.engine.replay import raise_refused
from nvisy_dagster.sdk.identity import ids_to_array, root_ids

pytestmark = pytest.mark.anyio


def write(folder: Path, *texts: str, name: str = "x.jsonl") -> Path:
    file = folder / "in" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n".join(texts) + "\n")
    return file


def written(folder: Path) -> list[dict[str, Any]]:
    files = (folder / "out").glob("*")
    found = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return sorted(found, key=str)


async def test_corrected_columns_read_the_letters(tmp_path: Path) -> None:
    file = write(tmp_path, '{"n": 1}', "", '{"n": 2.5}', '{"n": 3}', '{"n": "x"}', '{"n": 7.25')
    other = write(tmp_path, '{"n": 0.5}', name="a b.jsonl")
    await run(lines(tmp_path, columns={"n": "int64"}), tmp_path)
    assert box(tmp_path).letters().num_rows == 4
    # What it reads is not read again, only the letters are.
    file.write_text("gone")
    result = await replay(lines(tmp_path, columns={"n": "float64"}), tmp_path, "again")
    assert (result.letters, result.through, result.failed) == (4, 2, 2)
    assert not result.refused
    assert written(tmp_path) == [{"n": n} for n in (0.5, 1, 2.5, 3)]
    assert {(p, *became(tmp_path)["read", p]) for p in (3, 5, 6)} == {
        (3, "replayed", 1, "again"),
        (5, "open", 2, None),
        (6, "open", 2, None),
    }
    by_place = {one["record"]["_source"]["position"]: one for one in letters_on_storage(tmp_path)
                if one["attempt"] == 2}  # fmt: skip
    assert by_place[5]["record"]["data"] == b'{"n": "x"}'
    assert by_place[5]["message"].startswith("line 5 (byte 30): ")
    assert by_place[6]["message"].startswith("line 6 (byte 41): ")
    assert by_place[5]["record"]["_source"]["uri"] == file.as_uri()
    assert json.loads(by_place[5]["record"]["_metadata"]) == {"line": 5, "byte": 30}
    assert other.exists()


async def test_a_record_keeps_the_identity_that_it_would_have_had(tmp_path: Path) -> None:
    from nvisy_connectors.object.local import LocalSource, LocalSourceParams

    file = write(tmp_path, '{"n": 1}', '{"n": 2.5}', '{"n": 3}')
    told = {"path": str(tmp_path / "in"), "format": "jsonl"}

    async def drain(columns: dict[str, str]) -> tuple[list[Any], list[Any], LocalSource]:
        source = LocalSource(LocalSourceParams(**told, columns=columns), node_id="read")
        source.bad_records = "reject"
        async with source:
            batches = [batch async for batch in source.read(None)]
        return batches, [one for batch in batches for one in batch.rejected], source

    _, rejected, _ = await drain({"n": "int64"})
    batches, none, _ = await drain({"n": "float64"})
    assert not none
    source = LocalSource(LocalSourceParams(**told, columns={"n": "float64"}), node_id="read")
    async with source:
        [decoded] = [found async for found in source.decode(rejected)]
    [record] = decoded.data.to_pylist()
    assert record == batches[0].data.to_pylist()[1]
    assert decoded.data.schema == batches[0].data.schema
    import numpy as np

    [expected] = ids_to_array(root_ids(file.as_uri(), np.array([2]))).to_pylist()
    assert record["_id"] == expected


async def test_types_that_are_inferred_are_those_of_what_is_read_now(tmp_path: Path) -> None:
    file = write(tmp_path, *['{"n": 1, "m": 2}'] * 100, '{"n": 2.5}')
    # The types of the first lines are those of the read.
    plan = lines(tmp_path, batch_bytes=200, jsonl={"sample_bytes": 100})
    await run(plan, tmp_path)
    assert box(tmp_path).letters().num_rows == 1
    file.write_text('{"n": 0.5, "m": 3}\n')
    result = await replay(plan, tmp_path)
    assert (result.letters, result.through) == (1, 1)


async def test_a_broken_line_of_inferred_types_fails_again(tmp_path: Path) -> None:
    write(tmp_path, '{"n": 1}', '{"n": 2', '{"n": 3}')
    await run(lines(tmp_path), tmp_path)
    result = await replay(lines(tmp_path), tmp_path)
    assert (result.letters, result.through, result.failed) == (1, 0, 1)
    (tmp_path / "in" / "x.jsonl").unlink()
    result = await replay(lines(tmp_path), tmp_path, "more")
    assert (result.letters, result.through, result.failed) == (1, 0, 1)
    assert became(tmp_path)["read", 2] == ("open", 3, None)


async def test_an_object_is_read_again_whole(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"n": [1]}), tmp_path / "in" / "a.parquet")
    bad = tmp_path / "in" / "b.parquet"
    bad.write_bytes(b"PAR1 nonsense")
    plan = lines(tmp_path, format="parquet")
    await run(plan, tmp_path)
    assert (await replay(plan, tmp_path)).failed == 1
    pq.write_table(pa.table({"n": [2, 3]}), bad)
    result = await replay(plan, tmp_path, "again")
    assert (result.letters, result.through, result.failed) == (1, 1, 0)
    assert written(tmp_path) == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert became(tmp_path) == {("read", None): ("replayed", 2, "again")}


async def test_what_cannot_be_tried_again_is_left_to_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nvisy_connectors.object.formats import jsonl

    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 100)
    write(tmp_path, '{"n": 1}', '{"n": "' + "x" * 500 + '"}', '{"n": 2', '{"n": 3}')
    plan = lines(tmp_path, columns={"n": "int64"}, batch_bytes=50)
    await run(plan, tmp_path)
    assert box(tmp_path).letters().num_rows == 2
    result = await replay(plan, tmp_path)
    assert (result.letters, result.failed) == (1, 1)
    [left] = result.refused
    assert (left.letters, left.read_again) == (1, True)
    assert "correct what node 'read' reads and run the graph, which closes them" in left.reason
    raise_refused(result.refused)
    assert became(tmp_path)["read", 2] == ("open", 1, None)


async def test_letters_of_a_source_and_of_a_node_behind_it_go_on_together(tmp_path: Path) -> None:
    from nvisy_dagster.compiler import compile_document

    def plan(kind: str, expression: str) -> Any:
        source = {
            "id": "read",
            "type": "source",
            "connector": "local",
            "params": {"path": str(tmp_path / "in"), "format": "jsonl", "columns": {"n": kind}},
        }
        action = {"id": "add", "type": "action", "action": "map",
                  "params": {"set": {"m": expression}}}  # fmt: skip
        sink = {
            "id": "out",
            "type": "sink",
            "connector": "local",
            "params": {"path": str(tmp_path / "out"), "format": "jsonl"},
        }
        return compile_document({
            "name": "g",
            "nodes": [source, action, sink],
            "edges": [{"from": "read", "to": "add"}, {"from": "add", "to": "out"}],
            "on_error": "dead_letter",
        })

    write(tmp_path, '{"n": "1"}', '{"n": "x"}', '{"n": 3}')
    await run(plan("string", "cast(n as int)"), tmp_path)
    assert {key: found[0] for key, found in became(tmp_path).items()} == {
        ("add", 2): "open",
        ("read", 3): "open",
    }
    result = await replay(plan("string", "try_cast(n as int)"), tmp_path)
    assert (result.letters, result.through, result.failed) == (2, 1, 1)
    assert written(tmp_path) == [{"n": "1", "m": 1}, {"n": "x", "m": None}]


# Killed


@pytest.mark.parametrize(
    "failpoint",
    [
        "checkpoint.after_write:2",
        pytest.param("sink.after_commit:2", marks=pytest.mark.soak),
        "replay.before_mark:1",
        pytest.param("checkpoint.after_write:1", marks=pytest.mark.soak),
        pytest.param("dead_letters.after_rename:1", marks=pytest.mark.soak),
        pytest.param("replay.after_mark:1", marks=pytest.mark.soak),
    ],
)
async def test_killed_anywhere_no_line_is_lost_or_doubled(tmp_path: Path, failpoint: str) -> None:
    made = [f'{{"n": {number}{".5" if number % 2 else ""}}}' for number in range(8000)]
    made[777] = '{"n": 777.5'
    write(tmp_path, *made)
    await run(lines_plan(tmp_path, "int64"), tmp_path)
    assert box(tmp_path).letters().num_rows == 4000
    assert in_a_process(tmp_path, "replay-lines", failpoint) == -signal.SIGKILL
    assert in_a_process(tmp_path, "replay-lines") == 0
    [left] = box(tmp_path).letters().to_pylist()
    # A kill behind the marks leaves a whole replay: the next one is another.
    assert (left["position"], left["attempt"] >= 2) == (778, True)
    found = [n for file in (tmp_path / "files").rglob("*.parquet") for n in parquet(file)]
    wanted = [n + 0.5 if n % 2 else n for n in range(8000) if n != 777]
    assert sorted(found) == sorted(wanted)


async def test_drift_fails_a_run_that_keeps_broken_lines(tmp_path: Path) -> None:
    from nvisy_dagster.engine.failure import NodeError

    good = ['{"n": 1}'] * 100
    write(tmp_path, *good, "oops", *good, '{"n": "x"}')
    told = {"batch_bytes": 200, "jsonl": {"on_drift": "fail", "sample_bytes": 100}}
    with pytest.raises(NodeError, match=r"x\.jsonl, line 202 .*'n' is a text.*int64"):
        await run(lines(tmp_path, **told), tmp_path)
    told["jsonl"]["on_drift"] = "widen"
    await run(lines(tmp_path, **told), tmp_path)
    assert len(found := written(tmp_path)) == 201
    assert [row["_rescued_data"] for row in found if row["n"] is None] == ['{"n":"x"}']
    assert [one["record"]["data"] for one in letters_on_storage(tmp_path)] == [b"oops"]


async def test_a_letter_that_drifts_is_one_still_where_drift_fails_a_run(tmp_path: Path) -> None:
    write(tmp_path, '{"n": 1}', '{"n": "x"}', "oops")
    columns = {"n": "int64"}
    await run(lines(tmp_path, columns=columns), tmp_path)
    failing = lines(tmp_path, columns=columns, jsonl={"on_drift": "fail"})
    result = await replay(failing, tmp_path, "again")
    assert (result.letters, result.through, result.failed) == (2, 0, 2)
    widening = lines(tmp_path, columns=columns, jsonl={"on_drift": "widen"})
    result = await replay(widening, tmp_path, "wider")
    assert (result.letters, result.through, result.failed) == (2, 1, 1)
