"""The action `deduplicate`."""

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, model_validator

from nvisy_connectors.tabular.expression import nearest
from nvisy_connectors.tabular.keys import Keys
from nvisy_connectors.tabular.minhash import ShingleOf
from nvisy_connectors.tabular.near_duplicates import Likeness, NearDuplicates
from nvisy_connectors.tabular.sort_keys import SortKey, columns_of, sql_order, wrong_columns
from nvisy_connectors.tabular.spilling import RECORDS, ROW, MemoryLimit, Spilling, numbered
from nvisy_dagster.sdk import (
    BlockingAction,
    Capabilities,
    ConfigError,
    EdgeType,
    Params,
    content_hashes,
    raise_mistakes,
)

CONTENT = "__nvisy_content__"
"""Column of the content hash."""
GROUP = "__nvisy_group__"
"""Column of the group of records that are nearly the same."""
SHINGLE_SIZES: dict[ShingleOf, int] = {"words": 3, "characters": 5}

Rows = npt.NDArray[np.int64]


class DeduplicateParams(Params):
    """Which records are the same, and which of them stays."""

    strategy: Literal["exact", "near"] = "exact"
    """`exact`: records are the same whose values in `by` are equal. `near`: whose texts are nearly
    the same."""
    by: list[str] | None = Field(default=None, min_length=1, examples=[["email"]])
    """Columns whose values make records the same; two without a value are the same, too. By default
    the content: all columns but the envelope. Only with `exact`, as the next ones are with
    `near`."""
    column: str = Field(default="text", min_length=1)
    """Column of text that is compared. Letter case makes no difference; neither do blanks and,
    among words, punctuation. A record without a word stays."""
    threshold: float = Field(default=0.8, ge=0.2, le=1)
    """How alike two texts must be: the Jaccard index of their shingles, those in both over those in
    either. It is estimated, at 0.8 with 128 permutations give or take 0.035."""
    shingle: ShingleOf = "words"
    """What shingles are: runs of neighbouring `words`, or of `characters` for short texts and for
    languages without blanks."""
    shingle_size: int | None = Field(default=None, ge=1, le=32)
    """Words or characters of a shingle: 3 words or 5 characters when left out. The more, the more a
    changed word weighs."""
    permutations: int = Field(default=128, ge=16, le=1024)
    """Hash functions that the likeness is estimated with: four times as many halve the error, and
    take four times as long. Each takes 4 bytes of disk per record."""
    keep: Literal["first", "last"] = "first"
    """Which of the same records stays."""
    order_by: list[SortKey | str] = Field(default=[], examples=[["updated_at"]])
    """What is first: columns, each a name or an object with `column`, `descending` and `nulls`. By
    default, and for those that are equal, the order in which the sources told the records."""
    memory_limit: MemoryLimit = "512MB"
    """Memory for the keys, such as `512MB` or `2GB`; what does not fit is written to disk."""

    @model_validator(mode="after")
    def _of_one_strategy(self) -> Self:
        fields = type(self).model_fields
        near = ("column", "threshold", "shingle", "shingle_size", "permutations")
        other, others = ("near", near) if self.strategy == "exact" else ("exact", ("by",))
        for name in others:
            if getattr(self, name) != fields[name].default:
                raise ValueError(f'"{name}" goes with "strategy": "{other}"')
        return self


