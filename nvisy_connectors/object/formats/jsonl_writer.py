"""Parts of JSON lines."""

import json
from contextlib import suppress
from typing import Any

import pyarrow as pa

from nvisy_connectors.object.formats.compression import open_file
from nvisy_connectors.object.formats.part_writer import PartWriter, Target
from nvisy_connectors.object.formats.readable import (
    NO_NUMBER,
    holds_interval,
    holds_map,
    json_values,
    plain,
    readable,
    too_far,
)
from nvisy_connectors.object.params import WriteParams
from nvisy_dagster.sdk import DataError


class JsonlWriter(PartWriter):
    """One JSON object per line."""

    extension = "jsonl"

    def __init__(
        self,
        file: Target,
        schema: pa.Schema,  # noqa: ARG002 - rows tell
        params: WriteParams,
    ) -> None:
        self._file = open_file(file, params.compression)
        self._encode = json.JSONEncoder(
            ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=plain
        ).encode

    def write(self, batch: pa.RecordBatch) -> None:
        """Write lines; ids of the envelope become UUIDs, times ISO 8601, binary values Base64."""
        rows, bad = _rows(batch)
        try:
            if not bad:
                self._file.write("".join(f"{self._encode(row)}\n" for row in rows).encode())
                return
        except ValueError:
            pass
        self._write_valid(rows, bad)

    def _write_valid(self, rows: list[dict[str, Any]], bad: dict[int, str]) -> None:
        for place, row in enumerate(rows):
            try:
                if place not in bad:
                    self._file.write(f"{self._encode(row)}\n".encode())
            except ValueError:
                bad[place] = NO_NUMBER
        raise DataError(
            f"{len(bad)} records hold what JSON cannot express",
            rows=dict(sorted(bad.items())),
            remedy="replace it in a `map` before, or write `parquet`",
        )

    def size(self) -> int:
        """Bytes so far."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _rows(batch: pa.RecordBatch) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """Rows as JSON has them, and why it cannot have some."""
    bad: dict[int, str] = {}
    for column in batch.columns:
        bad |= too_far(column)
    batch = readable(batch)
    if not any(holds_map(kind) or holds_interval(kind) for kind in batch.schema.types):
        with suppress(OverflowError):
            return batch.to_pylist(), bad
    columns: list[list[Any]] = []
    for column in batch.columns:
        values, refused = json_values(column)
        columns.append(values)
        bad |= refused
    names = batch.schema.names
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)], bad
