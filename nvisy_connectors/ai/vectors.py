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
    try:
        data = from_json(body)["data"]
        indexes = [item["index"] for item in data]
        if sorted(indexes) != list(range(count)):
            raise _malformed(f"{len(indexes)} vectors for {count} texts, or their indexes repeat")
        ordered: list[Any] = [None] * count
        for item in data:
            ordered[item["index"]] = item["embedding"]
        return _decode(ordered)
    except (ValueError, KeyError, TypeError) as error:
        raise _malformed(f"{type(error).__name__}: {error}") from error


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
            raise ValueError("vectors of different dimensions")
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
