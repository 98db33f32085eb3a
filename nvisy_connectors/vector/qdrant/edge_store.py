"""A collection in a local folder, opened by Qdrant's engine inside this process.

Folders: `<path>/<collection>/` is the engine's, `<path>/.<collection>.lock` keeps other processes
out, `<path>/.<collection>.creating` is a creation that has not finished.

The engine runs without its write-ahead log: what matters is durable at `flush`, and a run that
dies repeats what follows its last commit anyway; without the log writing is twice as fast and
takes a third of the space. No index over the vectors is built either: the engine scans (5 ms for
20,000 vectors of 384), and building one would stop this process for seconds.
"""

import json
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

import numpy as np
from anyio import CancelScope, to_thread

from nvisy_connectors.vector.qdrant.store import (
    GRAPH_FIELD,
    ROOT_FIELD,
    SINK_FIELD,
    Collection,
    Owner,
    Page,
    PointId,
    Points,
    missing,
    not_plain,
)
from nvisy_dagster.sdk import ConfigError, TransientError
from nvisy_dagster.sdk.search import Hit

if TYPE_CHECKING:
    from filelock import FileLock
    from qdrant_edge import EdgeShard

T = TypeVar("T")

CONFIG_FILE = "edge_config.json"
LOCK_WAIT_SECONDS = 1.0

_ROWS_PER_UPDATE = 500
"""The engine holds the interpreter while it updates: about 5 ms for this many points."""


@dataclass
class _Shard:
    """A collection that this process has open, whoever in it uses it."""

    edge: "EdgeShard"
    lock: "FileLock"
    users: int = 1
    gate: threading.Lock = field(default_factory=threading.Lock)
    """One change at a time."""


# A process can open a collection once, but a graph may read and write it, or write it twice.
_shards: dict[Path, _Shard] = {}
_shards_gate = threading.Lock()


class EdgeStore:
    """One collection of a local folder."""

    def __init__(self, folder: Path, collection: str) -> None:
        self._folder = folder
        self._name = collection
        self._home = folder / collection
        self._location = f"{folder.as_uri()}/{quote(collection, safe='')}"
        self._shard: _Shard | None = None

    async def open(self) -> None:
        """Open the collection if there is one.

        Raises:
            ConfigError: The folder holds something else, or cannot be used.
            TransientError: Another process has the collection open.
        """
        await to_thread.run_sync(self._open_if_there)

    async def close(self) -> None:
        """Let go of the collection; the last user in this process closes it."""
        with CancelScope(shield=True):
            await to_thread.run_sync(self._release)

    async def describe(self) -> Collection | None:
        """Dimension and distance, as the engine's own configuration file has them."""
        return await to_thread.run_sync(self._describe)

    async def create(self, collection: Collection) -> None:
        """Create the collection, or open it if it exists by now."""
        await to_thread.run_sync(self._create, collection)

    async def index_root(self) -> None:
        """Does nothing: `create` made the index, and without one the engine scans."""

    async def is_empty(self) -> bool:
        """Whether the collection holds no point."""
        return await self._call(lambda edge: edge.info().points_count == 0)

    async def upsert(self, points: Points) -> Mapping[int, str]:
        """Write points; they are durable after `flush`."""
        await self._change(lambda edge: _upsert(edge, points))
        return {}

    async def delete_stale(self, owner: Owner, roots: Sequence[str], keep: Sequence[str]) -> None:
        """Remove what `owner` wrote for these roots under other ids than those to keep."""
        await self._change(lambda edge: _delete_stale(edge, owner, roots, keep))

    async def flush(self) -> None:
        """Write everything to disk."""
        await self._change(lambda edge: edge.flush())

    async def page(self, start: PointId | None, limit: int) -> Page:
        """Up to `limit` points from the id `start` on."""
        return await self._call(lambda edge: _page(edge, start, limit))

    async def search(self, vector: Sequence[float], limit: int) -> Sequence[Hit]:
        """The nearest points, best first, by a full scan."""
        return await self._call(lambda edge: _search(edge, vector, limit))

    async def _change(self, change: Callable[["EdgeShard"], None]) -> None:
        shard = self._opened()

        def alone() -> None:
            with shard.gate:
                self._translated(lambda: change(shard.edge))

        await to_thread.run_sync(alone)

    async def _call(self, call: Callable[["EdgeShard"], T]) -> T:
        shard = self._opened()
        return await to_thread.run_sync(lambda: self._translated(lambda: call(shard.edge)))

    def _opened(self) -> _Shard:
        if self._shard is None:
            raise missing(self._name, self._folder.as_uri())
        return self._shard

    def _translated(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except Exception as error:
            if type(error) is not Exception:  # a ValueError or TypeError is our own mistake
                raise
            # The engine has no error classes: it raises a bare Exception with a text.
            raise TransientError(
                f"Qdrant's engine failed on {self._location}: {error}",
                remedy="check the free space and permissions of the folder",
                tag="server",
            ) from error

    def _open_if_there(self) -> None:
        if self._shard is not None:
            return
        if self._describe() is not None:
            self._shard = self._acquire(None)

    def _describe(self) -> Collection | None:
        try:
            text = (self._home / CONFIG_FILE).read_text("utf-8")
        except FileNotFoundError:
            if self._home.is_dir() and any(self._home.iterdir()):
                raise ConfigError(
                    f"{self._location} holds files, but no Qdrant collection",
                    remedy="choose another 'path' or 'collection', or empty the folder",
                ) from None
            return None
        except OSError as error:
            raise _unusable(self._home, error) from error
        return _parse_config(text, self._name)

    def _create(self, collection: Collection) -> None:
        if self._shard is None:
            self._shard = self._acquire(collection)

    def _acquire(self, to_create: Collection | None) -> _Shard:
        """Open the collection, or share what this process has open."""
        with _shards_gate:
            shard = _shards.get(self._home)
            if shard is not None:
                shard.users += 1
                return shard
            lock = self._locked()
            try:
                if to_create is not None and self._describe() is None:
                    self._make(to_create)
                shard = _Shard(self._load(), lock)
            except BaseException:
                lock.release()
                raise
            _shards[self._home] = shard
            return shard

    def _release(self) -> None:
        shard, self._shard = self._shard, None
        if shard is None:
            return
        with _shards_gate:
            shard.users -= 1
            if shard.users:
                return
            del _shards[self._home]
            try:
                self._translated(shard.edge.close)
            finally:
                shard.lock.release()

    def _locked(self) -> "FileLock":
        from filelock import FileLock, Timeout

        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Acquired in one worker thread and released in another.
            lock = FileLock(self._folder / f".{self._name}.lock", thread_local=False)
            lock.acquire(timeout=LOCK_WAIT_SECONDS)
        except Timeout as error:
            raise TransientError(
                f"{self._location} is open in another process",
                remedy="a local folder serves one process at a time: wait for the other one, or "
                "use a Qdrant server ('url' of the connection)",
                tag="conflict",
            ) from error
        except OSError as error:
            raise _unusable(self._folder, error) from error
        return lock

    def _make(self, collection: Collection) -> None:
        """Create beside, then rename: a folder with the collection's name is always whole."""
        unfinished = self._folder / f".{self._name}.creating"
        shutil.rmtree(unfinished, ignore_errors=True)
        self._translated(lambda: _make_shard(unfinished, collection))
        unfinished.rename(self._home)
        _sync_folder(self._folder)

    def _load(self) -> "EdgeShard":
        from qdrant_edge import EdgeShard

        return self._translated(lambda: EdgeShard.load(str(self._home)))


def _parse_config(text: str, name: str) -> Collection:
    try:
        vectors = json.loads(text)["vectors"]
        plain = vectors[""] if list(vectors) == [""] else None
        if plain is not None and not plain.get("multivector_config"):
            return Collection(int(plain["size"]), str(plain["distance"]).lower())
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{CONFIG_FILE} of collection {name!r} cannot be read: {error}",
            remedy="restore the folder, or delete it and run again",
        ) from error
    raise not_plain(name)


