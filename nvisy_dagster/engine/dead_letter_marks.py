"""Marks: what became of dead letters, in small files that are only ever added to.

A mark says it of one failure of a record, so it never hides a later one. Of several marks of one
failure the earliest counts: marking again changes nothing.
"""

import datetime as dt
import os
import uuid
from pathlib import Path
from typing import Any, Literal, cast

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from nvisy_dagster.engine.failure import StorageError
from nvisy_dagster.engine.storage import fetch, names, publish, sync_folder, told
from nvisy_dagster.sdk.identity import format_ulid, ids_to_array, ulids

pc = cast("Any", pyarrow.compute)

Mark = Literal["replayed", "discarded", "superseded"]

MARK = pa.schema([
    pa.field("letter_id", pa.binary(16)),
    pa.field("chain", pa.string()),
    pa.field("part", pa.string()),
    pa.field("mark", pa.string()),
    pa.field("marked_by", pa.string()),
    pa.field("marked_at", pa.timestamp("us", "UTC")),
])
KEY = ["letter_id", "chain", "part"]
"""Tells one failure of a record from a later one."""


def marks_of(letters: pa.Table, mark: Mark, by: str | None) -> pa.Table:
    """Marks of some letters, as of now.

    Args:
        letters: Columns `letter_id`, `chain` and `part`.
        mark: What became of them.
        by: The run that did it.
    """
    n = letters.num_rows
    now = pa.scalar(dt.datetime.now(dt.UTC), pa.timestamp("us", "UTC"))
    return pa.Table.from_arrays(
        [
            letters["letter_id"],
            letters["chain"],
            letters["part"],
            pa.repeat(pa.scalar(mark), n),
            pa.nulls(n, pa.string()) if by is None else pa.repeat(pa.scalar(by), n),
            pa.repeat(now, n),
        ],
        schema=MARK,
    )


def write_marks(folder: Path, marks: pa.Table) -> None:
    """Add marks; durable on return.

    Raises:
        StorageError: The disk is full or refuses.
    """
    if not marks.num_rows:
        return
    name = format_ulid(ids_to_array(ulids(1))[0].as_py())
    temporary = folder / f"{name}.{uuid.uuid4().hex[:8]}.tmp"
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(marks, temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(folder / f"{name}.parquet")
        sync_folder(folder)
    publish(folder / f"{name}.parquet")


def read_marks(folder: Path) -> pa.Table:
    """All marks.

    Raises:
        StorageError: One of the files is damaged.
    """
    files = [folder / name for name in sorted(names(folder)) if name.endswith(".parquet")]
    try:
        return pa.concat_tables([MARK.empty_table(), *map(_read, files)])
    except (OSError, pa.ArrowException) as error:
        raise StorageError(
            f"a file of marks in {folder} is damaged: {error}",
            remedy="remove it: the letters that it marks are then open again",
        ) from error


def earliest(marks: pa.Table) -> pa.Table:
    """The mark that counts of each failure."""
    ordered = marks.sort_by([("marked_at", "ascending")])
    wanted = ["mark", "marked_by", "marked_at"]
    found = ordered.group_by(KEY, use_threads=False).aggregate([(one, "first") for one in wanted])
    return found.rename_columns([name.removesuffix("_first") for name in found.schema.names])


def _read(file: Path) -> pa.Table:
    marks = pq.read_table(fetch(file))
    if "part" not in marks.schema.names:
        # Of an earlier version. Which failure it meant is not known: the letter is open again.
        marks = marks.add_column(2, "part", pa.nulls(len(marks), pa.string()))
    return marks.cast(MARK)
