"""Marks: what became of dead letters, in small files that are only ever added, or merged.

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

from nvisy_dagster.engine.failpoint import failpoint
from nvisy_dagster.engine.failure import StorageError
from nvisy_dagster.engine.storage import fetch, names, publish, remove_file, sync_folder, told
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
MERGED_AT = 32
"""Files that there may be before they are merged."""
_READS = 20
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
    _write(folder, marks)
    if len(_files(folder)) > MERGED_AT:
        _merge(folder)


def _write(folder: Path, marks: pa.Table) -> str:
    """Add a file; returns its name."""
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
    return f"{name}.parquet"


def _merge(folder: Path) -> None:
    """Make one file of those that are there: first the one, then none of the others.

    At any moment each mark is in a file at least; one that is in two counts once. So others may
    read, add and merge at the same time.
    """
    files = _files(folder)
    try:
        marks = pa.concat_tables([_read(folder / name) for name in files])
    except (OSError, pa.ArrowException):
        return  # another process merges them, or whoever reads them says what is damaged
    failpoint("marks.before_merge")
    merged = _write(folder, _once(marks))
    failpoint("marks.after_merge")
    for name in files:
        if name != merged:
            remove_file(folder / name)
            failpoint("marks.after_remove")


def _once(marks: pa.Table) -> pa.Table:
    """Each mark once: the one that counts."""
    ordered = marks.sort_by([("marked_at", "ascending")])
    # A mark by nobody must not get the name of who marked it later.
    whole = pc.ScalarAggregateOptions(skip_nulls=False)
    others = [(name, "first", whole) for name in MARK.names if name not in KEY]
    found = ordered.group_by(KEY, use_threads=False).aggregate(others)
    names_ = [name.removesuffix("_first") for name in found.schema.names]
    return found.rename_columns(names_).select(MARK.names).cast(MARK).combine_chunks()


def _files(folder: Path) -> list[str]:
    return [name for name in sorted(names(folder)) if name.endswith(".parquet")]


def read_marks(folder: Path) -> pa.Table:
    """All marks.

    Raises:
        StorageError: One of the files is damaged.
    """
    reason: Exception | None = None
    for _ in range(_READS):
        files = _files(folder)
        try:
            return pa.concat_tables([MARK.empty_table(), *(_read(folder / one) for one in files)])
        except FileNotFoundError as error:
            reason = error  # they were merged since they were listed
        except (OSError, pa.ArrowException) as error:
            reason = error
            break
    raise StorageError(
        f"a file of marks in {folder} is damaged: {reason}",
        remedy="remove it: the letters that it marks are then open again",
    ) from reason


def earliest(marks: pa.Table) -> pa.Table:
    """The mark that counts of each failure."""
    return _once(marks)


def _read(file: Path) -> pa.Table:
    marks = pq.read_table(fetch(file))
    if "part" not in marks.schema.names:
        # Of an earlier version. Which failure it meant is not known: the letter is open again.
        marks = marks.add_column(2, "part", pa.nulls(len(marks), pa.string()))
    return marks.cast(MARK)
