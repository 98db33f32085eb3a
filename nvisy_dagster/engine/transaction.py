"""Checkpoints that a sink commits in one transaction with the records.

Where such a sink is the only one of its stage that commits, nothing can come between the records
and the position that covers them: the stage goes on from what the sink has, and the checkpoint in
the stage's folder follows behind. A session that is lost takes the records of its epoch with it;
then the stage begins again from its checkpoint, in place.
"""

from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread
from pydantic import ValidationError

from nvisy_dagster.compiler import Plan, Stage
from nvisy_dagster.engine.attempts import retry_delay
from nvisy_dagster.engine.calls import Caller
from nvisy_dagster.engine.checkpoint import Checkpoint, CheckpointStore
from nvisy_dagster.engine.drain import RunStoppedError, StopRequest
from nvisy_dagster.engine.failpoint import failpoint
from nvisy_dagster.engine.failure import BEGIN_ANEW, NodeError, StorageError, node_error
from nvisy_dagster.sdk import EpochLostError, NvisyError, Sink

if TYPE_CHECKING:
    from nvisy_dagster.engine.nodes.running import RunningNode


def keeper_of(plan: Plan, stage: Stage) -> str | None:
    """The sink that keeps the checkpoint of a stage: its only committer, if that one can."""
    sinks = [node for node in stage.nodes if plan.nodes[node].kind == "sink"]
    if stage.outputs or len(sinks) != 1:
        return None
    component = plan.nodes[sinks[0]].component
    keeps = issubclass(component, Sink) and component.keeps_checkpoint
    return sinks[0] if keeps else None


def checkpoint_key(progress: str, stage: Stage, node: str) -> str:
    """Names the checkpoint of a stage among all that a sink keeps."""
    return f"{progress}/{stage.id}/{node}"


async def kept_checkpoint(
    sink: Sink[Any], key: str, here: Checkpoint, store: CheckpointStore, caller: Caller
) -> Checkpoint:
    """The checkpoint to go on from: the sink's, which is right even where it is the older one.

    Args:
        sink: The sink that keeps it, started.
        key: Its name there.
        here: The one of the stage's folder.
        store: Where that one is kept.
        caller: Makes the calls of the sink's node.

    Raises:
        NodeError: The sink cannot be asked; or it has lost what the stage's folder says that it
            had.
    """
    try:
        return await _kept_checkpoint(sink, key, here, store, caller)
    except NvisyError as error:
        raise node_error(sink.node_id, error) from error


async def _kept_checkpoint(
    sink: Sink[Any], key: str, here: Checkpoint, store: CheckpointStore, caller: Caller
) -> Checkpoint:
    if not store.read().generation:
        # Before the first commit: what it covers is only known for this one's by its generation.
        await to_thread.run_sync(store.write, here)
    document = await caller.retried(lambda: sink.stored_checkpoint(key))
    kept = None if document is None else _parsed(document)
    if kept is not None and (kept.basis, kept.generation) == (here.basis, here.generation):
        return kept
    if here.epoch:
        raise StorageError(
            "the system that the stage writes to has no record of this run any more, though it had "
            "committed some of it",
            remedy=BEGIN_ANEW,
        )
    return here


def _parsed(document: bytes) -> Checkpoint:
    try:
        return Checkpoint.model_validate_json(document)
    except ValidationError as error:
        raise StorageError(
            "another version of nvisy-dagster wrote the checkpoint beside the records",
            remedy=BEGIN_ANEW,
        ) from error


async def commit_with_checkpoint(
    running: "RunningNode", sink: Sink[Any], epoch: int, key: str
) -> None:
    """Commit an epoch and its checkpoint in one; every other node has passed its barrier."""
    failpoint("sink.before_commit")
    await running.pass_barrier(epoch)
    document = running.epochs.checkpoint(epoch).model_dump_json().encode()

    async def commit(epoch: int) -> None:
        await sink.commit_with_checkpoint(epoch, key, document)

    await running.caller.call(running.lease.guarded(commit), epoch, what="a commit")
    failpoint("sink.after_commit")
    await running.epochs.committed(running.node.id, epoch)


class Restarts:
    """How often a stage begins again, in place, after its sink lost an epoch.

    Each loss counts against the retry policy of the sink; a checkpoint in between makes it anew.

    Args:
        plan: The plan.
        stop: Asks the stage to end, if anything can; it ends a pause at once.
    """

    def __init__(self, plan: Plan, stop: StopRequest | None = None) -> None:
        self._plan = plan
        self._stop = stop
        self._attempt = 0
        self._epoch = -1

    async def wait(self, error: BaseException, epoch: int) -> bool:
        """Wait as the policy says; whether the stage may then begin again.

        Args:
            error: What the stage failed of.
            epoch: Its last checkpoint.

        Raises:
            RunStoppedError: It was asked to stop meanwhile.
        """
        if not isinstance(error, NodeError) or not _lost_epoch(error):
            return False
        retry = self._plan.nodes[error.node].policies.retry
        self._attempt = 1 if epoch > self._epoch else self._attempt + 1
        self._epoch = epoch
        if self._attempt > retry.max_retries:
            return False
        await self._pause(retry_delay(retry, self._attempt, None), error)
        return True

    async def _pause(self, seconds: float, error: Exception) -> None:
        if self._stop is None:
            await anyio.sleep(seconds)
            return
        with anyio.move_on_after(seconds):
            await self._stop.wait()
            raise RunStoppedError(
                f"the run was stopped while it waited to begin again: {error}"
            ) from error


def _lost_epoch(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, EpochLostError):
            return True
        error = error.__cause__
    return False
