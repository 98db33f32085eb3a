"""Where runs keep their state: a folder on local disk, or a prefix in an object store.

<storage>/graphs/<graph>/chains.json          the attempt chains, and which is the current one
<storage>/graphs/<graph>/<progress>/<stage>/  checkpoint.json, lease/*.json, edges/<output>/*.arrow

Everybody else speaks of paths. A path below a work folder, whose name is the URL of a store, means
an object there: documents are read and written there and nowhere else; parts are written to the
local path, published when they are committed, and fetched where they are missing. So a run can be
taken up on another machine that has nothing but the URL.
"""

import errno
import itertools
import json
import os
import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel

from nvisy_dagster.engine.failpoint import failpoint
from nvisy_dagster.engine.failure import StorageError
from nvisy_dagster.engine.storage_place import here, store_of

M = TypeVar("M", bound=BaseModel)

_numbers = itertools.count()
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class Fence(Protocol):
    """What says, right before a write becomes visible, whether it still may."""

    token: int

    def check(self) -> None:
        """Raise if it may not."""
        ...


def check_reachable(root: Path) -> None:
    """See that an object store answers; returns at once if storage is local.

    Raises:
        StorageError: It does not, or refuses.
    """
    if store_of(root) is not None:
        names(root)


def write_json(path: Path, document: Any, fence: Fence | None = None) -> None:  # noqa: ANN401 - any JSON
    """Replace a document atomically: a reader, or a restart after a crash, sees the old or the new.

    Args:
        path: Where it is.
        document: What to write.
        fence: Asked after the document is on disk, and before anyone can see it.

    Raises:
        StorageError: The disk is full or refuses.
    """
    data = _to_json(document)
    mirrored = store_of(path)
    if mirrored is not None:
        if fence is not None:
            fence.check()
        store, key = mirrored
        store.put(key, data)
        return
    temporary = _temporary(path)
    with told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_durably(temporary, data)
    failpoint("storage.before_rename")
    if fence is not None:
        fence.check()
    reveal(temporary, path, fence)
    failpoint("storage.after_rename")


def reveal(temporary: Path, path: Path, fence: Fence | None = None) -> None:
    """Rename a file whose content is durable to where readers look; durable on return.

    The file was made before the fence was asked. So if another run takes over in between, it finds
    and removes the file, and nothing appears here.

    Raises:
        StorageError: The disk refuses.
    """
    try:
        with told(path):
            temporary.replace(path)
            sync_folder(path.parent)
    except StorageError:
        if fence is not None and not temporary.exists():
            fence.check()
        raise


def create_json(path: Path, document: Any) -> bool:  # noqa: ANN401 - any JSON
    """Make a document, whole, unless there is one of this name; it is durable on return.

    Returns:
        Whether it was made. Of several that try at once, one gets `True`.

    Raises:
        StorageError: The disk is full or refuses.
    """
    data = _to_json(document)
    mirrored = store_of(path)
    if mirrored is not None:
        store, key = mirrored
        return store.put_if(key, data, None) is not None
    temporary = _temporary(path)
    with told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_durably(temporary, data)
        try:
            _link(temporary, path, data)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    return True


def _link(temporary: Path, path: Path, data: bytes) -> None:
    try:
        path.hardlink_to(temporary)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with path.open("xb") as file:  # such a disk cannot do better
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def replace_json(path: Path, document: Any) -> None:  # noqa: ANN401 - any JSON
    """Replace a document of our own, in a folder that must be there; not made durable.

    Raises:
        StorageError: The folder is gone, or the disk is full or refuses.
    """
    data = _to_json(document)
    mirrored = store_of(path)
    if mirrored is not None:
        store, key = mirrored
        store.put(key, data)
        return
    temporary = _temporary(path)
    with told(path):
        # Durable all the same: a crash of the machine must not leave an empty file.
        _write_durably(temporary, data)
        temporary.replace(path)


def _write_durably(path: Path, data: bytes) -> None:
    try:
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):
            path.unlink()
        raise


def _to_json(document: Any) -> bytes:  # noqa: ANN401 - any JSON
    return json.dumps(document, allow_nan=False).encode()


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}-{next(_numbers)}.tmp")


