"""`parse` in graphs: from files to documents, dead letters and chunks."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import document_files as files
import pytest

from nvisy_dagster.compiler import Plan, compile_document
from nvisy_dagster.engine.dead_letter_box import DeadLetterBox
from nvisy_dagster.engine.failure import NodeError
from nvisy_dagster.engine.run import RunResult, run_plan
from nvisy_dagster.graph.errors import GraphErrors

pytestmark = pytest.mark.anyio

POISON = 17


def plan(folder: Path, *actions: dict[str, Any], **source: Any) -> Plan:
    params = {"path": str(folder / "in"), "format": "binary", "batch_rows": 20, **source}
    sink = {"path": str(folder / "out"), "format": "parquet", "envelope": True}
    nodes = [
        {"id": "read", "type": "source", "connector": "local", "params": params},
        *actions,
        {"id": "out", "type": "sink", "connector": "local", "params": sink},
    ]
    edges = [{"from": a["id"], "to": b["id"]} for a, b in pairwise(nodes)]
    return compile_document({"name": "papers", "nodes": nodes, "edges": edges})


def parse(**node: Any) -> dict[str, Any]:
    params = node.pop("params", {"workers": 2})
    return {"id": "parse", "type": "action", "action": "parse", "params": params, **node}


async def run(chosen: Plan, folder: Path) -> RunResult:
    return await run_plan(chosen, {}, storage=folder / "state")


def written(folder: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    parts = (folder / "out").glob("*.parquet")
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def letters(folder: Path) -> list[dict[str, Any]]:
    box = DeadLetterBox(folder / "state", "papers")
    return [row for _, batch in box.read(box.letters()) for row in batch.to_pylist()]


def make(folder: Path, poison: bytes) -> None:
    """49 files that can be parsed, and one that cannot."""
    (folder / "in").mkdir()
    for number in range(50):
        if number == POISON:
            name, data = f"{number:02}.pdf", poison
        elif number % 2:
            name, data = f"{number:02}.docx", files.word(f"Number {number}.")
        else:
            name, data = f"{number:02}.pdf", files.pdf(1, f"Number {number}")
        (folder / "in" / name).write_bytes(data)


@pytest.mark.parametrize(
    ("poison", "tag", "reason", "params"),
    [
        (b"%PDF-1.7 cut o", "format", "cannot be read as application/pdf", {}),
        (b"!segfault", "crash", "was ended by SIGSEGV", {}),
        (b"!hang", "timeout", "took longer than `document_seconds`", {"document_seconds": 1.5}),
        (b"!memory", "too_large", "takes more memory than", {"memory_bytes": 400 << 20}),
    ],
)
async def test_one_poison_of_fifty_is_one_letter(tmp_path, awkward, poison, tag, reason, params):
    make(tmp_path, poison)
    chosen = plan(tmp_path, parse(on_error="dead_letter", params={"workers": 2, **params}))
    result = await run(chosen, tmp_path)
    names = {row["_source"]["uri"][-7:-4].strip("/.") for row in written(tmp_path)}
    assert len(written(tmp_path)) == 49
    assert len(names) == 49
    (letter,) = letters(tmp_path)
    assert (letter["node"], letter["tag"]) == ("parse", tag)
    assert reason in letter["message"]
    assert letter["record"]["data"] == poison
    assert letter["record"]["_source"]["uri"].endswith(f"{POISON}.pdf")
    counts = result.metrics["parse"].counts
    assert (counts.records_in, counts.records_out, counts.dead) == (50, 49, 1)
    # A letter costs no second reading of the files beside it, but for its own second chance.
    assert counts.calls <= 8


async def test_a_second_run_makes_the_same(tmp_path):
    make(tmp_path, b"%PDF-1.7 cut o")
    runs = []
    for _ in range(2):
        await run(plan(tmp_path, parse(on_error="drop")), tmp_path)
        runs.append(sorted(written(tmp_path), key=lambda row: row["_id"]))
    assert len(runs[0]) == 49
    assert runs[0] == runs[1]


async def test_a_run_that_may_not_fail_says_which_file(tmp_path):
    make(tmp_path, b"%PDF-1.7 cut o")
    with pytest.raises(
        NodeError, match=rf"from file://\S+/{POISON}\.pdf.*cannot be read as"
    ) as caught:
        await run(plan(tmp_path, parse()), tmp_path)
    assert caught.value.tag == "format"


async def test_documents_are_chunked_without_their_structure(tmp_path):
    make(tmp_path, b"%PDF-1.7 cut o")
    chunk = {"id": "chunk", "type": "action", "action": "chunk", "params": {"size": 200}}
    chunk["params"]["overlap"] = 0
    await run(plan(tmp_path, parse(on_error="drop"), chunk), tmp_path)
    rows = written(tmp_path)
    assert len({row["_root_id"] for row in rows}) == 49
    assert {"title", "language", "text"} <= rows[0].keys()
    assert not {"pages", "headings", "tables", "data"} & rows[0].keys()
    assert json.loads(rows[0]["_metadata"])["authors"]


def test_files_read_as_text_are_no_files(tmp_path):
    with pytest.raises(GraphErrors, match="blob"):
        plan(tmp_path, parse(), format="text")
