"""A local folder survives being killed at any moment."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_qdrant_sink import ids_of, stored
from vector_records import embeddings

from nvisy_connectors.vector.qdrant import QdrantConnection

pytestmark = pytest.mark.anyio

HERE = Path(__file__).parent

WRITER = """
import sys, anyio, filelock, qdrant_edge
sys.path.insert(0, sys.argv[3])
from vector_records import embeddings
from nvisy_connectors.vector.qdrant import QdrantConnection, QdrantSink
from nvisy_connectors.vector.qdrant.sink import QdrantSinkParams
from nvisy_dagster.sdk import Progress

async def main():
    connection = QdrantConnection(path=sys.argv[1])
    sink = QdrantSink(QdrantSinkParams(collection="docs"), connection, node_id="index")
    print("ready", flush=True)
    async with sink:
        committed = int(sys.argv[2])
        # As a resumed run, which renews documents; a fresh one over nothing has none to renew.
        await sink.start(Progress("run", max(committed, 1)))
        for epoch in range(committed + 1, 1000):
            # Every epoch adds documents and shortens those of the epoch before.
            for uri, sizes in ((epoch, [5] * 40), (epoch - 1, [2] * 40)):
                await sink.write(embeddings(sizes, uri=f"file:///{uri}", seed=epoch))
            await sink.commit(epoch)
            print(epoch, flush=True)

anyio.run(main)
"""


def run_and_kill(folder, committed, *, commits, seconds):
    """Write from the last commit on, be killed so long after so many commits; the last commit."""
    command = [sys.executable, "-c", WRITER, folder, str(committed), str(HERE)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        said = [writer.stdout.readline() for _ in range(1 + commits)]
        time.sleep(seconds)
        writer.kill()
        out, errors = writer.communicate()
    assert not errors, errors
    return max([committed, *(int(line) for line in (*said[1:], *out.split()))])


async def test_killed_at_random_it_reopens_with_everything_committed(tmp_path):
    moments = random.Random()
    committed = 0
    for attempt in range(7):
        # The first ones die while the collection is being made.
        commits, longest = (0, 0.03) if attempt < 3 else (1, 0.06)
        seconds = moments.uniform(0.0, longest)
        committed = run_and_kill(tmp_path, committed, commits=commits, seconds=seconds)
        if committed:
            await check(tmp_path, committed)
    assert committed >= 4


async def check(folder, committed):
    """Everything committed is there; what came after may be there in part."""
    found = set(await stored("docs", QdrantConnection(path=folder)))
    last, begun = (ids_of(documents(committed, size)) for size in (5, 2))
    # The epoch that was cut off may have begun to shorten the documents of the last.
    lost = (last | ids_of(documents(committed - 1, 2))) - found
    assert lost <= last - begun, f"{len(lost)} committed points are lost"
    for epoch in range(committed):
        every, kept = (ids_of(documents(epoch, size)) for size in (5, 2))
        assert found & every == kept, f"the documents of epoch {epoch} are not as committed"


def documents(epoch, size):
    return embeddings([size] * 40, uri=f"file:///{epoch}")


async def test_another_process_sees_what_was_committed_by_a_killed_one(tmp_path):
    committed = run_and_kill(tmp_path, 0, commits=2, seconds=0)
    found = await stored("docs", QdrantConnection(path=tmp_path))
    assert found.keys() >= ids_of(documents(committed, 2))


@pytest.mark.parametrize("leftover", ["creating", "empty", "lock"])
async def test_what_a_crash_while_creating_leaves_is_no_obstacle(tmp_path, leftover):
    if leftover == "creating":
        (tmp_path / ".docs.creating" / "segments" / "half").mkdir(parents=True)
        (tmp_path / ".docs.creating" / "edge_config.json").write_text('{"vec')
    elif leftover == "empty":
        (tmp_path / "docs").mkdir()
    else:
        (tmp_path / ".docs.lock").touch()
    run_and_kill(tmp_path, 0, commits=1, seconds=0)
    assert await stored("docs", QdrantConnection(path=tmp_path))
    assert not (tmp_path / ".docs.creating").exists()
