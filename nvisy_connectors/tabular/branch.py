"""The router `branch`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Self

import pyarrow as pa
from anyio import to_thread
from pydantic import Field, model_validator

from nvisy_connectors.tabular import bulk
from nvisy_connectors.tabular.binding import Bound, bind, told
from nvisy_connectors.tabular.evaluation import evaluate, refusal
from nvisy_connectors.tabular.expression import Expression, parse_expressions
from nvisy_connectors.tabular.predicate import check_predicate
from nvisy_connectors.tabular.syntax import MAX_CHARACTERS
from nvisy_dagster.sdk import (
    Capabilities,
    ConfigError,
    EdgeType,
    Params,
    Router,
    raise_mistakes,
)

NOWHERE = -1
"""The number of no route."""

RouteName = Annotated[str, Field(min_length=1, max_length=128)]


class Route(Params):
    """One way out of a branch."""

    name: RouteName
    """Name of the route, which an edge refers to."""
    when: Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]
    """SQL expression over the columns of a record; true sends it down this route."""


class BranchParams(Params):
    """Where `branch` sends records."""

    routes: Annotated[tuple[Route, ...], Field(min_length=1, max_length=100)] = Field(
        examples=[[{"name": "english", "when": "lang = 'en'"}]]
    )
    """Routes in the order in which they are tried; the first that matches takes the record."""
    default: RouteName | None = Field(default=None, examples=["other"])
    """Route of the records that no other route takes; without one they are dropped."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [route.name for route in self.routes]
        names += [self.default] if self.default is not None else []
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"routes must have different names, the default too: {doubled[0]!r}")
        return self


class Branch(Router[BranchParams]):
    """Send each record down the first route whose expression is true.

    NULL counts as false. An expression sees only the records that no route before it took, so an
    earlier route can guard a later one. The records keep their ids and all their columns.
    """

    name = "branch"
    capabilities = Capabilities(row_wise=True, concurrency=2)
    requires = ("duckdb",)
    extra = "tabular"

    @classmethod
    def prepare(cls, params: Sequence[BranchParams]) -> None:
        """Parse the expressions of all nodes together."""
        bulk.prepare(cls.name, (route.when for one in params for route in one.routes))

    def routes(self) -> Sequence[str]:
        """Names of the routes, the default route last."""
        default = self.params.default
        return [route.name for route in self.params.routes] + ([default] if default else [])

    def check(self, incoming: EdgeType) -> None:
        """Parse the expressions and, where the schema is known, type them.

        Raises:
            ConfigError: An expression is not allowed, does not fit the schema or is no BOOLEAN.
        """
        expressions, errors = self._expressions()
        if incoming.schema is not None:
            errors += _mistakes(expressions, incoming.schema)
        raise_mistakes(errors)

    async def route(self, batch: pa.RecordBatch) -> Mapping[str, pa.RecordBatch]:
        """Split a batch, in a worker thread.

        Raises:
            ConfigError: An expression does not fit the columns of the batch.
            DataError: An expression fails on some rows.
        """
        return await to_thread.run_sync(self._split_by_route, batch)

    def _split_by_route(self, batch: pa.RecordBatch) -> dict[str, pa.RecordBatch]:
        expressions, errors = self._expressions()
        raise_mistakes(errors)
        evaluated = evaluate(_bind_routes(expressions, batch.schema), batch)
        places = evaluated.values[0].fill_null(NOWHERE).to_numpy().copy()
        places[list(evaluated.failures)] = NOWHERE
        parts = (
            (name, batch.filter(pa.array(places == place)))
            for place, name in enumerate(self.routes())
        )
        routed = {name: part for name, part in parts if part.num_rows}
        if evaluated.failures:
            raise refusal(evaluated.failures, batch.num_rows, routed)
        return routed

    def _expressions(self) -> tuple[tuple[Expression, ...], list[ConfigError]]:
        """Those that can be used, and what is wrong with the others."""
        sound, errors = parse_expressions(
            (f"routes.{route.name}.when", route.when, ("routes", index, "when"))
            for index, route in enumerate(self.params.routes)
        )
        return tuple(sound), errors


def _mistakes(expressions: tuple[Expression, ...], schema: pa.Schema) -> list[ConfigError]:
    """What is wrong with the routes, each looked at for itself."""
    if not expressions:
        return []
    together: list[ConfigError] = []
    with told(together):
        _bind_routes(expressions, schema)
    if not together:
        return []
    errors: list[ConfigError] = []
    for expression in expressions:
        with told(errors):
            check_predicate(expression, bind((expression,), schema).types[0])
    return errors or together


def _bind_routes(expressions: tuple[Expression, ...], schema: pa.Schema) -> Bound:
    """All routes as one expression: the number of the route that a record takes."""
    bound = bind(expressions, schema)
    for expression, kind in zip(expressions, bound.types, strict=True):
        check_predicate(expression, kind)
    # CASE evaluates a condition only on the rows that no condition before it took.
    cases = " ".join(f"WHEN {sql} THEN {i}" for i, sql in enumerate(bound.selected))
    choice = f"CAST(CASE {cases} ELSE {len(expressions)} END AS INTEGER)"
    whole = replace(bound.expressions[0], param="routes.*.when")
    return Bound((whole,), bound.columns, (choice,), (pa.int32(),))
