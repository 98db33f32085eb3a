"""Dead letters as they lie on storage, read with pyarrow and json alone; and their box."""

import datetime as dt
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from counting import batch_of, numbers_in, registry

from nvisy_dagster.compiler import Plan, compile_graph
from nvisy_dagster.engine import dead_letter_index
from nvisy_dagster.engine.dead_letter_box import ALL, DeadLetterBox, LetterFilter
from nvisy_dagster.engine.failure import NodeError
from nvisy_dagster.engine.rejection import Rejected
from nvisy_dagster.engine.run import RunResult, run_plan
from nvisy_dagster.graph.errors import GraphErrors
from nvisy_dagster.graph.load import build_graph

pytestmark = pytest.mark.anyio


def counter(**params: Any) -> dict[str, Any]:
    return {"id": "count", "type": "source", "connector": "counter", "params": params}


def pay(folder: Path, **params: Any) -> dict[str, Any]:
    params = {"ledger": str(folder / "ledger"), **params}
    return {"id": "pay", "type": "action", "action": "pay", "params": params}


def table(folder: Path, **params: Any) -> dict[str, Any]:
    params = {"path": str(folder / "out.db"), **params}
    return {"id": "out", "type": "sink", "connector": "table", "params": params}


def chain(*nodes: dict[str, Any], **rest: Any) -> Plan:
    ids = [node["id"] for node in nodes]
    edges = [{"from": a, "to": b} for a, b in pairwise(ids)]
    rest = {"on_error": "dead_letter", **rest}
    document = {"name": "g", "nodes": list(nodes), "edges": edges, **rest}
    return compile_graph(build_graph(document), registry=registry())


async def run(plan: Plan, folder: Path, **options: Any) -> RunResult:
    return await run_plan(plan, {}, storage=folder / "state", **options)


def listed_files(folder: Path) -> Iterator[Path]:
    """The files of letters that a checkpoint, or the list that outlives it, names."""
    graph = folder / "state" / "graphs" / "g"
    for letters in (graph / "dead_letters").iterdir():
        listing = letters / "listing.json"
        documents = (
            [listing] if listing.exists() else graph.glob(f"{letters.name}/*/checkpoint.json")
        )
        for document in documents:
            for name, parts in json.loads(document.read_text())["parts"].items():
                kind, _, node = name.partition(":")
                if kind == "dead_letters":
                    yield from (letters / node / part["file"] for part in parts)


def letters_on_storage(folder: Path) -> list[dict[str, Any]]:
    """The oracle: it shares no code with the engine."""
    return [
        letter
        for file in listed_files(folder)
        for letter in pa.ipc.open_file(file).read_all().to_pylist()
    ]


def box(folder: Path) -> DeadLetterBox:
    return DeadLetterBox(folder / "state", "g")


async def test_fail_names_the_batch_that_was_refused_as_a_whole(tmp_path: Path) -> None:
    plan = chain(counter(), pay(tmp_path, poison=[130]), table(tmp_path), on_error="fail")
    with pytest.raises(NodeError) as caught:
        await run(plan, tmp_path)
    said = caught.value.message
    assert "from count: at 130: poison (rows 0..49 of a batch, " in said
    assert "from count: at 100 to " in said
    assert said.endswith("from count: at 149, were refused as a whole)")


# What a letter says


