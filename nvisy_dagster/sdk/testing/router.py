"""What every router promises: each record takes one route or none."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pytest

from nvisy_dagster.sdk.component import Component
from nvisy_dagster.sdk.edge_type import EdgeType
from nvisy_dagster.sdk.params import Connection, Params
from nvisy_dagster.sdk.testing.component import Work
from nvisy_dagster.sdk.testing.consumer import ConsumerConformance
from nvisy_dagster.sdk.testing.records import check_same, check_unique, cuts, ids, to_rows


class RouterConformance(ConsumerConformance):
    """Subclass with `component` and fixtures `params` and `rows`."""

    @pytest.fixture
    def work(self, rows: pa.RecordBatch) -> Work:
        """Route `rows`."""

        async def route(router: Any) -> None:  # noqa: ANN401 - a router of any params
            await _route(router, [rows])

        return route

    def compile_with(self, component: Component[Any], incoming: EdgeType) -> object:
        """Ask the router for its routes, and to check an incoming edge."""
        router: Any = component
        router.check(incoming)
        return list(router.routes())

    async def routed(
        self, batches: Sequence[pa.RecordBatch], params: Params, connection: Connection | None
    ) -> dict[str, list[pa.RecordBatch]]:
        """What a router of its own sends down each route."""
        async with self.build(params, connection) as router:
            return await _route(router, batches)

    async def test_routes_are_named(
        self, params: Params, connection: Connection | None, rows: pa.RecordBatch
    ) -> None:
        """Records go down routes that `routes` names, each named once."""
        router: Any = self.build(params, None)
        names = list(router.routes())
        assert names, "a router without routes drops everything"
        assert len(set(names)) == len(names), f"a route is named twice: {names}"
        unknown = (await self.routed([rows], params, connection)).keys() - set(names)
        assert not unknown, f"`route` uses names that `routes` does not: {sorted(unknown)}"

    async def test_each_record_takes_one_route(
        self, params: Params, connection: Connection | None, rows: pa.RecordBatch
    ) -> None:
        """A record is in one route or in none, unchanged and in order."""
        routes = await self.routed([rows], params, connection)
        taken = [row for batches in routes.values() for row in to_rows(batches)]
        assert taken, "the fixtures must lead at least one record down a route"
        check_unique([row["_id"] for row in taken])
        for name, batches in routes.items():
            assert all(batch.schema.equals(rows.schema) for batch in batches), (
                f"route {name!r} changes columns"
            )
            chosen = set(ids(batches))
            wanted = [row for row in rows.to_pylist() if row["_id"] in chosen]
            check_same(to_rows(batches), wanted, f"route {name!r}")

    async def test_cuts_do_not_matter(
        self, params: Params, connection: Connection | None, rows: pa.RecordBatch
    ) -> None:
        """A record takes the same route whatever batch it is in."""
        whole = await self.routed([rows], params, connection)
        wanted = {name: ids(batches) for name, batches in whole.items() if ids(batches)}
        for batches in cuts(rows):
            parts = await self.routed(batches, params, connection)
            got = {name: ids(found) for name, found in parts.items() if ids(found)}
            assert got == wanted, f"cut into {[batch.num_rows for batch in batches]} rows"

    async def test_the_result_of_a_refusal_is_that_of_the_others(
        self, params: Params, connection: Connection | None, bad_rows: pa.RecordBatch | None
    ) -> None:
        """A `DataError` names rows; its result, if any, is what the others alone would give."""
        built: Any = self.build(params, connection)
        async with built as router:
            for _ in range(2):
                refused, good = await self.refusal(router.route, bad_rows)
                if refused.result is None:
                    continue
                assert isinstance(refused.result, Mapping), "the result has no routes"
                wanted = await router.route(good)
                assert refused.result.keys() == wanted.keys(), "the result has other routes"
                for name, batch in wanted.items():
                    got = to_rows([refused.result[name]])
                    check_same(got, to_rows([batch]), f"the result, route {name!r}")


async def _route(
    router: Any,  # noqa: ANN401 - a router of any params
    batches: Sequence[pa.RecordBatch],
) -> dict[str, list[pa.RecordBatch]]:
    routes: dict[str, list[pa.RecordBatch]] = {}
    for batch in batches:
        for unit in router.split(batch):
            for name, rows in (await router.route(unit)).items():
                routes.setdefault(name, []).append(rows)
    return routes
