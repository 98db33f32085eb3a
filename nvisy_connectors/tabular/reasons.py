"""Why an expression fails on some rows, in DuckDB's words.

DuckDB tells the reason of one row per statement, and a statement costs as much as hundreds of rows.
So rows of equal values share one, and what a cast of a column says of one text is said of the other
texts that this cast refuses.
"""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from nvisy_connectors.tabular.database import ask, error_details, explained_rows, select
from nvisy_connectors.tabular.expression import Expression
from nvisy_connectors.tabular.syntax import Node, parse_one

MAX_ASKED = 20
"""Rows of one batch that are run again alone for their reason; about 0.5 ms each."""
MAX_REASON_CHARACTERS = 300

UNKNOWN = "it fails, like other rows of the batch"

_REFUSED_TEXT = "Could not convert string '{}' to "
_SOURCE = " when casting from source column "


def reasons(
    expression: Expression, sql: str, failing: pa.RecordBatch, *, by_cast: bool = False
) -> list[str]:
    """The reason of each of some rows, all of which fail.

    Args:
        expression: What fails.
        sql: Its SQL.
        failing: The columns that DuckDB is given, of the failing rows only.
        by_cast: They are all refused by the cast of `refused_by_cast`.
    """
    found: list[str | None] = [None] * failing.num_rows
    memory = memory_of(sql, failing.schema)
    if memory.cast is None:
        [answer] = explained_rows(sql, failing, [0])
        found[0] = _first_line(answer) if answer is not None else None
        memory.cast = _refused_cast(expression, failing, found[0] or "")
    if memory.cast is not None:
        memory.cast.tell(found, failing, all_refused=by_cast)
    if None in found:
        _ask_about_others(found, expression, sql, failing)
    return [f"expression {expression.param!r}: {_shortened(told or UNKNOWN)}" for told in found]


def refused_by_cast(sql: str, schema: pa.Schema) -> str | None:
    """SQL that is true on rows on which this SQL fails for sure, told by what failed before."""
    cast = memory_of(sql, schema).cast
    return cast.refuses if cast is not None else None


def message(error: Exception) -> str:
    """What DuckDB says, short enough to be shown."""
    return _shortened(_first_line(error))


def _first_line(error: Exception) -> str:
    lines = error_details(error)["exception_message"].strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _shortened(text: str) -> str:
    first = text.splitlines()[0]
    short = first[:MAX_REASON_CHARACTERS]
    return short if short == first else f"{short}..."


def _ask_about_others(
    found: list[str | None], expression: Expression, sql: str, failing: pa.RecordBatch
) -> None:
    used = {use.name.lower() for use in expression.columns}
    groups = _groups(failing, [name for name in failing.schema.names if name.lower() in used])
    told = {group: text for group, text in zip(groups, found, strict=True) if text is not None}
    asked: dict[int, int] = {}
    for row, group in enumerate(groups):
        if group not in told and len(asked) < MAX_ASKED:
            asked.setdefault(group, row)
    rows = list(asked.values())
    for group, error in zip(asked, explained_rows(sql, failing, rows), strict=True):
        if error is not None:
            told[group] = _first_line(error)
    found[:] = [text or told.get(group) for group, text in zip(groups, found, strict=True)]


def _groups(failing: pa.RecordBatch, names: Sequence[str]) -> list[int]:
    """A number for each row, the same for rows of equal values in these columns."""
    codes: list[Any] = []
    every = range(failing.num_rows)
    for column in (failing.column(name) for name in names):
        # Floats that compare equal can still be written in two ways.
        if pa.types.is_nested(column.type) or pa.types.is_floating(column.type):
            return list(every)
        encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        codes.append(encoded.indices.cast(pa.int64()).fill_null(-1).to_numpy())
    if not codes:
        return [0 for _ in every]
    if len(codes) == 1:
        return codes[0].tolist()
    return np.unique(np.stack(codes), axis=1, return_inverse=True)[1].reshape(-1).tolist()


@dataclass(frozen=True)
class _RefusedCast:
    """A cast of a text column that is evaluated on every row, and what DuckDB says if it fails."""

    column: str
    kind: str
    said: str
    """What comes after the text."""

    @property
    def refuses(self) -> str:
        """SQL that is true where the cast fails."""
        quoted = '"' + self.column.replace('"', '""') + '"'
        return f"({quoted} IS NOT NULL AND TRY_CAST({quoted} AS {self.kind}) IS NULL)"

    def tell(self, found: list[str | None], failing: pa.RecordBatch, *, all_refused: bool) -> None:
        """Say it of all texts that the cast refuses, in DuckDB's words."""
        refused = [True] * failing.num_rows
        if not all_refused:
            refused = select(self.refuses, failing).column(0).to_pylist()
        values = failing.column(self.column).to_pylist()
        for row, (is_refused, value) in enumerate(zip(refused, values, strict=True)):
            # DuckDB writes control characters in a way of its own.
            if is_refused and value.isprintable():
                found[row] = _REFUSED_TEXT.format(value) + self.said


class _Memory:
    """The cast that refused a row before."""

    cast: _RefusedCast | None = None


@lru_cache(maxsize=1024)
def memory_of(sql: str, schema: pa.Schema) -> _Memory:  # noqa: ARG001 - the key
    """What is remembered of an expression over columns of these types, by its SQL."""
    return _Memory()


def _refused_cast(
    expression: Expression, failing: pa.RecordBatch, told: str
) -> _RefusedCast | None:
    """The cast that DuckDB speaks of in the reason of the first row."""
    _, source, name = told.rpartition(_SOURCE)
    casts = certain_casts(expression.text)
    kinds = casts.get(name.lower(), set())
    # Of two casts that refuse a row, DuckDB names the one that it comes to first.
    if not source or len(casts) != 1 or len(kinds) != 1 or failing.schema.names.count(name) != 1:
        return None
    text = failing.column(name)[0].as_py()
    start = _REFUSED_TEXT.format(text)
    if not isinstance(text, str) or not told.startswith(start):
        return None
    return _RefusedCast(name, next(iter(kinds)), told.removeprefix(start))


@lru_cache(maxsize=1024)
def certain_casts(text: str) -> dict[str, set[str]]:
    """Types that an expression casts columns to, whatever their values, by lower-case column."""
    found: dict[str, set[str]] = {}
    for name, kind in _casts(parse_one(text)):
        found.setdefault(name.lower(), set()).add(kind)
    return found


def _casts(node: Node) -> Generator[tuple[str, str]]:
    if node["class"] == "CAST":
        child, kind = node["child"], node["type_expr"]
        column = child["class"] == "COLUMN_REF" and len(child["column_names"]) == 1
        if not column:
            yield from _casts(child)
        elif not node["try_cast"] and kind["class"] == "TYPE" and not kind["children"]:
            yield str(child["column_names"][0]), str(kind["type_name"])
    for part in _always_evaluated(node):
        yield from _casts(part)


def _always_evaluated(node: Node) -> Iterable[Node]:
    """Parts that are evaluated whatever the values; not all such parts, but no others."""
    match node["class"]:
        case "COMPARISON":
            return node["left"], node["right"]
        case "CONJUNCTION":
            return node["children"][:1]
        case "BETWEEN":
            return (node["input"],)
        case "FUNCTION" if str(node["function_name"]).lower() not in _macros():
            return [argument["expression"] for argument in node["arguments"]]
        case _:
            return ()


@cache
def _macros() -> frozenset[str]:
    """Functions that stand for an expression, which may skip an argument."""
    sql = "SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type = 'macro'"
    return frozenset(str(name).lower() for (name,) in ask(sql))
