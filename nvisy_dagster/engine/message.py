"""What flows through a channel."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from nvisy_dagster.sdk.identity import array_to_ids, ids_to_array


@dataclass(frozen=True, slots=True)
class Barrier:
    """All before it belongs to this epoch or an earlier one."""

    epoch: int


@dataclass(frozen=True, slots=True)
class End:
    """Nothing follows."""


@dataclass(frozen=True, slots=True)
class Removal:
    """What was made earlier of these root records goes, unless this epoch makes it again.

    It holds for the whole epoch, wherever in it it stands: an inlet delivers it right before the
    epoch's barrier, when every record that the epoch has for these roots has come.
    """

    root_ids: pa.Array
    """`fixed_size_binary(16)`, without nulls."""
    kept: pa.Array
    """Those of them of which a record failed: their earlier version stays, however this removal
    travels. A failure must not make a document disappear."""

    @classmethod
    def of(cls, root_ids: Sequence[pa.Array], kept: Sequence[pa.Array] = ()) -> "Removal":
        """A removal of all these ids."""
        return cls(_together(root_ids), _together(kept))

    @classmethod
    def merged(cls, removals: Iterable["Removal"], kept: Sequence[pa.Array] = ()) -> "Removal":
        """One removal for several, of which these are kept too."""
        found = list(removals)
        return cls.of([one.root_ids for one in found], [*(one.kept for one in found), *kept])

    def effective(self) -> pa.Array:
        """The ids that go."""
        ids = _words(self.root_ids)
        gone = np.setdiff1d(ids, _words(self.kept))
        return ids_to_array(np.ascontiguousarray(gone).view(np.uint64).reshape(-1, 2))

    def to_batch(self) -> pa.RecordBatch:
        """As rows: one per id."""
        ids = pa.concat_arrays([self.root_ids, self.kept])
        kept = np.arange(len(ids)) >= len(self.root_ids)
        return pa.RecordBatch.from_arrays([ids, pa.array(kept)], schema=_ROWS)

    @classmethod
    def from_batch(cls, rows: pa.RecordBatch) -> "Removal":
        """The removal that `to_batch` made these rows of."""
        ids, kept = rows.columns
        is_kept = kept.to_numpy(zero_copy_only=False)
        return cls(ids.filter(pa.array(~is_kept)), ids.filter(pa.array(is_kept)))


_ROWS = pa.schema([
    pa.field("root_id", pa.binary(16), nullable=False),
    pa.field("kept", pa.bool_(), nullable=False),
])


def _together(arrays: Sequence[pa.Array]) -> pa.Array:
    kinds = [array.cast(pa.binary(16)) for array in arrays if len(array)]
    return pa.concat_arrays(kinds) if kinds else pa.array([], pa.binary(16))


def _words(array: pa.Array) -> "np.ndarray[Any, Any]":
    """Ids as numpy records that can be sorted."""
    words = np.ascontiguousarray(array_to_ids(array))
    return words.view([("low", np.uint64), ("high", np.uint64)]).ravel()


Message = pa.RecordBatch | Barrier | Removal | End
END = End()


def size_of(message: Message) -> int:
    """Bytes that the message keeps alive."""
    if isinstance(message, Removal):
        return message.root_ids.nbytes + message.kept.nbytes
    return 0 if isinstance(message, Barrier | End) else message.nbytes
