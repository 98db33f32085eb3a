"""Rows of a row group, a bounded piece at a time, however small they are in the file.

Few bytes of a Parquet file can stand for many: a text that is told once and repeated by number, a
run of equal numbers, a page that is compressed a thousandfold. So texts that are repeated by number
are read as such and written out only in pieces of a batch, and what an object holds is counted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from nvisy_connectors.object.params import ReadParams
from nvisy_dagster.sdk import DataError

pc: Any = cast("Any", pyarrow.compute)

MAX_RATIO = 1000
"""A file may hold so many times its size, unless the params say otherwise,"""
FREE_BYTES = 64 << 20
"""and always so many bytes."""

_REPEATS = 8
"""Bytes per value of a column chunk below which its texts are mostly told by number."""
_WIDTHS = {"BOOLEAN": 1 / 8, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 8}
_OFFSET = 4
"""Bytes that a value without a width takes at least."""


def has_view(kind: pa.DataType) -> bool:
    """Whether a type tells texts or lists by reference."""
    is_view = (pa.types.is_string_view, pa.types.is_binary_view, pa.types.is_list_view,
               pa.types.is_large_list_view)  # fmt: skip
    if any(one(kind) for one in is_view):
        return True
    if pa.types.is_dictionary(kind):
        return has_view(kind.value_type)
    return any(has_view(kind.field(place).type) for place in range(kind.num_fields))


def repeated_columns(metadata: pq.FileMetaData, schema: pa.Schema) -> list[str]:
    """Leaves whose texts are to be read by number, as some row group mostly tells them so."""
    # Nothing makes views of numbers.
    views = {one.name for one in schema if has_view(one.type)}
    leaves = [
        place
        for place in range(metadata.num_columns)
        if metadata.schema.column(place).physical_type == "BYTE_ARRAY"
        and metadata.schema.column(place).path.partition(".")[0] not in views
    ]
    found: list[str] = []
    for place in leaves:
        for group in range(metadata.num_row_groups):
            chunk = metadata.row_group(group).column(place)
            small = chunk.total_uncompressed_size < _REPEATS * chunk.num_values
            if chunk.has_dictionary_page and small:
                found.append(metadata.schema.column(place).path)
                break
    return found


@dataclass(frozen=True)
class GroupSize:
    """How much some columns of a row group take, as far as the file tells before it is read."""

    rows: int
    least_bytes: int
    """Bytes that they take in memory or, decompressed, on the way there, at least."""

    @classmethod
    def of(cls, metadata: pq.FileMetaData, group: int, columns: Sequence[str]) -> "GroupSize":
        """Add up the leaves of some columns."""
        meta, wanted = metadata.row_group(group), set(columns)
        plain = known = 0.0
        for place in range(metadata.num_columns):
            leaf, chunk = metadata.schema.column(place), meta.column(place)
            if leaf.path in wanted or leaf.path.partition(".")[0] in wanted:
                plain += chunk.total_uncompressed_size
                known += chunk.num_values * _width(leaf)
        return cls(meta.num_rows, int(max(known, plain)))

    def batch_rows(self, params: ReadParams) -> int:
        """Rows that make a batch."""
        row_bytes = max(1, self.least_bytes // max(1, self.rows))
        return max(1, min(params.batch_rows, params.batch_bytes // row_bytes))


def _width(leaf: Any) -> float:  # noqa: ANN401 - a class that pyarrow does not name
    if leaf.physical_type == "FIXED_LEN_BYTE_ARRAY":
        return leaf.length
    return _WIDTHS.get(leaf.physical_type, _OFFSET)


class Budget:
    """Counts what an object holds.

    Args:
        params: What the source was told.
        uri: Address of the object.
        size: Of the object, in bytes.
        spent: What was counted before.
    """

    def __init__(self, params: ReadParams, uri: str, size: int, spent: int) -> None:
        self.limit = params.max_decoded_bytes or max(FREE_BYTES, MAX_RATIO * size)
        self.spent = spent
        self._uri = uri

    def check(self, more: int) -> None:
        """Refuse more than there may be.

        Raises:
            DataError: It would be too much.
        """
        if self.spent + more > self.limit:
            raise DataError(
                f"{self._uri} holds more than {self.limit} bytes",
                rows={},
                remedy="if it is no bomb, raise `max_decoded_bytes`",
                tag="too_large",
            )

    def spend(self, some: int) -> None:
        """Count what is written out now.

        Raises:
            DataError: It is too much.
        """
        self.check(some)
        self.spent += some


def pieces(
    rows: pa.RecordBatch, schema: pa.Schema, most_bytes: int, budget: Budget
) -> Iterator[pa.RecordBatch]:
    """Rows with their texts written out, in pieces of some bytes or of one row.

    Args:
        rows: As they were read, some texts by number.
        schema: What they are to be.
        most_bytes: Size of a piece.
        budget: What they may take.

    Raises:
        DataError: They take more.
    """
    columns = list(zip(rows.columns, schema.types, strict=True))
    few = sum(_size(values, kind, exact=False) for values, kind in columns) <= most_bytes
    size = 0 if few else sum(_size(values, kind) for values, kind in columns)
    budget.check(size)
    if few or rows.num_rows == 1 or size <= most_bytes:
        arrays = [values if values.type == kind else values.cast(kind) for values, kind in columns]
        written = pa.RecordBatch.from_arrays(arrays, schema=schema)
        budget.spend(written.nbytes)
        yield written
        return
    middle = rows.num_rows // 2
    for half in (rows.slice(0, middle), rows.slice(middle)):
        yield from pieces(half, schema, most_bytes, budget)


def _size(values: pa.Array, kind: pa.DataType, *, exact: bool = True) -> int:  # noqa: PLR0911 - one per kind of type
    """Bytes that values take when they are written out as those of a type; or a bound on them."""
    if pa.types.is_dictionary(values.type):
        if pa.types.is_dictionary(kind):
            return values.indices.nbytes
        return _written_bytes(values, exact=exact) + _OFFSET * len(values)
    if values.type == kind:
        return values.nbytes
    if pa.types.is_string_view(values.type) or pa.types.is_binary_view(values.type):
        return _viewed_bytes(values) + _OFFSET * len(values)
    if pa.types.is_struct(kind):
        parts = zip(values.flatten(), kind, strict=True)
        return sum(_size(part, field.type, exact=exact) for part, field in parts)
    if pa.types.is_map(kind):
        keys, items = _entries(values)
        parts = ((keys, kind.key_type), (items, kind.item_type))
        return sum(_size(*part, exact=exact) for part in parts) + _OFFSET * len(values)
    return _size(values.flatten(), kind.value_type, exact=exact) + _OFFSET * len(values)


def _viewed_bytes(values: pa.Array) -> int:
    views = np.frombuffer(cast("Any", values.buffers()[1]), np.int32).reshape(-1, 4)
    lengths = views[values.offset : values.offset + len(values), 0].astype(np.int64)
    return int(lengths[np.asarray(values.is_valid())].sum())


def _written_bytes(values: pa.Array, *, exact: bool) -> int:
    words = values.dictionary
    if not _is_text(words.type):
        return len(values) * max(1, words.nbytes // max(1, len(words)))
    lengths = pc.binary_length(words)
    if not exact:
        return (pc.max(lengths).as_py() or 0) * len(values)
    return pc.sum(pc.take(lengths, values.indices)).as_py() or 0


def _is_text(kind: pa.DataType) -> bool:
    binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return binary or pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _entries(values: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Keys and items of the maps of a slice."""
    start = values.offsets[0].as_py() if len(values) else 0
    size = values.offsets[len(values)].as_py() - start if len(values) else 0
    return values.keys.slice(start, size), values.items.slice(start, size)
