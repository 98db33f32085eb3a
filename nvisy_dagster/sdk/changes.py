"""What a source tells of the changes since its last successful run, and what it remembers of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import pyarrow as pa

from nvisy_dagster.sdk.params import Cursor

if TYPE_CHECKING:
    from nvisy_dagster.sdk.source import Batch

C = TypeVar("C", bound=Cursor)


@dataclass(frozen=True)
class ChangeCounts:
    """How many things a source found, such as objects or rows."""

    new: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0


@dataclass(frozen=True)
class Change(Generic[C]):
    """One step of a source that reads only what changed.

    Whatever was made earlier of the records of `batch`, and of those in `gone`, is replaced by what
    is made of them now: what is not made again is removed from the sinks.
    """

    cursor: C
    """Position to resume from once this step is committed."""
    batch: "Batch[C] | None" = None
    """Records that are new or changed. One that changes while it is read may come again, or be
    gone, in a later step: the engine commits what came before first, so that the later version
    replaces the earlier one."""
    gone: pa.Array | None = None
    """Ids of root records that are not there any more, `fixed_size_binary(16)`; ids that never were
    do no harm. An id that has a record in this read must come in the step of that record."""
    bookmark: pa.RecordBatch | None = None
    """Rows of the next bookmark, in a schema of the source's own: all that it must remember, of
    what did not change too."""
    touched: pa.RecordBatch | None = None
    """Rows that are durable before `batch` is sent, and given back to the source if the run does
    not come to its end: what a sink may hold although no bookmark says so."""
    counts: ChangeCounts = ChangeCounts()
    """What this step found."""


@dataclass(frozen=True)
class Bookmark:
    """What a source remembers when it begins, or resumes, to read what changed."""

    last: Sequence[pa.RecordBatch] = ()
    """The rows that the last successful run left."""
    trusted: bool = False
    """Whether what did not change since `last` may be left out. If not, all is read again (the
    graph was changed, or the user asked for it), and `last` only tells what is gone."""
    so_far: Sequence[pa.RecordBatch] = ()
    """The rows that this run has committed: it goes on from the cursor."""
    touched: Sequence[pa.RecordBatch] = ()
    """What runs that did not come to their end may have sent, in any order."""
    may_empty: bool = False
    """Whether everything may be gone at once. If not, a source that finds nothing where there was
    much refuses: a disk that is not mounted looks the same."""
