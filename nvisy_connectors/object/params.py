"""Params that all sources and all sinks of objects share."""

from typing import Literal, Self, TypeVar

from pydantic import Field, field_validator, model_validator

from nvisy_connectors.object.formats.arrow_options import ArrowWriteOptions
from nvisy_connectors.object.formats.columns import parse_columns
from nvisy_connectors.object.formats.compression import (
    COMPRESSIBLE,
    ReadCompression,
    WriteCompression,
)
from nvisy_connectors.object.formats.csv_options import CsvReadOptions, CsvWriteOptions
from nvisy_connectors.object.formats.csv_types import parse_types
from nvisy_connectors.object.formats.jsonl_options import JsonlReadOptions
from nvisy_connectors.object.formats.parquet_options import ParquetWriteOptions
from nvisy_connectors.object.formats.parquet_types import parse_parquet_columns, parse_partitions
from nvisy_connectors.object.glob import check_pattern
from nvisy_connectors.object.partitions import is_partition_name
from nvisy_dagster.sdk import Params

FormatName = Literal["text", "binary", "jsonl", "csv", "parquet", "arrow"]

MIB = 1 << 20

COLUMNAR = frozenset({"parquet", "arrow"})
"""Formats that say themselves what their columns are."""

MAX_OBJECT_BYTES = 512 * MIB
"""Largest object that is one record, unless the params say otherwise."""

MOST_PART_BYTES = 40 << 30
"""An upload has 10,000 chunks at most."""

WHOLE = frozenset({"text", "binary"})
"""Formats of which an object is one record."""


class ReadParams(Params):
    """What every source of objects can be told."""

    format: FormatName = "text"
    """What is in the objects. `text`: each is one document of UTF-8 text. `binary`: each is one
    blob, whatever it holds, for `parse` to make a document of. `jsonl`: one JSON object per line,
    each a row. `csv`: one record per row. `parquet`: rows. `arrow`: rows of Arrow IPC files
    (Feather V2) or streams."""
    glob: str | None = Field(default=None, max_length=1024)
    """Which objects to read, such as `**/*.md`, matched against the part of the key after the
    folder or prefix. All by default. It is an error when there are objects and it matches none.
    `jsonl`, `csv`, `parquet` and `arrow` leave out files and folders whose names begin with `_` or
    `.`, which Spark, Hive and others keep beside the parts of a table (`_SUCCESS`, `_metadata`,
    `_temporary/`); a folder such as `_day=1` is none of those. `text` and `binary` leave out only
    `_SUCCESS` and `_temporary/`. To read them, say the beginning of the name: `_*.jsonl`."""
    columns: dict[str, str] | list[str] | None = None
    """Columns to read; all by default. For `jsonl` their types too, such as
    `{"id": "int64", "day": "date", "tags": "list<string>", "author": "struct<name: string>"}`:
    then other fields are ignored and missing ones are null. Without it the types are inferred from
    the first 8 MiB, and a line that does not fit them is a bad record, unless `jsonl` says
    otherwise. Texts stay texts then, and numbers of a column with a fraction in one of them are
    doubles, with 15 to 17 digits, as JavaScript has them: say `decimal(38, 10)` or `string` where
    there are more. A declared time without a zone is taken for UTC, and one with another zone
    becomes UTC. For `csv` names, or names with types, such as `{"zip": "string", "day": "date"}`,
    of which each file must have all; types that are not given are inferred: a type that 99 of 100
    values have, and text for numbers that begin with zeros.
    For `parquet` and `arrow` names, or all columns with their types: then values are cast, a column
    that a file has not is null, and a row of which a value would be lost or changed fails. Without
    types all files must have the same columns of the same types. Timestamps of the old kind that
    Spark and Impala write (`INT96`) are microseconds without a zone; those of Spark are in UTC, as
    which the type `timestamp` reads them."""
    partitions: dict[str, str] | bool = True
    """For `parquet` and `arrow`: folders such as `dt=2024-01-01/region=eu/` below the path or
    prefix are columns, `dt` and `region`, behind those of the files. Their values are text, unless
    a type is said here, such as `{"dt": "date"}`: text, whole numbers, `date`, `timestamp` or
    `bool`. `__HIVE_DEFAULT_PARTITION__` is null. `false`: folders are only folders. A column that
    is in the files too is that of the folders. With `columns`, only those are read that are named
    there, or here with a type."""
    jsonl: JsonlReadOptions | None = None
    """How lines of format `jsonl` become columns, and what happens when they drift from them:
    `{"on_drift": "widen"}`."""
    csv: CsvReadOptions | None = None
    """How the files of format `csv` are written down; found in their first records by default."""
    compression: ReadCompression = "auto"
    """How objects of the formats `text`, `jsonl` and `csv` are compressed. `auto`: as the end of
    the key says, `.gz`, `.zst` or `.bz2`, else not at all. Where compressed data is broken or ends
    too early, what comes before is read, and the rest is one bad record."""
    max_decoded_bytes: int | None = Field(default=None, ge=1)
    """Most bytes that a compressed object, or a file of `parquet` or `arrow`, may hold; the
    rest of it is one bad record, and is not read. 100 times its compressed size by default, 1,000
    times for `parquet` and `arrow`, and at least 64 MiB."""
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
    def _compression_fits_the_format(self) -> Self:
        if self.format in COMPRESSIBLE:
            return self
        for name, default in (("compression", "auto"), ("max_decoded_bytes", None)):
            if name == "max_decoded_bytes" and self.format in COLUMNAR:
                continue
            if getattr(self, name) != default:
                raise ValueError(f"`{name}` does not go with format {self.format!r}: leave it out")
        return self

    @model_validator(mode="after")
    def _csv_fits_the_format(self) -> Self:
        return _check_csv(self)

    @model_validator(mode="after")
    def _jsonl_fits_the_format(self) -> Self:
        if self.jsonl is not None and self.format != "jsonl":
            raise ValueError(f"`jsonl` does not go with format {self.format!r}: leave it out")
        return self

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
            parse_parquet_columns(self.columns)
        return self

    @model_validator(mode="after")
    def _partitions_fit_the_format(self) -> Self:
        if self.partitions is not True and self.format not in COLUMNAR:
            raise ValueError(f"`partitions` does not go with format {self.format!r}")
        if isinstance(self.partitions, dict):
            types = parse_partitions(self.partitions)
            declared = self.columns if isinstance(self.columns, dict) else {}
            if both := [name for name in types if name in declared]:
                raise ValueError(f"the type of {both[0]!r} is said in `columns` and `partitions`")
        return self


