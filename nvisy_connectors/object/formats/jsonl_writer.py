"""Parts of JSON lines."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from nvisy_connectors.object.formats.part_writer import PartWriter
from nvisy_connectors.object.formats.readable import plain, readable
from nvisy_connectors.object.params import WriteParams
from nvisy_dagster.sdk import DataError


class JsonlWriter(PartWriter):
    """One JSON object per line."""

    extension = "jsonl"

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,  # noqa: ARG002 - rows tell
        params: WriteParams,  # noqa: ARG002 - none is of use
    ) -> None:
        self._file = path.open("wb")
        self._encode = json.JSONEncoder(
            ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=plain
        ).encode

    def write(self, batch: pa.RecordBatch) -> None:
        """Write lines; ids of the envelope become UUIDs, times ISO 8601, binary values Base64."""
        rows = readable(batch).to_pylist()
        try:
            lines = "".join(f"{self._encode(row)}\n" for row in rows)
        except ValueError:
            self._write_valid(rows)
            return
        self._file.write(lines.encode())

    def _write_valid(self, rows: list[dict[str, Any]]) -> None:
        bad: dict[int, str] = {}
        for place, row in enumerate(rows):
            try:
                self._file.write(f"{self._encode(row)}\n".encode())
            except ValueError:
                bad[place] = "JSON has no NaN and no infinite numbers"
        raise DataError(
            f"{len(bad)} records hold numbers that JSON cannot express",
            rows=bad,
            remedy="replace NaN and infinity in a `map` before, or write `parquet`",
        )

    def size(self) -> int:
        """Bytes so far."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
