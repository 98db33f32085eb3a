"""Vectors on their way from a model to an Arrow column; never Python floats where avoidable."""

import binascii
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic_core import from_json

from nvisy_dagster.sdk import TransientError

Vectors = npt.NDArray[np.float32]

_UNIT_TOLERANCE = 1e-5


def decode_response(body: bytes, count: int) -> Vectors:
    """Vectors of an answer in OpenAI's format, in the order of the texts that were sent.

    Args:
        body: JSON; each vector in base64 (little-endian float32) or as a list of numbers.
        count: How many texts were sent.

    Returns:
        Array of shape `(count, dimensions)`.

    Raises:
        TransientError: The answer is cut short or malformed; asking again may help.
    """
    items = _items(body)
    indexes: list[Any] = [item.get("index") for item in items]
    if not all(type(index) is int for index in indexes):
        raise _malformed('an entry of "data" has no whole number as its "index"')
    if sorted(indexes) != list(range(count)):
        raise _malformed(f"{len(indexes)} vectors for {count} texts, or their indexes repeat")
    ordered: list[Any] = [None] * count
    for index, item in zip(indexes, items, strict=True):
        ordered[index] = item.get("embedding")
    try:
        return _decode(ordered)
    except (ValueError, TypeError) as error:
        raise _malformed('an "embedding" is neither base64 nor a list of numbers') from error


def _items(body: bytes) -> list[dict[str, Any]]:
    try:
        document = from_json(body)
    except ValueError as error:
        raise _malformed("it is not JSON, or cut short") from error
    data = cast("dict[str, Any]", document).get("data") if isinstance(document, dict) else None
    if not isinstance(data, list):
        raise _malformed('it has no list "data"')
    items = cast("list[Any]", data)
    if not all(isinstance(item, dict) for item in items):
        raise _malformed('an entry of "data" is not an object')
    return items


def normalized(vectors: Vectors) -> Vectors:
    """Vectors scaled to length 1; those of that length and those without direction stay as is."""
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    off = (np.abs(lengths - 1) > _UNIT_TOLERANCE) & (lengths > 0) & np.isfinite(lengths)
    if not off.any():
        return vectors
    scaled = vectors.copy()
    scaled[off] = (vectors[off] / lengths[off, None]).astype(np.float32)
    return scaled


def faults(vectors: Vectors, *, normalize: bool) -> dict[int, str]:
    """Rows whose vector cannot be used, with the reason."""
    finite = np.isfinite(vectors).all(axis=1)
    rows = {int(row): "the vector holds NaN or infinity" for row in np.flatnonzero(~finite)}
    if normalize:
        empty = finite & ~vectors.any(axis=1)
        rows |= {int(row): "the vector is zero: no direction" for row in np.flatnonzero(empty)}
    return dict(sorted(rows.items()))


def vector_array(vectors: Vectors, kind: pa.DataType) -> pa.Array:
    """`(n, d)` -> a column of `fixed_size_list<float32>[d]`, without a copy."""
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, type=kind)


def _decode(encoded: list[Any]) -> Vectors:
    if all(isinstance(item, str) for item in encoded):
        parts = [binascii.a2b_base64(item, strict_mode=True) for item in cast("list[str]", encoded)]
        if len({len(part) for part in parts}) > 1:
            raise _malformed("its vectors have different dimensions")
        vectors = np.frombuffer(b"".join(parts), "<f4").reshape(len(parts), -1)
    else:
        # Beyond the range of float32 becomes infinity, which is refused by row later.
        with np.errstate(over="ignore"):
            vectors = np.array(encoded, "<f4")
    if vectors.ndim != 2 or vectors.shape[1] == 0:  # noqa: PLR2004 - rows and columns
        raise ValueError("a vector is not a list of numbers")
    return vectors.astype(np.float32, copy=False)


def _malformed(why: str) -> TransientError:
    return TransientError(
        f"the endpoint's answer is malformed: {why}",
        remedy="check that base_url points to an OpenAI-compatible API",
        tag="protocol",
    )
