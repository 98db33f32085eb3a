"""The index of dead letters: all that is said of them but their records, one small file per chain.

Derived: made from the letters' files when it is missing, and brought up to date when the
checkpoints list other files than it was made from. Never what decides whether there is a letter.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import get_ident
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from nvisy_dagster.engine.dead_letter_listing import FOLDER, MARKS, ListedPart, listed_parts
from nvisy_dagster.engine.failpoint import failpoint
from nvisy_dagster.engine.failure import StorageError
from nvisy_dagster.engine.storage import fetch, names, told

pc = cast("Any", pyarrow.compute)

INDEX = "index.parquet"
LONGEST_MESSAGE = 300
MERGED = "merged.parquet"
"""Name, beside the chains, of the file in which several of them are merged."""
VERSION = 1
_MADE_FROM = b"nvisy.parts"

ENTRY = pa.schema([
    pa.field("letter_id", pa.binary(16)),
    pa.field("node", pa.string()),
    pa.field("tag", pa.string()),
    pa.field("message", pa.string()),
    pa.field("attempt", pa.int32()),
    pa.field("run_id", pa.string()),
    pa.field("failed_at", pa.timestamp("us", "UTC")),
    pa.field("record_id", pa.binary(16)),
    pa.field("uri", pa.string()),
    pa.field("position", pa.int64()),
    pa.field("part", pa.string()),
    pa.field("row", pa.int64()),
])
"""What the index says of a letter. `message` is cut; `part` and `row` tell where the letter is."""


def chain_index(graph: Path, chain: str) -> pa.Table:
    """The index of one attempt chain's letters.

    Args:
        graph: Folder of the graph's state.
        chain: Names the attempt chain.

    Raises:
        StorageError: A file of letters is gone or damaged.
    """
    folder = graph / FOLDER / chain
    parts = listed_parts(graph, chain)
    made_from = {str(part.file): part.rows for part in parts}
    kept, known = _read(folder / INDEX)
    if known == made_from:
        return kept
    still = {name for name, rows in known.items() if made_from.get(name) == rows}
    old = kept.filter(pc.is_in(kept["part"], pa.array(sorted(still), pa.string())))
    new = [_entries(folder, part) for part in parts if str(part.file) not in still]
    index = pa.concat_tables([old, *new])
    _write(folder / INDEX, index, made_from)
    return index


def read_letters(folder: Path, part: str) -> Iterator[pa.RecordBatch]:
    """The letters of one file.

    Raises:
        StorageError: It is gone or damaged.
    """
    path = folder / part
    try:
        path = fetch(path)
        with pa.OSFile(str(path), "rb") as file:
            reader = pa.ipc.open_file(file)
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)
    except (OSError, pa.ArrowInvalid) as error:
        raise StorageError(
            f"{path}, a file of dead letters, is gone or damaged: {error}",
            remedy="bring it back from a backup; the other letters can still be replayed by node",
        ) from error


def _entries(folder: Path, part: ListedPart) -> pa.Table:
    batches: list[pa.RecordBatch] = []
    first = 0
    for letters in read_letters(folder, str(part.file)):
        batches.append(_entry(letters, str(part.file), first))
        first += letters.num_rows
    return pa.Table.from_batches(batches, ENTRY)


def _entry(letters: pa.RecordBatch, part: str, first: int) -> pa.RecordBatch:
    n = letters.num_rows
    record = letters.column("record")
    source = pc.struct_field(record, "_source")
    return pa.RecordBatch.from_arrays(
        [
            letters.column("letter_id"),
            letters.column("node"),
            letters.column("tag"),
            pc.utf8_slice_codeunits(letters.column("message"), 0, LONGEST_MESSAGE),
            letters.column("attempt"),
            letters.column("run_id"),
            letters.column("failed_at"),
            pc.struct_field(record, "_id"),
            pc.struct_field(source, "uri"),
            pc.struct_field(source, "position"),
            pa.repeat(pa.scalar(part), n),
            pa.array(range(first, first + n), pa.int64()),
        ],
        schema=ENTRY,
    )


def _read(path: Path) -> tuple[pa.Table, dict[str, int]]:
    """What the index holds, and what it was made from; nothing if it cannot be read."""
    nothing: tuple[pa.Table, dict[str, int]] = ENTRY.empty_table(), {}
    try:
        table = pq.read_table(path)
        document = json.loads((table.schema.metadata or {})[_MADE_FROM])
    except (OSError, pa.ArrowException, ValueError, KeyError):
        return nothing
    if document.get("version") != VERSION or table.schema.names != ENTRY.names:
        return nothing
    try:
        return table.cast(ENTRY), {str(k): int(v) for k, v in document["parts"].items()}
    except (pa.ArrowException, ValueError, KeyError, AttributeError):
        return nothing


def _write(path: Path, index: pa.Table, made_from: dict[str, int]) -> None:
    document = json.dumps({"version": VERSION, "parts": made_from})
    replace_index(path, index, {_MADE_FROM: document})


def replace_index(path: Path, index: pa.Table, metadata: Mapping[bytes, str]) -> None:
    """Replace an index at once, if that can be done."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{get_ident()}.tmp")
    # Whoever may only read the storage still gets the list; it is made again the next time.
    with suppress(StorageError), told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(index.replace_schema_metadata(dict(metadata)), temporary)
        failpoint("index.before_rename")
        temporary.replace(path)


def chains_of(graph: Path) -> Sequence[str]:
    """The attempt chains that left letters, oldest first."""
    # Chains are named by ULIDs, which sort by time.
    return sorted(
        name for name in names(graph / FOLDER) if name != MARKS and not name.startswith(MERGED)
    )
