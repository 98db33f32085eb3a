"""Ways to find the chunks of texts: exact windows and natural boundaries, in characters or tokens.

Each is a function from a `large_string` column without nulls to the spans of its chunks. Texts that
are all white space have none.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from nvisy_connectors.ai.spans import Positions, Spans, windows
from nvisy_connectors.ai.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from semantic_text_splitter import TextSplitter
    from tokenizers import Tokenizer

# Arrow makes its kernels at import; no type checker sees them.
pc = cast("Any", pyarrow.compute)

Splitter = Callable[[pa.Array], Spans]


def splitter(
    boundary: Literal["natural", "exact"], size: int, overlap: int, tokenizer: str | None
) -> Splitter:
    """The way to split that params ask for; reads the tokenizer's file.

    Args:
        boundary: Where chunks may end.
        size: Largest chunk, in tokens when there is a tokenizer, else in characters.
        overlap: What neighbours share.
        tokenizer: Name or path of the tokenizer.

    Raises:
        ConfigError: There is no such tokenizer.
    """
    from semantic_text_splitter import TextSplitter

    counter = load_tokenizer(tokenizer) if tokenizer else None
    if boundary == "exact":
        if counter is None:
            return lambda texts: _exact_characters(texts, size, overlap)
        return lambda texts: _exact_tokens(texts, size, overlap, counter)
    if counter is None:
        native = TextSplitter(size, overlap)
    else:
        native = TextSplitter.from_huggingface_tokenizer(counter, size, overlap)
    return lambda texts: _natural(texts, native, counter)


def _exact_characters(texts: pa.Array, size: int, overlap: int) -> Spans:
    lengths = pc.utf8_length(texts).to_numpy(zero_copy_only=False).astype(np.int64)
    lengths[_blank(texts)] = 0
    return Spans(*windows(lengths, size, overlap))


def _exact_tokens(texts: pa.Array, size: int, overlap: int, tokenizer: "Tokenizer") -> Spans:
    parts: list[tuple[Positions, ...]] = []
    for row, text in _written(texts):
        offsets = np.array(tokenizer.encode(text, add_special_tokens=False).offsets, np.int64)
        if not len(offsets):
            offsets = np.zeros((1, 2), np.int64)
        cuts = _token_cuts(offsets, len(text))
        _, first, last = windows(np.array([len(offsets)]), size, overlap)
        starts, ends = cuts[first], cuts[last]
        kept = starts < ends
        # Counted anew: the tokens of a character that straddles two windows go to the later one.
        counts = np.searchsorted(cuts[:-1], ends) - np.searchsorted(cuts[:-1], starts)
        rows = np.full(len(starts), row, np.int64)
        parts.append((rows[kept], starts[kept], ends[kept], counts[kept]))
    rows, starts, ends, counts = _concatenated(parts, 4)
    return Spans(rows, starts, ends, counts.astype(np.int32))


def _token_cuts(offsets: npt.NDArray[np.int64], length: int) -> Positions:
    """Character at which the text is cut before each token, and its end.

    What a tokenizer skips (white space, for some) goes to the token before it, so that nothing is
    lost between two chunks.
    """
    cuts = np.append(offsets[:, 0], length)
    cuts[0] = 0
    return np.maximum.accumulate(cuts)


def _natural(texts: pa.Array, native: "TextSplitter", tokenizer: "Tokenizer | None") -> Spans:
    parts: list[tuple[Positions, ...]] = []
    for row, text in _written(texts):
        chunks = native.chunk_indices(text)
        starts = np.fromiter((start for start, _ in chunks), np.int64, len(chunks))
        sizes = np.fromiter((len(piece) for _, piece in chunks), np.int64, len(chunks))
        rows = np.full(len(chunks), row, np.int64)
        counts = np.zeros(len(chunks), np.int64)
        if tokenizer is not None:
            pieces = [piece for _, piece in chunks]
            encoded = tokenizer.encode_batch_fast(pieces, add_special_tokens=False)
            counts = np.fromiter((len(e) for e in encoded), np.int64, len(chunks))
        parts.append((rows, starts, starts + sizes, counts))
    rows, starts, ends, counts = _concatenated(parts, 4)
    return Spans(rows, starts, ends, None if tokenizer is None else counts.astype(np.int32))


def _written(texts: pa.Array) -> Iterator[tuple[int, str]]:
    """Rows that hold more than white space, one at a time, so that few are Python strings."""
    for row in np.flatnonzero(~_blank(texts)):
        yield int(row), texts[int(row)].as_py()


def _blank(texts: pa.Array) -> npt.NDArray[np.bool_]:
    trimmed = pc.binary_length(pc.utf8_trim_whitespace(texts))
    return pc.equal(trimmed, 0).to_numpy(zero_copy_only=False)


def _concatenated(parts: list[tuple[Positions, ...]], width: int) -> list[Positions]:
    if not parts:
        return [np.empty(0, np.int64) for _ in range(width)]
    return [np.concatenate(column) for column in zip(*parts, strict=True)]
