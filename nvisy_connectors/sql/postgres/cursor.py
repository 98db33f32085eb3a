"""Where a read of a table stands."""

from nvisy_dagster.sdk import Cursor


class Span(Cursor):
    """What an incremental run settled when it began."""

    begin: int | None
    """Lowest value of the cursor column to read; `None` for all rows, in the order of the key."""
    upto: int
    """Highest value to read."""
    next_begin: int | None
    """Where the next run begins."""
    tells_gone: bool
    """Whether a sink may hold rows that do not meet the condition now."""


class PostgresCursor(Cursor):
    """The row behind which to read on."""

    key: tuple[str, ...] | None
    """Its key, as texts; `None` at the beginning."""
    value: int | None = None
    """Its value of the cursor column, where rows are read in its order."""
    span: Span | None = None
    """Of an incremental run."""
