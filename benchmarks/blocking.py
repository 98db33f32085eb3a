"""Deduplicating and sorting millions of keys, by the action and by DuckDB alone.

`blocking.py KEYS deduplicate|sort duckdb|action OUT`, both with 512 MB for DuckDB. Both read and
write Arrow: what a stage keeps, and what DuckDB streams from and to Python.
"""

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import data
import duckdb
import numpy as np
import pyarrow as pa
from measure import tell

from nvisy_connectors.tabular.deduplicate import Deduplicate, DeduplicateParams
from nvisy_connectors.tabular.sort import Sort, SortParams
from nvisy_dagster.sdk import BlockingAction, EdgeType
from nvisy_dagster.sdk.envelope import with_envelope
from nvisy_dagster.sdk.identity import root_ids

LIMIT = "512MB"
BATCH_ROWS = 64_000
REPEATED = 0.2
"""Share of keys that have been there before."""

QUERIES = {
    "deduplicate": "select distinct on (key) * from kept",
    "sort": "select * from kept order by key",
}


def kept(keys: int) -> Path:
    """Records with a text key of 26 characters, a number and the envelope, as a stage has them."""
    path = data.WORK / "data" / f"keys_{keys}.arrow"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    chance = np.random.default_rng(5)
    distinct = int(keys * (1 - REPEATED))
    with pa.OSFile(str(unfinished), "wb") as file:
        writer = None
        for start in range(0, keys, BATCH_ROWS):
            places = np.arange(start, min(start + BATCH_ROWS, keys))
            numbers = chance.integers(0, distinct, len(places))
            digits = np.char.zfill((numbers * 2654435761 % 2**53).astype(str), 17)
            texts = pa.array(np.char.add("customer-", digits), pa.string())
            columns = pa.record_batch({"key": texts, "n": places})
            batch = with_envelope(
                columns, ids=root_ids("keys:", places), uri="keys:", positions=places
            )
            writer = writer or pa.ipc.new_file(file, batch.schema)
            writer.write_batch(batch)
        if writer is not None:
            writer.close()
    unfinished.replace(path)
    return path


class Kept:
    """The batches of a file, from the first on each time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        with pa.OSFile(str(self._path), "rb") as file:
            reader = pa.ipc.open_file(file)
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)


def by_duckdb(what: str, path: Path, scratch: Path) -> Iterator[pa.RecordBatch]:
    """One query over the same batches."""
    config = {"memory_limit": LIMIT, "threads": "2", "temp_directory": str(scratch)}
    database = duckdb.connect(config=config)
    batches = Kept(path)
    schema = next(iter(batches)).schema
    database.register("kept", pa.RecordBatchReader.from_batches(schema, batches))
    yield from database.sql(QUERIES[what]).to_arrow_reader(BATCH_ROWS)


def by_action(what: str, path: Path, scratch: Path) -> Iterator[pa.RecordBatch]:
    """The action, as the engine calls it."""
    action: BlockingAction[Any] = (
        Sort(SortParams(by=["key"], memory_limit=LIMIT))
        if what == "sort"
        else Deduplicate(DeduplicateParams(by=["key"], memory_limit=LIMIT))
    )
    batches = Kept(path)
    action.output(EdgeType("row", next(iter(batches)).schema))
    yield from action.gather(batches, scratch)


def main(keys: int, what: str, who: str, out: Path) -> None:
    path = kept(keys)
    scratch = out.with_name(f"{out.name}_scratch")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    started = time.perf_counter()
    made = {"duckdb": by_duckdb, "action": by_action}[who](what, path, scratch)
    first = next(made)
    rows = 0
    with pa.OSFile(str(out), "wb") as file, pa.ipc.new_file(file, first.schema) as writer:
        while first is not None:
            writer.write_batch(first)
            rows += first.num_rows
            first = next(made, None)
    seconds = time.perf_counter() - started
    shutil.rmtree(scratch)
    tell(seconds=seconds, rows=rows)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]).resolve())
