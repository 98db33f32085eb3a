"""Keeping two versions of one source record in two epochs.

A source may tell of a record more than once in a run: it changed while the run went on. What the
earlier version left is removed when the later one is committed, unless it is of the same epoch, in
which nobody can tell them apart. So before the later version goes on a barrier is cut.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nvisy_dagster.sdk.identity import array_to_ids

Words = npt.NDArray[np.uint64]


class Versions:
    """The root records that went on since the last barrier.

    Half of each id is remembered, 8 bytes: a mistake costs a barrier that was not needed.
    """

    def __init__(self) -> None:
        self._told: list[Words] = []
        """Sorted; each more than twice as long as the next, so that few are searched."""

    def meet(self, roots: Sequence[pa.Array]) -> bool:
        """Whether one of these went on already."""
        words = _words(roots)
        return any(_common(told, words) for told in self._told)

    def add(self, roots: Sequence[pa.Array]) -> None:
        """Note what goes on."""
        words = _words(roots)
        if not len(words):
            return
        self._told.append(words)
        while len(self._told) > 1 and len(self._told[-2]) <= 2 * len(self._told[-1]):
            last = self._told.pop()
            self._told[-1] = np.sort(np.concatenate([self._told[-1], last]), kind="stable")

    def clear(self) -> None:
        """A barrier was cut."""
        self._told.clear()


def _words(roots: Sequence[pa.Array]) -> Words:
    found = [array_to_ids(array.cast(pa.binary(16)))[:, 0] for array in roots if len(array)]
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.uint64)


def _common(told: Words, words: Words) -> bool:
    places = np.minimum(np.searchsorted(told, words), len(told) - 1)
    return bool((told[places] == words).any())
