"""The indexes of many attempt chains as one file: a stage need not open each when it starts.

Derived, like the index of a chain: of chains whose list of letters is final, and whose files are
all there. It is written whole and replaced at once; whoever reads has the old one or the new one.
Two that write it at a time, or a crash between any two lines, leave one of the two, and what it
does not hold is read chain by chain.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from nvisy_dagster.engine.dead_letter_index import (
    ENTRY,
    MERGED,
    VERSION,
    chain_index,
    chains_of,
    replace_index,
)
from nvisy_dagster.engine.dead_letter_listing import FOLDER, is_whole

pc = cast("Any", pyarrow.compute)

MERGED_AT = 16
"""Chains that are read one by one, at most, before they are merged."""
INDEXED = pa.schema([*ENTRY, pa.field("chain", pa.string())])
_CHAINS = b"nvisy.chains"


def all_indexes(graph: Path) -> pa.Table:
    """The indexes of all attempt chains that left letters; columns as of `INDEXED`.

    Args:
        graph: Folder of the graph's state.

    Raises:
        StorageError: A file of letters is gone or damaged.
    """
    chains = chains_of(graph)
    merged, known = _read(graph / FOLDER / MERGED)
    gone = known.difference(chains)
    if gone:
        kept = pa.array(sorted(known - gone), pa.string())
        merged = merged.filter(pc.is_in(merged["chain"], kept))
    final: list[pa.Table] = [merged]
    others: list[pa.Table] = []
    new: list[str] = []
    for chain in chains:
        if chain in known:
            continue
        # Before its index is read: a list that is final then cannot be another one after that.
        whole = is_whole(graph, chain)
        index = chain_index(graph, chain)
        index = index.append_column("chain", pa.repeat(pa.scalar(chain), len(index)))
        (final if whole else others).append(index.cast(INDEXED))
        new += [chain] if whole else []
    if len(new) >= MERGED_AT:
        merged = pa.concat_tables(final).combine_chunks()
        document = {"version": VERSION, "chains": sorted([*known - gone, *new])}
        replace_index(graph / FOLDER / MERGED, merged, {_CHAINS: json.dumps(document)})
        final = [merged]
    return pa.concat_tables([*final, *others]).combine_chunks()


def _read(path: Path) -> tuple[pa.Table, frozenset[str]]:
    """What it holds, and of which chains; nothing if it cannot be read."""
    nothing: tuple[pa.Table, frozenset[str]] = INDEXED.empty_table(), frozenset()
    try:
        table = pq.read_table(path)
        document = json.loads((table.schema.metadata or {})[_CHAINS])
        chains: Sequence[str] = document["chains"]
        if document["version"] != VERSION or table.schema.names != INDEXED.names:
            return nothing
        return table.cast(INDEXED), frozenset(chains)
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError):
        return nothing
