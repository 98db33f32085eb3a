"""Reading a file that may not be there, may be a folder, or may never end."""

from pathlib import Path

from nvisy_dagster.graph.errors import GraphError, GraphErrors
from nvisy_dagster.graph.json_text import MAX_BYTES


def read_bytes(path: Path, *, what: str) -> bytes:
    """Content of a file, one byte more than the limit at most.

    Raises:
        GraphErrors: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        message = f"cannot read {path}: {reason}"
        remedy = "check the name of the file"
        raise GraphErrors([GraphError("$", message, remedy)], what=what) from error
