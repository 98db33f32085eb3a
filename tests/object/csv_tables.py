"""Read and write CSV files as a graph does."""

from object_records import drain

from nvisy_connectors.object.local import LocalSource, LocalSourceParams
from nvisy_dagster.sdk.envelope import payload


def source(path, **params):
    return LocalSource(LocalSourceParams(path=str(path), format="csv", **params), node_id="read")


def write(path, data: bytes):
    path.write_bytes(data)
    return path


async def table(path, **params):
    """Rows and the type of each column."""
    batches = [payload(batch.data) for batch in await drain(source(path, **params))]
    types = {f.name: str(f.type) for f in batches[0].schema} if batches else {}
    return [row for batch in batches for row in batch.to_pylist()], types
