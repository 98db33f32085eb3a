"""Batches of texts, as a source would emit them, and an embeddings API that fails on demand."""

from collections.abc import AsyncIterator, Callable, Sequence

import numpy as np
import pyarrow as pa
import pytest
from servers.openai_stub import OpenAIStub

from nvisy_dagster.sdk.envelope import with_envelope
from nvisy_dagster.sdk.identity import root_ids

MakeBatch = Callable[..., pa.RecordBatch]


@pytest.fixture
def documents() -> MakeBatch:
    """Makes a batch of documents from texts and further columns."""

    def make(texts: Sequence[str | None] | pa.Array, **columns: object) -> pa.RecordBatch:
        column = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.string())
        payload = pa.record_batch({"text": column, **columns})
        positions = np.arange(len(column))
        return with_envelope(
            payload, ids=root_ids("test:", positions), uri="test:", positions=positions
        )

    return make


@pytest.fixture
async def stub() -> AsyncIterator[OpenAIStub]:
    async with OpenAIStub(dimensions=48).serve() as server:
        yield server
