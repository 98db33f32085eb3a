"""Record ids: 16 bytes, vectorised, and deterministic wherever a record has an identity.

An id is a pair of unsigned 64-bit words, so a column of ids is an `(n, 2)` numpy array and no id is
ever a Python object on the hot path. Deterministic ids come from the finaliser of MurmurHash3
x64_128 (Austin Appleby, public domain): a bijective mix of full avalanche per word, applied to both
words with cross-addition, over a seed that is itself a BLAKE2b digest of the texts involved.
"""

import hashlib
import os
import time
import uuid
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nvisy_dagster.sdk.errors import DataError

Ids = npt.NDArray[np.uint64]

_M1 = np.uint64(0xFF51AFD7ED558CCD)
_M2 = np.uint64(0xC4CEB9FE1A85EC53)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(33)
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def root_ids(identity: str, positions: npt.NDArray[np.int64]) -> Ids:
    """Ids of source records: a hash of the source's identity and of each record's position.

    Args:
        identity: What names the source for good, such as the URI of an object.
        positions: Place of each record in there (row number, byte offset, primary key).
    """
    return _mix(_seed("root", identity), positions.astype(np.uint64), np.uint64(0))


def root_ids_of(
    identities: Sequence[str], counts: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]
) -> Ids:
    """`root_ids` of the records of several sources at once, one source after the other.

    Args:
        identities: What names each source for good.
        counts: How many records come from each.
        positions: Place of each record in its source, as many as `counts` add up to.
    """
    digests = b"".join(_digest("root", identity) for identity in identities)
    seeds = np.repeat(np.frombuffer(digests, "<u8").reshape(-1, 2), counts, axis=0)
    seed = (seeds[:, 0].astype(np.uint64), seeds[:, 1].astype(np.uint64))
    return _mix(seed, positions.astype(np.uint64), np.uint64(0))


def key_ids(identity: str, keys: pa.Array) -> Ids:
    """Ids of source records that have a key of their own, such as a primary key or object key.

    Raises:
        DataError: A key is null, so its record has no identity.
    """
    if keys.null_count:
        nulls = np.flatnonzero(keys.is_null().to_numpy(zero_copy_only=False))
        raise DataError(
            f"{len(nulls)} records have no key",
            rows={int(row): "the key is null" for row in nulls},
            remedy="choose a key column that is never null",
        )
    seed = hashlib.blake2b(f"key\0{len(identity)}\0{identity}\0".encode(), digest_size=16)
    digests = bytearray()
    for key in keys.to_pylist():
        digest = seed.copy()
        digest.update(str(key).encode())
        digests += digest.digest()
    return np.frombuffer(digests, "<u8").reshape(-1, 2).astype(np.uint64)


def child_ids(parents: pa.Array, node_id: str, indexes: npt.NDArray[np.int64]) -> Ids:
    """Ids of records made from others: a hash of parent id, node id and index among siblings.

    Args:
        parents: `fixed_size_binary(16)`, one per child.
        node_id: The node that makes the children.
        indexes: Index of each child among the children of its parent.
    """
    words = array_to_ids(parents)
    seed = _seed("child", node_id)
    mixed = _mix(seed, words[:, 0], words[:, 1])
    return _mix((mixed[:, 0], mixed[:, 1]), indexes.astype(np.uint64), np.uint64(1))


def pair_ids(firsts: pa.Array, seconds: pa.Array, node_id: str) -> Ids:
    """Ids of records made of two others each: a hash of both ids, in this order, and the node id.

    Args:
        firsts: `fixed_size_binary(16)`, one per record that is made.
        seconds: Likewise.
        node_id: The node that makes the records.
    """
    one, other = array_to_ids(firsts), array_to_ids(seconds)
    mixed = _mix(_seed("pair", node_id), one[:, 0], one[:, 1])
    return _mix((mixed[:, 0], mixed[:, 1]), other[:, 0], other[:, 1])


