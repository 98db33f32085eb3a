"""What a `postgres` sink is told."""

import warnings
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from nvisy_dagster.sdk import Params

LONGEST_NAME_BYTES = 63


def _as_name(name: str) -> str:
    if "\0" in name:
        raise ValueError("a name holds no NUL character")
    if len(name.encode()) > LONGEST_NAME_BYTES:
        # PostgreSQL would cut it, silently, and two long names could become one.
        raise ValueError(f"a name has at most {LONGEST_NAME_BYTES} bytes")
    return name


Name = Annotated[str, StringConstraints(min_length=1), AfterValidator(_as_name)]
"""Name of a schema, table or column, as it is; it is quoted wherever it stands."""


with warnings.catch_warnings():
    # The field is named as everybody calls it; what it hides of pydantic is deprecated.
    warnings.filterwarnings("ignore", 'Field name "schema"')

    class PostgresSinkParams(Params):
        """Params of `PostgresSink`."""

        table: Name
        """Table to write, exactly as it is named: capitals and blanks count."""
        schema: Name = "public"  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
        """Schema of the table."""
        key: tuple[Name, ...] = ("_id",)
        """Columns of the table that tell records apart; they need a primary key or unique index of
        their own. Matters to `upsert` only."""
        mode: Literal["upsert", "append"] = "upsert"
        """`upsert`: a record replaces the row with its key. `append`: every record is a new row."""
        create: bool = True
        """Create the table when it is missing, with the types of the records and the key as its
        primary key; otherwise that is an error."""
        columns: dict[str, Name | None] = Field(default={})
        """Column of the records -> column of the table, where the names differ; `null` leaves one
        out."""

        @model_validator(mode="after")
        def _sound(self) -> Self:
            if self.mode == "upsert" and not self.key:
                raise ValueError("'key' names no column: 'upsert' needs one at least")
            if len(set(self.key)) < len(self.key):
                raise ValueError("'key' names a column twice")
            targets = [target for target in self.columns.values() if target is not None]
            if len(set(targets)) < len(targets):
                raise ValueError(
                    "'columns' gives two columns of the records one column of the table"
                )
            return self