class Deduplicate(BlockingAction[DeduplicateParams]):
    """Keep one of the records that are the same.

    They are compared over all records that reach the node, from all of its inputs. The records that
    stay keep their ids, their columns and their order.

    With the strategy `near` texts are compared by MinHash: a signature for each, bands of which
    tell what is worth comparing. Nearly the same are those that are linked, directly or through
    others: if A is like B and B like C, one of the three stays. The same input leaves the same
    records every time. Of pairs that are just as alike as `threshold` asks some are missed, and
    some are taken that are slightly less alike; of those that are clearly more alike next to none
    is missed.
    """

    name = "deduplicate"
    capabilities = Capabilities()
    requires = ("duckdb",)
    extra = "tabular"

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - the base's own
        super().__init__(*args, **kwargs)
        self._spilling = Spilling()
        self._interrupted = threading.Event()
        self._given = Keys([*(self.params.by or []), *columns_of(self.params.order_by)])

    def output(self, incoming: EdgeType) -> EdgeType:
        """The type that came in.

        Raises:
            ConfigError: A column does not exist, or cannot be compared.
        """
        order_by = columns_of(self.params.order_by)
        raise_mistakes([
            *wrong_columns("by", self.params.by or [], incoming.schema),
            *wrong_columns("order_by", order_by, incoming.schema),
            *self._wrong_text(incoming.schema),
        ])
        return incoming

    def gather(self, records: Iterable[pa.RecordBatch], scratch: Path) -> Iterator[pa.RecordBatch]:
        """The records that stay, in the order in which they came."""
        self._interrupted.clear()
        kept = self._kept(records, scratch)
        start = place = 0
        for batch in records:
            end = start + batch.num_rows
            upto = int(np.searchsorted(kept, end))
            rows = kept[place:upto] - start
            yield batch if len(rows) == batch.num_rows else batch.take(pa.array(rows))
            start, place = end, upto

    def interrupt(self) -> None:
        """End the query that is under way, or the comparison."""
        self._interrupted.set()
        self._spilling.interrupt()

    def _kept(self, records: Iterable[pa.RecordBatch], scratch: Path) -> Rows:
        """The places of the records that stay, ascending."""
        groups = self._groups(records, scratch) if self.params.strategy == "near" else None
        reader = numbered(self._spilling.noted(self._keys(records, groups)))
        if reader is None:
            return np.zeros(0, np.int64)
        with self._spilling.database(scratch, self.params.memory_limit) as database:
            database.register(RECORDS, reader)
            found = database.sql(self._query()).to_arrow_table().column(0)
            return np.sort(found.to_numpy())

    def _groups(self, records: Iterable[pa.RecordBatch], scratch: Path) -> Rows:
        """Which records are nearly the same."""
        p = self.params
        size = p.shingle_size or SHINGLE_SIZES[p.shingle]
        likeness = Likeness(p.threshold, p.shingle, size, p.permutations)
        near = NearDuplicates(likeness, self._spilling, p.memory_limit, scratch, self._interrupted)
        return near.groups(map(self._texts, records))

    def _texts(self, batch: pa.RecordBatch) -> pa.Array:
        self.output(EdgeType("row", batch.schema))  # only now known of some sources
        return batch.column(self.params.column)

    def _wrong_text(self, schema: pa.Schema | None) -> Iterator[ConfigError]:
        name = self.params.column
        if self.params.strategy == "exact" or schema is None:
            return
        if not schema.names.count(name):
            remedy = nearest(name, schema.names)
            yield ConfigError(f"there is no column {name!r}", remedy=remedy, place=("column",))
        elif not _is_text(kind := schema.field(name).type):
            yield ConfigError(
                f"{name!r} is of type {kind}, which is no text",
                remedy='name a column of text, or make one with "map"',
                place=("column",),
            )

    def _keys(
        self, records: Iterable[pa.RecordBatch], groups: Rows | None
    ) -> Iterator[pa.RecordBatch]:
        """What DuckDB is given of each batch."""
        start = 0
        for batch in records:
            self.output(EdgeType("row", batch.schema))  # only now known of some sources
            keys, end = self._given.of(batch), start + batch.num_rows
            if groups is not None:
                keys = keys.append_column(GROUP, pa.array(groups[start:end]))
            elif not self.params.by:
                keys = keys.append_column(CONTENT, content_hashes(batch))
            yield keys
            start = end

    def _query(self) -> str:
        # Nothing of the params is in it but numbers.
        computed = GROUP if self.params.strategy == "near" else CONTENT
        same = ", ".join(map(self._given.sql, self.params.by or ())) or computed
        last = self.params.keep == "last"
        if not self.params.order_by:
            row = f"{'max' if last else 'min'}({ROW})"
            return f"SELECT {row} FROM {RECORDS} GROUP BY {same}"  # noqa: S608
        order = sql_order(self.params.order_by, self._given, reverse=last)
        place = f"row_number() OVER (PARTITION BY {same} ORDER BY {order})"
        return f"SELECT {ROW} FROM {RECORDS} QUALIFY {place} = 1"  # noqa: S608


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    texts = pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view
    return any(is_text(kind) for is_text in texts)
