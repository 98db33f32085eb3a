"""What every action promises: one schema, ids and lineage, the same rows however cut."""

from collections.abc import Sequence
from typing import Any, ClassVar

import anyio
import pyarrow as pa
import pytest
from anyio.lowlevel import checkpoint

from nvisy_dagster.sdk.params import Connection, Params
from nvisy_dagster.sdk.testing.component import Work
from nvisy_dagster.sdk.testing.consumer import ConsumerConformance
from nvisy_dagster.sdk.testing.records import (
    check_batch,
    check_same,
    check_unique,
    cuts,
    ids,
    to_rows,
)
from nvisy_dagster.sdk.testing.watch import no_leaks, promptly


class ActionConformance(ConsumerConformance):
    """Subclass with `component` and fixtures `params` and `rows`."""

    tolerance: ClassVar[float] = 1e-5
    """Largest difference of floating point values between two cuts, relative and absolute."""

    def schema_for_output(
        self, params: Params, connection: Connection | None, rows: pa.RecordBatch
    ) -> pa.Schema | None:
        """The schema that output must have, `None` when only the data tells."""
        action: Any = self.build(params, connection)
        return action.output(self.incoming(rows)).schema

    @pytest.fixture
    def work(self, rows: pa.RecordBatch) -> Work:
        """Apply it to `rows`."""

        async def apply(action: Any) -> None:  # noqa: ANN401 - an action of any params
            await _apply(action, [rows])

        return apply

    async def results(
        self, batches: Sequence[pa.RecordBatch], params: Params, connection: Connection | None
    ) -> list[pa.RecordBatch]:
        """What an action of its own makes of some batches, one call after the other."""
        async with self.build(params, connection) as action:
            return await _apply(action, batches)

    async def test_one_schema(
        self, params: Params, connection: Connection | None, rows: pa.RecordBatch
    ) -> None:
        """Every result, of an empty batch too, has the schema that `output` promised."""
        schema = self.schema_for_output(params, connection, rows)
        for batch in await self.results([rows, rows.slice(0, 0)], params, connection):
            check_batch(batch)
            schema = batch.schema if schema is None else schema
            assert batch.schema.equals(schema), (
                f"the schema is\n{batch.schema}\n\nand not\n{schema}"
            )

    async def test_ids_are_unique_and_stable(
        self, params: Params, connection: Connection | None, rows: pa.RecordBatch
    ) -> None:
        """No two records share an id, and a replay makes the same ids again."""
        first, second = [await self.results([rows], params, connection) for _ in range(2)]
        assert ids(first), "the fixtures must lead to some output"
        check_unique(ids(first))
        assert ids(first) == ids(second), "a second run over the same rows made other ids"

    async def test_lineage(
        self, params: Params, connection: Connection | None, rows: pa.RecordBatch
    ) -> None:
        """A record is one that came in, or names its parents among them; roots are inherited."""
        came = {row["_id"]: row for row in rows.to_pylist()}
        for row in to_rows(await self.results([rows], params, connection)):
            if row["_id"] in came:
                ancestors = [came[row["_id"]]]
                assert row["_parent_ids"] == ancestors[0]["_parent_ids"], (
                    "a record that keeps its '_id' must keep its '_parent_ids'"
                )
            else:
                assert row["_parent_ids"], "a new record must name its parents in '_parent_ids'"
                assert came.keys() >= set(row["_parent_ids"]), (
                    "'_parent_ids' names records that were not in the incoming batch"
                )
                ancestors = [came[parent] for parent in row["_parent_ids"]]
            inherited = [(parent["_root_id"], parent["_source"]) for parent in ancestors]
            assert (row["_root_id"], row["_source"]) in inherited, (
                "'_root_id' and '_source' must be those of a parent"
            )

    async def test_cuts_do_not_matter(
        self, params: Params, connection: Connection | None, rows: pa.RecordBatch
    ) -> None:
        """The same rows come out however the batches are cut, empty ones among them."""
        if not self.component.capabilities.row_wise:
            pytest.skip("the action does not declare `row_wise`")
        whole = await self.results([rows], params, connection)
        assert not to_rows(await self.results([rows.slice(0, 0)], params, connection)), (
            "an empty batch became rows"
        )
        for batches in cuts(rows):
            parts = await self.results(batches, params, connection)
            assert all(part.schema.equals(whole[0].schema) for part in parts), "cuts change columns"
            what = f"cut into {[batch.num_rows for batch in batches]} rows"
            check_same(to_rows(parts), to_rows(whole), what, tolerance=self.tolerance)

    async def test_the_result_of_a_refusal_is_that_of_the_others(
        self, params: Params, connection: Connection | None, bad_rows: pa.RecordBatch | None
    ) -> None:
        """A `DataError` names rows; its result, if any, is what the others alone would give."""
        built: Any = self.build(params, connection)
        async with built as action:
            for _ in range(2):
                refused, good = await self.refusal(action.apply, bad_rows)
                if refused.result is None:
                    continue
                result: Any = refused.result
                assert isinstance(result, pa.RecordBatch), "the result is no batch"
                wanted = await action.apply(good)
                assert result.schema.equals(wanted.schema), "the result has other columns"
                got = to_rows([result])
                check_same(got, to_rows([wanted]), "the result", tolerance=self.tolerance)

    async def test_calls_may_overlap(
        self, params: Params, connection: Connection | None, rows: pa.RecordBatch
    ) -> None:
        """As many calls at once as `concurrency` allows give what single calls give."""
        alone = await self.results(next(cuts(rows)), params, connection)
        limit = anyio.Semaphore(self.component.capabilities.concurrency)
        together: dict[int, pa.RecordBatch] = {}

        async def call(action: Any, place: int) -> None:  # noqa: ANN401 - an action of any params
            async with limit:
                together[place] = await action.apply(rows.slice(place, 1))

        async with self.build(params, connection) as action, anyio.create_task_group() as group:
            for place in range(rows.num_rows):
                group.start_soon(call, action, place)
        ordered = to_rows(together[place] for place in range(rows.num_rows))
        check_same(ordered, to_rows(alone), "overlapping calls", tolerance=self.tolerance)

    @pytest.mark.parametrize("delay_seconds", [0.0, 0.003, 0.03])
    async def test_cancels_promptly(
        self,
        params: Params,
        connection: Connection | None,
        rows: pa.RecordBatch,
        delay_seconds: float,
    ) -> None:
        """Cancelled at any moment, it stops quickly and leaves nothing open."""
        await self.results([rows], params, connection)
        async with no_leaks() as alive:
            action = self.build(params, connection)
            alive.append(action)
            with promptly("cancelling"), anyio.move_on_after(delay_seconds):
                async with action:
                    while True:
                        await _apply(action, [rows])
                        await checkpoint()
            del action


async def _apply(action: Any, batches: Sequence[pa.RecordBatch]) -> list[pa.RecordBatch]:  # noqa: ANN401
    return [await action.apply(unit) for batch in batches for unit in action.split(batch)]
