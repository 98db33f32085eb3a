"""The main jobs, killed with SIGKILL and run again; checked without the engine.

The oracle reads the source files, the Parquet files and the Qdrant folder with their own libraries.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import qdrant_edge

SEED = int(os.environ.get("NVISY_TEST_SEED", "0"))
SEEDS = [SEED, *(pytest.param(SEED + n, marks=pytest.mark.soak) for n in range(1, 5))]


def start(graph: Path, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("run_graph.py")), str(graph)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(graph: Path) -> dict[str, list[int]]:
    process = start(graph)
    output, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    return {line.split()[0]: list(map(int, line.split()[1:])) for line in output.splitlines()}


def kill_when(graph: Path, begun: Callable[[], bool], delay: float) -> bool:
    """Kill a run some time after it has begun; returns whether it was still alive."""
    process = start(graph)
    deadline = time.monotonic() + 120
    while not begun() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def write(graph: Path, document: dict[str, Any], connections: dict[str, Any]) -> None:
    graph.write_text(json.dumps(document))
    (graph.parent / "connections.json").write_text(json.dumps(connections))


ROWS = 60_000


@pytest.fixture
def table_graph(tmp_path: Path) -> Path:
    with (tmp_path / "rows.jsonl").open("w") as file:
        for n in range(ROWS):
            file.write(json.dumps({"n": n, "text": f"Row {n}", "lang": "en" if n % 3 else "de"}))
            file.write("\n")
    params = {"path": "rows.jsonl", "format": "jsonl", "batch_bytes": 65536}
    document = {
        "name": "table",
        "nodes": [
            {"id": "rows", "type": "source", "connector": "local", "params": params},
            {"id": "en", "type": "action", "action": "filter", "params": {"where": "lang = 'en'"}},
            {
                "id": "lower",
                "type": "action",
                "action": "map",
                "params": {"set": {"text": "lower(text)", "size": "length(text)"}},
            },
            {
                "id": "out",
                "type": "sink",
                "connector": "local",
                "params": {"path": "out", "format": "parquet"},
            },
        ],
        "edges": [
            {"from": "rows", "to": "en"},
            {"from": "en", "to": "lower"},
            {"from": "lower", "to": "out"},
        ],
        "checkpoint": {"interval_rows": 5000},
    }
    path = tmp_path / "table.json"
    write(path, document, {})
    return path


def check_table(graph: Path) -> None:
    """Every source row that passes the filter is in the Parquet files once, with its content."""
    wanted = [
        {"n": row["n"], "text": row["text"].lower(), "size": len(row["text"])}
        for row in map(json.loads, (graph.parent / "rows.jsonl").read_text().splitlines())
        if row["lang"] == "en"
    ]
    files = sorted((graph.parent / "out").glob("*.parquet"))
    assert files
    got = [row for file in files for row in pq.read_table(file).to_pylist()]
    got = sorted(({k: row[k] for k in ("n", "text", "size")} for row in got), key=lambda r: r["n"])
    assert got == wanted


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_to_parquet(table_graph: Path, seed: int) -> None:
    moments = random.Random(seed)
    out = table_graph.parent / "out"
    for _ in range(2):
        kill_when(table_graph, out.exists, moments.uniform(0.0, 0.6))
    counts = finish(table_graph)
    check_table(table_graph)
    assert counts["en"] == [ROWS, ROWS * 2 // 3, ROWS // 3]
    assert counts["out"][:2] == [ROWS * 2 // 3] * 2


@pytest.mark.parametrize(
    "place",
    [
        "sink.after_commit",
        *(
            pytest.param(place, marks=pytest.mark.soak)
            for place in ("sink.before_commit", "checkpoint.before_write", "checkpoint.after_write")
        ),
    ],
)
def test_rows_to_parquet_at_a_failpoint(table_graph: Path, place: str) -> None:
    process = start(table_graph, NVISY_FAILPOINT=f"{place}:2")
    process.communicate(timeout=180)
    assert process.returncode == -signal.SIGKILL
    finish(table_graph)
    check_table(table_graph)


def test_a_second_run_replaces_the_first(table_graph: Path) -> None:
    finish(table_graph)
    finish(table_graph)
    check_table(table_graph)


DOCUMENTS = 120


@pytest.fixture
def index_graph(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    words = random.Random(1)
    for n in range(DOCUMENTS):
        text = " ".join(f"word{words.randrange(500)}" for _ in range(400))
        (folder / f"{n:03}.txt").write_text(f"Document {n}. {text}")
    document = {
        "name": "index",
        "nodes": [
            {
                "id": "docs",
                "type": "source",
                "connector": "local",
                "params": {"path": "docs", "format": "text", "batch_bytes": 16384},
            },
            {
                "id": "chunk",
                "type": "action",
                "action": "chunk",
                "params": {"size": 300, "overlap": 30, "boundary": "exact"},
            },
            {"id": "embed", "type": "action", "action": "embed", "params": {"batch_rows": 16}},
            {
                "id": "store",
                "type": "sink",
                "connector": "qdrant",
                "connection": "vectors",
                "params": {"collection": "docs", "batch_rows": 64},
            },
        ],
        "edges": [
            {"from": "docs", "to": "chunk"},
            {"from": "chunk", "to": "embed"},
            {"from": "embed", "to": "store"},
        ],
        "checkpoint": {"interval_rows": 8},
    }
    path = tmp_path / "index.json"
    write(path, document, {"vectors": {"type": "qdrant", "path": "vectors"}})
    return path


def windows(text: str) -> list[str]:
    """The chunks of a text, written independently: windows of 300, each 270 after the last."""
    return [text[i : i + 300] for i in range(0, max(len(text) - 30, 1), 270)]


def digest(uri: str, text: str) -> str:
    return hashlib.sha256(f"{uri}\0{text}".encode()).hexdigest()


def check_index(graph: Path) -> None:
    """Every chunk of every document is stored once, with its text and its document's address."""
    wanted = sorted(
        digest(file.as_uri(), chunk)
        for file in (graph.parent / "docs").iterdir()
        for chunk in windows(file.read_text())
    )
    shard = qdrant_edge.EdgeShard.load(str(graph.parent / "vectors" / "docs"))
    try:
        request = qdrant_edge.ScrollRequest(limit=100_000, with_payload=True, with_vector=False)
        points, _ = shard.scroll(request)
        got = [digest(p.payload["_source"]["uri"], p.payload["text"]) for p in points]
    finally:
        shard.close()
    assert sorted(got) == wanted


@pytest.mark.parametrize("seed", SEEDS)
def test_documents_to_qdrant(index_graph: Path, seed: int) -> None:
    moments = random.Random(seed)
    for round_ in range(2):
        # First while chunks are embedded and materialized, then while they are written.
        begun = (index_graph.parent / "state", index_graph.parent / "vectors")[round_]
        kill_when(index_graph, begun.exists, moments.uniform(0.0, 0.8))
    counts = finish(index_graph)
    check_index(index_graph)
    assert counts["docs"][1] == DOCUMENTS
    assert counts["embed"][1] == counts["store"][1]


def test_a_changed_document_is_updated_and_a_second_run_changes_nothing(index_graph: Path) -> None:
    finish(index_graph)
    check_index(index_graph)
    finish(index_graph)
    check_index(index_graph)
    changed = index_graph.parent / "docs" / "007.txt"
    changed.write_text("Much shorter than before. " * 20)
    finish(index_graph)
    check_index(index_graph)
