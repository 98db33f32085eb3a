"""Spans of text: where chunks begin and end, and cutting them out of an Arrow column.

A span is a pair of character positions. Cutting works on the bytes of the column, so that no chunk
is ever a Python string.
"""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from nvisy_dagster.sdk import DataError

# Arrow makes its kernels at import; no type checker sees them.
pc = cast("Any", pyarrow.compute)

Positions = npt.NDArray[np.int64]

MAX_COLUMN_BYTES = 2**31 - 1
"""What the 32-bit offsets of an Arrow `string` column can address."""

_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True)
class Spans:
    """Chunks of a column of texts, ordered by row and by place in the text."""

    rows: Positions
    """Row of the text that each chunk is cut from, ascending."""
    starts: Positions
    """First character of each chunk."""
    ends: Positions
    """Character after the last one of each chunk."""
    tokens: npt.NDArray[np.int32] | None = None
    """Tokens in each chunk, when they were counted."""

    def indexes(self) -> Positions:
        """Place of each chunk among the chunks of its text, from 0."""
        firsts = np.searchsorted(self.rows, self.rows, side="left")
        return np.arange(len(self.rows), dtype=np.int64) - firsts


def windows(lengths: Positions, size: int, overlap: int) -> tuple[Positions, Positions, Positions]:
    """Windows of `size` steps that share `overlap` steps with their neighbour, over every length.

    The last window ends where the text ends and may be shorter; a text of no length has none.

    Returns:
        Row, start and end of each window.
    """
    stride = size - overlap
    counts = np.maximum(-(-(lengths - overlap) // stride), 1)
    counts[lengths == 0] = 0
    rows = np.repeat(np.arange(len(lengths), dtype=np.int64), counts)
    before = np.cumsum(counts) - counts
    starts = (np.arange(len(rows), dtype=np.int64) - before[rows]) * stride
    return rows, starts, np.minimum(starts + size, lengths[rows])


def cut(texts: pa.Array, spans: Spans) -> pa.Array:
    """The text of each span, as a `string` column.

    Args:
        texts: `large_string` without nulls.
        spans: Spans of its characters.

    Raises:
        DataError: The spans of one text alone are more than a column can hold.
    """
    data, offsets = _bytes_and_offsets(texts)
    firsts, lasts = _byte_spans(texts, spans, data, offsets)
    sizes = lasts - firsts
    _refuse_overflow(spans.rows, sizes)
    views = pa.LargeListViewArray.from_arrays(
        pa.array(offsets[spans.rows] + firsts), pa.array(sizes), pa.array(data)
    )
    ends = np.zeros(len(sizes) + 1, np.int32)
    np.cumsum(sizes, out=ends[1:])
    return pa.StringArray.from_buffers(
        len(sizes), pa.py_buffer(ends), pa.py_buffer(views.flatten().to_numpy())
    )


def _bytes_and_offsets(texts: pa.Array) -> tuple[npt.NDArray[np.uint8], Positions]:
    _, offset_buffer, data_buffer = texts.buffers()
    if len(texts) == 0 or offset_buffer is None:
        return np.empty(0, np.uint8), np.zeros(1, np.int64)
    offsets = np.frombuffer(offset_buffer, np.int64, len(texts) + 1, 8 * texts.offset)
    data = np.empty(0, np.uint8) if data_buffer is None else np.frombuffer(data_buffer, np.uint8)
    return data, offsets


def _byte_spans(
    texts: pa.Array, spans: Spans, data: npt.NDArray[np.uint8], offsets: Positions
) -> tuple[Positions, Positions]:
    """Spans of bytes: the spans of characters wherever every character is one byte."""
    bounds = np.stack([spans.starts, spans.ends])
    wide = pc.not_equal(pc.utf8_length(texts), pc.binary_length(texts))
    rows = np.flatnonzero(wide.to_numpy(zero_copy_only=False))
    lows = np.searchsorted(spans.rows, rows)
    highs = np.searchsorted(spans.rows, rows, side="right")
    for row, low, high in zip(rows.tolist(), lows.tolist(), highs.tolist(), strict=True):
        text = data[offsets[row] : offsets[row + 1]]
        bounds[:, low:high] = _byte_positions(text, bounds[:, low:high])
    return bounds[0], bounds[1]


def _byte_positions(text: npt.NDArray[np.uint8], characters: Positions) -> Positions:
    """Byte at which each character of a UTF-8 text begins; its length for the end of the text."""
    if len(text) <= _BLOCK_BYTES:
        return np.append(np.flatnonzero(_begins(text)), len(text))[characters]
    found = np.full(characters.shape, len(text), np.int64)
    seen = 0
    # In blocks: the positions of all characters at once would take eight times the text.
    for start in range(0, len(text), _BLOCK_BYTES):
        begins = np.flatnonzero(_begins(text[start : start + _BLOCK_BYTES]))
        inside = (characters >= seen) & (characters < seen + len(begins))
        found[inside] = start + begins[characters[inside] - seen]
        seen += len(begins)
    return found


def _begins(text: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Bytes that are not UTF-8's continuation of a character."""
    return (text & 0xC0) != 0x80  # noqa: PLR2004 - the two bits that mark a continuation


def _refuse_overflow(rows: Positions, sizes: Positions) -> None:
    if int(sizes.sum()) <= MAX_COLUMN_BYTES:
        return
    totals = np.bincount(rows, weights=sizes)
    guilty = int(np.argmax(totals))
    raise DataError(
        "the chunks of a batch take more than 2 GiB",
        rows={guilty: f"its chunks take {int(totals[guilty])} bytes"},
        remedy="use a smaller overlap, or cut the document before",
    )
