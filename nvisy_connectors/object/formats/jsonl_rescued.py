"""The column of what does not fit the others, for records that drifted from them."""

import pyarrow as pa

from nvisy_dagster.sdk import ConfigError

RESCUED = "_rescued_data"
"""Its name: that of the field's term. It holds a JSON object, or null."""

RESCUED_FIELD = pa.field(RESCUED, pa.string())


def with_rescued(schema: pa.Schema, where: str) -> pa.Schema:
    """The columns of a read that rescues.

    Raises:
        ConfigError: One of them has the name already.
    """
    if RESCUED in schema.names:
        raise ConfigError(
            f"{where} has a column {RESCUED!r}, in which `on_drift` keeps what does not fit",
            remedy='declare `columns` without it, or leave out `"on_drift": "widen"`',
            tag="schema",
        )
    return schema.append(RESCUED_FIELD)


def with_texts(rows: pa.RecordBatch, texts: pa.Array | None = None) -> pa.RecordBatch:
    """Rows with what was rescued of each; by default nothing was."""
    if texts is None:
        texts = pa.nulls(rows.num_rows, RESCUED_FIELD.type)
    return pa.RecordBatch.from_arrays(
        [*rows.columns, texts], schema=rows.schema.append(RESCUED_FIELD)
    )
