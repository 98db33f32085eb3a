"""A stage: its nodes as one task group, wired by channels, from checkpoint to checkpoint."""

import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from nvisy_dagster.compiler import Node, Output, Plan, Stage
from nvisy_dagster.engine import allocators
from nvisy_dagster.engine.calls import Caller
from nvisy_dagster.engine.channel import DEFAULT_LIMIT_BYTES
from nvisy_dagster.engine.checkpoint import Checkpoint, CheckpointStore
from nvisy_dagster.engine.components import Components
from nvisy_dagster.engine.dead_letter import DeadLetters
from nvisy_dagster.engine.epochs import Epochs
from nvisy_dagster.engine.failure import NodeError, first_node_error, node_error
from nvisy_dagster.engine.lock import StageLock
from nvisy_dagster.engine.materialized import Manifest, PartWriter
from nvisy_dagster.engine.metrics import Counts, NodeMetrics
from nvisy_dagster.engine.node import (
    RunningNode,
    Slice,
    read_source,
    run_action,
    run_edges,
    run_part_writer,
    run_router,
    run_sink,
    run_source,
)
from nvisy_dagster.engine.places import basis, check_apart, discard_rivals
from nvisy_dagster.engine.storage import safe_name
from nvisy_dagster.engine.wiring import Wiring, reader_name, writer_name
from nvisy_dagster.sdk import Action, Connection, Progress, Router, Sink, Source

OBSERVE_SECONDS = 0.25


@dataclass(frozen=True)
class StageContext:
    """What a stage needs to know besides the plan."""

    progress: str
    """Names the attempt chain; see `Progress`."""
    run_id: str
    folder: Path
    """The stage's own state folder."""
    dead_letters: Path
    """Where the dead letters of its attempt chain are kept."""
    inputs: Mapping[str, Manifest] = field(default_factory=dict[str, Manifest])
    """Manifests of the materialized outputs that it reads, by name."""
    connections: Mapping[str, Connection] = field(default_factory=dict[str, Connection])
    observe: Callable[[Sequence[NodeMetrics]], None] | None = None
    """Called a few times a second with the metrics so far."""
    run_limit: anyio.Semaphore | None = None
    channel_bytes: int = DEFAULT_LIMIT_BYTES


@dataclass(frozen=True)
class StageResult:
    """What a stage did."""

    metrics: Sequence[NodeMetrics]
    manifests: Mapping[str, Manifest]
    """Its materialized outputs by name."""
    resumed: bool
    """Whether it went on from an earlier attempt's checkpoint."""


async def run_stage(plan: Plan, stage: Stage, context: StageContext) -> StageResult:
    """Run a stage to its end, going on from its checkpoint if there is one.

    A stage that was completed by an earlier attempt is not run again.

    Raises:
        NodeError: A node failed; the checkpoint holds what was committed.
        RunConflictError: Another live run holds the stage.
    """
    allocators.settle()
    check_apart(plan, context.connections)
    with StageLock(context.folder, context.run_id):
        store = CheckpointStore(context.folder / "checkpoint.json")
        checkpoint = _checkpoint(plan, stage, context, store)
        if checkpoint.complete:
            return StageResult(
                metrics=_restored(plan, stage, checkpoint),
                manifests=_manifests(stage, context, checkpoint),
                resumed=True,
            )
        discard_rivals(plan, stage, context.folder, context.run_id)
        running = _RunningStage(plan, stage, context, store, checkpoint)
        try:
            await running.run()
        except BaseExceptionGroup as group:
            error = first_node_error(group)
            # Its own cause; the group holds the error itself and would hide where it began.
            raise error from error.__cause__
        return running.result()


def _checkpoint(
    plan: Plan, stage: Stage, context: StageContext, store: CheckpointStore
) -> Checkpoint:
    """The checkpoint to go on from; an empty one if there is none for where the stage works now."""
    checkpoint = store.read()
    here = basis(plan, stage, context.connections, context.inputs)
    if checkpoint.generation and checkpoint.basis == here:
        return checkpoint
    # Before anything is written elsewhere: what is done now must not be taken for its work.
    store.discard()
    return Checkpoint(basis=here, generation=uuid.uuid4().hex)


def _restored(plan: Plan, stage: Stage, checkpoint: Checkpoint) -> list[NodeMetrics]:
    return [
        NodeMetrics(
            node,
            plan.nodes[node].kind,
            Counts.from_json(checkpoint.counts[node]) if node in checkpoint.counts else Counts(),
        )
        for node in stage.nodes
    ]


def _manifests(stage: Stage, context: StageContext, checkpoint: Checkpoint) -> dict[str, Manifest]:
    return {
        output.name: Manifest(
            progress=context.progress,
            output=output.name,
            folder=str(_part_folder(context, output)),
            parts=checkpoint.parts.get(writer_name(output), []),
            generation=checkpoint.generation,
        )
        for output in stage.outputs
    }


def _part_folder(context: StageContext, output: Output) -> Path:
    return context.folder / "edges" / safe_name(output.name)


