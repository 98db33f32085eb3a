"""The base class of sinks."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import pyarrow as pa

from nvisy_dagster.sdk.component import Consumer, Located
from nvisy_dagster.sdk.edge_type import EdgeType
from nvisy_dagster.sdk.params import Params

P = TypeVar("P", bound=Params)


@dataclass(frozen=True)
class Progress:
    """Where a sink stands when it starts."""

    id: str
    """Names the chain of attempts at one run; stays the same across crashes and resumes."""
    epoch: int
    """Last epoch that a checkpoint covers; 0 when nothing was committed yet."""
    token: int = 0
    """Fencing token of the lease under which the stage runs: a higher one is a newer holder's. A
    sink that can refuses to commit under a lower token than the newest it saw."""
    partial: bool = False
    """Whether only single records come, as when dead letters are replayed: what the sink holds
    besides them stays, of their roots and of earlier runs."""
    graph: str = ""
    """Name of the graph."""
    bounded_epochs: bool = False
    """Whether the stage commits at intervals while it runs. If not, a sink that loses what it took
    since its last commit may have all of the stage done again, such as a sort of everything."""


class Sink(Located[P], Consumer[P]):
    """Writes batches to an external system."""

    keeps_checkpoint: ClassVar[bool] = False
    """Whether it makes the stage's checkpoint durable in one transaction with the records. Then,
    where nothing else in the stage commits, `commit_with_checkpoint` is called instead of `commit`,
    and the stage goes on from `stored_checkpoint`."""

    def check(self, incoming: EdgeType) -> None:
        """Refuse a schema that it cannot write; pure.

        Raises:
            ConfigError: The incoming schema does not fit.
        """

    async def start(self, progress: Progress) -> None:
        """Called once, after `open` and before the first write.

        A sink with `write_mode="epoch"` discards here what it holds of `progress.id` after
        `progress.epoch`.
        """

    @abstractmethod
    async def write(self, batch: pa.RecordBatch) -> int | None:
        """Take one unit; it may be buffered until `commit`.

        Returns:
            How many of its records it took or found there already, if the system tells; `None` for
            all. The run fails when these numbers do not add up.

        Raises:
            DataError: Some rows were refused; the others are written.
            TransientError: The same call may succeed later.
        """

    @abstractmethod
    async def commit(self, epoch: int) -> None:
        """Return only when everything written so far is durable."""

    async def stored_checkpoint(self, key: str) -> bytes | None:  # noqa: ARG002 - for overriding
        """The document of the last transaction under this key; for sinks with `keeps_checkpoint`.

        Called once, after `start` and before the first write. No transaction of an earlier holder
        of the key commits after it was read.
        """
        return None

    async def commit_with_checkpoint(self, epoch: int, key: str, document: bytes) -> None:
        """As `commit`, with the document in the same transaction; with `keeps_checkpoint`.

        Args:
            epoch: As of `commit`.
            key: Names the stage's progress; the same across attempts.
            document: What `stored_checkpoint` gives from then on.

        Raises:
            EpochLostError: The transaction is undone, or nobody knows whether it is.
        """
        raise NotImplementedError

    def keeps_earlier(self) -> bool:
        """Whether what earlier runs wrote stays; pure."""
        return True

    async def remove(self, root_ids: pa.Array) -> None:
        """Remove what was made of these root records, but not what this epoch wrote.

        For sinks with the capability `removes`. Called when every `write` of an epoch has returned,
        before its `commit`, which makes it durable. It may be repeated, and name ids that were
        never written.

        Args:
            root_ids: `fixed_size_binary(16)`, without nulls; compared with `_root_id`.

        Raises:
            TransientError: The same call may succeed later.
        """
        raise NotImplementedError

    async def finish(self) -> None:
        """Called after the last commit of a run that succeeded.

        Called again if it fails transiently, or if the run dies before its end is on record.
        """
