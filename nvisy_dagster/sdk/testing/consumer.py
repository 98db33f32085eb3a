"""What every component that takes batches promises: `accepts`, `split`, what it refuses."""

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, cast

import pyarrow as pa
import pytest

from nvisy_dagster.sdk.component import ANY_PRIMITIVE, Component
from nvisy_dagster.sdk.edge_type import EdgeType
from nvisy_dagster.sdk.errors import ConfigError, DataError
from nvisy_dagster.sdk.params import Connection, Params
from nvisy_dagster.sdk.testing.component import Compile, Conformance
from nvisy_dagster.sdk.testing.records import check_batch, check_same, check_unique, ids, to_rows


class ConsumerConformance(Conformance):
    """Base of the suites of actions, routers and sinks.

    They need a fixture `rows`: at least four different records, with envelope, that the params fit.
    """

    primitive: ClassVar[str | None] = None
    """Primitive of `rows`; by default `row`, or the first one that the component accepts."""

    @pytest.fixture
    def bad_rows(self) -> pa.RecordBatch | None:
        """Override: records of which some are refused by name, and others are not."""
        return None

    async def refusal(
        self, call: Callable[[pa.RecordBatch], Awaitable[object]], rows: pa.RecordBatch | None
    ) -> tuple[DataError, pa.RecordBatch]:
        """How a component refuses some of its `bad_rows`, and the others."""
        if rows is None:
            pytest.skip("there is no fixture `bad_rows`")
        with pytest.raises(DataError) as refused:
            await call(rows)
        named = refused.value.rows
        assert named, "the refusal of `bad_rows` names none of them"
        assert named.keys() <= set(range(rows.num_rows)), "it names rows that are not there"
        assert all(named.values()), "a row is refused without a reason"
        good = rows.take(pa.array([i for i in range(rows.num_rows) if i not in named], pa.int64()))
        assert good.num_rows, "the fixture `bad_rows` must hold records that are not refused"
        return refused.value, good

    def incoming(self, rows: pa.RecordBatch) -> EdgeType:
        """The edge that carries `rows`; override when `primitive` does not say enough."""
        accepts = self.component.accepts
        return EdgeType(
            self.primitive or ("row" if "row" in accepts else min(accepts)), rows.schema
        )

    def refused(self, rows: pa.RecordBatch) -> list[EdgeType]:  # noqa: ARG002 - for overriding
        """Override: edges that the component must refuse at compile time with a `ConfigError`."""
        return []

    def compile_with(self, component: Component[Any], incoming: EdgeType) -> object:
        """Ask the component what it thinks of an incoming edge: `output` or `check`."""
        taker = cast("Any", component)
        return taker.output(incoming) if hasattr(taker, "output") else taker.check(incoming)

    @pytest.fixture
    def compiles(self, rows: pa.RecordBatch) -> Compile:
        """Compile against the schema of `rows`, and against one that is not known yet."""
        known = self.incoming(rows)

        def check(component: Component[Any]) -> None:
            first = self.compile_with(component, known)
            assert self.compile_with(component, known) == first, "asked twice, it says two things"
            self.compile_with(component, EdgeType(known.primitive))

        return check

    def test_rows_are_fit_for_testing(self, rows: pa.RecordBatch) -> None:
        """The fixture itself: envelope, unique ids, enough rows to cut."""
        check_batch(rows)
        check_unique(ids([rows]))
        assert rows.num_rows >= 4, "the fixture `rows` must hold at least four records"

    def test_accepts_primitives(self, rows: pa.RecordBatch) -> None:
        """`accepts` names primitives, among them the one of `rows`."""
        accepts = self.component.accepts
        assert accepts, "`accepts` is empty: nothing could feed this component"
        assert accepts <= ANY_PRIMITIVE, f"no primitives: {sorted(accepts - ANY_PRIMITIVE)}"
        assert self.incoming(rows).primitive in accepts

    def test_refuses_what_does_not_fit(
        self, params: Params, connection: Connection | None, rows: pa.RecordBatch
    ) -> None:
        """What `refused` lists is a `ConfigError` at compile time."""
        for incoming in self.refused(rows):
            with pytest.raises(ConfigError):
                self.compile_with(self.build_to_compile(params, connection), incoming)

    async def test_split_covers_every_row_once(
        self, params: Params, connection: Connection | None, rows: pa.RecordBatch
    ) -> None:
        """The units of one call each are the batch again, in order, none empty or too large."""
        limit = self.component.capabilities.max_rows
        component: Any = self.build(params, connection)
        enough = -(-(limit or 0) // rows.num_rows) + 1
        large = pa.Table.from_batches([rows] * enough).combine_chunks().to_batches()[0]
        for batch in (rows, rows.slice(1, 1), rows.slice(0, 0), large):
            units = list(component.split(batch))
            check_same(to_rows(units), batch.to_pylist(), "split")
            assert all(unit.schema.equals(batch.schema) for unit in units), "split changes columns"
            if batch.num_rows:
                assert all(unit.num_rows for unit in units), "split makes an empty unit"
            if limit is not None:
                assert all(unit.num_rows <= limit for unit in units), "a unit exceeds `max_rows`"