async def test_a_letter_says_all_there_is_to_say(tmp_path: Path) -> None:
    began = dt.datetime.now(dt.UTC)
    plan = chain(
        counter(batch_rows=100),
        pay(tmp_path, poison=[777]),
        table(tmp_path, refuse=[8]),
        checkpoint={"interval_rows": 200},
    )
    result = await run(plan, tmp_path, run_id="the-run")
    by_node = {letter["node"]: letter for letter in letters_on_storage(tmp_path)}
    assert by_node.keys() == {"pay", "out"}
    paid = by_node["pay"]
    assert (paid["tag"], paid["message"], paid["attempt"]) == ("validation", "poison", 1)
    assert paid["run_id"] == "the-run"
    assert began <= paid["failed_at"] <= dt.datetime.now(dt.UTC)
    record = paid["record"]
    assert (record["n"], record["_source"]) == (777, {"uri": "count:", "position": 777})
    assert record["_id"] == record["_root_id"]
    assert len(paid["letter_id"]) == 16
    assert paid["letter_id"] != record["_id"]
    # Empty as long as there is no checkpoint: then the epoch begins where the data does.
    assert json.loads(paid["cursor"]).get("count", {"after": 0})["after"] <= 777
    assert json.loads(by_node["out"]["cursor"]).keys() <= {"stage:count__pay"}
    assert result.metrics["pay"].counts.failed == 1


async def test_the_same_record_at_the_same_node_is_the_same_letter(tmp_path: Path) -> None:
    plan = chain(counter(rows=100), table(tmp_path, refuse=[7, 8]))
    await run(plan, tmp_path)
    await run(plan, tmp_path)
    letters = letters_on_storage(tmp_path)
    assert len(letters) == 4
    assert len({letter["letter_id"] for letter in letters}) == 2
    # Of two runs the latest counts.
    assert box(tmp_path).letters().num_rows == 2


async def test_one_poison_text_of_18909_is_one_letter(tmp_path: Path) -> None:
    plan = chain(
        counter(rows=18_909, batch_rows=512),
        pay(tmp_path, poison=[12_345]),
        table(tmp_path),
    )
    await run(plan, tmp_path)
    [letter] = letters_on_storage(tmp_path)
    assert letter["record"]["n"] == 12_345
    assert numbers_in(tmp_path / "out.db") == [n for n in range(18_909) if n != 12_345]


async def test_records_of_several_schemas_fail_at_one_node(tmp_path: Path) -> None:
    """What reaches a node may differ from batch to batch; a file of letters has one schema."""
    from nvisy_dagster.engine.dead_letter import DeadLetters, LetterOrigin

    letters = DeadLetters(tmp_path, LetterOrigin("n", "run"))
    narrow = batch_of(2)
    wide = narrow.append_column("more", pa.array(["x", "y"]))
    for records in (narrow, wide, narrow):
        await letters.add(Rejected(records, ["no", "no"], "validation"))
    parts = await letters.commit(1)
    assert sorted(part.rows for part in parts) == [2, 4]
    assert not list((tmp_path / "n").glob("*.tmp"))


# What counts


async def test_a_part_that_no_checkpoint_lists_is_never_listed(tmp_path: Path) -> None:
    """Of a worker that was taken for dead: it came late, under a number of an epoch that counts."""
    plan = chain(counter(rows=100), table(tmp_path, refuse=[7]))
    await run(plan, tmp_path)
    [file] = listed_files(tmp_path)
    late = file.with_name(f"{file.name[:10]}-0123456789ab-0.arrow")
    late.write_bytes(file.read_bytes())
    (file.parent / "0000000099-0123456789ab-0.arrow").write_bytes(file.read_bytes())
    assert box(tmp_path).letters().num_rows == 1
    # Nor when its chain's state is gone.
    await run(chain(counter(rows=5), table(tmp_path)), tmp_path)
    await run(chain(counter(rows=5), table(tmp_path)), tmp_path)
    assert (file.parents[1] / "listing.json").exists()
    assert box(tmp_path).letters().num_rows == 1


