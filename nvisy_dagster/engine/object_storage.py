"""State in an object store: documents that are replaced on condition, and files.

Credentials and the address come from the environment, in the variables of the store's own tools:
`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT_URL`;
`GOOGLE_APPLICATION_CREDENTIALS`, `GOOGLE_BASE_URL`; `AZURE_STORAGE_ACCOUNT_NAME`,
`AZURE_STORAGE_ACCOUNT_KEY`, `AZURE_STORAGE_ENDPOINT`.

An answer can be lost after the store did what it was asked. A write without condition is simply
tried again. One with a condition is looked after: who finds his own words there has written them.
"""

import os
import random
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nvisy_dagster.engine.failpoint import failpoint
from nvisy_dagster.engine.failure import StorageError
from nvisy_dagster.engine.object_errors import kind_of, reason_of, unanswered

if TYPE_CHECKING:
    from obstore.store import ObjectStore

T = TypeVar("T")

_ENDPOINTS = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "GOOGLE_BASE_URL",
    "AZURE_STORAGE_ENDPOINT",
    "AZURE_ENDPOINT",
)
"""Variables that name the address of a store."""
RETRIES = 5
RETRY_SECONDS = 30
"""What the client does by itself, when the store is busy."""
PUTS = 4
"""How often a conditional write is tried whose answer was lost, with what the client does each
time."""
PUT_SECONDS = 0.2
"""The first pause between them; each is twice as long as the one before."""
CONTENDERS = 100
"""How often a change is tried while other processes are quicker."""
CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class Found:
    """A document as it was read."""

    data: bytes
    version: Any
    """Names this state of it in a conditional write."""