def _make_shard(folder: Path, collection: Collection) -> None:
    import qdrant_edge as qe

    distances = {"cosine": qe.Distance.Cosine, "dot": qe.Distance.Dot, "euclid": qe.Distance.Euclid}
    params = qe.EdgeVectorParams(size=collection.dimension, distance=distances[collection.distance])
    edge = qe.EdgeShard.create(str(folder), qe.EdgeConfig(vectors=params, wal_enabled=False))
    edge.update(qe.UpdateOperation.create_field_index(ROOT_FIELD, qe.PayloadSchemaType.Uuid))
    edge.flush()
    edge.close()


def _upsert(edge: "EdgeShard", points: Points) -> None:
    from qdrant_edge import Point, UpdateOperation

    for start in range(0, len(points), _ROWS_PER_UPDATE):
        part = points.slice(start, start + _ROWS_PER_UPDATE)
        rows = zip(part.ids, part.vectors.tolist(), part.payloads, strict=True)
        edge.update(
            UpdateOperation.upsert_points([Point(i, v, dict(payload)) for i, v, payload in rows])
        )


def _delete_stale(
    edge: "EdgeShard", owner: Owner, roots: Sequence[str], keep: Sequence[str]
) -> None:
    import qdrant_edge as qe

    edge.update(
        qe.UpdateOperation.delete_points_by_filter(
            qe.Filter(
                must=[
                    qe.FieldCondition(ROOT_FIELD, match=qe.MatchAny(list(roots))),
                    qe.FieldCondition(SINK_FIELD, match=qe.MatchValue(owner.node)),
                    qe.FieldCondition(GRAPH_FIELD, match=qe.MatchValue(owner.graph)),
                ],
                must_not=[qe.HasIdCondition(set(keep))] if keep else None,
            )
        )
    )


def _page(edge: "EdgeShard", start: PointId | None, limit: int) -> Page:
    from qdrant_edge import ScrollRequest

    records, following = edge.scroll(
        ScrollRequest(offset=start, limit=limit, with_payload=True, with_vector=True)
    )
    return Page(
        ids=[_point_id(record.id) for record in records],
        vectors=np.array([record.vector for record in records], np.float32),
        payloads=[record.payload or {} for record in records],
        next=None if following is None else _point_id(following),
    )


def _search(edge: "EdgeShard", vector: Sequence[float], limit: int) -> list[Hit]:
    from qdrant_edge import Query, QueryRequest

    found = edge.query(
        QueryRequest(query=Query.Nearest(list(vector), ""), limit=limit, with_payload=True)
    )
    return [Hit(str(point.id), point.score, point.payload or {}) for point in found]


def _point_id(value: int | str | uuid.UUID) -> PointId:
    return value if isinstance(value, int) else str(value)


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # systems on which a folder cannot be opened make renames durable themselves
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unusable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"the folder {folder} cannot be used: {error.strerror or error}",
        remedy="check 'path' of the connection and the permissions of the folder",
    )