def ulids(count: int) -> Ids:
    """Fresh ids that sort by time: 48 bits of milliseconds, 80 random bits (ULID specification).

    Within one call they increase from row to row, so that the order of ids is that of the records.
    For records that have no identity of their own; a replay gives them other ids.
    """
    steps = np.frombuffer(os.urandom(4 * count), np.uint32).astype(np.uint64) + np.uint64(1)
    base, low = np.frombuffer(os.urandom(16), np.uint64)
    millis = np.uint64(time.time_ns() // 1_000_000)
    words = np.empty((count, 2), np.uint64)
    words[:, 0] = (millis << np.uint64(16)) | (base & np.uint64(0xFFFF))
    # Half of the range is left for the steps: they would have to be 2**31 rows to wrap around.
    words[:, 1] = (low >> np.uint64(1)) + np.cumsum(steps)
    # ULIDs are big-endian texts; swapping keeps byte order and time order the same.
    return words.byteswap()


def ids_to_array(ids: Ids) -> pa.Array:
    """`(n, 2)` words -> `fixed_size_binary(16)`, without copying when they are contiguous."""
    words = np.ascontiguousarray(ids)
    return pa.Array.from_buffers(pa.binary(16), len(words), [None, pa.py_buffer(words)])


def array_to_ids(array: pa.Array) -> Ids:
    """`fixed_size_binary(16)` without nulls -> `(n, 2)` words, without copying.

    Raises:
        TypeError: The array has another type, such as the `binary` that a query turns ids into.
        ValueError: An id is null.
    """
    if array.type != pa.binary(16):
        raise TypeError(f"ids are fixed_size_binary[16], not {array.type}")
    if array.null_count:
        raise ValueError(f"{array.null_count} ids are null")
    buffer = array.buffers()[1]
    if buffer is None or len(array) == 0:
        return np.empty((0, 2), np.uint64)
    words = np.frombuffer(buffer, np.uint64, count=2 * len(array), offset=16 * array.offset)
    return words.reshape(-1, 2)


def format_uuid(value: bytes) -> str:
    """An id as it is shown to people and used as a key in stores that want UUIDs."""
    digits = value.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def format_uuids(array: pa.Array) -> pa.Array:
    """`fixed_size_binary(16)` without nulls -> strings, the same texts as `format_uuid`."""
    ids = array_to_ids(array)
    digits = np.frombuffer(ids.tobytes().hex().encode(), np.uint8).reshape(-1, 32)
    texts = np.full((len(ids), 36), ord("-"), np.uint8)
    for start, end, shift in ((0, 8, 0), (8, 12, 1), (12, 16, 2), (16, 20, 3), (20, 32, 4)):
        texts[:, start + shift : end + shift] = digits[:, start:end]
    offsets = np.arange(len(ids) + 1, dtype=np.int32) * np.int32(36)
    return pa.StringArray.from_buffers(len(ids), pa.py_buffer(offsets), pa.py_buffer(texts))


def parse_uuid(text: str) -> bytes:
    """The id that `format_uuid` shows as this text.

    Raises:
        ValueError: The text is not a UUID.
    """
    try:
        return uuid.UUID(text).bytes
    except ValueError:
        raise ValueError("not a UUID") from None


def format_ulid(value: bytes) -> str:
    """An id in the 26 characters of the ULID specification (Crockford's base 32)."""
    number = int.from_bytes(value, "big")
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))


def _seed(kind: str, text: str) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    words = np.frombuffer(_digest(kind, text), "<u8").astype(np.uint64)
    return words[:1], words[1:]


def _digest(kind: str, text: str) -> bytes:
    return hashlib.blake2b(f"{kind}\0{text}".encode(), digest_size=16).digest()


def _mix(
    seed: tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]],
    first: npt.NDArray[np.uint64],
    second: npt.NDArray[np.uint64] | np.uint64,
) -> Ids:
    # Wrap-around is the arithmetic that the hash is defined in.
    with np.errstate(over="ignore"):
        low = _finalise(first + seed[0])
        high = _finalise(low ^ (second + seed[1]) * _GOLDEN)
        low = _finalise(low + high)
        high = _finalise(high + low * _GOLDEN)
    out = np.empty((len(low), 2), np.uint64)
    out[:, 0] = low
    out[:, 1] = high
    return out


def _finalise(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    words = (words ^ (words >> _SHIFT)) * _M1
    words = (words ^ (words >> _SHIFT)) * _M2
    return words ^ (words >> _SHIFT)