class _RunningStage:
    def __init__(
        self,
        plan: Plan,
        stage: Stage,
        context: StageContext,
        store: CheckpointStore,
        checkpoint: Checkpoint,
    ) -> None:
        self.plan = plan
        self.stage = stage
        self.context = context
        self.resumed = checkpoint.epoch > 0
        self.metrics = {m.node: m for m in _restored(plan, stage, checkpoint)}
        progress = Progress(context.progress, checkpoint.epoch)
        self.components = Components(plan, context.connections, progress)
        self.writers: dict[str, PartWriter] = {}
        self.wiring = Wiring(plan, stage, context.channel_bytes)
        sinks = [n for n in stage.nodes if plan.nodes[n].kind == "sink"]
        sources = [n for n in stage.nodes if plan.nodes[n].kind == "source"]
        self.epochs = Epochs(
            store,
            checkpoint,
            plan.checkpoint if self.wiring.may_cut else None,
            sources=[*sources, *(reader_name(plan.stage(s)) for s in self.wiring.inputs)],
            committers=[*sinks, *(writer_name(o) for o in stage.outputs)],
        )

    def result(self) -> StageResult:
        return StageResult(
            metrics=list(self.metrics.values()),
            manifests=_manifests(self.stage, self.context, self.epochs.written),
            resumed=self.resumed,
        )

    async def run(self) -> None:
        nodes = [self.plan.nodes[node_id] for node_id in self.stage.nodes]
        async with AsyncExitStack() as stack:
            stack.push_async_exit(self.components.close)
            for node in nodes:
                await self.components.open(node, self._caller(node))
            for output in self.stage.outputs:
                writer = PartWriter(_part_folder(self.context, output), self.epochs.start.epoch)
                stack.push_async_callback(writer.aclose)
                self.writers[output.name] = writer
            async with anyio.create_task_group() as background:
                background.start_soon(self.epochs.tick)
                background.start_soon(self._observe)
                background.start_soon(allocators.release_for_ever)
                async with anyio.create_task_group() as tasks:
                    self._start(tasks.start_soon)
                background.cancel_scope.cancel()
            for node in nodes:
                await self.components.finish(node, self._caller(node))
            await self.epochs.complete()
        self._tell()

    def _start(self, start: Callable[..., object]) -> None:
        for stage_id, outputs in self.wiring.inputs.items():
            start(
                run_edges,
                reader_name(self.plan.stage(stage_id)),
                [self.context.inputs[output.name] for output in outputs],
                {output.name: self.wiring.readers(output) for output in outputs},
                self.epochs,
            )
        for node_id in self.stage.nodes:
            start(self._run_node, self.plan.nodes[node_id])
        for output in self.stage.outputs:
            start(
                run_part_writer,
                writer_name(output),
                self.writers[output.name],
                self.wiring.written(output),
                self.epochs,
            )

    def _caller(self, node: Node) -> Caller:
        return Caller(node.policies, self.metrics[node.id], self.context.run_limit)

    async def _run_node(self, node: Node) -> None:
        seconds = node.policies.timeout.node_seconds
        try:
            with anyio.move_on_after(seconds) as scope:
                await self._dispatch(node)
        except BaseExceptionGroup as group:
            error = first_node_error(group)
            if isinstance(error, NodeError) or not isinstance(error, Exception):
                raise error from error.__cause__
            raise node_error(node.id, error) from error
        except Exception as error:
            raise node_error(node.id, error) from error
        if scope.cancelled_caught:
            raise NodeError(
                node.id,
                f"it took longer than {seconds} s",
                retryable=True,
                tag="timeout",
                remedy='raise "timeout.node_seconds"; the next run goes on from the checkpoint',
            )

    async def _dispatch(self, node: Node) -> None:
        component = self.components[node.id]
        running = self._running(node)
        if isinstance(component, Source):
            await self._run_source(node, component, running)
            return
        inlet = self.wiring.inlet(node)
        if isinstance(component, Action):
            outlet = self.wiring.outlet(Output(node.id))
            await run_action(running, component, inlet, outlet)
            running.metrics.wait_out_seconds = outlet.wait_seconds
        elif isinstance(component, Router):
            outlets = {
                route: self.wiring.outlet(Output(node.id, route)) for route in component.routes()
            }
            await run_router(running, component, inlet, outlets)
        elif isinstance(component, Sink):
            await run_sink(running, component, inlet)
        running.metrics.wait_in_seconds = inlet.wait_seconds

    async def _run_source(self, node: Node, source: Source[Any, Any], running: RunningNode) -> None:
        position = self.epochs.position(node.id)
        slices = _nothing() if position.done else read_source(running, source, position.cursor)
        outlet = self.wiring.outlet(Output(node.id))
        await run_source(running, slices, outlet)
        running.metrics.wait_out_seconds = outlet.wait_seconds

    def _running(self, node: Node) -> RunningNode:
        epoch = self.epochs.start.epoch
        folder = self.context.dead_letters / safe_name(node.id)
        return RunningNode(
            node=node,
            metrics=self.metrics[node.id],
            caller=self._caller(node),
            epochs=self.epochs,
            dead_letters=DeadLetters(folder, node.id, self.context.run_id, epoch),
            epoch=epoch,
        )

    async def _observe(self) -> None:
        while self.context.observe is not None:
            self._tell()
            await anyio.sleep(OBSERVE_SECONDS)

    def _tell(self) -> None:
        if self.context.observe is not None:
            self.context.observe(list(self.metrics.values()))


async def _nothing() -> AsyncGenerator[Slice, None]:
    for nothing in ():
        yield nothing
