"""What a sink that keeps the stage's checkpoint promises: it is there with the rows, or neither."""

from typing import Any

import pyarrow as pa
import pytest

from nvisy_dagster.sdk.errors import NvisyError
from nvisy_dagster.sdk.params import Connection, Params
from nvisy_dagster.sdk.sink import Progress
from nvisy_dagster.sdk.testing.consumer import ConsumerConformance


class CheckpointConformance(ConsumerConformance):
    """A part of `SinkConformance`."""

    async def expect(
        self,
        params: Params,
        connection: Connection | None,
        rows: pa.RecordBatch,
        *,
        doubles: bool = False,
    ) -> None:
        """Compare what the system holds; given by the suite of sinks."""
        raise NotImplementedError

    def _needs_checkpoint(self) -> None:
        if not self.component.keeps_checkpoint:
            pytest.skip("the sink does not declare `keeps_checkpoint`")

    async def test_checkpoint_comes_with_the_rows(
        self, params: Params, connection: Connection | None, rows: pa.RecordBatch
    ) -> None:
        """A crash leaves the last checkpoint, and the rows that it covers, no more and no fewer."""
        self._needs_checkpoint()
        half = rows.num_rows // 2
        found: list[bytes | None] = []
        for epoch, part in ((1, rows.slice(0, half)), (2, rows.slice(half))):
            for commits in (False, True):
                async with self.build(params, connection) as component:
                    sink: Any = component
                    await sink.start(Progress("run", epoch - 1, token=epoch))
                    found.append(await sink.stored_checkpoint("stage"))
                    await sink.write(part)
                    if commits:
                        document = f"epoch {epoch} \0 \x7f".encode() + b"\xff"
                        await sink.commit_with_checkpoint(epoch, "stage", document)
        assert found == [None, None, b"epoch 1 \0 \x7f\xff", b"epoch 1 \0 \x7f\xff"]
        await self.expect(params, connection, rows)

    async def test_earlier_holder_cannot_commit(
        self, params: Params, connection: Connection | None, rows: pa.RecordBatch
    ) -> None:
        """Once a newer holder has read the checkpoint, what an older one has written is undone."""
        self._needs_checkpoint()
        half = rows.num_rows // 2
        async with (
            self.build(params, connection) as first,
            self.build(params, connection) as second,
        ):
            older: Any = first
            newer: Any = second
            await older.start(Progress("run", 0, token=1))
            await older.write(rows.slice(0, half))
            await newer.start(Progress("run", 0, token=2))
            assert await newer.stored_checkpoint("stage") is None
            with pytest.raises(NvisyError):
                await older.commit_with_checkpoint(1, "stage", b"older")
            with pytest.raises(NvisyError):
                await older.write(rows.slice(0, half))
            await newer.write(rows.slice(half))
            await newer.commit_with_checkpoint(1, "stage", b"newer")
            assert await newer.stored_checkpoint("stage") == b"newer"
        await self.expect(params, connection, rows.slice(half))
        late: Any = self.build(params, connection)
        with pytest.raises(NvisyError):
            async with late:
                await late.start(Progress("run", 0, token=1))
