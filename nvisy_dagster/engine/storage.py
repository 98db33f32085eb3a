"""Where runs keep their state: a folder on local disk, written atomically.

<storage>/graphs/<graph>/chains.json              the attempt chains, and which is the current one
<storage>/graphs/<graph>/<progress>/<stage>/      checkpoint.json, lock, edges/<output>/*.arrow
"""

import json
import os
import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from nvisy_dagster.engine.failpoint import failpoint
from nvisy_dagster.engine.failure import StorageError

M = TypeVar("M", bound=BaseModel)


def write_json(path: Path, document: Any) -> None:  # noqa: ANN401 - any JSON
    """Replace a file atomically: a reader, or a restart after a crash, sees the old or the new.

    Raises:
        StorageError: The disk is full or refuses.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(document, file, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        failpoint("storage.before_rename")
        temporary.replace(path)
        sync_folder(path.parent)
    failpoint("storage.after_rename")


def read_json(path: Path) -> Any:  # noqa: ANN401 - any JSON
    """The document at this path, or `None` if there is no such file."""
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
    try:
        with told(path):
            document = read_json(path)
        return None if document is None else kind.model_validate(document)
    except ValueError as error:  # of JSON, of UTF-8 or of the model
        message = f"{path} is damaged, or another version of nvisy-dagster wrote it"
        raise StorageError(message, remedy=remedy) from error


@contextmanager
def told(path: Path) -> Generator[None]:
    """Turn what the operating system refuses into an error that says where and what to do.

    Raises:
        StorageError: It refuses.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path}: {error.strerror or error}",
            remedy="check the free space and the permissions of the storage folder, then run again",
        ) from error


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


def remove_folder(folder: Path) -> None:
    """Remove a folder and all in it; one that is not there is fine."""
    shutil.rmtree(folder, ignore_errors=True)
