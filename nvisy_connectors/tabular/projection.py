"""Which columns `map` puts out: set, then selected, then dropped, then renamed."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from nvisy_connectors.tabular.binding import Bound, bind, column_place, told
from nvisy_connectors.tabular.expression import Expression, existing, nearest
from nvisy_dagster.sdk import ConfigError, raise_mistakes
from nvisy_dagster.sdk.envelope import ENVELOPE_NAMES

if TYPE_CHECKING:
    from nvisy_connectors.tabular.map import MapParams


NULL_REMEDY = "use coalesce(..., ''), filter these records before, or set another column"
"""Against NULL where it must not be."""


@dataclass(frozen=True)
class Column:
    """A column that comes out."""

    field: pa.Field
    place: int
    """Place among the columns that came in or, when computed, among the results."""
    computed: bool = False
    set: bool = False
    """It may hold NULL although its field does not allow it."""

    def of(self, batch: pa.RecordBatch, results: Sequence[pa.Array]) -> pa.Array:
        """The values; those of a column that came in are not copied."""
        return results[self.place] if self.computed else batch.column(self.place)


@dataclass(frozen=True)
class Computed:
    """What `set` makes."""

    bound: Bound
    """The expressions that have to be evaluated; one that only names a column has not."""
    results: Mapping[str, Column]
    """By the name of the column that is set."""


def compute(expressions: Mapping[str, Expression], schema: pa.Schema) -> Computed:
    """Type what `set` makes of the columns of a schema.

    Raises:
        ConfigError: An expression does not fit the schema.
    """
    computed = tuple(e for e in expressions.values() if not e.copies)
    errors: list[ConfigError] = []
    with told(errors):
        bind(computed, schema)
    copied: dict[str, int] = {}
    for name, expression in expressions.items():
        if expression.copies:
            with told(errors):
                copied[name] = column_place(expression, expression.columns[0], schema)
    raise_mistakes(errors)
    bound = bind(computed, schema)
    places = {expression: place for place, expression in enumerate(bound.expressions)}
    results: dict[str, Column] = {}
    for name, expression in expressions.items():
        if expression.copies:
            place = copied[name]
            results[name] = Column(schema.field(place).with_name(name), place, set=True)
        else:
            place = places[expression]
            field = pa.field(name, bound.types[place])
            results[name] = Column(field, place, computed=True, set=True)
    return Computed(bound, results)


def project(params: "MapParams", schema: pa.Schema, results: Mapping[str, Column]) -> list[Column]:
    """The columns that come out, envelope first.

    Raises:
        ConfigError: A column does not exist, or two get one name.
    """
    came_in = [Column(field, place) for place, field in enumerate(schema)]
    envelope = [column for column in came_in if column.field.name in ENVELOPE_NAMES]
    columns = _with_set([c for c in came_in if c.field.name not in ENVELOPE_NAMES], results)
    if params.select is not None:
        columns = [columns[place] for place in _find_all("select", params.select, columns)]
    for place in sorted(set(_find_all("drop", params.drop, columns)), reverse=True):
        del columns[place]
    places = _find_all("rename", params.rename, columns)
    renamed = dict(zip(places, params.rename.values(), strict=True))
    columns = [
        replace(column, field=column.field.with_name(renamed.get(place, column.field.name)))
        for place, column in enumerate(columns)
    ]
    _check_names(params, [column.field.name for column in columns])
    return envelope + columns


def unknown_results(names: Iterable[str]) -> dict[str, Column]:
    """Stand-ins for what `set` makes when that cannot be told: only their names are known."""
    return {name: Column(pa.field(name, pa.null()), 0, computed=True, set=True) for name in names}


def schema_of_columns(columns: Sequence[Column], incoming: pa.Schema) -> pa.Schema:
    """The schema of what comes out."""
    return pa.schema([column.field for column in columns], metadata=incoming.metadata)


def not_null_failures(columns: Sequence[Column], arrays: Sequence[pa.Array]) -> dict[int, str]:
    """The reason of each row in which a column is NULL that must not be."""
    rows: dict[int, str] = {}
    for column, array in zip(columns, arrays, strict=True):
        if column.set and not column.field.nullable and array.null_count:
            reason = f"expression 'set.{column.field.name}' gives NULL, but the column is not null"
            found = array.is_null().to_numpy(zero_copy_only=False).nonzero()[0].tolist()
            rows |= {row: rows.get(row, reason) for row in found}
    return rows


def _with_set(columns: list[Column], results: Mapping[str, Column]) -> list[Column]:
    columns = list(columns)
    by_name = {column.field.name: place for place, column in enumerate(columns)}
    folded = {name.lower(): name for name in by_name}
    errors: list[ConfigError] = []
    for name, made in results.items():
        place = by_name.get(name)
        if place is not None:
            # What was declared not null stays so: primitives require it of their columns.
            nullable = columns[place].field.nullable
            columns[place] = replace(made, field=made.field.with_nullable(nullable))
            continue
        if name.lower() in folded:
            errors.append(
                ConfigError(
                    f"column {name!r} of 'set' differs from {folded[name.lower()]!r} only by case",
                    remedy=f"write {folded[name.lower()]!r} to replace it",
                    tag="schema",
                    place=("set", name),
                )
            )
        columns.append(replace(made, field=made.field.with_nullable(nullable=True)))
    raise_mistakes(errors)
    return columns


def _find_all(param: str, names: Iterable[str], columns: Sequence[Column]) -> list[int]:
    """Places of the columns that a param names.

    Raises:
        ConfigError: Some are not there.
    """
    places: list[int] = []
    errors: list[ConfigError] = []
    for index, name in enumerate(names):
        with told(errors):
            places.append(_find((param, name if param == "rename" else index), name, columns))
    raise_mistakes(errors)
    return places


def _find(place: tuple[str, str | int], name: str, columns: Sequence[Column]) -> int:
    names = [column.field.name for column in columns]
    if name in names:
        return names.index(name)
    raise ConfigError(
        f"{place[0]!r} names column {name!r}, which is not there",
        remedy=nearest(name, names) or existing(names),
        tag="schema",
        place=place,
    )


def _check_names(params: "MapParams", names: Sequence[str]) -> None:
    errors: list[ConfigError] = []
    for name in sorted(name for name, count in Counter(names).items() if count > 1):
        renamed = [old for old, new in params.rename.items() if new == name]
        errors.append(
            ConfigError(
                f"two columns would be called {name!r}",
                remedy="choose another name, or drop one of them",
                tag="schema",
                place=("rename", renamed[-1]) if renamed else ("select",),
            )
        )
    raise_mistakes(errors)
