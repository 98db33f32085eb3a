"""Decimals that are too large for their column.

Arrow's readers of CSV and of JSON lines count the digits of a number as it is written: they take
`1000` for a decimal of four digits, two of them behind the point. Written to Parquet or computed
with, it would be another number.
"""

import pyarrow as pa


def check_decimals(table: pa.Table) -> None:
    """Look at all decimals.

    Raises:
        pa.ArrowInvalid: One has more digits than its column.
    """
    for column in table.columns:
        if _holds_decimal(column.type):
            column.validate(full=True)


def _holds_decimal(kind: pa.DataType) -> bool:
    inner = (kind.field(place).type for place in range(kind.num_fields))
    return pa.types.is_decimal(kind) or any(map(_holds_decimal, inner))
