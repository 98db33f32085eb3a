"""What every source promises: envelope, one schema, stable ids, resuming from every cursor."""

from contextlib import aclosing
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from nvisy_dagster.sdk.params import Connection, Cursor, Params
from nvisy_dagster.sdk.source import Batch
from nvisy_dagster.sdk.testing.component import Compile, Conformance, Work
from nvisy_dagster.sdk.testing.records import check_batch, check_same, check_unique, ids, to_rows
from nvisy_dagster.sdk.testing.watch import no_leaks, promptly


class SourceConformance(Conformance):
    """Subclass with `component` and a fixture `params` over data that makes two batches or more."""

    @pytest.fixture
    def work(self) -> Work:
        """Read everything."""

        async def read(source: Any) -> None:  # noqa: ANN401 - a source of any params and cursor
            await _drain(source, None)

        return read

    @pytest.fixture
    def compiles(self) -> Compile:
        """Ask for the output twice."""

        def check(source: Any) -> None:  # noqa: ANN401 - a source of any params and cursor
            assert source.output() == source.output(), "asked twice, it says two things"

        return check

    async def read_from(
        self, cursor: Cursor | None, params: Params, connection: Connection | None
    ) -> list[Batch[Any]]:
        """All batches after a cursor, read by a source of their own."""
        async with self.build(params, connection) as source:
            return await _drain(source, cursor)

    async def test_batches_are_valid(self, params: Params, connection: Connection | None) -> None:
        """Every batch has rows, the envelope and an origin; ids are unique."""
        batches = [batch.data for batch in await self.read_from(None, params, connection)]
        assert len(batches) >= 2, "the fixture `params` must lead to at least two batches"
        for batch in batches:
            assert batch.num_rows, "an empty batch"
            check_batch(batch)
        check_unique(ids(batches))
        for row in to_rows(batches):
            assert (row["_source"] or {}).get("uri"), "'_source' must say where a record came from"

    async def test_one_schema(self, params: Params, connection: Connection | None) -> None:
        """All batches have the schema that `output` promised, or at least one and the same."""
        declared: Any = self.build(params, connection)
        schema = declared.output().schema
        for batch in await self.read_from(None, params, connection):
            schema = batch.data.schema if schema is None else schema
            assert batch.data.schema.equals(schema), (
                f"the schema is\n{batch.data.schema}\n\nand not\n{schema}"
            )

    async def test_reads_the_same_again(
        self, params: Params, connection: Connection | None
    ) -> None:
        """A second read gives the same records with the same ids."""
        self._demand_replayable()
        first, second = [await self.read_from(None, params, connection) for _ in range(2)]
        check_same(_rows(second), _rows(first), "the second read")

    async def test_cursors_survive_json(
        self, params: Params, connection: Connection | None
    ) -> None:
        """A cursor read back from its JSON is the same cursor."""
        for batch in await self.read_from(None, params, connection):
            assert type(batch.cursor) is self.component.cursor_type
            assert _reread(batch.cursor) == batch.cursor

    async def test_resumes_from_every_cursor(
        self, params: Params, connection: Connection | None
    ) -> None:
        """After any batch, a new source goes on with exactly the records that follow."""
        self._demand_replayable()
        whole = await self.read_from(None, params, connection)
        for place, batch in enumerate(whole):
            rest = await self.read_from(_reread(batch.cursor), params, connection)
            what = f"resumed after batch {place} of {len(whole)}"
            check_same(_rows(rest), _rows(whole[place + 1 :]), what)

    async def test_smaller_batches_hold_the_same(
        self, params: Params, connection: Connection | None
    ) -> None:
        """Asked for batches of 2 records, it reads the same, and resumes in the midst of them."""
        self._demand_replayable()
        whole = _rows(await self.read_from(None, params, connection))
        source: Any = self.build(params, connection)
        async with source:
            source.most_rows = 2
            batches = await _drain(source, None)
        check_same(_rows(batches), whole, "the read in small batches")
        place = len(batches) // 2
        rest = await self.read_from(_reread(batches[place].cursor), params, connection)
        check_same(_rows(rest), _rows(batches[place + 1 :]), "resumed after a small batch")

    async def test_closes_early(self, params: Params, connection: Connection | None) -> None:
        """Left after the first batch, it closes quickly and leaves nothing open."""
        await self.read_from(None, params, connection)
        async with no_leaks() as alive:
            source: Any = self.build(params, connection)
            alive.append(source)
            async with source:
                batches = source.read(None)
                await anext(batches)
                with promptly("closing after the first batch"):
                    await batches.aclose()
            del source, batches

    @pytest.mark.parametrize("delay_seconds", [0.0, 0.003, 0.03])
    async def test_cancels_promptly(
        self, params: Params, connection: Connection | None, delay_seconds: float
    ) -> None:
        """Cancelled at any moment, it stops quickly and leaves nothing open."""
        await self.read_from(None, params, connection)
        async with no_leaks() as alive:
            source = self.build(params, connection)
            alive.append(source)
            with promptly("cancelling"), anyio.move_on_after(delay_seconds):
                async with source:
                    while True:
                        await _drain(source, None)
                        await checkpoint()
            del source

    def _demand_replayable(self) -> None:
        if not self.component.capabilities.replayable:
            pytest.skip("the source does not declare `replayable`")


async def _drain(source: Any, cursor: Cursor | None) -> list[Batch[Any]]:  # noqa: ANN401
    async with aclosing(source.read(cursor)) as batches:
        return [batch async for batch in batches]


def _reread(cursor: Cursor) -> Cursor:
    return type(cursor).model_validate_json(cursor.model_dump_json())


def _rows(batches: list[Batch[Any]]) -> list[dict[str, Any]]:
    return to_rows(batch.data for batch in batches)
