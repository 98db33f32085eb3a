"""A bucket of an object store, or what lies under a prefix of it."""

import asyncio
import datetime as dt
import io
import re
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, aclosing, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import anyio
import pyarrow as pa
from anyio import to_thread

from nvisy_connectors.object.errors import S3_TERMS, StoreTerms, changed, store_error
from nvisy_connectors.object.folder import Folder, ObjectInfo, Span
from nvisy_connectors.object.pipeline import together, uncancelled
from nvisy_connectors.object.read_memory import Bytes, Piece, ReadMemory
from nvisy_connectors.object.uploads import CHUNK_BYTES, Upload
from nvisy_dagster.sdk import ConfigError, NvisyError

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

MAX_REQUESTS = 64
"""Requests in flight at once; small objects are bound by latency alone."""

UPLOAD_REQUESTS = 2
"""Chunks of one object that are sent at once, and kept in memory meanwhile."""

DELETE_OBJECTS = 1000
"""Objects that one request deletes."""


class Bucket(Folder):
    """Objects of a store whose keys begin with a prefix.

    Args:
        store: The store of the whole bucket.
        uri: Address of the bucket, such as `s3://lake`.
        prefix: What all keys begin with, as characters, not as a folder: `logs/2024-` is fine.
        terms: How the store is called.
        lists_from_key: Whether the store can begin a listing behind a key.
    """

    takes_pieces = True

    def __init__(
        self,
        store: "ObjectStore",
        uri: str,
        prefix: str = "",
        *,
        terms: StoreTerms = S3_TERMS,
        lists_from_key: bool = True,
    ) -> None:
        self._store: Any = store
        self._terms = terms
        self._lists_from_key = lists_from_key
        self._uri = uri
        self._prefix = prefix
        self.may_be_empty = not prefix
        self.whole_names = not prefix or prefix.endswith("/")
        self._requests = anyio.Semaphore(MAX_REQUESTS)

    def uri(self, key: str) -> str:
        """`s3://bucket/key`."""
        return f"{self._uri}/{self._prefix}{key}"

    async def listing(self, after: str | None = None) -> AsyncGenerator[Sequence[ObjectInfo], None]:
        """Objects in the order in which the store lists them."""
        skipped = after is not None and not self._lists_from_key
        found = self._listing_behind(after or "") if skipped else self._pages(after)
        async with aclosing(found) as pages:
            async for page in pages:
                yield page

    async def _listing_behind(self, after: str) -> AsyncGenerator[Sequence[ObjectInfo], None]:
        """What follows a key where the store cannot begin at one: from the first on, and skip."""
        last, ascending, passed = "", True, False
        async with aclosing(self._pages()) as pages:
            async for page in pages:
                keys = [info.key for info in page]
                rest = page
                if not passed:
                    passed = after in keys
                    rest = page[keys.index(after) + 1 :] if passed else []
                    ascending = ascending and [last, *keys] == sorted([last, *keys])
                    last = keys[-1]
                if rest:
                    yield rest
        if passed:
            return
        if not ascending:
            raise ConfigError(
                f"{self.uri(after)} is gone after it was read, and nothing else tells where the "
                "read has stopped",
                remedy="run the graph again from the beginning",
                tag="changed",
            )
        async with aclosing(self._pages()) as pages:
            async for page in pages:
                if rest := [info for info in page if info.key > after]:
                    yield rest

    async def _pages(self, after: str | None = None) -> AsyncGenerator[Sequence[ObjectInfo], None]:
        # The client's prefix is a whole folder; what is left of ours filters.
        folder = self._prefix.rpartition("/")[0]
        offset = None if after is None else self._prefix + after
        with self._errors(""):
            pages = self._store.list(prefix=folder or None, offset=offset)
        while True:
            with self._errors(""):
                # A stream that is dropped within a request panics, and that ends the process.
                page = await uncancelled(asyncio.ensure_future(_next(pages)), pages)
            if page is None:
                return
            found = [
                self._info(meta)
                for meta in page
                # A zero-byte object named like a folder is a marker that consoles make.
                if meta["path"].startswith(self._prefix) and not meta["path"].endswith("/")
            ]
            if found:
                yield found

    async def head(self, key: str) -> ObjectInfo | None:
        """The object as it is now."""
        try:
            with self._errors(key):
                return self._info(await self._store.head_async(self._prefix + key))
        except NvisyError as error:
            if isinstance(error.__cause__, FileNotFoundError) and error.tag == "changed":
                return None
            raise

    async def fetch(
        self,
        spans: Sequence[Span],
        memory: ReadMemory | None = None,  # noqa: ARG002 - the client brings its own
    ) -> list[Bytes]:
        """All spans at once, within the limit of requests."""
        return await together(self._fetch(span) for span in spans)

    def open(self, info: ObjectInfo) -> pa.NativeFile:
        """Random access by one request per read."""
        return pa.PythonFile(_RangeFile(self, info), mode="r")

    def close(self) -> None:
        """Drop the client, whose connections close with it."""
        self._store = None

    async def make_spool(self, writer: str, holder: int) -> Path:
        """A temporary folder of this machine."""
        earlier = re.compile(rf"nvisy-{re.escape(writer)}\.\d+-\w+")

        def make() -> Path:
            for left in Path(tempfile.gettempdir()).iterdir():
                if earlier.fullmatch(left.name):
                    shutil.rmtree(left, ignore_errors=True)
            return Path(tempfile.mkdtemp(prefix=f"nvisy-{writer}.{holder}-"))

        return await to_thread.run_sync(make)

    async def publish(self, file: Path, key: str) -> None:
        """Upload in parts; the object appears when the last part is there."""
        with self._errors(key):
            await self._store.put_async(
                self._prefix + key, file, chunk_size=CHUNK_BYTES, max_concurrency=UPLOAD_REQUESTS
            )

    def begin(self, key: str) -> Upload:
        """An upload in parts."""
        return _BucketUpload(self._store, self._prefix + key, lambda: self._errors(key))

    async def flush(self) -> None:
        """Nothing to do: an answered request is durable."""

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete in bulk."""
        for start in range(0, len(keys), DELETE_OBJECTS):
            page = [self._prefix + key for key in keys[start : start + DELETE_OBJECTS]]
            try:
                with self._errors(""):
                    await self._store.delete_async(page)
            except NvisyError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise
                # It stopped at one that is gone already.
                await together(self._delete_one(path) for path in page)

    async def _delete_one(self, path: str) -> None:
        async with self._requests:
            with self._errors(path.removeprefix(self._prefix)), suppress(FileNotFoundError):
                await self._store.delete_async(path)

    def read_on(self, info: ObjectInfo, start: int, size: int) -> Iterator[Piece]:
        """One request: a store takes twice the time for as many as there are pieces."""
        with self._errors(info.key):
            options = _options(info, start, info.size)
            result = self._store.get(self._prefix + info.key, options=options)
            pieces = iter(result.stream(min_chunk_size=size))
        read = start
        while True:
            with self._errors(info.key):
                piece = next(pieces, None)
            if piece is None:
                break
            read += len(piece)
            self._check(info, result.meta, min(read, info.size), read)
            yield memoryview(piece)
        self._check(info, result.meta, read, info.size)

    def read_range(self, info: ObjectInfo, start: int, end: int) -> memoryview:
        """Bytes of the version that was listed, as the client holds them; blocks.

        Raises:
            ConfigError: The store refuses.
            TransientError: The store cannot be reached now, or the object changed since.
        """
        with self._errors(info.key):
            options = _options(info, start, end)
            result = self._store.get(self._prefix + info.key, options=options)
            data = memoryview(result.bytes())
        self._check(info, result.meta, len(data), end - start)
        return data

    async def _fetch(self, span: Span) -> bytes:
        if not span.size:
            return b""
        info = span.info
        async with self._requests:
            with self._errors(info.key):
                options = _options(info, span.start, span.end)
                result = await self._store.get_async(self._prefix + info.key, options=options)
                data = (await result.bytes_async()).to_bytes()
        self._check(info, result.meta, len(data), span.size)
        return data

    def _check(self, info: ObjectInfo, meta: "ObjectMeta", size: int, expected: int) -> None:
        if _version(meta) != info.version or size != expected:
            raise changed(self.uri(info.key))

    def _info(self, meta: "ObjectMeta") -> ObjectInfo:
        key = meta["path"].removeprefix(self._prefix)
        # Some stores list fractions of a second that they do not tell of one object.
        return ObjectInfo(key, meta["size"], _version(meta), _modified(meta))

    def _errors(self, key: str) -> AbstractContextManager[None]:
        return _ToldErrors(self.uri(key), self._terms)


class _ToldErrors(AbstractContextManager[None]):
    """Turns what a client raises into errors that name the object.

    No generator: Python 3.13 keeps what is thrown into one, and with it the client and its sockets,
    until garbage is collected.
    """

    def __init__(self, uri: str, terms: StoreTerms) -> None:
        self._uri = uri
        self._terms = terms

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        from obstore.exceptions import BaseError

        if isinstance(error, BaseError | OSError | ValueError):
            raise store_error(error, self._uri, self._terms) from error


class _BucketUpload(Upload):
    def __init__(
        self,
        store: "ObjectStore",
        path: str,
        errors: Callable[[], AbstractContextManager[None]],
    ) -> None:
        from obstore import open_writer_async

        self._errors = errors
        self._file = open_writer_async(
            store, path, buffer_size=CHUNK_BYTES, max_concurrency=UPLOAD_REQUESTS
        )

    async def write(self, data: bytes | memoryview) -> None:
        with self._errors():
            await self._file.write(data)

    async def close(self) -> None:
        with self._errors():
            await self._file.close()


class _RangeFile(io.RawIOBase):
    def __init__(self, bucket: Bucket, info: ObjectInfo) -> None:
        self._bucket = bucket
        self._info = info
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._info.size}[whence]
        self._place = base + offset
        return self._place

    def read(self, size: int | None = -1) -> bytes | memoryview:  # pyright: ignore[reportIncompatibleMethodOverride] - Arrow takes both
        end = self._info.size if size is None or size < 0 else self._place + size
        end = min(end, self._info.size)
        if end <= self._place:
            return b""
        data = self._bucket.read_range(self._info, self._place, end)
        self._place = end
        return data


async def _next(pages: Any) -> Any:  # noqa: ANN401 - obstore is imported when used
    return await anext(pages.__aiter__(), None)


def _options(info: ObjectInfo, start: int, end: int) -> dict[str, Any]:
    options: dict[str, Any] = {"range": (start, end)}
    if info.version.startswith('"'):  # an ETag; the store compares it before it sends
        options["if_match"] = info.version
    return options


def _version(meta: "ObjectMeta") -> str:
    tag = meta["e_tag"]
    if tag:
        # Azure lists it without the quotes that it has everywhere else.
        return tag if '"' in tag else f'"{tag}"'
    return f"{meta['size']:x}-{int(_modified(meta).timestamp()):x}"


def _modified(meta: "ObjectMeta") -> dt.datetime:
    return meta["last_modified"].replace(microsecond=0)
