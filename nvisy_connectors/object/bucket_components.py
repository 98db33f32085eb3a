"""The source and the sink that the connectors of all object stores are made of."""

from typing import Annotated, Any, TypeVar

from anyio import to_thread
from pydantic import StringConstraints

from nvisy_connectors.object.bucket import Bucket
from nvisy_connectors.object.bucket_connection import BucketConnection
from nvisy_connectors.object.params import ReadParams, WriteParams
from nvisy_connectors.object.sink import ObjectSink
from nvisy_connectors.object.source import ObjectSource
from nvisy_dagster.sdk import Component, connection_of

Prefix = Annotated[str, StringConstraints(max_length=1024, pattern=r"^([^/]|$)")]
"""What keys begin with."""


class BucketReadParams(ReadParams):
    """Which objects to read."""

    prefix: Prefix = ""
    """What the keys of the objects begin with, such as `handbook/`. It is an error when none
    does."""


class BucketWriteParams(WriteParams):
    """Where to write."""

    prefix: Prefix = ""
    """Folder within the bucket, such as `exports/daily/`."""


R = TypeVar("R", bound=BucketReadParams)
W = TypeVar("W", bound=BucketWriteParams)


class BucketSource(ObjectSource[R]):
    """Reads the objects of a bucket whose keys begin with a prefix."""

    requires = ("obstore",)
    extra = "object"

    def location(self) -> str | None:
        """The connection's location, and the prefix."""
        return _location(self, self.params.prefix)

    async def make_folder(self) -> Bucket:
        """The bucket below the prefix."""
        return await _bucket(self, self.params.prefix)


class BucketSink(ObjectSink[W]):
    """Writes objects below a prefix of a bucket."""

    requires = ("obstore",)
    extra = "object"

    def location(self) -> str | None:
        """The connection's location, and the prefix."""
        return _location(self, self.params.prefix)

    async def make_folder(self) -> Bucket:
        """The bucket below the prefix."""
        prefix = self.params.prefix.rstrip("/")
        return await _bucket(self, f"{prefix}/" if prefix else "")


def _location(component: Component[Any], prefix: str) -> str | None:
    base = component.connection.location() if component.connection else None
    return f"{base}/{prefix}".rstrip("/") if base else None


async def _bucket(component: Component[Any], prefix: str) -> Bucket:
    kind = component.connection_type or BucketConnection
    connection: BucketConnection = connection_of(component, kind)
    store = await to_thread.run_sync(connection.open_store)
    return Bucket(
        store,
        connection.location(),
        prefix,
        terms=connection.terms,
        lists_from_key=connection.lists_from_key,
    )
