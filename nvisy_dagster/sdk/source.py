"""The base class of sources."""

from abc import abstractmethod
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

import pyarrow as pa

from nvisy_dagster.sdk.changes import Bookmark, Change
from nvisy_dagster.sdk.component import Located, type_arguments
from nvisy_dagster.sdk.edge_type import EdgeType
from nvisy_dagster.sdk.params import Cursor, Params
from nvisy_dagster.sdk.push_down import NO_HINT, Hint
from nvisy_dagster.sdk.rejected import Decoded, RejectedRecord

P = TypeVar("P", bound=Params)
C = TypeVar("C", bound=Cursor)


@dataclass(frozen=True)
class Batch(Generic[C]):
    """An Arrow record batch and the position to resume from once it is committed.

    All records made from one source record travel in the epoch of the batch that held it.
    """

    data: pa.RecordBatch
    cursor: C
    rejected: Sequence[RejectedRecord] = ()
    """What was found between these records and could not become one. `data` may be empty then."""


class Source(Located[P], Generic[P, C]):
    """Reads batches from an external system."""

    cursor_type: ClassVar[type[Cursor]]
    bookmarks: ClassVar[bool] = False
    """Whether it can read only what changed since the last successful run: `read_changes`."""
    skips_bad_records: ClassVar[bool] = False
    """Whether it can tell which records are bad and read on behind them. A graph may set
    `on_error` only on a source that can."""
    decodes: ClassVar[bool] = False
    """Whether it can try again what `read` rejected, with `decode`: then its dead letters can be
    replayed."""
    bad_records: Literal["raise", "reject"] = "raise"
    """What `read` does with one: raise a `DataError`, or put it into `Batch.rejected`. Set before
    `read` is called, and only on a source that can tell."""
    hint: Hint = NO_HINT
    """What nobody behind it wants: a source may leave it out, or not. Set before `read`; never for
    `read_changes`."""
    most_rows: int | None = None
    """Most records that a batch should hold from now on; `None` for as many as it likes. It may
    change while `read` goes on. Checkpoints are taken between batches: a source that makes larger
    ones has more to do again after a crash."""

    def __init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401 - the language's own signature
        super().__init_subclass__(**kwargs)
        for argument in type_arguments(cls):
            if issubclass(argument, Cursor):
                cls.cursor_type = argument

    def rows_at_most(self, wanted: int) -> int:
        """How many records the next batch may hold, of those that it would."""
        return wanted if self.most_rows is None else max(1, min(wanted, self.most_rows))

    @abstractmethod
    def output(self) -> EdgeType:
        """What it will read; pure.

        Raises:
            ConfigError: The params contradict each other.
        """

    @abstractmethod
    def read(self, cursor: C | None) -> AsyncGenerator[Batch[C], None]:
        """Yield batches that follow `cursor`, from the beginning when it is `None`.

        Every batch carries the envelope columns. One schema per read.

        Raises:
            DataError: A record cannot be read; the message names its place.
            TransientError: Reading again from the last cursor may succeed.
        """

    def check_on_error(self, on_error: str) -> None:
        """Refuse params that ask for another `on_error` of its node; pure.

        Raises:
            ConfigError: A param and the policy contradict each other.
        """

    def check_incremental(self) -> None:
        """Refuse params with which it cannot tell what changed; pure, for sources with `bookmarks`.

        Raises:
            ConfigError: A param is missing, or does not go with an incremental read.
        """

    def read_changes(self, cursor: C | None, bookmark: Bookmark) -> AsyncGenerator[Change[C], None]:
        """Yield what is new, changed and gone since the bookmark; for sources with `bookmarks`.

        A step's `bookmark` rows, of all steps of a run, are the next run's bookmark. The engine
        makes them current when the whole run has succeeded, and not before.

        Args:
            cursor: Where to go on, if an attempt at this run was cut off.
            bookmark: What earlier runs left.

        Raises:
            DataError: A record cannot be read; the message names its place.
            TransientError: Reading again from the last cursor may succeed.
        """
        raise NotImplementedError

    def can_decode(self, rejected: RejectedRecord) -> bool:
        """Whether `decode` can try this one again; pure, for sources with `decodes`."""
        return rejected.data is not None

    def decode(self, rejected: Sequence[RejectedRecord]) -> AsyncGenerator[Decoded, None]:
        """Try again what `read` rejected, with the present params; for sources with `decodes`.

        Every one of them comes back, as a record or as rejected. Asked again, it makes the same of
        them, cut in the same way. Called after `open`.

        Args:
            rejected: As `read` gave them, without their reasons, and only such as `can_decode`.

        Raises:
            TransientError: The same call may succeed later.
        """
        raise NotImplementedError
