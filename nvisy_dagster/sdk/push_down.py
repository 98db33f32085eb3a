"""What a source may leave out, because nothing behind it wants it.

Actions tell what they want of their records (`Wanted`), the compiler makes a hint of that for the
source before them, and a source uses of it what it can. A hint changes no result: the actions still
run, on what is read.
"""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

Value = str | int | float | bool | Decimal | dt.date | dt.datetime
"""A literal. A text may stand for a date or time too, where the column has one."""

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "is null", "is not null"]


@dataclass(frozen=True)
class Compare:
    """`column operator value`; neither true nor false where the column is null, as in SQL."""

    column: str
    """As it is written: names are compared without regard to case."""
    operator: Operator
    value: Value | None = None
    """`None` for the operators that take none."""

    def __str__(self) -> str:
        value = repr(self.value) if isinstance(self.value, str) else str(self.value)
        tail = "" if self.value is None else f" {value}"
        return f"{self.column} {self.operator}{tail}"


@dataclass(frozen=True)
class Unknown:
    """A part that may be true of any record, and fails on none."""

    texts: frozenset[str] = frozenset()
    """Columns, as they are written, that must be texts for that."""

    def __str__(self) -> str:
        return "..."


@dataclass(frozen=True)
class AllOf:
    """Every part is true."""

    parts: "tuple[Condition, ...]"

    def __str__(self) -> str:
        return " and ".join(_enclosed(part) for part in self.parts)


@dataclass(frozen=True)
class AnyOf:
    """Some part is true."""

    parts: "tuple[Condition, ...]"

    def __str__(self) -> str:
        return " or ".join(_enclosed(part) for part in self.parts)


Condition = Compare | Unknown | AllOf | AnyOf


@dataclass(frozen=True)
class Wanted:
    """What an action wants of the records that come in."""

    reads: frozenset[str]
    """Columns that its result depends on, as they are written; the envelope is always there."""
    replaces: frozenset[str] = frozenset()
    """Columns that it makes, in the place of those of the same name if there are such."""
    passes: bool = True
    """Whether all columns that come in go out. If not, those that it does not read are lost."""
    renames: bool = False
    """Whether a column that goes out may hold another one than that of its name which comes in."""
    keeps: Condition | None = None
    """Records of which this is not true have no effect: they neither go out nor fail. Told only if
    the whole action fails on none of them, provided that the values are comparable with the
    columns."""
    fails: bool = True
    """Whether it may fail on a record, under the same proviso."""


@dataclass(frozen=True)
class Hint:
    """What a source may leave out.

    All of it counts only if every value in `where` is comparable with its column without a cast of
    the column, every column that must be of text is, and every column that is named exists. A read
    must begin with some record even if none is wanted: what is wrong with the columns is told by
    the actions that meet them.
    """

    columns: frozenset[str] | None = None
    """Columns that are wanted, without regard to case; `None` for all."""
    replaced: frozenset[str] = frozenset()
    """More columns that are wanted, where they exist."""
    where: Condition | None = None
    """Records of which this is not true need not be read."""

    def __bool__(self) -> bool:
        return self.columns is not None or self.where is not None


NO_HINT = Hint()


def folded(name: str) -> str:
    """A name as expressions compare it: the case of the letters of ASCII does not matter."""
    if name.isascii():
        return name.lower()
    return "".join(c.lower() if c.isascii() else c for c in name)


def compares(condition: Condition) -> Iterator[Compare]:
    """All comparisons in a condition."""
    if isinstance(condition, Compare):
        yield condition
    elif isinstance(condition, AllOf | AnyOf):
        for part in condition.parts:
            yield from compares(part)


def texts(condition: Condition) -> frozenset[str]:
    """All columns that must be of text."""
    match condition:
        case Unknown(names):
            return names
        case AllOf(parts) | AnyOf(parts):
            return frozenset[str]().union(*map(texts, parts))
        case Compare():
            return frozenset()


def _enclosed(part: Condition) -> str:
    return f"({part})" if isinstance(part, AllOf | AnyOf) else str(part)
