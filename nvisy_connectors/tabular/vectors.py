"""Lists of numbers as vectors of one dimension."""

import numpy as np
import pyarrow as pa


def vector_size(kind: pa.DataType) -> int | None:
    """Dimension of the vectors of a type; `None` for lists of any length and for what is none."""
    return kind.list_size if pa.types.is_fixed_size_list(kind) else None


def as_vectors(array: pa.Array, kind: pa.DataType) -> tuple[pa.Array, dict[int, str]]:
    """Lists of numbers as vectors of 32-bit floats.

    Args:
        array: Lists, of one length or of any.
        kind: `fixed_size_list<float>[d]`.

    Returns:
        The vectors, NULL where there is none, and the reason of each row whose list has another
        length or holds a NULL.
    """
    if array.type == kind:
        return array, {}
    size: int = kind.list_size
    lengths = array.value_lengths().fill_null(size).to_numpy(zero_copy_only=False)
    wrong = {
        int(row): f"it has {lengths[row]} dimensions, not {size}"
        for row in np.flatnonzero(lengths != size)
    }
    wrong |= {row: "a component is NULL" for row in _holding_nulls(array) if row not in wrong}
    good = array.is_valid().to_numpy(zero_copy_only=False).copy()
    good[list(wrong)] = False
    items = array.filter(pa.array(good)).flatten().cast(pa.float32(), safe=False)
    vectors = pa.FixedSizeListArray.from_arrays(items, type=kind)
    places = np.where(good, np.cumsum(good) - 1, -1)
    return vectors.take(pa.array(places, mask=~good)), wrong


def _holding_nulls(array: pa.Array) -> list[int]:
    items = array.flatten()
    if not items.null_count:
        return []
    lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    owners = np.repeat(np.arange(len(array)), lengths)
    return np.unique(owners[items.is_null().to_numpy(zero_copy_only=False)]).tolist()
