"""A stage: its nodes as one task group, wired by channels, from checkpoint to checkpoint."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from nvisy_dagster.compiler import Node, Output, Plan, Stage
from nvisy_dagster.engine.calls import Caller
from nvisy_dagster.engine.channel import DEFAULT_LIMIT_BYTES, Channel, Inlet, Outlet
from nvisy_dagster.engine.checkpoint import Checkpoint, CheckpointStore
from nvisy_dagster.engine.dead_letter import DeadLetters
from nvisy_dagster.engine.epochs import Epochs
from nvisy_dagster.engine.failure import NodeError, first_node_error, node_error
from nvisy_dagster.engine.lock import StageLock
from nvisy_dagster.engine.materialized import Manifest, PartWriter, read_parts
from nvisy_dagster.engine.metrics import Counts, NodeMetrics
from nvisy_dagster.engine.node import (
    RunningNode,
    Slice,
    read_source,
    run_action,
    run_part_writer,
    run_router,
    run_sink,
    run_source,
)
from nvisy_dagster.engine.storage import safe_name
from nvisy_dagster.sdk import (
    Action,
    Component,
    Connection,
    Progress,
    Router,
    Sink,
    Source,
    TransientError,
)

CLOSE_SECONDS = 30.0
"""How long clients may take to close when a stage fails or is cancelled."""
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
    with StageLock(context.folder, context.run_id):
        store = CheckpointStore(context.folder / "checkpoint.json")
        checkpoint = store.read()
        if not checkpoint.complete:
            running = _RunningStage(plan, stage, context, store, checkpoint)
            try:
                await running.run()
            except BaseExceptionGroup as group:
                error = first_node_error(group)
                # Its own cause; the group holds the error itself and would hide where it began.
                raise error from error.__cause__
            return running.result()
        return StageResult(
            metrics=_restored(plan, stage, checkpoint),
            manifests=_manifests(stage, context, checkpoint),
            resumed=True,
        )


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
            parts=checkpoint.parts.get(_writer_name(output), []),
        )
        for output in stage.outputs
    }


def _part_folder(context: StageContext, output: Output) -> Path:
    return context.folder / "edges" / safe_name(output.name)


def _writer_name(output: Output) -> str:
    return f"edge:{output.name}"


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
        self.components: dict[str, Component[Any]] = {}
        self.writers: dict[str, PartWriter] = {}
        self.channels: dict[tuple[str, str], Channel] = {}
        sinks = [n for n in stage.nodes if plan.nodes[n].kind == "sink"]
        sources = [n for n in stage.nodes if plan.nodes[n].kind == "source"]
        self.epochs = Epochs(
            store,
            checkpoint,
            plan.checkpoint,
            sources=[*sources, *(_writer_name(o) for o in stage.inputs)],
            committers=[*sinks, *(_writer_name(o) for o in stage.outputs)],
        )

    def result(self) -> StageResult:
        return StageResult(
            metrics=list(self.metrics.values()),
            manifests=_manifests(self.stage, self.context, self.epochs.written),
            resumed=self.resumed,
        )

    async def run(self) -> None:
        async with AsyncExitStack() as stack:
            # Closing is shielded: a cancelled stage still closes every client.
            stack.push_async_callback(self._close)
            await self._open_all()
            self._open_writers()
            async with anyio.create_task_group() as background:
                background.start_soon(self.epochs.tick)
                background.start_soon(self._observe)
                async with anyio.create_task_group() as nodes:
                    self._start(nodes.start_soon)
                background.cancel_scope.cancel()
            for node_id, component in self.components.items():
                if isinstance(component, Sink):
                    await _named(node_id, component.finish)
            await self.epochs.complete()
        self._tell()

    async def _open_all(self) -> None:
        for node_id in self.stage.nodes:
            await _named(node_id, partial(self._open, self.plan.nodes[node_id]))

    async def _open(self, node: Node) -> None:
        connection = self.context.connections.get(node.connection) if node.connection else None
        caller = self._caller(node)
        attempt = 0
        while True:
            component = node.build(connection, self.plan.folder)
            try:
                await component.__aenter__()
                self.components[node.id] = component
                if isinstance(component, Sink):
                    progress = Progress(self.context.progress, self.epochs.start.epoch)
                    await component.start(progress)
            except TransientError as error:
                if self.components.pop(node.id, None) is not None:
                    await component.__aexit__(None, None, None)
                attempt += 1
                await caller.pause(error, attempt)
            else:
                return

    async def _close(self) -> None:
        with anyio.move_on_after(CLOSE_SECONDS, shield=True):
            for component in reversed(self.components.values()):
                await component.__aexit__(None, None, None)
            for writer in self.writers.values():
                await writer.aclose()

    def _open_writers(self) -> None:
        for output in self.stage.outputs:
            folder = _part_folder(self.context, output)
            self.writers[output.name] = PartWriter(folder, self.epochs.start.epoch)

    def _start(self, start: Callable[..., object]) -> None:
        for output in self.stage.inputs:
            start(run_source, *self._edge_source(output))
        for node_id in self.stage.nodes:
            start(self._run_node, self.plan.nodes[node_id])
        for output in self.stage.outputs:
            start(
                run_part_writer,
                _writer_name(output),
                self.writers[output.name],
                Inlet([self._channel(output.name, _writer_name(output))]),
                self.epochs,
            )

    def _edge_source(
        self, output: Output
    ) -> tuple[str, AsyncGenerator[Slice, None], Outlet, Epochs]:
        name = _writer_name(output)
        position = self.epochs.position(name)
        manifest = self.context.inputs[output.name]
        start = (
            len(manifest.parts) if position.done else int((position.cursor or {"part": 0})["part"])
        )
        readers = [
            self._channel(output.name, edge.target)
            for edge in self.plan.edges
            if edge.kind == "materialized"
            and edge.output == output
            and edge.target in self.stage.nodes
        ]
        return name, _edge_slices(manifest, start), Outlet(readers), self.epochs

    def _channel(self, output: str, target: str) -> Channel:
        key = (output, target)
        if key not in self.channels:
            self.channels[key] = Channel(self.context.channel_bytes)
        return self.channels[key]

    def _outlet(self, output: Output) -> Outlet:
        targets = [
            edge.target
            for edge in self.plan.edges_from[output.node]
            if edge.output == output and edge.kind == "streamed"
        ]
        if output in self.stage.outputs:
            targets.append(_writer_name(output))
        return Outlet([self._channel(output.name, target) for target in targets])

    def _inlet(self, node: Node) -> Inlet:
        edges = self.plan.edges_into[node.id]
        return Inlet([self._channel(edge.output.name, node.id) for edge in edges])

    def _caller(self, node: Node) -> Caller:
        return Caller(node.policies, self.metrics[node.id], self.context.run_limit)

    async def _run_node(self, node: Node) -> None:
        try:
            with anyio.fail_after(node.policies.timeout.node_seconds):
                await self._dispatch(node)
        except TimeoutError as error:
            seconds = node.policies.timeout.node_seconds
            raise NodeError(
                node.id,
                f"it took longer than {seconds} s",
                retryable=True,
                tag="timeout",
                remedy='raise "timeout.node_seconds"; the next run goes on from the checkpoint',
            ) from error
        except BaseExceptionGroup as group:
            error = first_node_error(group)
            if isinstance(error, NodeError) or not isinstance(error, Exception):
                raise error from error.__cause__
            raise node_error(node.id, error) from error
        except Exception as error:
            raise node_error(node.id, error) from error

    async def _dispatch(self, node: Node) -> None:
        component = self.components[node.id]
        running = self._running(node)
        if isinstance(component, Source):
            await self._run_source(node, component, running)
            return
        inlet = self._inlet(node)
        if isinstance(component, Action):
            outlet = self._outlet(Output(node.id))
            await run_action(running, component, inlet, outlet)
            running.metrics.wait_out_seconds = outlet.wait_seconds
        elif isinstance(component, Router):
            outlets = {route: self._outlet(Output(node.id, route)) for route in component.routes()}
            await run_router(running, component, inlet, outlets)
        elif isinstance(component, Sink):
            await run_sink(running, component, inlet)
        running.metrics.wait_in_seconds = inlet.wait_seconds

    async def _run_source(self, node: Node, source: Source[Any, Any], running: RunningNode) -> None:
        position = self.epochs.position(node.id)
        slices = _nothing() if position.done else read_source(running, source, position.cursor)
        outlet = self._outlet(Output(node.id))
        await run_source(node.id, slices, outlet, self.epochs, running)
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


async def _named(node_id: str, call: Callable[[], Any]) -> None:
    try:
        await call()
    except Exception as error:
        raise node_error(node_id, error) from error


async def _nothing() -> AsyncGenerator[Slice, None]:
    for nothing in ():
        yield nothing


async def _edge_slices(manifest: Manifest, start: int) -> AsyncGenerator[Slice, None]:
    async with aclosing(read_parts(manifest, start)) as batches:
        async for batch, part in batches:
            yield batch, None if part is None else {"part": part}