class ObjectStorage:
    """The objects below a URL; keys are relative to it. Every call blocks.

    Args:
        url: Such as `s3://bucket/prefix`.

    Raises:
        StorageError: By every method, if the store refuses or cannot be reached.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        with self._told(""):
            self._store = _open(url)

    def get(self, key: str) -> Found | None:
        """A document, or `None` if there is none."""
        with self._told(key):
            try:
                found = self._store.get(key)
                version = _version(found.meta)
                return Found(bytes(found.bytes()), version)
            except FileNotFoundError:
                return None

    def put(self, key: str, data: bytes) -> None:
        """Write a document, whatever is there."""
        with self._told(key):
            self._store.put(key, data)

    def put_if(self, key: str, data: bytes, version: Any) -> Any:  # noqa: ANN401 - the store's own
        """Write a document if it is still of this version (`None`: if there is none).

        Returns:
            Its version now; `None` if it was another, and nothing was written.
        """
        failpoint("object.before_put")
        with self._told(key):
            for attempt in range(PUTS):
                try:
                    return self._put_once(key, data, version)
                except unanswered() as error:
                    # It may have been done all the same, and only the answer is lost.
                    found = self.get(key)
                    if found is not None and found.data == data:
                        return found.version
                    if not _same(None if found is None else found.version, version):
                        return None
                    if attempt + 1 == PUTS or kind_of(error)[0] == "quota":
                        raise
                    time.sleep(PUT_SECONDS * 2**attempt)
        raise AssertionError("unreachable")

    def _put_once(self, key: str, data: bytes, version: Any) -> Any:  # noqa: ANN401 - the store's own
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            written = self._store.put(
                key, data, mode="create" if version is None else version, use_multipart=False
            )
            return _version(written)
        except FileNotFoundError:
            if version is None:
                raise  # there is no bucket
            return None
        except (AlreadyExistsError, PreconditionError):
            # An answer may have been lost, and the client tried again: then it is ours.
            found = self.get(key)
            return found.version if found is not None and found.data == data else None

    def update(self, key: str, change: Callable[[bytes | None], tuple[bytes | None, T]]) -> T:
        """Change a document that other processes change too, as if one after the other.

        Args:
            key: The document.
            change: Gets it, returns what to write (`None` for nothing) and a result.
        """
        for attempt in range(CONTENDERS):
            found = self.get(key)
            after, result = change(None if found is None else found.data)
            if after is None:
                return result
            if self.put_if(key, after, None if found is None else found.version) is not None:
                return result
            time.sleep(random.uniform(0, 0.02 * min(attempt + 1, 20)))  # noqa: S311 - spreads them
        raise StorageError(
            f"{self.url}/{key} is changed all the time by other processes",
            remedy="run it again when fewer runs of the graph begin at once",
        )

    def names(self, folder: str) -> list[str]:
        """Names of what is right below a folder, objects and folders."""
        with self._told(folder):
            listed = self._store.list_with_delimiter(folder or None)
            paths = [*listed["common_prefixes"], *(found["path"] for found in listed["objects"])]
        return [path.rstrip("/").rpartition("/")[2] for path in paths]

    def names_below(self, folder: str) -> list[str]:
        """Names, relative to a folder, of all objects below it."""
        with self._told(folder):
            batches = self._store.list(folder, chunk_size=1000)
            return [
                found["path"].removeprefix(f"{folder}/") for batch in batches for found in batch
            ]

    def is_file(self, key: str) -> bool:
        """Whether there is an object of this key."""
        with self._told(key):
            try:
                self._store.head(key)
            except FileNotFoundError:
                return False
            return True

    def is_kept(self, key: str) -> bool:
        """Whether there is an object of this key, or anything below it."""
        return self.is_file(key) or bool(self.names(key))

    def upload(self, key: str, file: Path) -> None:
        """Write a file, whatever is there; it is durable on return."""
        failpoint("object.before_upload")
        with self._told(key):
            self._store.put(key, file)
        failpoint("object.after_upload")

    def download(self, key: str, file: Path) -> None:
        """Read an object into a file, which appears whole or not at all.

        Raises:
            FileNotFoundError: There is no such object.
        """
        temporary = file.with_name(f"{file.name}.{os.getpid()}.fetched")
        with self._told(key):
            try:
                found = self._store.get(key)
            except FileNotFoundError as error:
                raise _MissingError(f"{self.url}/{key} is gone") from error
            file.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as copy:
                for chunk in found.stream(min_chunk_size=CHUNK_BYTES):
                    copy.write(chunk)
            temporary.replace(file)

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; one that is not there is fine."""
        with self._told(keys[0] if keys else ""):
            try:
                self._store.delete(list(keys))
            except FileNotFoundError:
                return

    def delete_below(self, folder: str) -> None:
        """Remove all objects of a folder."""
        with self._told(folder):
            for batch in self._store.list(folder, chunk_size=1000):
                self.delete([found["path"] for found in batch])

    @contextmanager
    def _told(self, key: str) -> Generator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        except _MissingError as error:
            raise FileNotFoundError(str(error)) from error
        except (BaseError, OSError, ValueError) as error:
            tag, remedy = kind_of(error)
            raise StorageError(
                f"{self.url}/{key}: {reason_of(error)}", remedy=remedy, tag=tag
            ) from (error)


class _MissingError(Exception):
    pass


def _version(meta: Any) -> Any:  # noqa: ANN401 - a dict of the store's own
    return {name: meta[name] for name in ("e_tag", "version") if meta.get(name) is not None}


def _open(url: str) -> "ObjectStore":
    try:
        from obstore.store import from_url
    except ImportError as error:
        raise StorageError(
            f"state at {url} needs obstore, which is not installed",
            remedy="pip install 'nvisy-dagster[object]'",
        ) from error
    plain = any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS)
    return from_url(
        url,
        client_options={"allow_http": plain, "timeout": "120s"},
        retry_config={
            "max_retries": RETRIES,
            "retry_timeout": timedelta(seconds=RETRY_SECONDS),
        },
    )


def _same(one: Any, other: Any) -> bool:  # noqa: ANN401 - a dict of the store's own
    """Whether two versions are one, as far as both say."""
    if one is None or other is None:
        return one is other
    return all(one[name] == other[name] for name in one.keys() & other.keys())


@cache
def open_object_storage(url: str) -> ObjectStorage:
    """The store of a URL, one per process."""
    return ObjectStorage(url)
