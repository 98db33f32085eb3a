"""Running a stage from checkpoint to checkpoint, as the only one that does."""

import uuid
from contextlib import suppress

from anyio import to_thread

from nvisy_dagster.compiler import Plan, Stage
from nvisy_dagster.engine import allocators
from nvisy_dagster.engine.checkpoint import Checkpoint, CheckpointStore
from nvisy_dagster.engine.dead_letter_origins import note_graph
from nvisy_dagster.engine.drain import RunStoppedError, failed_while_stopping
from nvisy_dagster.engine.failure import NodeError, StorageError, first_node_error
from nvisy_dagster.engine.lease import FencedError, Lease
from nvisy_dagster.engine.open_letters import settle_chain
from nvisy_dagster.engine.places import basis, check_apart, discard_rivals
from nvisy_dagster.engine.replay_selection import refuse_replay
from nvisy_dagster.engine.running_stage import Hold, RunningStage
from nvisy_dagster.engine.stage_context import (
    StageContext,
    StageResult,
    manifests_of,
    restored_metrics,
)
from nvisy_dagster.engine.suspects import suspects_of
from nvisy_dagster.engine.transaction import Restarts


async def run_stage(plan: Plan, stage: Stage, context: StageContext) -> StageResult:
    """Run a stage to its end, going on from its checkpoint if there is one.

    A stage that was completed by an earlier attempt is not run again.

    Raises:
        NodeError: A node failed; the checkpoint holds what was committed.
        RunConflictError: Another live run holds the stage.
        RunStoppedError: It was asked to stop, and has.
    """
    allocators.settle()
    check_apart(plan, context.connections)
    async with Lease(context.folder, context.run_id, context.token) as lease:
        refuse_replay(context.excluded_by)
        store = CheckpointStore(context.folder / "checkpoint.json", lease)
        await to_thread.run_sync(settle_chain, context)
        await to_thread.run_sync(note_graph, plan, context)
        checkpoint = _checkpoint(plan, stage, context, store)
        if checkpoint.complete:
            return StageResult(
                metrics=restored_metrics(plan, stage, checkpoint),
                manifests=manifests_of(stage, context, checkpoint),
                resumed=True,
            )
        if _stopping(context):
            raise RunStoppedError("the run was stopped before it came to this stage", drained=True)
        discard_rivals(plan, stage, context.folder, context.run_id)
        with suspects_of(plan, stage, context.folder, lease) as suspects:
            restarts = Restarts(plan, context.stop)
            hold = Hold(lease, store, suspects)
            while True:
                running = RunningStage(plan, stage, context, hold, checkpoint)
                try:
                    await running.run()
                except BaseExceptionGroup as group:
                    error = first_node_error(group)
                    await _tell_if_fenced(lease, error)
                    if isinstance(error, Exception) and _stopping(context):
                        raise failed_while_stopping(error) from error
                    if not await restarts.wait(error, running.epochs.written.epoch):
                        # Its own cause; the group holds the error and would hide where it began.
                        raise error from error.__cause__
                    checkpoint = _checkpoint(plan, stage, context, store)
                except NodeError as error:
                    await _tell_if_fenced(lease, error)
                    raise
                else:
                    return running.result()


async def _tell_if_fenced(lease: Lease, error: BaseException) -> None:
    """What fails because another run took over has that as its reason."""
    with suppress(StorageError):
        try:
            await to_thread.run_sync(lease.check)
        except FencedError as fenced:
            raise fenced from error


def _stopping(context: StageContext) -> bool:
    return context.stop is not None and context.stop.requested


def _checkpoint(
    plan: Plan, stage: Stage, context: StageContext, store: CheckpointStore
) -> Checkpoint:
    """The checkpoint to go on from; an empty one if there is none for where the stage works now."""
    checkpoint = store.claim()
    here = basis(plan, stage, context.connections, context.inputs)
    if checkpoint.generation and checkpoint.basis == here:
        return checkpoint
    # Before anything is written elsewhere: what is done now must not be taken for its work.
    store.discard()
    return Checkpoint(basis=here, generation=uuid.uuid4().hex)
