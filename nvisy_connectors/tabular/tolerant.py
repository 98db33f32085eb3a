"""Expressions in a form that goes on where a value is refused, and tells where that was.

A cast that refuses a value ends the query, and DuckDB tells nothing of the other rows; in a `TRY`
it is run row by row wherever a row of the same vector fails. So what refuses values is computed
first and by itself, in a form that gives NULL instead, and the expression reads its result as a
column. Where that is NULL and the value was not, the value was refused.
"""

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from operator import attrgetter

import pyarrow as pa

from nvisy_connectors.tabular.database import column_types, select
from nvisy_connectors.tabular.rewriting import PREFIX, Rewriting
from nvisy_connectors.tabular.syntax import RefusedError, parse_one, texts_of

_LEVEL = attrgetter("level")


@dataclass(frozen=True, eq=False)
class Attempt:
    """Something that refuses some values, such as a cast, in the form that gives NULL for them."""

    name: str
    """Column of its result."""
    kind: str
    """Type of the cast, in lower case; or `strptime:` and what it is given."""
    value: str
    """SQL of the value."""
    sql: str
    level: int
    """Value and SQL read attempts of lower levels."""
    of_text: bool = False
    """The value is a text: NULL is made of no text, so where it comes out the text was refused."""

    @property
    def refused(self) -> str:
        """SQL of the value where it is refused, as far as is known, and of NULL elsewhere."""
        then = self.value if self.of_text else f"CASE WHEN {self.value} IS NOT NULL THEN TRUE END"
        return f"CASE WHEN {self.name} IS NULL THEN {then} END"


@dataclass(frozen=True)
class Tolerant:
    """The tolerant form of the expressions of one node."""

    selected: tuple[str, ...]
    """The SQL of each expression."""
    attempts: tuple[Attempt, ...]
    """What they read."""
    uses: tuple[dict[int, bool], ...]
    """The attempts that each expression reads, and whether it does so whatever the values are."""

    @property
    def layers(self) -> list[str]:
        """SQL of the attempts, by level."""
        return [
            ", ".join(f"{attempt.sql} AS {attempt.name}" for attempt in level)
            for _, level in groupby(sorted(self.attempts, key=_LEVEL), _LEVEL)
        ]

    def run(self, records: pa.RecordBatch) -> tuple[list[pa.Array], list[pa.Array]]:
        """The results, and by attempt what it refused: NULL on the rows on which it did not.

        Raises:
            duckdb.Error: It fails in a way that was not expected.
        """
        refused = (attempt.refused for attempt in self.attempts)
        columns = (f"{sql} AS c{i}" for i, sql in enumerate((*self.selected, *refused)))
        table = select(", ".join(columns), records, self.layers)
        arrays = [one_array(column) for column in table.columns]
        return arrays[: len(self.selected)], arrays[len(self.selected) :]


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """The values of a column, copied only if they are in several chunks."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def tolerant(selected: tuple[str, ...], schema: pa.Schema) -> Tolerant | None:
    """The tolerant form of SQL expressions; `None` where none is known.

    Args:
        selected: The expressions.
        schema: The columns that they read.
    """
    # Batches side by side need it at the same time: it is made once.
    with _making:
        return _made(selected, schema)


_making = threading.Lock()


@lru_cache(maxsize=1024)
def _made(selected: tuple[str, ...], schema: pa.Schema) -> Tolerant | None:
    import duckdb

    if any(name.lower().startswith(PREFIX) for name in schema.names):
        return None
    no_rows = pa.RecordBatch.from_arrays(
        [pa.nulls(0, field.type) for field in schema], names=schema.names
    )
    with suppress(duckdb.Error, RefusedError):
        return _checked(_tolerant(selected, schema), selected, no_rows)
    return None


def _tolerant(selected: Sequence[str], schema: pa.Schema) -> Tolerant | None:
    texts = (f.name.lower() for f in schema if pa.types.is_string(f.type))
    rewriting = Rewriting(texts)
    made = [rewriting.rewrite(parse_one(sql)) for sql in selected]
    found = rewriting.taken_out
    if not found:
        return None
    trees = [tree for tree, _ in made]
    trees += [tree for one in found for tree in (one.value, one.attempt)]
    sql = texts_of(trees)
    written = sql[len(made) :]
    pairs = zip(written[::2], written[1::2], strict=True)
    attempts = [
        Attempt(f"{PREFIX}{place}", one.kind, value, attempt, one.level)
        for place, (one, (value, attempt)) in enumerate(zip(found, pairs, strict=True))
    ]
    return Tolerant(tuple(sql[: len(made)]), tuple(attempts), tuple(dict(u) for _, u in made))


def _checked(
    form: Tolerant | None, selected: Sequence[str], no_rows: pa.RecordBatch
) -> Tolerant | None:
    """The form with what is known of its values, if its results are of the types they must be."""
    if form is None:
        return None
    layers = form.layers
    if column_types(", ".join(form.selected), no_rows, layers) != column_types(
        ", ".join(selected), no_rows
    ):
        return None
    kinds = column_types(", ".join(attempt.value for attempt in form.attempts), no_rows, layers)
    attempts = (
        replace(attempt, of_text=kind == "VARCHAR")
        for attempt, kind in zip(form.attempts, kinds, strict=True)
    )
    return replace(form, attempts=tuple(attempts))
