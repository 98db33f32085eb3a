"""Params that all sources and all sinks of objects share."""

from typing import Literal, Self, TypeVar

from pydantic import Field, field_validator, model_validator

from nvisy_connectors.object.formats.columns import parse_columns
from nvisy_connectors.object.formats.csv_options import CsvReadOptions, CsvWriteOptions
from nvisy_connectors.object.formats.csv_types import parse_types
from nvisy_connectors.object.glob import check_pattern
from nvisy_dagster.sdk import Params

FormatName = Literal["text", "binary", "jsonl", "csv", "parquet"]

MIB = 1 << 20

MAX_OBJECT_BYTES = 512 * MIB
"""Largest object that is one record, unless the params say otherwise."""

WHOLE = frozenset({"text", "binary"})
"""Formats of which an object is one record."""


class ReadParams(Params):
    """What every source of objects can be told."""

    format: FormatName = "text"
    """What is in the objects. `text`: each is one document of UTF-8 text. `binary`: each is one
    blob, whatever it holds, for `parse` to make a document of. `jsonl`: one JSON object per line,
    each a row. `csv`: one record per row. `parquet`: rows."""
    glob: str | None = Field(default=None, max_length=1024)
    """Which objects to read, such as `**/*.md`, matched against the part of the key after the
    folder or prefix. All by default. It is an error when there are objects and it matches none."""
    columns: dict[str, str] | list[str] | None = None
    """Columns to read; all by default. For `jsonl` their types too, such as
    `{"id": "int64", "tags": "list<string>", "author": "struct<name: string>"}`: then other
    fields are ignored and missing ones are null. Without it the types are inferred from the first
    8 MiB, and a line that does not fit them fails. For `csv` names, or names with types, such as
    `{"zip": "string", "day": "date"}`, of which each file must have all; types that are not given
    are inferred: a type that 99 of 100 values have, and text for numbers that begin with zeros."""
    csv: CsvReadOptions | None = None
    """How the files of format `csv` are written down; found in their first records by default."""
    batch_bytes: int = Field(default=8 * MIB, ge=1, le=256 * MIB)
    """Size of a batch, in bytes of the objects."""
    batch_rows: int = Field(default=65_536, ge=1, le=10_000_000)
    """Largest number of records in a batch."""
    max_object_bytes: int | None = Field(default=None, ge=1, le=1024 * MIB)
    """Largest object that the formats `text` and `binary` read, of which each is one record; 512
    MiB by default. A larger one is refused."""

    @property
    def most_object_bytes(self) -> int:
        """Largest object that is one record."""
        return self.max_object_bytes or MAX_OBJECT_BYTES

    @field_validator("glob")
    @classmethod
    def _glob_is_valid(cls, value: str | None) -> str | None:
        return None if value is None else check_pattern(value)

    @model_validator(mode="after")
    def _limit_fits_the_format(self) -> Self:
        if self.max_object_bytes is not None and self.format not in WHOLE:
            raise ValueError(
                f"`max_object_bytes` does not go with format {self.format!r}: it is read in pieces"
            )
        return self

    @model_validator(mode="after")
    def _csv_fits_the_format(self) -> Self:
        return _check_csv(self)

    @model_validator(mode="after")
    def _columns_fit_the_format(self) -> Self:
        if self.columns is None:
            return self
        if self.format in WHOLE:
            what = "document" if self.format == "text" else "blob"
            raise ValueError(
                f"`columns` does not go with format {self.format!r}: a {what} has its own"
            )
        if not self.columns:
            raise ValueError("`columns` is empty: name a column, or leave it out to read all")
        if self.format == "csv":
            if isinstance(self.columns, dict):
                parse_types(self.columns)
        elif self.format == "jsonl":
            if not isinstance(self.columns, dict):
                raise ValueError('format \'jsonl\' needs types: `"columns": {"id": "int64"}`')
            parse_columns(self.columns)
        elif isinstance(self.columns, dict):
            raise ValueError('a Parquet file knows its types: `"columns": ["id"]`')
        return self


class WriteParams(Params):
    """What every sink of objects can be told."""

    format: FormatName = "jsonl"
    """What is written. `jsonl`: one JSON object per line. `csv`: one line per record. `parquet`:
    compressed with zstd. `text` and `binary`: the column `text` or `data` of each record as a file
    of its own."""
    mode: Literal["replace", "append"] = "replace"
    """What happens, when a run has succeeded, to the parts that earlier runs wrote there:
    `replace` deletes them, even if this run had nothing to write; `append` keeps them. Files of
    others are never touched."""
    envelope: bool = False
    """Whether to write the envelope (`_id`, `_source` and the like) too; in `jsonl` and `csv` ids
    are UUIDs, and in `csv` its lists and structs are JSON text."""
    csv: CsvWriteOptions | None = None
    """How the files of format `csv` are written down."""
    part_bytes: int = Field(default=256 * MIB, ge=1)
    """Size at which a part is closed and the next one begun."""

    @model_validator(mode="after")
    def _envelope_fits_the_format(self) -> Self:
        if self.format in WHOLE and self.envelope:
            raise ValueError(
                f"`envelope` does not go with format {self.format!r}: a file has no columns"
            )
        return self

    @model_validator(mode="after")
    def _csv_fits_the_format(self) -> Self:
        return _check_csv(self)


_P = TypeVar("_P", ReadParams, WriteParams)


def _check_csv(params: _P) -> _P:
    if params.csv is not None and params.format != "csv":
        raise ValueError(f"`csv` does not go with format {params.format!r}: leave it out")
    return params
