"""What needs all records and has one sink of files behind it: the sink takes it as one epoch."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tabular_graphs import OUT, action, document, rows_source, write_rows

from nvisy_dagster.compiler import compile_document
from nvisy_dagster.graph.connections import build_connections

ROWS = 20_000
COLUMNS = {"n": "int64", "key": "string", "next": "int64"}
SOURCE = rows_source("rows", COLUMNS, batch_rows=1_000)
GATHERING = {
    "deduplicate": {"by": ["key"]},
    "sort": {"by": [{"column": "key", "descending": True}, "n"]},
    "aggregate": {"by": ["key"], "measures": {"total": {"column": "n", "function": "sum"}}},
    "join": {"on": [{"left": "next", "right": "n"}], "how": "full", "suffix": "_of_next"},
}
INPUTS = {"join": ["rows all left", "rows all right"]}
SMALL_PARTS = {**OUT, "params": {**OUT["params"], "part_bytes": 50_000}}


def graph(name: str, *, out: Any = SMALL_PARTS, more_nodes: Any = (), edges: Any = (), **more: Any):
    gathered = action(name, "all", **GATHERING[name])
    nodes = [SOURCE, gathered, out, *more_nodes]
    return document(nodes, *INPUTS.get(name, ["rows all"]), "all out", *edges, **more)


def stages(given: dict[str, Any]) -> set[tuple[str, ...]]:
    return {tuple(stage.nodes) for stage in compile_document(given).stages}


@pytest.mark.parametrize("name", GATHERING)
def test_a_sink_of_files_is_in_its_stage(name):
    assert stages(graph(name)) == {("rows",), ("all", "out")}


APART = {("rows",), ("all",), ("out",)}
VECTORS = {"id": "out", "type": "sink", "connector": "qdrant", "connection": "v"}
OTHER = {**OUT, "id": "other", "params": {**OUT["params"], "path": "other"}}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(
            graph("sort", more_nodes=[OTHER], edges=["all other"]),
            {("rows",), ("all",), ("out",), ("other",)},
            id="two readers",
        ),
        pytest.param(
            graph("sort", more_nodes=[rows_source("more", COLUMNS)], edges=["more out"]),
            {("rows",), ("all",), ("more",), ("out",)},
            id="another input",
        ),
        pytest.param(
            graph("sort", execution={"edges": "materialized"}), APART, id="all materialized"
        ),
        pytest.param(
            graph("sort", execution={"edges": "streamed"}),
            {("rows",), ("all", "out")},
            id="all streamed",
        ),
    ],
)
def test_otherwise_it_is_kept(given, expected):
    assert stages(given) == expected


def test_the_node_itself_may_say_so():
    told = graph("sort")
    told["nodes"][1]["materialize"] = True
    assert stages(told) == APART


def test_a_sink_that_replaces_by_id_goes_on_from_what_is_kept():
    embeds = action("embed")
    convert = action("convert", to="document", fields={"text": "key"})
    given = document(
        [SOURCE, convert, embeds, action("sort", "all", by=["_id"]), VECTORS],
        *("rows convert", "convert embed", "embed all", "all out"),
    )
    given["nodes"][-1]["params"] = {"collection": "c"}
    connections = build_connections({"v": {"type": "qdrant", "path": "v"}})
    found = compile_document(given, connections=connections).stages
    assert {("all",), ("out",)} <= {tuple(stage.nodes) for stage in found}


def run(folder: Path, **environment: str) -> int:
    nvisy = Path(sys.executable).parent / "nvisy"
    done = subprocess.run(
        [nvisy, "run", "--engine-only", "--quiet", "g.json"],
        cwd=folder,
        env={**os.environ, "NVISY_LEASE_SECONDS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode in {0, -9}, done.stdout + done.stderr
    return done.returncode


def written(folder: Path) -> list[dict[str, Any]]:
    """In the order of the parts, without what tells of the run."""
    parts = sorted((folder / "out").glob("*.parquet"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Ids follow from where the file lies."""
    return tmp_path_factory.mktemp("handing_on")


PLACES = {
    "sink.after_write:1": False,
    "sink.before_commit:1": False,
    "sink.after_commit:1": True,
    "checkpoint.before_write:2": True,
    "checkpoint.after_write:2": True,
}
"""Whether all parts are to be seen when the run is killed there, or none."""
FEW = {
    ("deduplicate", "sink.after_write:1"),
    ("join", "sink.before_commit:1"),
}
CASES = [(name, failpoint) for name in GATHERING for failpoint in PLACES]


@pytest.mark.parametrize(
    ("name", "failpoint"),
    [pytest.param(*one, marks=[] if one in FEW else pytest.mark.soak) for one in CASES],
)
def test_killed_it_is_done_again(place, name, failpoint):
    for left in ("out", ".nvisy"):
        shutil.rmtree(place / left, ignore_errors=True)
    rows = [
        {"n": n, "key": f"key {n * 7919 % (ROWS // 2)}", "next": n + ROWS // 2} for n in range(ROWS)
    ]
    write_rows(place, "rows", rows)
    (place / "g.json").write_text(json.dumps(graph(name)))
    assert run(place) == 0
    expected = written(place)
    assert len(expected) >= ROWS // 2
    for left in ("out", ".nvisy"):
        shutil.rmtree(place / left)

    assert run(place, NVISY_FAILPOINT=failpoint) == -9
    assert written(place) == (expected if PLACES[failpoint] else [])
    assert run(place) == 0
    assert written(place) == expected
