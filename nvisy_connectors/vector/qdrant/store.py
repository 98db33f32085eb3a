"""What the components need of Qdrant, whichever back end does it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import StringConstraints

from nvisy_dagster.sdk import ConfigError
from nvisy_dagster.sdk.search import Hit

Distance = Literal["cosine", "dot", "euclid"]

PointId = int | str
"""As Qdrant has it: an unsigned integer, or a UUID as text."""

CollectionName = Annotated[
    str,
    StringConstraints(
        pattern=r'^[^.<>:"/\\|?*\x00-\x1f][^<>:"/\\|?*\x00-\x1f]*$', min_length=1, max_length=200
    ),
]
"""What Qdrant allows, less a leading dot: the name is also the name of a folder."""

ROOT_FIELD = "_root_id"
"""Payload field by which the records of one source record are found; it gets an index."""

SINK_FIELD = "_sink"
"""Payload field that names the node which wrote the point: a sink only removes its own."""

GRAPH_FIELD = "_graph"
"""Payload field that names the graph of that node."""


@dataclass(frozen=True)
class Owner:
    """Who wrote a point, as its payload says."""

    graph: str
    node: str


@dataclass(frozen=True)
class Collection:
    """What must agree between a collection and the vectors written to it."""

    dimension: int
    distance: str
    """`cosine`, `dot`, `euclid`, or another that Qdrant has and we do not create."""


@dataclass(frozen=True)
class Points:
    """Points to write, row by row."""

    ids: Sequence[PointId]
    vectors: npt.NDArray[np.float32]
    """Shape `(n, dimension)`, finite."""
    payloads: Sequence[Mapping[str, Any]]

    def __len__(self) -> int:
        return len(self.ids)

    def slice(self, start: int, stop: int) -> "Points":
        """The rows from `start` up to `stop`."""
        return Points(self.ids[start:stop], self.vectors[start:stop], self.payloads[start:stop])


@dataclass(frozen=True)
class Page:
    """Stored points in the order of their ids."""

    ids: Sequence[PointId]
    vectors: npt.NDArray[np.float32]
    """Shape `(n, dimension)`."""
    payloads: Sequence[Mapping[str, Any]]
    next: PointId | None
    """Id that the next page begins with; `None` after the last."""


class Store(Protocol):
    """One collection. Every method raises `ConfigError` or `TransientError` as the case is."""

    async def open(self) -> None:
        """Acquire what is needed; a missing collection is no error."""
        ...

    async def close(self) -> None:
        """Release everything; may be called twice."""
        ...

    async def describe(self) -> Collection | None:
        """Dimension and distance; `None` when there is no such collection.

        Raises:
            ConfigError: The collection has named, sparse or multi-vectors.
        """
        ...

    async def create(self, collection: Collection) -> None:
        """Create the collection, with an index on the root field, unless it exists by now."""
        ...

    async def index_root(self) -> None:
        """Create the index on the root field of an existing collection, unless it has one."""
        ...

    async def is_empty(self) -> bool:
        """Whether the collection holds no point."""
        ...

    async def upsert(self, points: Points) -> Mapping[int, str]:
        """Write points; gives the rows that Qdrant refused, each with its reason."""
        ...

    async def delete_stale(self, owner: Owner, roots: Sequence[str], keep: Sequence[str]) -> None:
        """Remove what `owner` wrote for these roots under other ids than those to keep."""
        ...

    async def flush(self) -> None:
        """Return when every call that has returned is durable."""
        ...

    async def page(self, start: PointId | None, limit: int) -> Page:
        """Up to `limit` points from the id `start` on."""
        ...

    async def search(self, vector: Sequence[float], limit: int) -> Sequence[Hit]:
        """The nearest points, best first."""
        ...


def missing(name: str, location: str | None) -> ConfigError:
    """The error of asking for a collection that is not there."""
    return ConfigError(
        f"there is no collection {name!r} in {location}",
        remedy="run a graph that writes it first, or correct the param 'collection'",
        tag="not_found",
    )


def not_plain(name: str) -> ConfigError:
    """The error of a collection that does not hold exactly one unnamed dense vector a point."""
    return ConfigError(
        f"collection {name!r} has named, sparse or multi-vectors",
        remedy="use a collection with a single unnamed dense vector, or another name",
        tag="schema",
    )
