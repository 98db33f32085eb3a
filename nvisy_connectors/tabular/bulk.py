"""The expressions of a whole graph, parsed and typed together.

DuckDB takes half a millisecond to parse one expression and another to type it, nearly all of it per
statement: a generated graph of ten thousand nodes would wait for seconds. What is worked out here
is only kept for `syntax` and `binding` to find; whatever is not found is worked out alone, with
the same result.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import pyarrow as pa

LEAST = 16
"""Fewer expressions are not worth it."""
PER_STATEMENT = 200
THREADS = 4
MOST_SCHEMAS = 4
"""Schemas that the expressions of one graph are typed against in bulk; a graph in which every node
makes another schema would multiply the work."""

Trees = tuple[str, str]
R = TypeVar("R")


@dataclass
class _Prepared:
    """What was worked out for the nodes of one component."""

    texts: Sequence[str] = ()
    trees: Mapping[str, Trees] = field(default_factory=dict[str, Trees])
    typed: dict[tuple[str, pa.Schema], pa.DataType] = field(
        default_factory=dict[tuple[str, pa.Schema], pa.DataType]
    )
    schemas: list[pa.Schema] = field(default_factory=list[pa.Schema])


class _Thread(threading.local):
    """By component; of the graph that this thread compiled last."""

    def __init__(self) -> None:
        self.prepared: dict[str, _Prepared] = {}


_thread = _Thread()


def prepare(component: str, texts: Iterable[str]) -> None:
    """Parse the expressions of a graph; mistakes in them are found later, one by one.

    Args:
        component: Name of the action they belong to; what was prepared for it before is forgotten.
        texts: The expressions of all its nodes.
    """
    from nvisy_connectors.tabular.syntax import parse_many

    distinct = tuple(dict.fromkeys(texts))
    _thread.prepared.pop(component, None)
    if len(distinct) >= LEAST:
        parsed = _each(parse_many, distinct)
        trees = {text: pair for some in parsed for text, pair in some}
        _thread.prepared[component] = _Prepared(distinct, trees)


def known_trees(text: str) -> Trees | None:
    """The two parse trees that `syntax` compares, as JSON, if they were worked out in bulk."""
    found = (one.trees.get(text) for one in _thread.prepared.values())
    return next((trees for trees in found if trees is not None), None)


def known_type(text: str, columns: Sequence[str], records: pa.RecordBatch) -> pa.DataType | None:
    """The type of an expression over these columns, if it was worked out in bulk.

    Args:
        text: The expression.
        columns: The columns it reads; the others of the graph's expressions that read the same
            ones are typed with it.
        records: No rows of these columns.
    """
    bulk = next((one for one in _thread.prepared.values() if text in one.trees), None)
    if bulk is None:
        return None
    schema = records.schema
    if schema not in bulk.schemas and len(bulk.schemas) < MOST_SCHEMAS:
        bulk.schemas.append(schema)
        bulk.typed |= _type_all(bulk.texts, columns, records)
    return bulk.typed.get((text, schema))


def _type_all(
    texts: Sequence[str], columns: Sequence[str], records: pa.RecordBatch
) -> Mapping[tuple[str, pa.Schema], pa.DataType]:
    from nvisy_connectors.tabular.expression import reads

    same = [text for text in texts if reads(text) == tuple(columns)]
    typed = _each(partial(_types, records=records), same)
    return {(text, records.schema): kind for some in typed for text, kind in some}


def _types(texts: Sequence[str], records: pa.RecordBatch) -> list[tuple[str, pa.DataType]]:
    import duckdb

    from nvisy_connectors.tabular.database import select

    try:
        # Run and not only bound: constants that cannot be cast are found by nothing else.
        made = select(", ".join(f"(\n{text}\n)" for text in texts), records)
    except duckdb.Error:
        # One of them does not fit; each is typed alone then, and the culprit named.
        return []
    return list(zip(texts, made.schema.types, strict=True))


def _each(work: Callable[[Sequence[str]], R], texts: Sequence[str]) -> list[R]:
    """What is made of some texts at a time; DuckDB lets other threads work meanwhile."""
    parts = [texts[start : start + PER_STATEMENT] for start in range(0, len(texts), PER_STATEMENT)]
    if len(parts) == 1:
        return [work(parts[0])]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, parts))
