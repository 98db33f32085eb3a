"""MinHash: of each text a signature, from which can be told how many shingles two texts share.

The shingles of a text are all runs of so many neighbouring words or characters. The likeness of two
texts is the Jaccard index of their sets of shingles: those in both over those in either. Each slot
of a signature holds the least hash of all shingles under another hash function; two texts agree in
a slot with a probability that equals their likeness.

All hashes are fixed, so that a text has the same signature everywhere and for ever.
"""

import hashlib
from collections.abc import Iterator
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

pc = cast("Any", pyarrow.compute)

ShingleOf = Literal["words", "characters"]
Hashes = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]
Signatures = npt.NDArray[np.uint32]

TEXT_BYTES = 2 << 20
"""Text that is looked at at once: hashes take ten times as much."""
_FEW_SHINGLES = 8192
"""As many fit in the cache of a core."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1 = np.uint64(0xFF51AFD7ED558CCD)
_M2 = np.uint64(0xC4CEB9FE1A85EC53)
_HALF = np.uint64(32)
_SHIFT = np.uint64(33)
_NO_WORD = r"[^\pL\pM\pN]+"


def signatures(
    texts: pa.Array, of: ShingleOf, size: int, permutations: int
) -> Iterator[tuple[Places, Signatures]]:
    """The signatures of texts, some at a time: the places of those that have one, and one row each.

    Letter case does not matter, nor do blanks between words; between words of `words` nothing does
    that is no letter, mark or digit. A text of fewer words or characters than a shingle has is one
    shingle. A text without any has no signature.

    Args:
        texts: Strings, some of them null.
        of: What shingles are made of.
        size: How many of it one has.
        permutations: Slots of a signature.
    """
    whole = pc.fill_null(texts.cast(pa.large_string()), "")
    start = 0
    for piece in _pieces(whole):
        units, ends = _words(piece) if of == "words" else _characters(piece)
        counts = np.diff(ends, prepend=0)
        places = np.flatnonzero(counts)
        if len(places):
            hashes, starts = _shingles(units, counts[places], size)
            yield places + start, _least(hashes, starts, permutations)
        start += len(piece)


def band_hashes(found: Signatures, rows: int, band: int) -> Hashes:
    """A hash of so many slots of each signature, for one band of them."""
    hashes = np.full(len(found), band, np.uint64)
    for slot in range(band * rows, (band + 1) * rows):
        hashes = _mixed(hashes ^ found[:, slot])
    return hashes


def _pieces(texts: pa.Array) -> Iterator[pa.Array]:
    """The texts in pieces of some size; a long text is one by itself."""
    ends = pc.cumulative_sum(pc.binary_length(texts)).to_numpy(zero_copy_only=False)
    start = 0
    while start < len(texts):
        before = int(ends[start - 1]) if start else 0
        end = max(start + 1, int(np.searchsorted(ends, before + TEXT_BYTES, side="right")))
        yield texts.slice(start, end - start)
        start = end


def _words(texts: pa.Array) -> tuple[Hashes, Places]:
    """Hashes of all words, and where the words of each text end."""
    split = pc.split_pattern_regex(pc.utf8_lower(texts), _NO_WORD)
    ends = split.value_lengths().to_numpy().cumsum(dtype=np.int64)
    coded = split.flatten().dictionary_encode()
    words = coded.dictionary.to_pylist()
    known = b"".join(hashlib.blake2b(word.encode(), digest_size=8).digest() for word in words)
    codes = coded.indices.to_numpy()
    hashes = np.frombuffer(known, "<u8").astype(np.uint64)[codes]
    if "" not in words:
        return hashes, ends
    # Before the first and behind the last word, where there is something else.
    real = codes != words.index("")
    return hashes[real], np.concatenate([[0], real.cumsum()])[ends]


def _characters(texts: pa.Array) -> tuple[Hashes, Places]:
    """Hashes of all characters, and where those of each text end."""
    plain = pc.utf8_trim_whitespace(pc.replace_substring_regex(pc.utf8_lower(texts), r"\s+", " "))
    ends = pc.utf8_length(plain).to_numpy().cumsum(dtype=np.int64)
    joined = "".join(plain.to_pylist()).encode("utf-32-le")
    return _mixed(np.frombuffer(joined, "<u4") + _GOLDEN), ends


def _shingles(units: Hashes, counts: Places, size: int) -> tuple[Hashes, Places]:
    """Hashes of all shingles, and where those of each text begin."""
    if counts.min() < size:
        units, counts = _padded(units, counts, size)
    hashes = np.zeros(len(units) - size + 1, np.uint64)
    for place in range(size):
        hashes = hashes * _GOLDEN + units[place : len(hashes) + place]
    begins = counts.cumsum() - counts
    each = counts - (size - 1)
    starts = each.cumsum() - each
    # Without those that lie across two texts.
    return _mixed(hashes[np.repeat(begins - starts, each) + np.arange(each.sum())]), starts


def _padded(units: Hashes, counts: Places, size: int) -> tuple[Hashes, Places]:
    """The same, with as many units in each text as a shingle has at least."""
    longer = np.maximum(counts, size)
    padded = np.zeros(longer.sum(), np.uint64)
    moved = (longer.cumsum() - longer) - (counts.cumsum() - counts)
    padded[np.repeat(moved, counts) + np.arange(len(units))] = units
    return padded, longer


def _least(hashes: Hashes, starts: Places, permutations: int) -> Signatures:
    factors, terms = _functions(permutations)
    found = np.empty((permutations, len(starts)), np.uint32)
    ends = np.append(starts[1:], len(hashes))
    first = 0
    while first < len(starts):
        last = int(np.searchsorted(ends, starts[first] + _FEW_SHINGLES, side="right"))
        last = max(last, first + 1)
        some = hashes[starts[first] : ends[last - 1]]
        begins = starts[first:last] - starts[first]
        under = np.empty_like(some)
        for slot in range(permutations):
            np.multiply(some, factors[slot], out=under)
            np.add(under, terms[slot], out=under)
            found[slot, first:last] = np.minimum.reduceat(under, begins) >> _HALF
        first = last
    return np.ascontiguousarray(found.T)


def _functions(count: int) -> tuple[Hashes, Hashes]:
    """As many hash functions of multiplication and addition: their factors and terms."""
    made = _mixed(np.arange(1, 2 * count + 1, dtype=np.uint64) * _GOLDEN)
    return made[:count] | np.uint64(1), made[count:]


def _mixed(words: Hashes) -> Hashes:
    """The finaliser of MurmurHash3 (Austin Appleby, public domain)."""
    mixed = words ^ (words >> _SHIFT)
    mixed *= _M1
    mixed ^= mixed >> _SHIFT
    mixed *= _M2
    mixed ^= mixed >> _SHIFT
    return mixed
