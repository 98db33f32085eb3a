"""What `aggregate` makes of the values of a group: its functions, their types and their SQL."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

import pyarrow as pa
import pyarrow.types as kinds
from pydantic import Field, model_validator

from nvisy_connectors.tabular.comparing import comparable_type
from nvisy_connectors.tabular.spilling import ROW
from nvisy_connectors.tabular.widening import MOST_DIGITS, plain_type
from nvisy_dagster.sdk import Params

FunctionName = Literal[
    "count", "count_distinct", "sum", "avg", "min", "max", "first", "last", "list"
]


class Measure(Params):
    """One value of a group."""

    function: FunctionName = Field(examples=["sum"])
    """`count` (of records or, with `column`, of values), `count_distinct`, `sum`, `avg`, `min`,
    `max`, `first` and `last` (of the values in the order in which the records came), or `list` (all
    values, in that order). null is no value."""
    column: str | None = Field(default=None, examples=["amount"])
    """Column of the values."""

    @model_validator(mode="after")
    def _has_values(self) -> Self:
        if self.column is None and self.function != "count":
            raise ValueError(f'"{self.function}" needs a "column"')
        return self


@dataclass(frozen=True)
class Function:
    """A function of `aggregate`."""

    sql: str
    """`{0}` is the column."""
    result: Callable[[pa.DataType], pa.DataType | None]
    """The type of the result by that of the column; `None` for a column that it does not take."""
    takes: str
    """What it takes, in words."""
    nullable: bool = True
    """Whether a group without values has none."""


def _count(kind: pa.DataType) -> pa.DataType | None:  # noqa: ARG001 - of whatever
    return pa.int64()


def _comparable(kind: pa.DataType) -> pa.DataType | None:
    return None if comparable_type(kind) is None else plain_type(kind)


def _count_distinct(kind: pa.DataType) -> pa.DataType | None:
    return None if comparable_type(kind) is None else pa.int64()


def _sum(kind: pa.DataType) -> pa.DataType | None:
    if kinds.is_integer(kind):
        return pa.uint64() if kinds.is_unsigned_integer(kind) else pa.int64()
    if kinds.is_decimal(kind) and (given := comparable_type(kind)) is not None:
        return pa.decimal128(MOST_DIGITS, given.scale)
    return pa.float64() if kinds.is_floating(kind) else None


def _average(kind: pa.DataType) -> pa.DataType | None:
    return None if _sum(kind) is None else pa.float64()


def _list(kind: pa.DataType) -> pa.DataType | None:
    return None if comparable_type(kind) is None else pa.list_(plain_type(kind))


_THERE = "FILTER (WHERE {0} IS NOT NULL)"
_NO_PARTS = "no values that consist of parts"
_NUMBERS = "only numbers"

FUNCTIONS: dict[str, Function] = {
    "count": Function("count({0})", _count, "anything", nullable=False),
    "count_distinct": Function("count(DISTINCT {0})", _count_distinct, _NO_PARTS, nullable=False),
    "sum": Function("sum({0})", _sum, _NUMBERS),
    "avg": Function("avg({0})", _average, _NUMBERS),
    "min": Function("min({0})", _comparable, _NO_PARTS),
    "max": Function("max({0})", _comparable, _NO_PARTS),
    "first": Function(f"arg_min({{0}}, {ROW}) {_THERE}", _comparable, _NO_PARTS),
    "last": Function(f"arg_max({{0}}, {ROW}) {_THERE}", _comparable, _NO_PARTS),
    "list": Function(
        f"coalesce(list({{0}} ORDER BY {ROW}) {_THERE}, [])", _list, _NO_PARTS, nullable=False
    ),
}


def depends_on_order(measure: Measure, kind: pa.DataType) -> bool:
    """Whether the last digits of a result depend on the order in which values are added."""
    return measure.function in {"sum", "avg"} and kinds.is_floating(kind)