class WriteParams(Params):
    """What every sink of objects can be told."""

    format: FormatName = "jsonl"
    """What is written. `jsonl`: one JSON object per line; maps are objects too if their keys are
    texts or whole numbers, else lists of pairs. `csv`: one line per record. `parquet`: compressed
    with zstd. `arrow`: Arrow IPC files (Feather V2). `text` and `binary`: the column `text` or
    `data` of each record as a file of its own."""
    mode: Literal["replace", "append"] = "replace"
    """What happens, when a run has succeeded, to the parts that earlier runs wrote there:
    `replace` deletes them, even if this run had nothing to write; `append` keeps them. Files of
    others are never touched."""
    envelope: bool = False
    """Whether to write the envelope (`_id`, `_source` and the like) too; in `jsonl` and `csv` ids
    are UUIDs, and in `csv` its lists and structs are JSON text."""
    csv: CsvWriteOptions | None = None
    """How the files of format `csv` are written down."""
    compression: WriteCompression = "none"
    """How files of the formats `jsonl` and `csv` are compressed; their names end in `.gz`, `.zst`
    or `.bz2` then."""
    parquet: ParquetWriteOptions | None = None
    """How the files of format `parquet` are written."""
    arrow: ArrowWriteOptions | None = None
    """How the files of format `arrow` are written."""
    partition_by: tuple[str, ...] = Field(default=(), max_length=8)
    """Columns, for `parquet` and `arrow`, by whose values records go into folders, such as
    `["dt", "region"]` into `dt=2024-01-01/region=eu/`; the files do not hold them. Values are
    percent-encoded, null is `__HIVE_DEFAULT_PARTITION__`. They are strings, whole numbers, booleans
    or dates; a record whose values make a name of more than 255 bytes fails. 64 partitions are
    written at once: one more closes the part that was written to longest ago, so records that come
    in no order of many partitions make many small files."""
    part_bytes: int = Field(default=256 * MIB, ge=1, le=MOST_PART_BYTES)
    """Size at which a part is closed and the next one begun."""

    @model_validator(mode="after")
    def _envelope_fits_the_format(self) -> Self:
        if self.format in WHOLE and self.envelope:
            raise ValueError(
                f"`envelope` does not go with format {self.format!r}: a file has no columns"
            )
        return self

    @model_validator(mode="after")
    def _compression_fits_the_format(self) -> Self:
        if self.compression != "none" and self.format not in COMPRESSIBLE - WHOLE:
            raise ValueError(f"`compression` does not go with format {self.format!r}: leave it out")
        return self

    @model_validator(mode="after")
    def _parquet_fits_the_format(self) -> Self:
        for name, formats in (
            ("parquet", {"parquet"}),
            ("arrow", {"arrow"}),
            ("partition_by", COLUMNAR),
        ):
            if self.format not in formats and getattr(self, name):
                raise ValueError(f"`{name}` does not go with format {self.format!r}: leave it out")
        if len(set(self.partition_by)) != len(self.partition_by):
            raise ValueError("`partition_by` names a column twice")
        for name in self.partition_by:
            if not is_partition_name(name):
                raise ValueError(
                    f"`partition_by`: no folder can be named after {name!r}; rename it with a `map`"
                    " before: letters, digits, `_`, `-` and `.`, and a letter or digit first"
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
