"""Whether the storage folder can be used: told before a run, or as what it is during one.

Does not import Dagster, so that runs without it can ask too.
"""

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from nvisy_dagster.engine.storage import check_reachable
from nvisy_dagster.engine.storage_place import STORAGE_VARIABLE
from nvisy_dagster.sdk import ConfigError


def make_folder(folder: Path, what: str, remedy: str) -> None:
    """Make a folder, unless it is there, and see that a file can be written in it.

    Args:
        folder: The folder.
        what: What it is, for the message.
        remedy: What the user can do if it cannot be written.

    Raises:
        ConfigError: It cannot be made, or nothing can be written in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _refused(folder, what, remedy, error) from error


@contextmanager
def writable_storage(storage: Path) -> Generator[None]:
    """Make the storage folder before the block; name it if the system refuses anything below it.

    Raises:
        ConfigError: Nothing can be written in it, or something in it is not ours to use.
    """
    remedy = f"give its user the permission, or name another with --storage or {STORAGE_VARIABLE}"
    make_folder(storage, "the storage folder", remedy)
    check_reachable(storage)
    try:
        yield
    except OSError as error:
        file = Path(error.filename) if isinstance(error.filename, str | Path) else None
        if file is None or not file.is_relative_to(storage):
            raise
        raise _refused(file, f"in the storage folder {storage},", remedy, error) from error


def _refused(path: Path, what: str, remedy: str, error: OSError) -> ConfigError:
    reason = error.strerror or str(error)
    return ConfigError(f"{what} {path} cannot be written: {reason}", remedy=remedy, tag="storage")
