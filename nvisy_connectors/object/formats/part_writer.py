"""What writes a part to a file of this machine; all of it blocks, for threads."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import IO, ClassVar

import pyarrow as pa

from nvisy_connectors.object.params import WriteParams

Target = Path | IO[bytes]


class PartWriter(ABC):
    """One open part.

    Args:
        file: File to make, or one that is open and is closed with the part.
        schema: Schema of all batches to come.
        params: What the sink was told.
    """

    extension: ClassVar[str]
    one_record: ClassVar[bool] = False
    """Whether a part holds exactly one record."""

    @staticmethod  # noqa: B027 - most formats hold any column
    def check(schema: pa.Schema, params: WriteParams) -> None:
        """Refuse columns that the format cannot hold; pure.

        Args:
            schema: What comes in.
            params: What the sink was told.

        Raises:
            ConfigError: There is such a column.
        """

    @abstractmethod
    def __init__(self, file: Target, schema: pa.Schema, params: WriteParams) -> None: ...

    @abstractmethod
    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows.

        Raises:
            DataError: Some rows cannot be written in this format; the others were.
        """

    @abstractmethod
    def size(self) -> int:
        """Bytes so far, roughly."""

    @property
    def waiting_bytes(self) -> int:
        """What it keeps in memory, roughly."""
        return 0

    def flush(self) -> None:  # noqa: B027 - most formats keep nothing
        """Write what it keeps in memory."""

    @abstractmethod
    def close(self) -> None:
        """Complete the file; harmless when it is closed."""


def written(file: Target) -> pa.NativeFile:
    """The file for those who write in C++."""
    return pa.OSFile(str(file), "wb") if isinstance(file, Path) else pa.PythonFile(file, "w")
