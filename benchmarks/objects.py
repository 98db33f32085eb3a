"""Many small objects and one large one, through S3: the engine, and obstore alone.

`objects.py small|wide|narrow engine|obstore ENDPOINT`, in a bucket `bench` that `fill` has filled.
Small: objects of 4 KB, read and counted. Wide, narrow: an Arrow file of rows with embeddings of 384
or 14 dimensions, read, and written to another key in chunks of 8 MiB.
"""

import os
import shutil
import sys
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import without_pandas  # noqa: F401 - before Arrow

# isort: split
import anyio
import components
import data
import numpy as np
import obstore
import pyarrow as pa
from measure import tell
from obstore.store import S3Store

from nvisy_connectors.object.s3 import S3Connection
from nvisy_dagster.compiler import compile_graph
from nvisy_dagster.engine.run import run_plan
from nvisy_dagster.graph.load import build_graph

BUCKET = "bench"
KEY, SECRET = "test-access", "test-secret"
SMALL_BYTES = 4096
REQUESTS = 64
"""Requests of obstore at once: as many as the connector makes."""
CHUNK = 8 << 20
LARGE = {"wide": (4 * 1024, 384), "narrow": (64 * 1024, 14)}
"""Rows of a batch, and dimensions of the vectors: rows of 1.5 KB and of 68 bytes."""


def store(endpoint: str) -> S3Store:
    """The bucket."""
    return S3Store(
        BUCKET,
        endpoint=endpoint,
        access_key_id=KEY,
        secret_access_key=SECRET,
        region="us-east-1",
        client_options={"allow_http": True},
        virtual_hosted_style_request=False,
    )


async def fill(endpoint: str, small: int, large_mb: int) -> None:
    """Put the objects there."""
    bucket, text = store(endpoint), b"x" * SMALL_BYTES
    limit = anyio.Semaphore(REQUESTS)

    async def put(number: int) -> None:
        async with limit:
            await obstore.put_async(bucket, f"small/{number:06d}.txt", text)

    async with anyio.create_task_group() as tasks:
        for number in range(small):
            tasks.start_soon(put, number)
    for what, (rows, dimensions) in LARGE.items():
        vectors = pa.array(list(np.ones((rows, dimensions), np.float32)))
        batch = pa.record_batch({"n": np.arange(rows), "vector": vectors})
        path = data.WORK / f"{what}.arrow"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
            while file.tell() < large_mb << 20:
                writer.write_batch(batch)
        await obstore.put_async(bucket, f"{what}/in.arrow", path)
        path.unlink()


async def small_by_obstore(endpoint: str) -> int:
    """List, and get all."""
    bucket, limit, sizes = store(endpoint), anyio.Semaphore(REQUESTS), list[int]()

    async def get(key: str) -> None:
        async with limit:
            found = await obstore.get_async(bucket, key)
            sizes.append(len(await found.bytes_async()))

    async with anyio.create_task_group() as tasks:
        async for page in obstore.list(bucket, "small/"):
            for one in page:
                tasks.start_soon(get, one["path"])
    return len(sizes)


async def large_by_obstore(what: str, endpoint: str) -> int:
    """Get as a stream, and put what comes in parts."""
    bucket = store(endpoint)
    found = await obstore.get_async(bucket, f"{what}/in.arrow")
    total = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal total
        async for chunk in found.stream(CHUNK):
            total += len(chunk)
            yield bytes(chunk)

    await obstore.put_async(bucket, f"{what}/out.arrow", chunks(), chunk_size=CHUNK)
    return total


def plan(what: str) -> dict[str, Any]:
    """The graph."""
    small = {"prefix": "small/", "format": "text"}
    reads = small if what == "small" else {"prefix": f"{what}/in", "format": "arrow"}
    sink = (
        {"id": "out", "type": "sink", "connector": "discard"}
        if what == "small"
        else {
            "id": "out",
            "type": "sink",
            "connector": "s3",
            "connection": "s3",
            "params": {"prefix": f"{what}-out/", "format": "arrow"},
        }
    )
    source = {"id": "in", "type": "source", "connector": "s3", "connection": "s3"}
    return {
        "name": "objects",
        "nodes": [{**source, "params": reads}, sink],
        "edges": [{"from": "in", "to": "out"}],
    }


async def by_engine(what: str, endpoint: str) -> int:
    """Records that were read."""
    compiled = compile_graph(
        build_graph(plan(what), connections={"s3": {"type": "s3"}}), registry=components.registry()
    )
    connection = S3Connection(
        bucket=BUCKET,
        endpoint=endpoint,
        access_key_id=KEY,
        secret_access_key=SECRET,
        region="us-east-1",
    )
    state = data.WORK / "state" / "objects"
    shutil.rmtree(state, ignore_errors=True)
    result = await run_plan(compiled, {"s3": connection}, storage=state)
    return result.metrics["in"].counts.records_out


def main(what: str, who: str, endpoint: str) -> None:
    alone = small_by_obstore if what == "small" else partial(large_by_obstore, what)
    started = time.perf_counter()
    count = anyio.run(alone, endpoint) if who == "obstore" else anyio.run(by_engine, what, endpoint)
    tell(seconds=time.perf_counter() - started, count=count)
    sys.stdout.flush()
    os._exit(0)  # obstore's threads may abort an interpreter that ends


if __name__ == "__main__":
    if sys.argv[1] == "fill":
        anyio.run(fill, sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
        tell(seconds=0)
    else:
        main(*sys.argv[1:4])
