"""Where runs keep their state: a folder on local disk, written atomically.

<storage>/graphs/<graph>/current.json             the progress of the last run, and if it is done
<storage>/graphs/<graph>/<progress>/<stage>/      checkpoint.json, lock, edges/<output>/*.arrow
"""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from nvisy_dagster.engine.failpoint import failpoint


def write_json(path: Path, document: Any) -> None:  # noqa: ANN401 - any JSON
    """Replace a file atomically: a reader, or a restart after a crash, sees the old or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
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


def sync_folder(folder: Path) -> None:
    """Make renames inside the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def safe_name(name: str) -> str:
    """A file name for an id: readable, and never a path."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip(".") or "_"


def remove_folder(folder: Path) -> None:
    """Remove a folder and all in it; one that is not there is fine."""
    shutil.rmtree(folder, ignore_errors=True)
