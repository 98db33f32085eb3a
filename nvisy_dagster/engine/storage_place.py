"""Where the storage of runs is: a folder, or the work folder that stands for an object store."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from nvisy_dagster.sdk.errors import ConfigError

if TYPE_CHECKING:
    from nvisy_dagster.engine.object_storage import ObjectStorage

STORAGE_VARIABLE = "NVISY_STORAGE"
WORK_VARIABLE = "NVISY_WORK"
_ANY_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_URL = re.compile(r"(s3a?|gs|azure|az|abfss?):/+(?=[^/])")
_MARK = quote("://", safe="")


def storage_root(storage: Path | str | None = None) -> Path:
    """The folder of this storage, absolute; for an object store the work folder that stands for it.

    Args:
        storage: A folder, or a URL such as `s3://bucket/prefix`; by default `$NVISY_STORAGE`, else
            `.nvisy` in the working folder. The work folder lies in `$NVISY_WORK`, else in
            `.nvisy/work`.

    Raises:
        ConfigError: It is a URL, but not of an object store that can be used.
    """
    text = str(storage or os.environ.get(STORAGE_VARIABLE) or ".nvisy")
    # A URL that was taken for a path has lost a slash.
    scheme = _URL.match(text)
    if scheme is None and _ANY_URL.match(text):
        raise ConfigError(
            f"the storage {text!r} is neither a folder nor an object store that can be used",
            remedy="name a folder, or s3://bucket/prefix, gs://bucket/prefix or "
            "az://container/prefix, with --storage or NVISY_STORAGE",
        )
    if scheme is None:
        return Path(text).resolve()
    url = f"{scheme[1]}://{text[scheme.end() :].rstrip('/')}"
    return _work_base() / quote(url, safe="")


def _work_base() -> Path:
    return Path(os.environ.get(WORK_VARIABLE) or ".nvisy/work").resolve()


def storage_name(root: Path) -> str:
    """What a person calls this storage: its URL, or its folder."""
    return unquote(root.name) if _MARK in root.name else str(root)


def store_of(path: Path) -> "tuple[ObjectStorage, str] | None":
    """The object store that a path belongs to, and its key there; `None` for local ones."""
    if _MARK not in str(path):
        return None
    from nvisy_dagster.engine.object_storage import open_object_storage

    parts = path.parts
    place = next(number for number, part in enumerate(parts) if _MARK in part)
    return open_object_storage(unquote(parts[place])), "/".join(parts[place + 1 :])


def here(path: Path) -> Path:
    """The path that means the same object on this machine."""
    if _MARK not in str(path):
        return path
    parts = path.parts
    place = next(number for number, part in enumerate(parts) if _MARK in part)
    return _work_base().joinpath(*parts[place:])
