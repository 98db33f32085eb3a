"""Parts that are one record each."""

import pyarrow as pa

from nvisy_connectors.object.formats.compression import open_file
from nvisy_connectors.object.formats.part_writer import PartWriter, Target
from nvisy_connectors.object.params import WriteParams


class TextWriter(PartWriter):
    """The column `text` of one record."""

    extension = "txt"
    one_record = True

    def __init__(
        self,
        file: Target,
        schema: pa.Schema,  # noqa: ARG002 - `text` is there
        params: WriteParams,  # noqa: ARG002 - none is of use
    ) -> None:
        self._file = open_file(file, "none")

    def write(self, batch: pa.RecordBatch) -> None:
        """Write the text, nothing for a null."""
        self._file.write((batch.column("text")[0].as_py() or "").encode())

    def size(self) -> int:
        """Bytes so far."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class BinaryWriter(PartWriter):
    """The column `data` of one record."""

    extension = "bin"
    one_record = True

    def __init__(
        self,
        file: Target,
        schema: pa.Schema,  # noqa: ARG002 - `data` is there
        params: WriteParams,  # noqa: ARG002 - none is of use
    ) -> None:
        self._file = open_file(file, "none")

    def write(self, batch: pa.RecordBatch) -> None:
        """Write the data, nothing for a null."""
        self._file.write(batch.column("data")[0].as_buffer() or b"")

    def size(self) -> int:
        """Bytes so far."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
