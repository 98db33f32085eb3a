"""Where a source of objects stands."""

from nvisy_dagster.sdk import Cursor


class ObjectCursor(Cursor):
    """Position after the last record that was read, within the object that held it."""

    key: str
    """Key of the object."""
    version: str
    """Version of the object that was read; another one cannot be resumed."""
    offset: int | None = None
    """Where the rest of the object begins (a byte, or a row of a Parquet file); `None` when all of
    it was read."""
    line: int = 1
    """Number of the line that begins at `offset`."""
    skip: int = 0
    """How many records from `offset` on were read already, the bad ones too."""
    columns: str | None = None
    """Schema that the first records settled for the whole read, as Base64 of its IPC message."""
    upto: int = 0
    """Of an incremental read that stands within an object: behind the last of its records."""
    decoded: int = 0
    """Bytes that the row groups of a Parquet file took that were read whole."""
    listed: bool = False
    """Whether an incremental read has told all that is gone, too."""