def remove_temporary(stage: Path) -> None:
    """Remove what an earlier holder of a stage's folder was about to make visible."""
    if store_of(stage) is not None or not stage.is_dir():
        return
    with told(stage):
        below = ("", "edges/*/", "edges/*/removed/", "bookmarks/*/")
        for file in itertools.chain.from_iterable(stage.glob(f"{one}*.tmp") for one in below):
            file.unlink(missing_ok=True)


def read_json(path: Path) -> Any:  # noqa: ANN401 - any JSON
    """The document at this path, or `None` if there is none."""
    mirrored = store_of(path)
    if mirrored is not None:
        store, key = mirrored
        found = store.get(key)
        return None if found is None else json.loads(found.data)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def read_model(path: Path, kind: type[M], remedy: str) -> M | None:
    """The document at this path as a model, or `None` if there is no such file.

    Args:
        path: The file.
        kind: What it holds.
        remedy: What the user can do if it cannot be read.

    Raises:
        StorageError: It is damaged, or another version wrote it.
    """
    with undamaged(path, remedy):
        with told(path):
            document = read_json(path)
        return None if document is None else kind.model_validate(document)


@contextmanager
def undamaged(path: Path, remedy: str) -> Generator[None]:
    """Tell what cannot be understood as damage.

    Raises:
        StorageError: The block raised an error of JSON, of UTF-8 or of a model.
    """
    try:
        yield
    except ValueError as error:
        message = f"{path} is damaged, or another version of nvisy-dagster wrote it"
        raise StorageError(message, remedy=remedy) from error


def names(folder: Path) -> list[str]:
    """Names of what a folder holds, files and folders; nothing if it is not there.

    Raises:
        StorageError: It cannot be read.
    """
    mirrored = store_of(folder)
    if mirrored is not None:
        store, key = mirrored
        return store.names(key)
    try:
        return [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _refused(folder, error) from error


def files_below(folder: Path) -> list[Path]:
    """All files of a folder and of the folders in it; nothing if it is not there.

    Raises:
        StorageError: It cannot be read.
    """
    mirrored = store_of(folder)
    if mirrored is not None:
        store, key = mirrored
        return [folder / name for name in store.names_below(key)]
    with told(folder):
        return [path for path in folder.rglob("*") if path.is_file()]


def is_file(path: Path) -> bool:
    """Whether there is a file, and not a folder, of this name."""
    mirrored = store_of(path)
    if mirrored is not None:
        store, key = mirrored
        return store.is_file(key)
    return path.is_file()


def is_kept(path: Path) -> bool:
    """Whether there is a file, or a folder that is not empty, of this name."""
    mirrored = store_of(path)
    if mirrored is not None:
        store, key = mirrored
        return store.is_kept(key)
    return path.exists()


def publish(path: Path) -> None:
    """Make a file of ours durable for other machines too; returns at once if storage is local.

    Raises:
        StorageError: The object store refuses.
    """
    mirrored = store_of(path)
    if mirrored is not None:
        store, key = mirrored
        store.upload(key, path)


def fetch(path: Path) -> Path:
    """The local copy of a file, fetched if it is missing; the path itself if storage is local.

    Raises:
        FileNotFoundError: It is not in the object store.
        StorageError: The object store refuses.
    """
    mirrored = store_of(path)
    if mirrored is None:
        return path
    copy = here(path)
    if not copy.exists():
        store, key = mirrored
        store.download(key, copy)
    return copy


def remove_file(path: Path) -> None:
    """Remove a file for good; one that is not there is fine.

    Raises:
        StorageError: It cannot be removed.
    """
    mirrored = store_of(path)
    if mirrored is not None:
        store, key = mirrored
        store.delete([key])
    with told(path):
        path.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder and all in it; one that is not there is fine."""
    mirrored = store_of(folder)
    if mirrored is not None:
        store, key = mirrored
        store.delete_below(key)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def told(path: Path) -> Generator[None]:
    """Turn what the operating system refuses into an error that says where and what to do.

    Raises:
        StorageError: It refuses.
    """
    try:
        yield
    except OSError as error:
        raise _refused(path, error) from error


def _refused(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path}: {error.strerror or error}",
        remedy="check the free space and the permissions of the storage folder, then run again",
    )


def sync_folder(folder: Path) -> None:
    """Make renames inside the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def safe_name(name: str) -> str:
    """A file name for an id: readable, and never a path."""
    return re.sub(r"[^A-Za-z0-9_.@-]", "_", name).lstrip(".") or "_"
