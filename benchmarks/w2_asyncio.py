"""W2's yardstick: chunk, embed and discard by hand. `w2_asyncio.py DOCUMENTS URL`.

What one would write who knows asyncio well: uvloop, one aiohttp session, base64, bounded queue,
retries; no checkpoints, no ids, no lineage.
"""

import asyncio
import base64
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import data
import numpy as np
import orjson
import uvloop
from measure import tell

BATCH = 1024
CALLS = 4
SIZE, OVERLAP = 512, 64
ATTEMPTS = 8

Chunk = tuple[str, str]


def chunks(path: Path) -> Iterator[Chunk]:
    with path.open("rb") as file:
        for line in file:
            document = orjson.loads(line)
            text = document["text"]
            for index, start in enumerate(range(0, max(len(text) - OVERLAP, 1), SIZE - OVERLAP)):
                yield f"{document['id']}#{index}", text[start : start + SIZE]


async def embed(session: aiohttp.ClientSession, url: str, batch: list[Chunk]) -> np.ndarray:
    body = orjson.dumps({
        "model": "stub",
        "input": [text for _, text in batch],
        "encoding_format": "base64",
    })
    for attempt in range(ATTEMPTS):
        async with session.post(f"{url}/embeddings", data=body) as response:
            if response.status == 200:
                items = orjson.loads(await response.read())["data"]
                vectors = b"".join(base64.b64decode(item["embedding"]) for item in items)
                return np.frombuffer(vectors, "<f4").reshape(len(batch), -1)
            wait = float(response.headers.get("Retry-After", 0.2 * 2**attempt))
        await asyncio.sleep(wait)
    raise RuntimeError("gave up")


async def run(path: Path, url: str) -> int:
    queue: asyncio.Queue[list[Chunk] | None] = asyncio.Queue(2 * CALLS)
    done = 0

    async def read() -> None:
        batch: list[Chunk] = []
        for chunk in chunks(path):
            batch.append(chunk)
            if len(batch) == BATCH:
                await queue.put(batch)
                batch = []
        await queue.put(batch or None)
        for _ in range(CALLS):
            await queue.put(None)

    async def work(session: aiohttp.ClientSession) -> None:
        nonlocal done
        while (batch := await queue.get()) is not None:
            vectors = await embed(session, url, batch)
            done += len(vectors)

    async with aiohttp.ClientSession(headers={"Content-Type": "application/json"}) as session:
        await asyncio.gather(read(), *(work(session) for _ in range(CALLS)))
    return done


def main(documents: int, url: str) -> None:
    path = data.w2(documents)
    started = time.perf_counter()
    done = uvloop.run(run(path, url))
    tell(seconds=time.perf_counter() - started, chunks=done)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
