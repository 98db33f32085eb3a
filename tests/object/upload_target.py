"""A run that writes large parts to an object store, to be killed: `upload_target.py FOLDER`.

Parts are sent while they are written from 5 MiB on, the least that a store takes; with
`NVISY_TEST_COPIES` their files are kept, as those of unbounded epochs are.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import anyio

from nvisy_connectors.object import bucket, open_parts, uploads
from nvisy_connectors.object.sink import ObjectSink
from nvisy_dagster.compiler import compile_document
from nvisy_dagster.engine.connections import open_connections
from nvisy_dagster.engine.run import run_plan
from nvisy_dagster.graph.connections import build_connections
from nvisy_dagster.sdk import Progress

LEAST_BYTES = 5 << 20
ROWS = 24_000
BATCH_ROWS = 1_000
EPOCH_ROWS = 8_000
TEXT_BYTES = 1_500
SENT = "sent.txt"


def document(prefix: str) -> dict:
    """Lines of a file to parts of 12 MB, three of them."""
    return {
        "name": "upload",
        "nodes": [
            {
                "id": "rows",
                "type": "source",
                "connector": "local",
                "params": {
                    "path": "rows.jsonl",
                    "format": "jsonl",
                    "columns": {"n": "int64", "text": "string"},
                    "batch_rows": BATCH_ROWS,
                },
            },
            {
                "id": "parts",
                "type": "sink",
                "connector": "s3",
                "connection": "store",
                "params": {"prefix": prefix, "format": "jsonl", "envelope": False},
            },
        ],
        "edges": [{"from": "rows", "to": "parts"}],
        "checkpoint": {"interval_rows": EPOCH_ROWS, "interval_seconds": 1000},
    }


def note_what_is_sent(folder: Path) -> None:
    """Tell the test how many chunks were sent before their part was whole."""
    send = bucket._BucketUpload.write
    sent = folder / SENT

    async def noting(self: uploads.Upload, data: bytes) -> None:
        await send(self, data)
        with sent.open("a") as file:
            file.write(f"{len(data)}\n")

    bucket._BucketUpload.write = noting


def keep_copies() -> None:
    """Start sinks as the engine does where an epoch is as large as the run."""
    start = ObjectSink.start

    async def starting(self: ObjectSink, progress: Progress) -> None:
        await start(self, replace(progress, bounded_epochs=False))

    ObjectSink.start = starting


def main(folder: Path) -> None:
    """Run the graph."""
    open_parts.WORTH_BYTES = uploads.CHUNK_BYTES = bucket.CHUNK_BYTES = LEAST_BYTES
    note_what_is_sent(folder)
    if "NVISY_TEST_COPIES" in os.environ:
        keep_copies()
    connections = build_connections({"store": json.loads(os.environ["NVISY_TEST_STORE"])})
    plan = compile_document(
        document(os.environ["NVISY_TEST_PREFIX"]), connections=connections, folder=folder
    )
    opened = open_connections(plan, connections, {})
    anyio.run(lambda: run_plan(plan, opened.by_name, storage=folder / "state"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
