"""Which records are nearly the same: groups of those whose texts are alike, however many there are.

The signatures of all texts are written to disk, and of each a hash per band of their slots. Texts
that agree in a band are candidates: DuckDB sorts the hashes of one band after another, so that they
lie beside each other. A pair of candidates is linked if the signatures tell that they are alike
enough. The groups are what is linked, directly or through others.
"""

import mmap
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nvisy_connectors.tabular.minhash import Hashes, Places, ShingleOf, band_hashes, signatures
from nvisy_connectors.tabular.spilling import RECORDS, ROW, Spilling

if TYPE_CHECKING:
    import duckdb

RECALL = 0.99
"""Least probability that two texts, exactly as alike as they must be, are candidates."""
NEIGHBOURS = 8
"""Candidates before it in its band that a text is compared with, besides the first one: of many
that share a band by chance not every pair is looked at."""
CHUNK_ROWS = 1 << 16
PAIRS = 4096
"""Pairs that are compared at once."""

_HASH = "hash"
_BAND = pa.schema([(_HASH, pa.uint64()), (ROW, pa.int64())])


class InterruptedGatheringError(Exception):
    """It was asked to end."""


@dataclass(frozen=True)
class Likeness:
    """When two texts are nearly the same."""

    threshold: float
    """Least Jaccard index of their shingles."""
    of: ShingleOf
    size: int
    permutations: int

    @property
    def band_rows(self) -> int:
        """Slots of a band: as many as can be, for few candidates, without missing some."""
        rows = 1
        while self._recall(rows + 1) >= RECALL:
            rows += 1
        return rows

    def _recall(self, rows: int) -> float:
        return 1 - (1 - self.threshold**rows) ** (self.permutations // rows)


class NearDuplicates:
    """Finds the groups of the records of one action.

    Args:
        likeness: When two are nearly the same.
        spilling: Sorts.
        memory_limit: For sorting.
        scratch: Folder for what does not fit in memory.
        interrupted: Set when it is to end.
    """

    def __init__(
        self,
        likeness: Likeness,
        spilling: Spilling,
        memory_limit: str,
        scratch: Path,
        interrupted: threading.Event,
    ) -> None:
        self._likeness = likeness
        self._spilling = spilling
        self._memory_limit = memory_limit
        self._scratch = scratch
        self._interrupted = interrupted

    def groups(self, texts: Iterable[pa.Array]) -> Places:
        """The group of each record: the place of the first one in it.

        A record without a text, or without a word in it, is a group by itself.

        Args:
            texts: The texts of all records, batch by batch.

        Raises:
            InterruptedGatheringError: It was asked to end.
            OSError: The disk is full.
        """
        count, bands = self._write(texts)
        groups = _file(self._scratch / "groups", count)
        groups[:] = np.arange(count)
        path = self._scratch / "places"
        places = _file(path, path.stat().st_size // groups.itemsize)
        links = _file(self._scratch / "links", len(places))
        links[:] = np.arange(len(links))
        if len(links) > 1:
            self._link(links, bands)
        for start in range(0, len(links), CHUNK_ROWS):
            numbers = np.arange(start, min(start + CHUNK_ROWS, len(links)))
            groups[places[numbers]] = places[_roots(links, numbers)]
        return groups

    def _write(self, texts: Iterable[pa.Array]) -> tuple[int, int]:
        """Write signatures, bands and the places of their records.

        Returns:
            How many records there are, and how many bands.
        """
        likeness, count = self._likeness, 0
        rows = likeness.band_rows
        bands = likeness.permutations // rows
        with ExitStack() as stack:

            def opened(name: str) -> Any:  # noqa: ANN401 - a file
                return stack.enter_context((self._scratch / name).open("wb"))

            places_file, whole, found_file = map(opened, ("places", "band-whole", "signatures"))
            files = [opened(f"band-{band}") for band in range(bands)]
            for batch in texts:
                made = signatures(batch, likeness.of, likeness.size, likeness.permutations)
                for places, found in made:
                    self._check()
                    (places + count).tofile(places_file)
                    found.tofile(found_file)
                    band_hashes(found, likeness.permutations, 0).tofile(whole)
                    for band, file in enumerate(files):
                        band_hashes(found, rows, band).tofile(file)
                count += len(batch)
        return count, bands

    def _link(self, links: Places, bands: int) -> None:
        leads: npt.NDArray[np.bool_] | None = None
        with (
            _Signatures(self._scratch / "signatures", self._likeness) as alike,
            self._spilling.database(self._scratch, self._memory_limit) as database,
        ):
            for band in ("whole", *range(bands)):
                file = self._scratch / f"band-{band}"
                for one, other in candidates(self._sorted(database, _band(file, leads))):
                    self._check()
                    _unite(links, *alike.pairs(one, other, links))
                file.unlink()
                if leads is None:
                    # Of those whose signatures are the same one stands for all.
                    leads = links == np.arange(len(links))

    def _sorted(
        self,
        database: "duckdb.DuckDBPyConnection",
        rows: Iterator[pa.RecordBatch],
    ) -> Iterator[tuple[Hashes, Places]]:
        """The hashes in order, each with the number of its text, some at a time."""
        database.register(RECORDS, pa.RecordBatchReader.from_batches(_BAND, rows))
        query = f"SELECT {_HASH}, {ROW} FROM {RECORDS} ORDER BY {_HASH}, {ROW}"  # noqa: S608
        for batch in database.sql(query).to_arrow_reader(CHUNK_ROWS):
            yield batch.column(0).to_numpy(), batch.column(1).to_numpy()

    def _check(self) -> None:
        if self._interrupted.is_set():
            raise InterruptedGatheringError


def candidates(found: Iterable[tuple[Hashes, Places]]) -> Iterator[tuple[Places, Places]]:
    """Pairs of texts whose hashes are the same, not all of many.

    Args:
        found: Hashes in order, some at a time, each with the number of its text.
    """
    hashes, numbers = np.zeros(0, np.uint64), np.zeros(0, np.int64)
    first = np.zeros(0, np.int64)
    for more_hashes, more_numbers in found:
        old = len(hashes)
        hashes = np.concatenate([hashes, more_hashes])
        numbers = np.concatenate([numbers, more_numbers])
        first = _first(hashes, numbers, first)
        for back in range(1, min(NEIGHBOURS, len(hashes) - 1) + 1):
            fresh = max(old, back)
            same = hashes[fresh:] == hashes[fresh - back : len(hashes) - back]
            if not same.any():
                break
            yield numbers[fresh - back : len(hashes) - back][same], numbers[fresh:][same]
        others = first[old:] != numbers[old:]
        yield first[old:][others], numbers[old:][others]
        keep = slice(max(0, len(hashes) - NEIGHBOURS), None)
        hashes, numbers, first = hashes[keep], numbers[keep], first[keep]


def _band(file: Path, leads: npt.NDArray[np.bool_] | None) -> Iterator[pa.RecordBatch]:
    """The hashes of a band with the numbers of their texts, all or those that lead."""
    start = 0
    with file.open("rb") as stream:
        while len(hashes := np.fromfile(stream, np.uint64, CHUNK_ROWS)):
            numbers = np.arange(start, start + len(hashes))
            start += len(hashes)
            if leads is not None:
                kept = leads[numbers]
                hashes, numbers = hashes[kept], numbers[kept]
            yield pa.RecordBatch.from_arrays([pa.array(hashes), pa.array(numbers)], schema=_BAND)


def _first(hashes: Hashes, numbers: Places, known: Places) -> Places:
    """Of each text the first one that has its hash, where those of the first few are known."""
    starts = np.append(True, hashes[1:] != hashes[:-1])
    place = np.maximum.accumulate(np.where(starts, np.arange(len(hashes)), 0))
    first = numbers[place]
    if len(known):
        first[: len(known)] = known
        # What goes on from there has the same first one.
        goes_on = len(known) + int(np.argmax(np.append(starts[len(known) :], True)))
        first[len(known) : goes_on] = known[-1]
    return first


class _Signatures:
    """The signatures on disk, compared by pairs."""

    def __init__(self, path: Path, likeness: Likeness) -> None:
        self._path = path
        self._likeness = likeness

    def __enter__(self) -> Self:
        with self._path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        found = np.frombuffer(self._map, np.uint32)
        self._found: npt.NDArray[np.uint32] | None = found.reshape(-1, self._likeness.permutations)
        return self

    def __exit__(self, *_: object) -> None:
        self._found = None
        self._map.close()

    def pairs(self, one: Places, other: Places, links: Places) -> tuple[Places, Places]:
        """Those of the pairs that are alike enough, and not in one group yet."""
        assert self._found is not None  # noqa: S101 - it is open
        apart = _roots(links, one) != _roots(links, other)
        one, other = one[apart], other[apart]
        least = self._likeness.threshold * self._likeness.permutations
        alike = np.zeros(len(one), np.bool_)
        for start in range(0, len(one), PAIRS):
            some = slice(start, start + PAIRS)
            same = self._found[one[some]] == self._found[other[some]]
            alike[some] = same.sum(axis=1) >= least
            # Mapped pages count as memory.
            self._map.madvise(mmap.MADV_DONTNEED)
        return one[alike], other[alike]


def _roots(links: Places, numbers: Places) -> Places:
    """Where links lead in the end."""
    found = links[numbers]
    while len(found):
        further = links[found]
        if np.array_equal(further, found):
            break
        found = further
    links[numbers] = found
    return found


def _unite(links: Places, one: Places, other: Places) -> None:
    """Link pairs; of each group all lead to the first one in it."""
    while len(one):
        one, other = _roots(links, one), _roots(links, other)
        apart = one != other
        one, other = one[apart], other[apart]
        np.minimum.at(links, np.maximum(one, other), np.minimum(one, other))


def _file(path: Path, count: int) -> Places:
    """So many numbers in a file: of many records they would not fit in memory."""
    if not count:
        return np.zeros(0, np.int64)
    mode = "r+" if path.exists() else "w+"
    return np.asarray(np.memmap(path, np.int64, mode, shape=(count,)))
