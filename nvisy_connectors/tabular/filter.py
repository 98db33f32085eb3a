"""The action `filter`."""

from collections.abc import Sequence
from typing import Annotated

import pyarrow as pa
from pydantic import Field

from nvisy_connectors.tabular import bulk
from nvisy_connectors.tabular.binding import Bound, bind
from nvisy_connectors.tabular.conditions import condition_of
from nvisy_connectors.tabular.evaluation import evaluate, refusal, sound
from nvisy_connectors.tabular.expression import Expression, parse_expression, reads
from nvisy_connectors.tabular.predicate import check_predicate
from nvisy_connectors.tabular.syntax import MAX_CHARACTERS
from nvisy_dagster.sdk import Capabilities, EdgeType, KernelAction, Params
from nvisy_dagster.sdk.push_down import Wanted


class FilterParams(Params):
    """What `filter` keeps."""

    where: Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)] = Field(
        examples=["lang = 'en' AND score > 0.2"]
    )
    """SQL expression over the columns of a record; it is kept when this is true.

    For instance `lang = 'en' AND score > 0.2`. NULL drops the record, like false.
    """


class Filter(KernelAction[FilterParams]):
    """Keep the records for which an expression is true.

    The records that are kept keep their ids and all their columns.
    """

    name = "filter"
    capabilities = Capabilities(row_wise=True, concurrency=2)
    requires = ("duckdb",)
    extra = "tabular"

    @classmethod
    def prepare(cls, params: Sequence[FilterParams]) -> None:
        """Parse the expressions of all nodes together."""
        bulk.prepare(cls.name, (one.where for one in params))

    def output(self, incoming: EdgeType) -> EdgeType:
        """The type that came in.

        Raises:
            ConfigError: The expression is not allowed, does not fit the schema or is no BOOLEAN.
        """
        expression = self._expression()
        if incoming.schema is not None:
            _bind_predicate(expression, incoming.schema)
        return incoming

    def wanted(self) -> Wanted:
        """The records for which the expression may be true, and all of their columns."""
        where = self.params.where
        keeps = condition_of(where)
        return Wanted(frozenset(reads(where) or ()), keeps=keeps, fails=keeps is None)

    def transform(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Keep some rows.

        Raises:
            ConfigError: The expression does not fit the columns of the batch.
            DataError: The expression fails on some rows.
        """
        bound = _bind_predicate(self._expression(), batch.schema)
        evaluated = evaluate(bound, batch)
        [keep] = evaluated.values
        if evaluated.failures:
            rows = batch.num_rows
            kept = keep.fill_null(fill_value=False).to_numpy(zero_copy_only=False)
            result = batch.filter(pa.array(kept & sound(evaluated.failures, rows)))
            raise refusal(evaluated.failures, rows, result)
        return batch.filter(keep)

    def _expression(self) -> Expression:
        return parse_expression("where", self.params.where)


def _bind_predicate(expression: Expression, schema: pa.Schema) -> Bound:
    bound = bind((expression,), schema)
    check_predicate(expression, bound.types[0])
    return bound
