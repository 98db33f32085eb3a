"""The queries of a source, a page of rows each, and what comes back as records."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from nvisy_connectors.sql.postgres.binary_read import Decoded, cells, decode
from nvisy_connectors.sql.postgres.copy_out import Rows
from nvisy_connectors.sql.postgres.reading import ReadColumn
from nvisy_connectors.sql.postgres.source_params import PostgresSourceParams
from nvisy_connectors.sql.postgres.source_table import SourceTable
from nvisy_dagster.sdk import ConfigError, DataError, RejectedRecord
from nvisy_dagster.sdk.envelope import ENVELOPE, with_envelope
from nvisy_dagster.sdk.identity import root_ids, root_ids_of

if TYPE_CHECKING:
    from psycopg.sql import Composable, Composed

pc: Any = pyarrow.compute  # its functions are made at run time

MICROSECONDS = {"timestamp": 1, "timestamptz": 1, "date": 86_400_000_000}
"""Of one step of the values of a cursor column; numbers have none."""

Mask = npt.NDArray[np.bool_]

Key = Sequence[str]
"""Values of the columns that tell rows apart, as texts."""

_TEXT = "text"
_SAFE = "^[A-Za-z0-9_.~-]*$"


@dataclass(frozen=True)
class Range:
    """Values of the cursor column between which rows are read, both included."""

    begin: int
    upto: int


@dataclass(frozen=True)
class Position:
    """The row behind which to read on."""

    key: Key
    value: int | None = None
    """Of the cursor column, where rows are read in its order."""


@dataclass(frozen=True)
class Page:
    """Rows as records."""

    data: pa.RecordBatch
    last: Position
    kept: Mask
    """Of each row, whether it is a record."""
    gone: Mask
    """Of each row, whether it does not meet the condition any more."""
    rejected: Mapping[int, RejectedRecord]
    """By row."""
    ids: pa.Array
    """Of each row."""
    values: pa.Array | None
    """Of the cursor column, of each row; null where it has none."""


def literal(column: ReadColumn, value: int) -> "Composable":
    """A value of the cursor column, as SQL."""
    from psycopg import sql

    if column.whole_number:
        return sql.Literal(value)
    if column.decoder == "date":
        return sql.SQL("(DATE '1970-01-01' + {})").format(sql.Literal(value))
    zero = "TIMESTAMPTZ '1970-01-01 00:00:00+00'"
    if column.decoder == "timestamp":
        zero = "TIMESTAMP '1970-01-01 00:00:00'"
    return sql.SQL("({} + INTERVAL {})").format(sql.SQL(zero), sql.Literal(f"{value} microseconds"))


class Pages:
    """The pages of one read.

    Args:
        table: What is read.
        params: What the source was told.
        location: URI of the table, of which ids are made.
        span: Rows to read, in the order of the cursor column; by default all, in that of the key.
        tells_gone: Whether rows that do not meet the condition are told of.
        rejects: Whether a row that no record can hold is rejected; else it is an error.
    """

    def __init__(  # noqa: PLR0913 - what a read is told
        self,
        table: SourceTable,
        params: PostgresSourceParams,
        location: str,
        *,
        span: Range | None = None,
        tells_gone: bool = False,
        rejects: bool = False,
    ) -> None:
        self._table = table
        self._params = params
        self._location = location
        self._span = span
        self._rejects = rejects
        self.by_number = len(table.key) == 1 and table.key[0].whole_number
        """Whether the key is one number, which is the position of a record."""
        self.key_names = [column.name for column in table.key]
        names = {column.name: place for place, column in enumerate(table.columns)}
        self._selected: list[tuple[ReadColumn, Composable]] = [
            (column, column.selected()) for column in table.columns
        ]
        self._key = [self._also(names, column, as_text=not self.by_number) for column in table.key]
        self._value = None if table.cursor is None else self._also(names, table.cursor)
        self._meets = None
        if tells_gone and params.where is not None:
            # What left the condition was read before, maybe: then it must go.
            self._meets = len(self._selected)
            meets = ReadColumn("", "boolean", "bool", pa.bool_())
            self._selected.append((meets, self._where("({}) IS TRUE")))
        self.schema = pa.schema([*ENVELOPE, *(column.field for column in table.columns)])

    def _also(self, names: dict[str, int], column: ReadColumn, *, as_text: bool = False) -> int:
        """Place of a column, which is fetched besides if it is not."""
        if not as_text and column.name in names:
            return names[column.name]
        text = ReadColumn(column.name, _TEXT, _TEXT, pa.string())
        chosen = (text, column.as_text()) if as_text else (column, column.selected())
        self._selected.append(chosen)
        return len(self._selected) - 1

    def _where(self, shape: str) -> "Composable":
        from psycopg import sql

        # On lines of its own: it may end in a comment.
        condition = sql.SQL(f"\n{self._params.where}\n")  # pyright: ignore[reportArgumentType] - the user's own SQL
        return sql.SQL(shape).format(condition)  # pyright: ignore[reportArgumentType] - one of ours

    def query(self, after: Position | None, most_rows: int) -> "Composed":
        """The query of the page behind a position."""
        from psycopg import sql

        key = self._key_columns()
        conditions: list[Composable] = []
        order = key
        cursor = self._table.cursor
        if self._span is not None and cursor is not None:
            name = sql.Identifier(self._params.table, cursor.name)
            order = [name, *key]
            begin = self._span.begin if after is None or after.value is None else after.value
            conditions.append(sql.SQL("{} >= {}").format(name, literal(cursor, begin)))
            conditions.append(sql.SQL("{} <= {}").format(name, literal(cursor, self._span.upto)))
        if self._params.where is not None and self._meets is None:
            conditions.append(self._where("({})"))
        if after is not None:
            values: list[Composable] = [sql.Literal(text) for text in after.key]
            if self._span is not None and cursor is not None and after.value is not None:
                values = [literal(cursor, after.value), *values]
            conditions.append(_compared(order, values))
        # Rows that an uncertain key does not tell apart must be in one page, to be noticed.
        limit = " LIMIT {}" if self._table.certain else " FETCH FIRST {} ROWS WITH TIES"
        return self._select(conditions, order) + sql.SQL(limit).format(sql.Literal(most_rows))

    def query_of(self, keys: Sequence[Key]) -> "Composed":
        """The query of the rows of these keys, at least one, that meet the condition."""
        from psycopg import sql

        columns = self._key_columns()
        values = [
            sql.SQL("({})").format(sql.SQL(", ").join([sql.Literal(text) for text in key]))
            for key in keys
        ]
        conditions: list[Composable] = [
            sql.SQL("({}) IN ({})").format(sql.SQL(", ").join(columns), sql.SQL(", ").join(values))
        ]
        if self._params.where is not None:
            conditions.append(self._where("({})"))
        return self._select(conditions, columns)

    def _key_columns(self) -> "list[Composable]":
        from psycopg import sql

        # With the table's name: by itself a name in ORDER BY would be one of what is selected.
        return [sql.Identifier(self._params.table, column.name) for column in self._table.key]

    def _select(
        self, conditions: "Sequence[Composable]", order: "Sequence[Composable]"
    ) -> "Composed":
        from psycopg import sql

        return sql.SQL("SELECT {} FROM {}{} ORDER BY {}").format(
            sql.SQL(", ").join([chosen for _, chosen in self._selected]),
            sql.Identifier(self._params.schema, self._params.table),
            sql.SQL(" WHERE ") + sql.SQL(" AND ").join(conditions) if conditions else sql.SQL(""),
            sql.SQL(", ").join(order),
        )

    def nulls(self) -> "Composed | None":
        """A query that finds a row without a key, which no page would have; `None` if none can be.

        A key of a unique index needs none.
        """
        from psycopg import sql

        names = [
            sql.Identifier(self._params.table, column.name)
            for column in self._table.key
            if column.nullable and not self._table.certain
        ]
        if not names:
            return None
        missing = sql.SQL(" OR ").join([sql.SQL("{} IS NULL").format(name) for name in names])
        where = sql.SQL("") if self._params.where is None else self._where("({}) AND ")
        return sql.SQL("SELECT FROM {} WHERE {}({}) LIMIT 1").format(
            sql.Identifier(self._params.schema, self._params.table), where, missing
        )

    def without_key(self) -> ConfigError:
        """The error of a row without a key."""
        return ConfigError(
            f"the key ({self._shown_key()}) of {self._place()} is null in some rows",
            remedy="name in 'key' columns that are never null, or leave such rows out with 'where'",
            tag="schema",
        )

    def last(self, rows: Rows) -> Position:
        """The last of some rows."""
        size = rows.sizes[-1]
        found = cells(rows.data[-size:], [size], len(self._selected))

        def value(place: int) -> pa.Array:
            return decode(self._selected[place][0], found[place]).values

        key = [str(value(place)[0].as_py()) for place in self._key]
        if self._span is None or self._value is None:
            return Position(key)
        return Position(key, _whole(value(self._value))[0].as_py())

    def page(self, rows: Rows, before: Position | None) -> Page:
        """Rows as records; to be called in a thread.

        Raises:
            ConfigError: The key is null, or does not tell the rows apart.
            DataError: No record can hold a row.
        """
        found = cells(rows.data, rows.sizes, len(self._selected))
        decoded = [decode(c, f) for (c, _), f in zip(self._selected, found, strict=True)]
        arrays = [one.values for one in decoded]
        keys = [arrays[place] for place in self._key]
        values = None if self._value is None else _whole(arrays[self._value])
        if not self._table.certain:
            self._check_key(keys, before)
        ids, uris, positions = self._identity(keys)
        created = None
        if self._value is not None and self._selected[self._value][0].decoder == "timestamptz":
            created = arrays[self._value]
        count = len(self._table.columns)
        fields = [column.field.with_nullable(True) for column in self._table.columns]  # noqa: FBT003 - Arrow's
        payload = pa.RecordBatch.from_arrays(arrays[:count], schema=pa.schema(fields))
        records = with_envelope(payload, ids=ids, uri=uris, positions=positions, created_at=created)
        gone = np.zeros(records.num_rows, np.bool_)
        if self._meets is not None:
            gone = ~arrays[self._meets].to_numpy(zero_copy_only=False)
        rejected = self._refused(decoded[:count], records, gone)
        kept = ~gone
        kept[list(rejected)] = False
        all_ids = records.column("_id")
        if not kept.all():
            records = records.filter(pa.array(kept))
        data = pa.RecordBatch.from_arrays(records.columns, schema=self.schema)
        return Page(data, self.last(rows), kept, gone, rejected, all_ids, values)

    def _identity(
        self, keys: Sequence[pa.Array]
    ) -> tuple[npt.NDArray[np.uint64], str | pa.Array, npt.NDArray[np.int64]]:
        """Ids, URIs and positions."""
        if self.by_number:
            positions = keys[0].cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
            return root_ids(self._location, positions), self._location, positions
        parts: list[Any] = [f"{self._location}?"]
        for column, texts in zip(self._table.key, keys, strict=True):
            between = "" if len(parts) == 1 else "&"
            parts += [f"{between}{quote(column.name, safe='')}=", _quoted(texts)]
        uris = pc.binary_join_element_wise(*parts, "")
        count = len(uris)
        zeros = np.zeros(count, np.int64)
        return root_ids_of(uris.to_pylist(), np.ones(count, np.int64), zeros), uris, zeros

    def _check_key(self, keys: Sequence[pa.Array], before: Position | None) -> None:
        if any(key.null_count for key in keys):
            raise self.without_key()
        texts = [key.cast(pa.string()).to_pylist() for key in keys]
        rows = list(zip(*texts, strict=True))
        if len(set(rows)) < len(rows) or (before is not None and tuple(before.key) == rows[0]):
            raise ConfigError(
                f"several rows of {self._place()} have the same key ({self._shown_key()})",
                remedy="name in 'key' columns that tell the rows apart",
                tag="schema",
            )

    def _refused(
        self, decoded: Sequence[Decoded], records: pa.RecordBatch, gone: Mask
    ) -> dict[int, RejectedRecord]:
        """Rows that no record can hold."""
        reasons: dict[int, str] = {}
        for column, one in zip(self._table.columns, decoded, strict=True):
            if one.bad is not None:
                for row in np.flatnonzero(one.bad & ~gone).tolist():
                    reasons.setdefault(row, f"column {column.name!r} {one.reason}")
        rejected = {row: _rejected(records, row, reasons[row]) for row in sorted(reasons)}
        if rejected and not self._rejects:
            first = next(iter(rejected.values()))
            key = f", key {first.position}" if self.by_number else ""
            raise DataError(
                f"the row {first.uri}{key}: {first.reason}",
                rows={},
                remedy="read a view that casts the column, leave it out with 'columns', or set "
                '"on_error" on the source',
            )
        return rejected

    def _shown_key(self) -> str:
        return ", ".join(self.key_names)

    def _place(self) -> str:
        return f"{self._params.schema}.{self._params.table}"


def _rejected(records: pa.RecordBatch, row: int, why: str) -> RejectedRecord:
    found = records.slice(row, 1).to_pylist()[0]
    values = {name: found[name] for name in found if name not in ENVELOPE.names}
    data = json.dumps(values, default=str, ensure_ascii=False).encode()
    return RejectedRecord(found["_source"]["uri"], found["_source"]["position"], data, why)


def _quoted(texts: pa.Array) -> pa.Array:
    """Texts as they stand in a URI; a null is an empty one."""
    texts = texts.fill_null("")
    if pc.all(pc.match_substring_regex(texts, _SAFE)).as_py():
        return texts
    return pa.array([quote(text, safe="") for text in texts.to_pylist()])


def _compared(columns: "Sequence[Composable]", values: "Sequence[Composable]") -> "Composed":
    from psycopg import sql

    if len(columns) == 1:
        return sql.SQL("{} > {}").format(columns[0], values[0])
    return sql.SQL("({}) > ({})").format(sql.SQL(", ").join(columns), sql.SQL(", ").join(values))


def _whole(values: pa.Array) -> pa.Array:
    """Values of a cursor column as whole numbers."""
    if pa.types.is_date(values.type):
        return values.cast(pa.int32()).cast(pa.int64())
    return values.cast(pa.int64())
