"""What tests of failing stores share."""

import hashlib
import os
from contextlib import contextmanager

import pyarrow as pa
from object_records import rows

from nvisy_connectors.object import bucket_connection
from nvisy_dagster.sdk import EpochLostError, TransientError

LARGE = 12
"""Rows of 1 MB: a part that is uploaded in several requests."""


def large_rows():
    batch = rows(LARGE)
    texts = [os.urandom(500_000).hex() for _ in range(LARGE)]
    return batch.set_column(batch.schema.get_field_index("text"), "text", pa.array(texts))


@contextmanager
def retries(count, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(bucket_connection, "RETRIES", count)
        yield


def through(proxy, store):
    """A connection by way of the proxy."""
    address = store.endpoint.removeprefix("http://").partition("/")[0]
    return store.connection(endpoint=store.endpoint.replace(f"http://{address}", proxy.endpoint))


def digest(data):
    return hashlib.sha256(data).hexdigest()


async def try_often(function, times=10):
    """As the engine's retry does."""
    for _ in range(times):
        try:
            return await function()
        except EpochLostError:
            raise
        except TransientError as error:
            last = error
    raise last
