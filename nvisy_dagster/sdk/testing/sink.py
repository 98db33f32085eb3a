"""What every sink promises: rows are there after commit, in the face of crashes too."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import anyio
import pyarrow as pa
import pytest

from nvisy_dagster.sdk.params import Connection, Params
from nvisy_dagster.sdk.sink import Progress
from nvisy_dagster.sdk.testing.component import Work
from nvisy_dagster.sdk.testing.records import alike, plain
from nvisy_dagster.sdk.testing.sink_attempt import Step, attempt
from nvisy_dagster.sdk.testing.sink_checkpoint import CheckpointConformance
from nvisy_dagster.sdk.testing.watch import no_leaks, promptly


class SinkConformance(CheckpointConformance):
    """Subclass with `component`, fixtures `params` and `rows`, and `read_back`."""

    visible_while_open: ClassVar[bool] = True
    """`False` for systems that nobody else can read while the sink is open."""

    keeps_other_runs: ClassVar[bool] = True
    """`False` for sinks whose every run replaces what earlier runs wrote."""

    replaces: ClassVar[bool] = True
    """`False` for a sink with `write_mode="transaction"` whose params say to append."""

    tolerance: ClassVar[float] = 1e-6
    """Largest difference of floating point values that were stored, relative and absolute."""

    async def read_back(
        self, params: Params, connection: Connection | None
    ) -> list[dict[str, Any]]:
        """Override: what the system holds now, one dictionary per record, read without the sink.

        `_id` is 16 bytes or a UUID (text or `uuid.UUID`). Columns with the names of columns of
        `rows` are compared with them. An empty list when nothing was ever written.
        """
        raise NotImplementedError

    def key(self, row: dict[str, Any]) -> object:
        """What tells records apart, of `rows` and of `read_back`; override where `_id` is lost."""
        return row["_id"]

    @pytest.fixture
    def work(self, rows: pa.RecordBatch) -> Work:
        """Write `rows` in a run of its own."""
        runs = iter(range(100))

        async def write(sink: Any) -> None:  # noqa: ANN401 - a sink of any params
            await attempt(sink, Progress(f"work-{next(runs)}", 0), [Step(rows, 1)])

        return write

    async def run(
        self,
        params: Params,
        connection: Connection | None,
        progress: Progress,
        steps: Sequence[Step],
        *,
        crash: bool = False,
    ) -> None:
        """One attempt at a run by a sink of its own; a crash ends it without `finish`."""
        async with self.build(params, connection) as sink:
            await attempt(sink, progress, steps, crash=crash)

    async def found(
        self, params: Params, connection: Connection | None
    ) -> list[tuple[object, dict[str, Any]]]:
        """What the system holds, each row with its key."""
        rows = await self.read_back(params, connection)
        return [(plain(self.key(row)), row) for row in rows]

    async def expect(
        self,
        params: Params,
        connection: Connection | None,
        rows: pa.RecordBatch,
        *,
        doubles: bool = False,
    ) -> None:
        """Compare what the system holds with `rows`: each there, once unless `doubles`, none else.

        Raises:
            AssertionError: A record is missing, doubled, foreign or changed.
        """
        found = await self.found(params, connection)
        wanted = {plain(self.key(row)): row for row in rows.to_pylist()}
        counts = Counter(key for key, _ in found)
        missing = wanted.keys() - counts.keys()
        assert not missing, f"{len(missing)} of {len(wanted)} records are missing"
        foreign = counts.keys() - wanted.keys()
        assert not foreign, f"{len(foreign)} records are there that should not be: {foreign}"
        doubled = {key: count for key, count in counts.items() if count > 1}
        assert doubles or not doubled, f"{len(doubled)} records are there more than once"
        for key, row in found:
            for name in row.keys() & wanted[key].keys():
                left, right = plain(row[name]), plain(wanted[key][name])
                assert alike(left, right, self.tolerance), (
                    f"column {name!r} of record {key} is {left!r}, not {right!r}"
                )

    async def test_rows_are_there_after_commit(
        self, params: Params, connection: Connection | None, rows: pa.RecordBatch
    ) -> None:
        """When `commit` returns, everyone can read the rows, and closing changes nothing."""
        async with self.build(params, connection) as sink:
            await attempt(sink, Progress("run", 0), [Step(rows, 1)], crash=True)
            if self.visible_while_open:
                await self.expect(params, connection, rows)
        await self.expect(params, connection, rows)

    async def test_several_writes_and_epochs(
        self, params: Params, connection: Connection | None, rows: pa.RecordBatch
    ) -> None:
        """Several writes in an epoch and several epochs in a run add up, to the last `finish`."""
        first, second, third = rows.slice(0, 1), rows.slice(1, 1), rows.slice(2)
        steps = [Step(first), Step(second, 1), Step(third, 2)]
        await self.run(params, connection, Progress("run", 0), steps)
        await self.expect(params, connection, rows)

    async def test_nothing_to_write(
        self, params: Params, connection: Connection | None, rows: pa.RecordBatch
    ) -> None:
        """Empty batches, commits without writes and runs without rows do no harm."""
        nothing = rows.slice(0, 0)
        await self.run(params, connection, Progress("idle", 0), [])
        await self.run(params, connection, Progress("empty", 0), [Step(None, 1), Step(nothing, 2)])
        await self.expect(params, connection, nothing)
        steps = [Step(None, 1), Step(nothing, 2), Step(rows, 3), Step(nothing, 4), Step(None, 5)]
        await self.run(params, connection, Progress("run", 0), steps)
        await self.expect(params, connection, rows)

    async def test_overlapping_writes(
        self, params: Params, connection: Connection | None, rows: pa.RecordBatch
    ) -> None:
        """As many writes at once as `concurrency` allows lose and double nothing."""
        limit = anyio.Semaphore(self.component.capabilities.concurrency)

        async def write(sink: Any, place: int) -> None:  # noqa: ANN401 - a sink of any params
            async with limit:
                await sink.write(rows.slice(place, 1))

        async with self.build(params, connection) as component:
            sink: Any = component
            await sink.start(Progress("run", 0))
            async with anyio.create_task_group() as group:
                for place in range(rows.num_rows):
                    group.start_soon(write, sink, place)
            await sink.commit(1)
            await sink.finish()
        await self.expect(params, connection, rows)

    @pytest.mark.parametrize("committed", [False, True])
    async def test_crash_before_the_checkpoint(
        self,
        params: Params,
        connection: Connection | None,
        rows: pa.RecordBatch,
        committed: bool,  # noqa: FBT001 - a parameter of the test
    ) -> None:
        """An epoch that is replayed, committed before or not, ends as `write_mode` declares."""
        lost = Step(rows, 1 if committed else None)
        await self.run(params, connection, Progress("run", 0), [lost], crash=True)
        await self.run(params, connection, Progress("run", 0), [Step(rows, 1)])
        await self.expect(params, connection, rows, doubles=self._may_double())

    async def test_crash_after_the_checkpoint(
        self, params: Params, connection: Connection | None, rows: pa.RecordBatch
    ) -> None:
        """What a checkpoint covers stays; what came after it is discarded by an epoch sink."""
        half = rows.num_rows // 2
        first, second = rows.slice(0, half), rows.slice(half)
        steps = [Step(first, 1), Step(second, 2), Step(second)]
        await self.run(params, connection, Progress("run", 0), steps, crash=True)
        for _ in range(2):  # the second attempt dies before its first write
            await self.run(params, connection, Progress("run", 1), [], crash=True)
        if self.component.capabilities.write_mode == "epoch":
            await self.expect(params, connection, first)
        await self.run(params, connection, Progress("run", 1), [Step(second, 2)])
        await self.expect(params, connection, rows, doubles=self._may_double())

    async def test_upsert_replaces(
        self, params: Params, connection: Connection | None, rows: pa.RecordBatch
    ) -> None:
        """An upsert sink keeps the last of several records with one id."""
        if not self._upserts():
            pytest.skip("the sink does not declare `upsert`")
        changed = _rotated(rows)
        await self.run(params, connection, Progress("first", 0), [Step(rows), Step(rows, 1)])
        await self.run(params, connection, Progress("second", 0), [Step(rows, 1), Step(changed, 2)])
        await self.expect(params, connection, changed)

    async def test_other_runs(
        self, params: Params, connection: Connection | None, rows: pa.RecordBatch
    ) -> None:
        """A run with another id leaves what earlier runs wrote, or replaces it as declared."""
        half = rows.num_rows // 2
        first, second = rows.slice(0, half), rows.slice(half)
        await self.run(params, connection, Progress("first", 0), [Step(first, 1)])
        await self.run(params, connection, Progress("second", 0), [Step(second, 1)])
        await self.expect(params, connection, rows if self.keeps_other_runs else second)

    @pytest.mark.parametrize("delay_seconds", [0.0, 0.003, 0.03])
    async def test_cancels_promptly(
        self,
        params: Params,
        connection: Connection | None,
        rows: pa.RecordBatch,
        delay_seconds: float,
    ) -> None:
        """Cancelled at any moment, it stops quickly, leaves nothing open and can be replayed."""
        await self.run(params, connection, Progress("run", 0), [], crash=True)
        async with no_leaks() as alive:
            sink: Any = self.build(params, connection)
            alive.append(sink)
            with promptly("cancelling"), anyio.move_on_after(delay_seconds):
                async with sink:
                    await attempt(sink, Progress("run", 0), [Step(rows), Step(rows, 1)], crash=True)
                    await anyio.sleep_forever()
            del sink
        await self.run(params, connection, Progress("run", 0), [Step(rows, 1)])
        await self.expect(params, connection, rows, doubles=self._may_double())

    def _may_double(self) -> bool:
        mode = self.component.capabilities.write_mode
        return mode == "append" or (mode == "transaction" and not self.replaces)

    def _upserts(self) -> bool:
        mode = self.component.capabilities.write_mode
        return mode == "upsert" or (mode == "transaction" and self.replaces)


def _rotated(rows: pa.RecordBatch) -> pa.RecordBatch:
    """The same envelopes, each with the payload of the next record."""
    order = pa.array([*range(1, rows.num_rows), 0])
    turned = rows.take(order)
    columns = [
        (rows if name.startswith("_") else turned).column(name) for name in rows.schema.names
    ]
    return pa.RecordBatch.from_arrays(columns, schema=rows.schema)