async def test_letters_of_an_epoch_that_was_not_whole_do_not_count(tmp_path: Path) -> None:
    plan = chain(
        counter(rows=400, batch_rows=50, pause_seconds=0.005),
        {**pay(tmp_path, poison=[10, 390]), "materialize": False},
        {**table(tmp_path, refuse=[395]), "on_error": "fail"},
        checkpoint={"interval_rows": 100},
    )
    with pytest.raises(NodeError, match="395"):
        await run(plan, tmp_path)
    assert [row["position"] for row in box(tmp_path).letters().to_pylist()] == [10]
    mended = chain(
        counter(rows=400, batch_rows=50, pause_seconds=0.005),
        {**pay(tmp_path, poison=[10, 390]), "materialize": False},
        table(tmp_path, refuse=[395]),
        checkpoint={"interval_rows": 100},
    )
    await run(mended, tmp_path)
    assert sorted(r["position"] for r in box(tmp_path).letters().to_pylist()) == [10, 390, 395]
    assert sorted(x["record"]["n"] for x in letters_on_storage(tmp_path)) == [10, 390, 395]


# The index


async def test_the_index_spares_opening_the_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = chain(counter(rows=300), table(tmp_path, refuse=[7, 8, 250]))
    await run(plan, tmp_path)
    first = box(tmp_path).letters()

    def never(*_: Any) -> Any:
        raise AssertionError("a part is opened")

    with monkeypatch.context() as patched:
        patched.setattr(dead_letter_index, "read_letters", never)
        assert box(tmp_path).letters().equals(first)
    index = next((tmp_path / "state").rglob("index.parquet"))
    for damage in (index.unlink, lambda: index.write_bytes(b"PAR1 nonsense")):
        damage()
        assert box(tmp_path).letters().equals(first)


async def test_a_stale_index_is_brought_up_to_date(tmp_path: Path) -> None:
    nodes = [counter(rows=400, batch_rows=50, pause_seconds=0.01)]
    checkpoint = {"interval_rows": 100}
    failing = {**table(tmp_path, refuse=[320]), "on_error": "fail"}
    gentle = {**pay(tmp_path, poison=[10, 350]), "materialize": False}
    with pytest.raises(NodeError):
        await run(chain(*nodes, gentle, failing, checkpoint=checkpoint), tmp_path)
    before = box(tmp_path).letters()
    assert before["position"].to_pylist() == [10]
    await run(chain(*nodes, gentle, table(tmp_path), checkpoint=checkpoint), tmp_path)
    assert sorted(box(tmp_path).letters()["position"].to_pylist()) == [10, 350]


async def test_filters(tmp_path: Path) -> None:
    plan = chain(counter(rows=100), pay(tmp_path, poison=[5]), table(tmp_path, refuse=[7, 8]))
    await run(plan, tmp_path, run_id="abc-1")

    def positions(**wanted: Any) -> list[int]:
        return sorted(box(tmp_path).letters(LetterFilter(**wanted))["position"].to_pylist())

    assert positions(node="pay") == [5]
    assert positions(tag="validation") == [5, 7, 8]
    assert positions(tag="other") == []
    assert positions(run="abc") == [5, 7, 8]
    assert positions(run="bc") == []
    now = dt.datetime.now(dt.UTC)
    assert positions(since=now) == []
    assert positions(since=now - dt.timedelta(minutes=5)) == [5, 7, 8]


async def test_a_discarded_letter_is_kept_and_a_later_failure_is_a_new_one(tmp_path: Path) -> None:
    plan = chain(counter(rows=100), table(tmp_path, refuse=[7, 8]))
    await run(plan, tmp_path)
    letters = box(tmp_path).letters()
    box(tmp_path).mark(letters.slice(0, 1), "discarded")
    assert box(tmp_path).letters().num_rows == 1
    assert sorted(box(tmp_path).letters(ALL)["status"].to_pylist()) == ["discarded", "open"]
    assert len(letters_on_storage(tmp_path)) == 2
    await run(plan, tmp_path)
    assert box(tmp_path).letters().num_rows == 2


# The limit


def limited(folder: Path, limit: dict[str, Any], bad: list[int], **rest: Any) -> Plan:
    source = counter(rows=1000, batch_rows=50, pause_seconds=0.002)
    return chain(source, table(folder, refuse=bad), error_limit=limit, **rest)


