"""What every task of a node works with."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from nvisy_dagster.compiler import Node
from nvisy_dagster.engine.bookmark import journal_name
from nvisy_dagster.engine.calls import Caller
from nvisy_dagster.engine.change_reader import ChangeReader
from nvisy_dagster.engine.dead_letter import DeadLetters, listed_as
from nvisy_dagster.engine.epochs import Epochs
from nvisy_dagster.engine.error_limit import ErrorLimits
from nvisy_dagster.engine.lease import Lease
from nvisy_dagster.engine.message import Removal
from nvisy_dagster.engine.metrics import NodeMetrics
from nvisy_dagster.engine.pace import Pace, Work
from nvisy_dagster.engine.rejection import Rejected, failed_records
from nvisy_dagster.engine.superseded import Superseding, superseded_as
from nvisy_dagster.engine.suspects import NodeSuspects
from nvisy_dagster.sdk import Action, Component, KernelAction, SequentialAction


def concurrency_of(node: Node) -> int:
    """Calls of a node that may be in flight."""
    asked = node.policies.concurrency.max_per_node
    return asked or node.component.capabilities.concurrency


def begin_pace(pace: Pace, nodes: Sequence[tuple[Node, Component[Any]]]) -> None:
    """Begin with as many records at once as the nodes of a stage, and their components, take."""
    calls = [
        (component.rows_per_call(), concurrency_of(node))
        for node, component in nodes
        if isinstance(component, Action) and not isinstance(component, KernelAction)
    ]
    groups = [one.rows_per_call() or 1 for _, one in nodes if isinstance(one, SequentialAction)]
    pace.begin_with(calls, groups)


@dataclass
class RunningNode:
    """What every task of a node works with."""

    node: Node
    metrics: NodeMetrics
    caller: Caller
    epochs: Epochs
    dead_letters: DeadLetters
    superseding: Superseding
    limits: ErrorLimits
    epoch: int
    """Epoch of the last barrier that it passed on."""
    lease: Lease
    pace: Pace
    changes: ChangeReader | None = None
    """Of a source that reads only what changed."""
    kept: list[pa.Array] = field(default_factory=list[pa.Array])
    """Roots of records that it refused in this epoch: a removal leaves them alone."""
    suspects: NodeSuspects = field(default_factory=NodeSuspects)
    """Records that may have killed an earlier process."""
    wanted: Callable[[], bool] = lambda: True
    """Whether anybody wants what it makes: otherwise what comes is dropped."""
    checkpoint_key: str | None = None
    """Of a sink that commits the stage's checkpoint with its records: its name there."""

    @property
    def concurrency(self) -> int:
        """Calls that may be in flight."""
        return concurrency_of(self.node)

    def at_work(self, concurrency: int | None = None) -> AbstractContextManager[Work]:
        """While the node is busy with a message.

        Args:
            concurrency: Calls that it makes at once, if not as many as it may.
        """
        return self.pace.at_work(self.node.id, concurrency or self.concurrency)

    async def reject(self, rejected: Rejected) -> None:
        """Treat refused records as the node's policy says.

        Raises:
            NodeError: The policy is to fail.
        """
        counts = self.metrics.counts
        self.kept.append(rejected.records.column("_root_id"))
        counts.failed += rejected.records.num_rows
        match self.node.policies.on_error:
            case "fail":
                raise failed_records(self.node.id, rejected)
            case "drop":
                counts.dropped += rejected.records.num_rows
            case "dead_letter":
                await self.dead_letters.add(rejected)
                counts.dead += rejected.records.num_rows
        self.limits.check(self.node, self.metrics)

    def leave(self, unwanted: pa.RecordBatch) -> None:
        """Take records of which nobody wants what it would make."""
        self.metrics.took(unwanted)
        self.metrics.counts.dropped += unwanted.num_rows

    def saw(self, records: pa.RecordBatch, rejected: Sequence[Rejected] = ()) -> None:
        """Records came to the node, and got past it but for those that were rejected."""
        self.metrics.counts.superseded += self.superseding.saw(records, rejected)

    async def pass_barrier(self, epoch: int) -> None:
        """What is due before a barrier goes on: dead letters durable, counts cut."""
        # A share is judged of all that came, not only when a record fails.
        self.limits.check(self.node, self.metrics)
        if self.changes is not None:
            part = await self.changes.commit(epoch)
            self.epochs.keep(journal_name(self.node.id), [part] if part else [])
        parts = await self.dead_letters.commit(epoch)
        self.epochs.keep(listed_as(self.node.id), parts)
        closed = await self.superseding.commit(epoch)
        self.epochs.keep(superseded_as(self.node.id), closed)
        self.epochs.passed(self.node.id, epoch, self.metrics.to_json())
        self.epoch = epoch
        self.kept.clear()

    def removal(self, message: Removal) -> Removal:
        """What goes on of a removal."""
        return Removal.merged([message], self.kept)

    async def pass_end(self) -> None:
        """The same for what came after the last barrier."""
        await self.pass_barrier(self.epoch + 1)
