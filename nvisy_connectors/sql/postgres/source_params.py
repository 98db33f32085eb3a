"""What a `postgres` source is told."""

import warnings
from typing import Self

from pydantic import Field, model_validator

from nvisy_connectors.sql.postgres.params import Name
from nvisy_dagster.sdk import Params

with warnings.catch_warnings():
    # The field is named as everybody calls it; what it hides of pydantic is deprecated.
    warnings.filterwarnings("ignore", 'Field name "schema"')

    class PostgresSourceParams(Params):
        """Params of `PostgresSource`."""

        table: Name
        """Table, view or materialized view to read, exactly as it is named: capitals and blanks
        count."""
        schema: Name = "public"  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
        """Schema of the table."""
        columns: tuple[Name, ...] | None = None
        """Columns to read. By default all but those that are named like the envelope of a record
        (`_id`, `_source` and the like), which a `postgres` sink writes."""
        where: str | None = Field(default=None, min_length=1)
        """Which rows to read: a condition in PostgreSQL's SQL, such as `deleted_at IS NULL`. It
        runs with the rights of the connection's user, in transactions that only read."""
        key: tuple[Name, ...] | None = None
        """Columns that tell the rows apart and are never null: rows are read in their order, and
        the ids of the records are made of them. By default the primary key, else a unique index
        over columns that are not null. A view needs it."""
        cursor_column: Name | None = None
        """Column that grows with every change of a row, such as `updated_at`, or with every new
        row, such as a serial number; a time, a date or a whole number, best with an index. An
        incremental run reads the rows behind the highest value of the run before it."""
        lag_seconds: float | None = Field(default=None, ge=0, le=31 * 86_400)
        """Longest time from when the value of the cursor column is settled until its transaction
        commits. An incremental run begins so much earlier, so that rows which became visible late
        are found; of what it reads twice, only what changed is passed on. By default 300 for times
        and dates; for whole numbers the source waits for the transactions that are writing."""
        batch_rows: int = Field(default=65_536, ge=1, le=1_000_000)
        """Rows that one query fetches at most; a batch has fewer if they are large."""

        @model_validator(mode="after")
        def _sound(self) -> Self:
            for name, values in (("key", self.key), ("columns", self.columns)):
                if values is not None and not values:
                    raise ValueError(f"'{name}' names no column; leave it out instead")
                if values is not None and len(set(values)) < len(values):
                    raise ValueError(f"'{name}' names a column twice")
            if self.where is not None and "\0" in self.where:
                raise ValueError("'where' holds a NUL character")
            return self
