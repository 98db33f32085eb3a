"""The action `join`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from nvisy_connectors.tabular.join_layout import LEFT, RIGHT, Layout, check_alone, layout_of
from nvisy_connectors.tabular.joining import Joining
from nvisy_connectors.tabular.pairing import matched, pairs_of, register
from nvisy_connectors.tabular.spilling import MemoryLimit, Spilling
from nvisy_connectors.tabular.unmatched import of_left, of_right_alone
from nvisy_dagster.sdk import Capabilities, EdgeType, JoiningAction, Params
from nvisy_dagster.sdk.arrow_schema import columns_of
from nvisy_dagster.sdk.envelope import ENVELOPE, ENVELOPE_NAMES

Batches = Iterable[pa.RecordBatch]


class KeyPair(Params):
    """A column of each input that are to be equal."""

    left: str = Field(examples=["customer_id"])
    """Column of the left input."""
    right: str = Field(examples=["id"])
    """Column of the right input."""


class JoinParams(Params):
    """Which records belong together, and what is made of them."""

    on: list[KeyPair | str] = Field(min_length=1, max_length=100, examples=[["customer_id"]])
    """Columns that are equal in records that belong together: names of columns that both inputs
    have, or objects with `left` and `right`. null equals nothing, not even null."""
    how: Literal["inner", "left", "right", "full", "semi", "anti"] = "inner"
    """`inner`: a record for each pair. `left`: also one for each record of the left that belongs to
    none, with null for the columns of the right. `right`: instead one for each of the right that
    belongs to none, with null for the columns of the left but those that are compared under the
    same name. `full`: both. `semi`: the records of the left that belong to some of the right, each
    once, as they are. `anti`: those that belong to none."""
    columns: list[str] | None = Field(default=None, examples=[["name", "country"]])
    """Columns of the right that come along. By default all but those that are compared under the
    same name; an empty list for none."""
    suffix: str | None = Field(default=None, min_length=1, max_length=64, examples=["_right"])
    """Put behind the name of each column of the right that the left has, too. Without it such a
    column is refused."""
    memory_limit: MemoryLimit = "512MB"
    """Memory for the keys, such as `512MB` or `2GB`; what does not fit is written to disk."""

    @model_validator(mode="after")
    def _takes_no_columns(self) -> Self:
        if self.chooses and (self.columns is not None or self.suffix is not None):
            said = "columns" if self.columns is not None else "suffix"
            raise ValueError(
                f'"how": "{self.how}" takes no columns of the right: leave out "{said}"'
            )
        return self

    @property
    def pairs(self) -> Sequence[tuple[str, str]]:
        """The columns that are compared, of the left and of the right."""
        return [(one, one) if isinstance(one, str) else (one.left, one.right) for one in self.on]

    @property
    def shared(self) -> Sequence[str]:
        """Columns that are compared under the same name, and come out once."""
        return [one for one, other in self.pairs if one == other and one not in ENVELOPE_NAMES]

    @property
    def keeps_left(self) -> bool:
        """Whether something is made of records of the left that belong to none."""
        return self.how in {"left", "full"}

    @property
    def keeps_right(self) -> bool:
        """Whether something is made of records of the right that belong to none."""
        return self.how in {"right", "full"}

    @property
    def chooses(self) -> bool:
        """Whether it makes no records but chooses among those of the left."""
        return self.how in {"semi", "anti"}


class Join(JoiningAction[JoinParams]):
    """Bring the records of two inputs together that are equal in some columns.

    One edge leads to its input `left`, another to `right`: each says so as its `input`. A record is
    made for each pair, with the columns of the left, then those of the right. Columns of different
    types are compared as the type that holds all values of both; a text and a number are not
    comparable, nor is what consists of parts. NaN equals NaN.

    Each record that is made has both records as its parents, the root, source and tags of the left
    one, and an id that follows from both ids: a second run makes the same. What is made of a single
    record has that one as its parent, its root, source and tags, and an id that follows from its
    own.

    So once a record that belonged to none belongs to another in a later run, or to another than
    before, what is made of it has another id, and a sink that replaces records by their ids keeps
    the old one beside the new one. Where each record of the left belongs to at most one, let
    `postgres` tell them apart by columns of yours, such as `"key": ["order_id"]`; after a `left`
    join `qdrant` removes by itself what it wrote before of the same root. Otherwise write to files
    in the mode `replace`: they hold what the last run made.

    Records come in the order of the left, and those of one record of the left in the order of the
    right; then those that are made of the right alone, in its order. With `right` and `full`, a
    column that is compared under the same name has the type that holds all values of both, and
    where the primitive of the left requires columns, what comes out are rows, as they may be null.
    What left no trace counts as dropped, of either input: with `semi` and `anti`, that is all of
    the right.
    """

    name = "join"
    capabilities = Capabilities()
    requires = ("duckdb",)
    extra = "tabular"
    inputs = (LEFT, RIGHT)
    makes = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - the base's own
        super().__init__(*args, **kwargs)
        self._spilling = Spilling()
        self._traced: int | None = None

    def output_of(self, inputs: Mapping[str, EdgeType]) -> EdgeType:
        """The columns of the left, then those of the right.

        Raises:
            ConfigError: A column is not there, cannot be compared, or has the name of another.
        """
        left, right = inputs[LEFT], inputs[RIGHT]
        primitive = self._primitive(left)
        if left.schema is None or right.schema is None:
            return left if self.params.chooses else EdgeType(primitive)
        layout = layout_of(self.params, left.schema, right.schema)
        if self.params.chooses:
            return left
        return EdgeType(primitive, pa.schema([*ENVELOPE, *layout.payload]))

    def gather(self, inputs: Mapping[str, Batches], scratch: Path) -> Iterator[pa.RecordBatch]:
        """The records of pairs, or those of the left that are chosen."""
        left, right = inputs[LEFT], inputs[RIGHT]
        columns, others = _schema(left), _schema(right)
        if columns is None:
            if others is not None:
                check_alone(self.params, RIGHT, others)
            yield from self._without_left(right)
            return
        if others is None:
            check_alone(self.params, LEFT, columns)
            yield from self._without_right(left)
            return
        layout = layout_of(self.params, columns, others)
        if self.params.chooses:
            yield from self._chosen(layout, left, right, scratch)
        else:
            yield from self._joined(layout, left, right, scratch)

    def traced(self) -> int | None:
        """The records of both inputs that are in a pair."""
        return self._traced

    def interrupt(self) -> None:
        """End the query that is under way."""
        self._spilling.interrupt()

    def _primitive(self, left: EdgeType) -> str:
        """That of the left, unless what it requires may be null: then they are rows."""
        required = any(
            name not in ENVELOPE_NAMES and not shape.nullable
            for name, shape in columns_of(left.primitive).items()
        )
        return "row" if required and self.params.keeps_right else left.primitive

    def _joined(
        self, layout: Layout, left: Batches, right: Batches, scratch: Path
    ) -> Iterator[pa.RecordBatch]:
        joining = Joining(layout, right, scratch, self.node_id)
        outer, noted = self.params.keeps_left, self._spilling.noted
        with self._spilling.database(scratch, self.params.memory_limit) as database:
            register(database, LEFT, noted(left), layout.keys)
            register(database, RIGHT, noted(joining.sized()), layout.keys)
            pairs = pairs_of(database, layout.keys, scratch, outer=outer)
            joining.prepare(database, pairs)
        self._traced = 0
        yield from joining.joined(left)
        if self.params.keeps_right:
            yield from joining.unmatched()
        self._traced = joining.traced

    def _chosen(
        self, layout: Layout, left: Batches, right: Batches, scratch: Path
    ) -> Iterator[pa.RecordBatch]:
        """Those of the left that are in a pair, or those that are not."""
        count = sum(batch.num_rows for batch in left)
        found, noted = np.zeros(count, np.bool_), self._spilling.noted
        with self._spilling.database(scratch, self.params.memory_limit) as database:
            register(database, LEFT, noted(left), layout.keys)
            register(database, RIGHT, noted(right), layout.keys)
            for rows in matched(database, layout.keys):
                found[rows] = True
        keep = found if self.params.how == "semi" else ~found
        start = 0
        for batch in left:
            end = start + batch.num_rows
            some = keep[start:end]
            yield batch if some.all() else batch.filter(pa.array(some))
            start = end

    def _without_right(self, left: Batches) -> Iterator[pa.RecordBatch]:
        """What comes out when there is nothing in the right, not even columns."""
        if self.params.how == "anti":
            yield from left
            return
        self._traced = 0
        if self.params.keeps_left:
            for batch in left:
                yield of_left(batch, self.made and self.made.schema, self.node_id)
                self._traced += batch.num_rows

    def _without_left(self, right: Batches) -> Iterator[pa.RecordBatch]:
        """What comes out when there is nothing in the left, not even columns."""
        self._traced = 0
        if self.params.keeps_right:
            for batch in right:
                promised = self.made and self.made.schema
                yield of_right_alone(batch, self.params, promised, self.node_id)
                self._traced += batch.num_rows


def _schema(records: Batches) -> pa.Schema | None:
    first = next(iter(records), None)
    return None if first is None else first.schema
