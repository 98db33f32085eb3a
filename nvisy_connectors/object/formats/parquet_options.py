"""How files of format `parquet` are written."""

from typing import Literal

from pydantic import Field

from nvisy_dagster.sdk import Params

ROW_GROUP_ROWS = 128 * 1024
ROW_GROUP_BYTES = 32 << 20
"""A row group is written at whichever comes first; it is what a part holds in memory."""

Codec = Literal["zstd", "snappy", "gzip", "brotli", "lz4", "none"]


class ParquetWriteOptions(Params):
    """How Parquet files are written.

    Every column chunk has statistics: smallest and largest value and number of nulls, by which
    readers skip row groups.
    """

    compression: Codec = "zstd"
    """How pages are compressed."""
    row_group_rows: int | None = Field(default=None, ge=1, le=10_000_000)
    """Most rows of a row group. Smaller groups let readers skip more, and compress less. By default
    about 131,072."""
    row_group_bytes: int = Field(default=ROW_GROUP_BYTES, ge=1 << 16, le=512 << 20)
    """Size of a row group in memory, before it is encoded, at which it is written even if it has
    fewer rows. Each part that is being written keeps so much in memory, and those of all partitions
    together 128 MiB."""