@pytest.mark.parametrize("policy", ["dead_letter", "drop"])
async def test_too_many_failures_end_the_run(tmp_path: Path, policy: str) -> None:
    plan = limited(tmp_path, {"count": 3}, [10, 20, 30, 410, 920], on_error=policy)
    with pytest.raises(NodeError) as caught:
        await run(plan, tmp_path)
    error = caught.value
    assert (error.node, error.tag, error.retryable) == ("out", "error_limit", False)
    assert "4 of " in error.message
    assert "error_limit allows 3" in error.message
    if policy == "dead_letter":
        command = f"nvisy dead-letters list {plan.name} --node out"
        assert f"look at them with `{command}`" in (error.remedy or "")
        # What failed so far is there to be looked at, the one too many among them.
        kept = sorted(box(tmp_path).letters()["position"].to_pylist())
        assert kept[:4] == [10, 20, 30, 410]
        assert sorted(x["record"]["n"] for x in letters_on_storage(tmp_path)) == kept


async def test_the_limit_counts_over_all_attempts(tmp_path: Path) -> None:
    bad = [10, 20, 30, 410, 920]
    with pytest.raises(NodeError, match="error_limit allows 3"):
        await run(limited(tmp_path, {"count": 3}, bad), tmp_path)
    with pytest.raises(NodeError, match="error_limit allows 3"):
        await run(limited(tmp_path, {"count": 3}, bad), tmp_path)
    result = await run(limited(tmp_path, {"count": 5}, bad), tmp_path)
    assert result.resumed
    assert numbers_in(tmp_path / "out.db") == sorted(set(range(1000)) - set(bad))
    assert sorted(box(tmp_path).letters()["position"].to_pylist()) == bad


async def test_a_limit_that_is_broken_at_the_very_end(tmp_path: Path) -> None:
    """Everything is read and in flight by then: the run ends all the same, its letters are kept."""
    plan = chain(counter(rows=100), table(tmp_path, refuse=[98, 99]), error_limit={"count": 1})
    for _ in range(2):
        with pytest.raises(NodeError, match="2 of 100 records failed"):
            await run(plan, tmp_path)
        assert sorted(box(tmp_path).letters()["position"].to_pylist()) == [98, 99]
    raised = chain(counter(rows=100), table(tmp_path, refuse=[98, 99]), error_limit={"count": 2})
    assert (await run(raised, tmp_path)).resumed


async def test_a_share_is_judged_from_a_hundred_records_on(tmp_path: Path) -> None:
    few = chain(
        counter(rows=60, batch_rows=20),
        table(tmp_path, refuse=[1, 2, 3]),
        error_limit={"share": 0.01},
    )
    await run(few, tmp_path)
    within = limited(tmp_path, {"share": 0.01}, [500, 600, 700])
    await run(within, tmp_path, fresh=True)
    with pytest.raises(NodeError, match=r"error_limit allows 0\.01 of them"):
        await run(limited(tmp_path, {"share": 0.01}, list(range(500, 530))), tmp_path, fresh=True)


@pytest.mark.parametrize(
    ("own", "rest", "path"),
    [
        ({"error_limit": {"count": 1}}, {"on_error": "fail"}, "$.nodes[1].error_limit"),
        ({"error_limit": {"count": 1}, "on_error": "fail"}, {}, "$.nodes[1].error_limit"),
        ({}, {"on_error": "fail", "error_limit": {"share": 0.1}}, "$.error_limit"),
        ({"error_limit": {}}, {}, "$.nodes[1].error_limit"),
    ],
)
def test_a_limit_where_the_first_failure_ends_the_run_is_refused(
    tmp_path: Path, own: dict[str, Any], rest: dict[str, Any], path: str
) -> None:
    with pytest.raises(GraphErrors) as caught:
        chain(counter(), {**table(tmp_path), **own}, **rest)
    assert [error.path for error in caught.value.errors] == [path]
