"""Chunks that come alone, as from a replay of dead letters."""

from pathlib import Path

import pytest
from vector_records import embeddings

from nvisy_connectors.vector.qdrant import QdrantConnection, QdrantSink
from nvisy_connectors.vector.qdrant.sink import QdrantSinkParams
from nvisy_dagster.sdk import Progress

pytestmark = pytest.mark.anyio


async def _write(folder: Path, batch, progress: Progress) -> None:
    connection = QdrantConnection(path=folder)
    sink = QdrantSink(QdrantSinkParams(collection="c"), connection, node_id="index")
    async with sink:
        await sink.start(progress)
        for unit in sink.split(batch):
            await sink.write(unit)
        await sink.commit(1)
        await sink.finish()


async def _count(folder: Path, batch) -> int:
    connection = QdrantConnection(path=folder)
    sink = QdrantSink(QdrantSinkParams(collection="c"), connection, node_id="index")
    async with sink:
        vector = batch["vector"][0].as_py()
        return len(await sink.search(vector, 100))


@pytest.mark.parametrize("epoch", [0, 3])
async def test_the_other_chunks_of_the_document_stay(tmp_path: Path, epoch: int) -> None:
    batch = embeddings([5])
    await _write(tmp_path / "q", batch.slice(0, 4), Progress("run", 0))
    await _write(tmp_path / "q", batch.slice(4), Progress("replay", epoch, partial=True))
    assert await _count(tmp_path / "q", batch) == 5
    # Of a run it would be all that the document still has.
    await _write(tmp_path / "q", batch.slice(4), Progress("another", 0))
    assert await _count(tmp_path / "q", batch) == 1
