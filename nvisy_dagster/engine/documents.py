"""Documents that several processes write: under a lease, or one after the other."""

import fcntl
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from nvisy_dagster.engine.failure import RunConflictError, StorageError
from nvisy_dagster.engine.storage import Fence, read_model, sync_folder, told, undamaged, write_json
from nvisy_dagster.engine.storage_place import store_of

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

_LOCK_SECONDS = 30.0


class VersionedDocument(Generic[M]):
    """A document that only the holder of a lease replaces.

    On local disk a fence is enough, see `reveal`. In an object store each write names the version
    that it replaces, which is the one that this object read or wrote last.

    Args:
        path: Where it is.
        kind: What it holds.
        remedy: What the user can do if it cannot be read.
        fence: Asked before each write.
    """

    def __init__(self, path: Path, kind: type[M], remedy: str, fence: Fence | None) -> None:
        self._path = path
        self._kind = kind
        self._remedy = remedy
        self._fence = fence
        self._version: Any = None

    @property
    def needs_claim(self) -> bool:
        """Whether it must be written once before an earlier holder is certain to be fenced."""
        return store_of(self._path) is not None

    def read(self) -> M | None:
        """The document, or `None` if there is none.

        Raises:
            StorageError: It is damaged, or another version wrote it.
        """
        mirrored = store_of(self._path)
        if mirrored is None:
            return read_model(self._path, self._kind, self._remedy)
        store, key = mirrored
        found = store.get(key)
        self._version = None if found is None else found.version
        with undamaged(self._path, self._remedy):
            return None if found is None else self._kind.model_validate_json(found.data)

    def write(self, document: M) -> None:
        """Replace the document; it is durable on return.

        Raises:
            StorageError: The disk is full or refuses, or another process replaced it.
        """
        mirrored = store_of(self._path)
        if mirrored is None:
            write_json(self._path, document.model_dump(mode="json"), self._fence)
            return
        store, key = mirrored
        if self._fence is not None:
            self._fence.check()
        version = store.put_if(key, document.model_dump_json().encode(), self._version)
        if version is None:
            if self._fence is not None:
                self._fence.check()
            raise StorageError(
                f"another process replaced {self._path.name} of {self._path.parent}",
                remedy="see that one run of the graph goes on at a time, then run again",
            )
        self._version = version

    def remove(self) -> None:
        """Remove a document on local disk, for good."""
        if self._path.exists():
            if self._fence is not None:
                self._fence.check()
            with told(self._path):
                self._path.unlink()
                sync_folder(self._path.parent)


def update_model(
    path: Path,
    kind: type[M],
    change: Callable[[M | None], tuple[M | None, T]],
    remedy: str,
) -> T:
    """Change a document that other processes change too, as if one after the other.

    Args:
        path: Where it is.
        kind: What it holds.
        change: Gets the document, returns what to write (`None` for nothing) and a result. Called
            again if another process was quicker.
        remedy: What the user can do if it cannot be read.

    Raises:
        StorageError: It is damaged, or cannot be written.
        RunConflictError: Another process keeps it locked.
    """
    mirrored = store_of(path)
    if mirrored is not None:
        store, key = mirrored

        def changed(data: bytes | None) -> tuple[bytes | None, T]:
            with undamaged(path, remedy):
                before = None if data is None else kind.model_validate_json(data)
            after, result = change(before)
            return None if after is None else after.model_dump_json().encode(), result

        return store.update(key, changed)
    with _locked(path.parent):
        after, result = change(read_model(path, kind, remedy))
        if after is not None:
            write_json(path, after.model_dump(mode="json"))
        return result


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as file:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise RunConflictError(
                        f"another process keeps {folder / 'lock'} locked",
                        remedy="a run may have been stopped at that place: continue or kill it",
                    ) from error
                time.sleep(0.005)
            else:
                break
        yield
