"""Values as DuckDB compares them, so that none is taken for another."""

import pyarrow as pa
import pyarrow.types as kinds

from nvisy_connectors.tabular.widening import MOST_DIGITS, common_type, fit, whole_decimal


def comparable_type(kind: pa.DataType) -> pa.DataType | None:
    """What values of a type are given to DuckDB as, so that it compares all of each.

    Times are numbers: DuckDB knows fewer units of them than Arrow. `None` for what has no such
    type: what consists of parts.
    """
    found: pa.DataType | None = None
    if kinds.is_boolean(kind) or kinds.is_integer(kind) or kinds.is_date32(kind):
        found = kind
    elif kinds.is_floating(kind):
        found = pa.float32() if kinds.is_float16(kind) else kind
    elif kinds.is_decimal(kind) and kind.precision <= MOST_DIGITS:
        scaled = kind.scale >= 0
        found = pa.decimal128(kind.precision, kind.scale) if scaled else whole_decimal(kind)
    elif kinds.is_temporal(kind) and not kinds.is_interval(kind):
        found = pa.int32() if kind.bit_width == 32 else pa.int64()  # noqa: PLR2004 - bits
    elif not kinds.is_null(kind):
        large = (pa.large_string(), pa.large_binary())
        found = next((one for one in large if common_type(kind, one) is not None), None)
    return found


def comparable(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Values of a type, or of one that it holds, as DuckDB compares them."""
    found = comparable_type(kind)
    assert found is not None  # noqa: S101 - refused before the run
    return fit(fit(array, kind), found)
