"""What a `left` join makes in a collection, once there is a match that was not there before."""

import pyarrow as pa
import pytest
from test_qdrant_sink import ids_of, stored, write
from vector_records import embeddings

from nvisy_connectors.tabular.join import Join, JoinParams
from nvisy_connectors.vector.qdrant.sink import QdrantSinkParams
from nvisy_dagster.sdk.envelope import with_envelope
from nvisy_dagster.sdk.identity import root_ids

pytestmark = pytest.mark.anyio


def notes(texts):
    columns = pa.record_batch({"text": texts, "note": [f"on {text}" for text in texts]})
    uri = "file:///notes"
    positions = pa.array(range(len(texts))).to_numpy()
    return with_envelope(columns, ids=root_ids(uri, positions), uri=uri, positions=positions)


async def test_what_had_no_match_is_removed_by_itself(collection, connection, tmp_path):
    left = embeddings([2, 1])
    texts = left.column("text").to_pylist()
    params = QdrantSinkParams(collection=collection)
    runs = []
    for count in (1, 2, 1):
        join = Join(JoinParams(on=["text"], how="left"), node_id="join")
        right = notes(texts[:count])
        batches = list(join.gather({"left": [left], "right": [right]}, tmp_path))
        await write(params, connection, *batches)
        found = set(await stored(collection, connection))
        assert found == set().union(*map(ids_of, batches))
        runs.append(found)
    assert runs[0] == runs[2] != runs[1]
    assert [len(found) for found in runs] == [3, 3, 3]
