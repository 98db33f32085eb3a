"""Parts of CSV."""

from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute

from nvisy_connectors.object.formats.compression import open_file
from nvisy_connectors.object.formats.csv_cells import (
    cells,
    is_nested,
    json_texts,
    neutral,
    quoted,
)
from nvisy_connectors.object.formats.csv_options import CsvWriteOptions
from nvisy_connectors.object.formats.line_blocks import BOM
from nvisy_connectors.object.formats.part_writer import PartWriter, Target
from nvisy_connectors.object.formats.readable import readable_column, too_far
from nvisy_connectors.object.params import WriteParams
from nvisy_dagster.sdk import ConfigError, DataError
from nvisy_dagster.sdk.envelope import ENVELOPE_NAMES

pc: Any = cast("Any", pyarrow.compute)

_NOTHING = '""'
"""The only field of a line that may not be blank."""


class CsvWriter(PartWriter):
    """One line per record, but for texts that hold line ends themselves."""

    extension = "csv"

    @staticmethod
    def check(schema: pa.Schema, params: WriteParams) -> None:
        """Refuse columns whose values are no single fields, unless they are to be JSON."""
        options = params.csv or CsvWriteOptions()
        if options.nested == "json":
            return
        for field in schema:
            if is_nested(field.type) and field.name not in ENVELOPE_NAMES:
                raise ConfigError(
                    f"column {field.name!r} is {field.type}, and a field of a CSV file is one "
                    "value",
                    remedy='leave it out with a `map` before, set "csv": {"nested": "json"} to '
                    "write it as JSON text, or write `jsonl` or `parquet`",
                    tag="schema",
                )

    def __init__(self, file: Target, schema: pa.Schema, params: WriteParams) -> None:
        self._options = options = params.csv or CsvWriteOptions()
        self._file = open_file(file, params.compression)
        if options.bom:
            self._file.write(BOM)
        if options.header:
            names = pa.array(schema.names, pa.large_string())
            names = quoted(neutral(names) if options.neutralize_formulas else names, options)
            line = options.delimiter.join(names.to_pylist()) + options.line_end
            self._file.write(line.encode())

    def write(self, batch: pa.RecordBatch) -> None:
        """Write lines; ids of the envelope become UUIDs, times ISO 8601, binary values Base64."""
        batch, bad = self._with_json(batch)
        columns = [
            cells(name, array, self._options)
            for name, array in zip(batch.schema.names, batch.columns, strict=True)
        ]
        nothing = self._options.null_value
        if len(columns) == 1 and not nothing:
            nothing = _NOTHING
        lines = pc.binary_join_element_wise(
            *columns,
            pa.scalar(self._options.delimiter, pa.large_string()),
            null_handling="replace",
            null_replacement=nothing,
        )
        empty, end = (pa.scalar(t, pa.large_string()) for t in ("", self._options.line_end))
        lines = pc.binary_join_element_wise(lines, empty, end)
        self._file.write(_data(lines))
        if bad:
            raise DataError(
                f"{len(bad)} records hold what CSV cannot express",
                rows=bad,
                remedy="replace it in a `map` before, or write `parquet`",
            )

    def _with_json(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, dict[int, str]]:
        """Nested columns as JSON, without the records that text cannot express, and why."""
        columns: list[pa.Array] = []
        bad: dict[int, str] = {}
        for name, array in zip(batch.schema.names, batch.columns, strict=True):
            if not is_nested(array.type):
                columns.append(array)
                bad |= too_far(array)
                continue
            texts, failed = json_texts(readable_column(name, array))
            columns.append(texts)
            bad |= failed
        rows = pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
        if bad:
            good = np.ones(batch.num_rows, np.bool_)
            good[list(bad)] = False
            rows = rows.filter(pa.array(good))
        return rows, dict(sorted(bad.items()))

    def size(self) -> int:
        """Bytes so far."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _data(lines: pa.Array) -> memoryview:
    """The bytes of texts, one after the other."""
    if not len(lines):
        return memoryview(b"")
    _, offsets, data = lines.buffers()
    kind = np.int64 if pa.types.is_large_string(lines.type) else np.int32
    places = np.frombuffer(offsets, kind)[lines.offset : lines.offset + len(lines) + 1]
    return memoryview(data)[int(places[0]) : int(places[-1])]
