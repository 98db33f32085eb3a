"""The row-wise actions in runs that are killed, that fail, and that are replayed."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nvisy_dagster.engine.dead_letter_box import DeadLetterBox

ROWS = 60_000
BAD = range(77, ROWS, 1000)
"""Lines of which the amount is no number."""
UNPAID = range(500, ROWS, 3000)
"""Lines that break a rule."""


def write_orders(file: Path) -> None:
    def line(n: int) -> str:
        amount = "many" if n in BAD else str(n % 50)
        order = {"n": n, "amount": amount, "note": f"order number {n}, {'x' * 100}"}
        return json.dumps(order | ({} if n in UNPAID else {"paid_on": "03.02.2024"}))

    file.write_text("\n".join(map(line, range(ROWS))))


def graph(folder: Path, amount: Any = "INTEGER", on_error: str = "dead_letter") -> None:
    columns = {"n": "int64", "amount": "string", "note": "string", "paid_on": "string"}
    source = {"path": "orders.jsonl", "format": "jsonl", "columns": columns}
    rules = [{"name": "paid", "check": "paid_on IS NOT NULL"}]
    types = {"amount": amount, "paid_on": {"type": "DATE", "format": "%d.%m.%Y"}}
    convert = {"columns": types, "to": "document", "fields": {"text": "note"}}
    nodes = [
        {"id": "orders", "type": "source", "connector": "local", "params": source},
        {"id": "check", "type": "action", "action": "validate", "params": {"rules": rules}},
        {"id": "document", "type": "action", "action": "convert", "params": convert},
        {"id": "some", "type": "action", "action": "sample", "params": {"fraction": 0.3}},
        {
            "id": "out",
            "type": "sink",
            "connector": "local",
            "params": {"path": "out", "format": "parquet"},
        },
    ]
    ids = [node["id"] for node in nodes]
    edges = [{"from": a, "to": b} for a, b in pairwise(ids)]
    document = {
        "name": "orders",
        "nodes": nodes,
        "edges": edges,
        "checkpoint": {"interval_rows": 5_000},
        "on_error": on_error,
        "retry": {"max_retries": 0},
    }
    (folder / "orders.json").write_text(json.dumps(document))


def run(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    nvisy = Path(sys.executable).parent / "nvisy"
    return subprocess.run(
        [nvisy, "run", "--engine-only", "orders.json"],
        cwd=folder,
        env={**os.environ, "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def written(folder: Path) -> list[dict[str, Any]]:
    parts = sorted((folder / "out").glob("*.parquet"))
    table = pa.concat_tables(pq.read_table(part) for part in parts)
    return sorted(table.to_pylist(), key=lambda row: row["n"])


def letters(folder: Path) -> dict[str, set[int]]:
    """Positions of the records that failed, by node."""
    found = DeadLetterBox(folder / ".nvisy", "orders").letters()
    nodes, messages = found["node"].to_pylist(), found["message"].to_pylist()
    assert all(
        message.startswith("rule 'paid': " if node == "check" else "column 'amount': ")
        for node, message in zip(nodes, messages, strict=True)
    )
    where = list(zip(nodes, found["position"].to_pylist(), strict=True))
    return {name: {at for node, at in where if node == name} for name in set(nodes)}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    write_orders(folder / "orders.jsonl")
    graph(folder)
    done = run(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_exactly_the_bad_records_become_letters(undisturbed):
    found = letters(undisturbed)
    assert len(found["check"]) == len(UNPAID)
    assert len(found["document"]) == len(set(BAD) - set(UNPAID))
    kept = {row["n"] for row in written(undisturbed)}
    assert not kept & {*BAD, *UNPAID}
    good = ROWS - len({*BAD, *UNPAID})
    assert abs(len(kept) - 0.3 * good) < 5 * (good * 0.3 * 0.7) ** 0.5


@pytest.mark.parametrize(
    "failpoint",
    ["sink.after_write:2", pytest.param("sink.before_commit:2", marks=pytest.mark.soak)],
)
def test_a_run_that_was_killed_chooses_the_same_records(undisturbed, failpoint):
    again = undisturbed  # ids follow from where the file lies
    wanted, failed = written(again), letters(again)
    for part in (again / "out").glob("*.parquet"):
        part.unlink()
    killed = run(again, NVISY_FAILPOINT=failpoint, NVISY_LEASE_SECONDS="1")
    assert killed.returncode == -9, killed.stdout + killed.stderr
    done = run(again, NVISY_LEASE_SECONDS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert written(again) == wanted
    assert letters(again) == failed


def test_a_column_that_must_fit_ends_the_run_whatever_the_node_says(undisturbed):
    graph(undisturbed, {"type": "INTEGER", "on_error": "fail"})
    done = run(undisturbed)
    assert done.returncode not in {0, -9}
    assert "node 'document': column 'amount': Could not convert string" in done.stderr
    assert 'set "on_error" of \'amount\' to "null" or "reject"' in done.stderr.replace("\n", " ")
    assert "bug" not in done.stderr
