"""Records and reading that the tests of this family share."""

import json
from contextlib import aclosing

import numpy as np
import pyarrow as pa
import pytest

from nvisy_dagster.sdk import ConfigError
from nvisy_dagster.sdk.envelope import with_envelope
from nvisy_dagster.sdk.identity import root_ids


def rows(count: int = 8, *, start: int = 0) -> pa.RecordBatch:
    """Rows of several types, some null."""
    columns = pa.RecordBatch.from_pydict({
        "text": [f"text {i} ü\n" for i in range(start, start + count)],
        "number": pa.array(
            [None if i == 3 else i for i in range(start, start + count)], pa.int64()
        ),
        "score": [i / 4 for i in range(start, start + count)],
        "tags": [[f"t{i}"] for i in range(start, start + count)],
    })
    positions = np.arange(start, start + count)
    return with_envelope(
        columns,
        ids=root_ids("test:rows", positions),
        uri="test:rows",
        positions=positions,
    )


def lines(values) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


async def drain(source, cursor=None):
    async with source, aclosing(source.read(cursor)) as batches:
        return [batch async for batch in batches]


async def records(source, cursor=None):
    return [row for batch in await drain(source, cursor) for row in batch.data.to_pylist()]


async def refusal(component):
    """The error that it begins with."""
    with pytest.raises(ConfigError) as caught:
        async with component:
            pass
    return caught.value
