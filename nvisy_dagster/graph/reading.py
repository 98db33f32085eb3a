"""Reading a file that may not be there, may be a folder, or may never end."""

import errno
import os
import stat
from pathlib import Path

from nvisy_dagster.graph.errors import GraphError, GraphErrors
from nvisy_dagster.graph.json_text import MAX_BYTES

_NOT_BLOCKING = getattr(os, "O_NONBLOCK", 0)


def read_bytes(path: Path, *, what: str) -> bytes:
    """Content of a regular file, one byte more than the limit at most.

    Raises:
        GraphErrors: It cannot be read.
    """
    try:
        # Not blocking: opening a pipe would wait for someone to write into it.
        opened = os.open(path, os.O_RDONLY | _NOT_BLOCKING)
        try:
            mode = os.fstat(opened).st_mode
            if stat.S_ISREG(mode):
                with open(opened, "rb", closefd=False) as file:
                    return file.read(MAX_BYTES + 1)
        finally:
            os.close(opened)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        remedy = "check the name of the file"
        if getattr(error, "errno", None) == errno.ELOOP:
            reason, remedy = "its symbolic links lead in a circle", "point the link at a file"
        raise _unreadable(path, reason, remedy, what) from error
    kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a device or a socket"
    raise _unreadable(path, f"it is {kind}", f"name a file that holds the {what}", what)


def _unreadable(path: Path, reason: str, remedy: str, what: str) -> GraphErrors:
    return GraphErrors([GraphError("$", f"cannot read {path}: {reason}", remedy)], what=what)
