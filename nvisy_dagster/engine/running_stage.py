"""A stage at work: its nodes as one task group, wired by channels."""

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, cast

import anyio
from anyio import to_thread

from nvisy_dagster.compiler import Node, Output, Plan, Stage
from nvisy_dagster.engine import allocators
from nvisy_dagster.engine.accounting import Accounts
from nvisy_dagster.engine.calls import Caller
from nvisy_dagster.engine.change_reader import ChangeReader
from nvisy_dagster.engine.checkpoint import Checkpoint, CheckpointStore
from nvisy_dagster.engine.components import Components
from nvisy_dagster.engine.dead_letter import DeadLetters, LetterOrigin, listed_as
from nvisy_dagster.engine.demand import Demand
from nvisy_dagster.engine.drain import RunStoppedError, stoppable
from nvisy_dagster.engine.epochs import Epochs
from nvisy_dagster.engine.error_limit import ErrorLimits
from nvisy_dagster.engine.failure import NodeError, first_node_error, node_error
from nvisy_dagster.engine.gate import Gates
from nvisy_dagster.engine.lease import Lease
from nvisy_dagster.engine.materialized import PartWriter
from nvisy_dagster.engine.nodes.action import run_action
from nvisy_dagster.engine.nodes.blocking import kept_inputs, run_blocking
from nvisy_dagster.engine.nodes.edges import run_edges, run_part_writer
from nvisy_dagster.engine.nodes.router import run_router
from nvisy_dagster.engine.nodes.running import RunningNode, begin_pace
from nvisy_dagster.engine.nodes.sequential import run_sequential
from nvisy_dagster.engine.nodes.sink import run_sink
from nvisy_dagster.engine.nodes.source import read_source, run_source
from nvisy_dagster.engine.open_letters import open_letters
from nvisy_dagster.engine.pace import Pace
from nvisy_dagster.engine.places import reach
from nvisy_dagster.engine.removed import RemovalWriter
from nvisy_dagster.engine.stage_context import (
    StageContext,
    StageResult,
    manifests_of,
    part_folder,
    restored_metrics,
)
from nvisy_dagster.engine.superseded import OpenLetters, Superseding, superseded_as
from nvisy_dagster.engine.suspects import NodeSuspects, Suspects
from nvisy_dagster.engine.transaction import checkpoint_key, keeper_of, kept_checkpoint
from nvisy_dagster.engine.wiring import Wiring, reader_name, writer_name
from nvisy_dagster.graph.policies import Checkpoint as Interval
from nvisy_dagster.sdk import (
    Action,
    BaseBlockingAction,
    Progress,
    Router,
    SequentialAction,
    Sink,
    Source,
)

OBSERVE_SECONDS = 0.25


@dataclass(frozen=True)
class Hold:
    """What a stage holds as long as it runs, whatever fails in between."""

    lease: Lease
    store: CheckpointStore
    suspects: Suspects | None
    """`None` for a stage that fails with its first bad record."""


class RunningStage:
    """One attempt at a stage, from a checkpoint on.

    Args:
        plan: The compiled graph.
        stage: The stage.
        context: What it was given.
        hold: What it holds as long as it runs.
        checkpoint: Where it goes on from.
    """

    def __init__(
        self,
        plan: Plan,
        stage: Stage,
        context: StageContext,
        hold: Hold,
        checkpoint: Checkpoint,
    ) -> None:
        self.plan = plan
        self.stage = stage
        self.context = context
        self.lease = hold.lease
        self.store = hold.store
        self.suspects = hold.suspects
        self.resumed = checkpoint.epoch > 0
        self.metrics = {m.node: m for m in restored_metrics(plan, stage, checkpoint)}
        self.wiring = Wiring(plan, stage, context.channel_bytes)
        progress = Progress(
            context.progress,
            checkpoint.epoch,
            self.lease.token,
            partial=context.partial,
            graph=plan.name,
            bounded_epochs=self.wiring.may_cut,
        )
        self.components = Components(plan, context.connections, progress, self.lease)
        self.writers: dict[str, PartWriter] = {}
        self.removed: dict[str, RemovalWriter] = {}
        self.changes: dict[str, ChangeReader] = {}
        self.gates = context.gates or Gates(plan)
        self.limits = ErrorLimits(plan.name)
        self.letters: list[DeadLetters] = []
        self.open_letters: Mapping[str, OpenLetters] = {}
        self.flowing = False
        """Whether everything is open."""
        self.pace = Pace(self.interval)
        self.keeper = keeper_of(plan, stage)
        self.epochs = self._epochs(checkpoint)

    @cached_property
    def demand(self) -> Demand:
        """Who still wants records, once it is flowing."""
        return Demand(self.plan, self.stage, self.epochs.reads)

    @property
    def interval(self) -> Interval | None:
        """How often a barrier is cut."""
        return self.plan.checkpoint if self.wiring.may_cut else None

    def _epochs(self, checkpoint: Checkpoint) -> Epochs:
        plan, stage = self.plan, self.stage
        sinks = [n for n in stage.nodes if plan.nodes[n].kind == "sink"]
        sources = [n for n in stage.nodes if plan.nodes[n].kind == "source"]
        return Epochs(
            self.store,
            checkpoint,
            self.interval,
            sources=[*sources, *(reader_name(plan.stage(s)) for s in self.wiring.inputs)],
            committers=[*sinks, *(writer_name(o) for o in stage.outputs)],
            audit=Accounts(plan, stage, self.context.inputs).check,
        )

    async def _go_on_from_keeper(self) -> None:
        """Go on from the checkpoint that the sink keeps, if it is one that does."""
        if self.keeper is None:
            return
        here, progress = self.epochs.start, self.context.progress
        sink = cast("Sink[Any]", self.components[self.keeper])
        caller = self._caller(self.plan.nodes[self.keeper])
        key = checkpoint_key(progress, self.stage, self.keeper)
        checkpoint = await kept_checkpoint(sink, key, here, self.store, caller)
        if checkpoint.epoch != here.epoch:
            self.resumed = checkpoint.epoch > 0
            self.metrics = {m.node: m for m in restored_metrics(self.plan, self.stage, checkpoint)}
            self.epochs = self._epochs(checkpoint)

    def result(self) -> StageResult:
        """What it did."""
        return StageResult(
            metrics=list(self.metrics.values()),
            manifests=manifests_of(self.stage, self.context, self.epochs.written),
            resumed=self.resumed,
        )

    async def run(self) -> None:
        """Run to the end, or until it is asked to stop.

        Raises:
            BaseExceptionGroup: Some nodes failed.
            RunStoppedError: It was asked to stop, and has.
        """
        await stoppable(self._run, self.context.stop, self._drain)

    async def _drain(self) -> RunStoppedError:
        if not self.flowing:
            return RunStoppedError("the run was stopped before it read anything", drained=True)
        if not self.wiring.may_cut:
            return RunStoppedError("the run was stopped")
        seconds = self.plan.defaults.timeout.drain_seconds
        self.epochs.stop()
        with anyio.move_on_after(seconds):
            await self.epochs.drained.wait()
            return RunStoppedError(
                "the run was stopped; what was under way is committed", drained=True
            )
        return RunStoppedError(
            f"the run was stopped; what was under way did not end within {seconds:g} s "
            '("timeout.drain_seconds"): the next run does it again'
        )

    async def _run(self) -> None:
        nodes = [self.plan.nodes[node_id] for node_id in self.stage.nodes]
        async with AsyncExitStack() as stack:
            stack.push_async_exit(self.components.close)
            for node in nodes:
                await self.components.open(node, self._caller(node))
            begin_pace(self.pace, [(node, self.components[node.id]) for node in nodes])
            await self._go_on_from_keeper()
            for output in self.stage.outputs:
                folder, after = part_folder(self.context, output), self.epochs.start.epoch
                writer = PartWriter(folder, after, self.lease)
                stack.push_async_callback(writer.aclose)
                self.writers[output.name] = writer
                removed = RemovalWriter(writer_name(output), folder, after, self.lease)
                stack.push_async_callback(removed.aclose)
                self.removed[output.name] = removed
            for node in nodes:
                if node.incremental:
                    await self._open_changes(node, stack)
            stack.push_async_callback(self._close_letters)
            self.open_letters = await to_thread.run_sync(open_letters, nodes, self.context)
            for node in nodes:
                self.limits.check(node, self.metrics[node.id])
            self.limits.insist()
            self.flowing = True
            async with anyio.create_task_group() as background:
                background.start_soon(self.epochs.tick)
                background.start_soon(self._observe)
                background.start_soon(self.limits.watch, self._drain)
                background.start_soon(allocators.release_for_ever)
                async with anyio.create_task_group() as tasks:
                    self._start(tasks.start_soon)
                background.cancel_scope.cancel()
            for node in nodes:
                self.limits.check(node, self.metrics[node.id])
            if self.limits.broken is not None:
                await self.epochs.complete(finished=False)
                self.limits.insist()
            for node in nodes:
                await to_thread.run_sync(self.lease.check)
                await self.components.finish(node, self._caller(node))
            await self.epochs.complete()
        self._tell()

    async def _open_changes(self, node: Node, stack: AsyncExitStack) -> None:
        context = self.context

        def make() -> ChangeReader:
            there = reach(self.plan, node, context.connections)
            start = self.epochs.start
            return ChangeReader(
                node, context.folder, context.progress, there, start, lease=self.lease
            )

        changes = await to_thread.run_sync(make)
        stack.push_async_callback(changes.aclose)
        self.changes[node.id] = changes

    async def _close_letters(self) -> None:
        for letters in self.letters:
            await letters.aclose()

    def _start(self, start: Callable[..., object]) -> None:
        alone = any(self.plan.nodes[node].blocks for node in self.stage.nodes)
        inputs = {} if alone else self.wiring.inputs
        for stage_id, outputs in inputs.items():
            start(
                run_edges,
                reader_name(self.plan.stage(stage_id)),
                [self.context.inputs[output.name] for output in outputs],
                {output.name: self.wiring.readers(output) for output in outputs},
                self.epochs,
                self.pace,
            )
        for node_id in self.stage.nodes:
            start(self._run_node, self.plan.nodes[node_id])
        for output in self.stage.outputs:
            start(
                run_part_writer,
                writer_name(output),
                self.writers[output.name],
                self.removed[output.name],
                self.wiring.written(output),
                self.epochs,
            )

    def _caller(self, node: Node) -> Caller:
        gate = self.gates.of(node)
        return Caller(node.policies, self.metrics[node.id], self.context.run_limit, gate)

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
        except NodeError:
            # Not `from` itself: a cause that is its own has no end.
            raise
        except Exception as error:
            raise node_error(node.id, error) from error
        if scope.cancelled_caught:
            raise NodeError(
                node.id,
                f"it took longer than {seconds:g} s",
                # A stage that is started again at once would take as long again.
                retryable=False,
                tag="timeout",
                remedy='raise "timeout.node_seconds"; the next run goes on from the checkpoint',
            )

    async def _dispatch(self, node: Node) -> None:
        component = self.components[node.id]
        running = self._running(node)
        if isinstance(component, Source):
            await self._run_source(node, component, running)
            return
        if isinstance(component, BaseBlockingAction):
            await self._run_blocking(node, component, running)
            return
        inlet = self.wiring.inlet(node)
        if isinstance(component, Action | SequentialAction):
            outlet = self.wiring.outlet(Output(node.id))
            if isinstance(component, Action):
                await run_action(running, component, inlet, outlet)
            else:
                enough = partial(self.demand.has_enough, node.id)
                await run_sequential(running, component, inlet, outlet, enough)
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
        if not self.open_letters:  # what nobody wants closes letters of other runs all the same
            source.hint = node.hint
        outlet = self.wiring.outlet(Output(node.id))
        await run_source(running, source, read_source(running, source), outlet)
        running.metrics.wait_out_seconds = outlet.wait_seconds

    async def _run_blocking(
        self, node: Node, action: BaseBlockingAction[Any], running: RunningNode
    ) -> None:
        inputs = kept_inputs(self.plan, node, self.wiring, self.context.inputs)
        outlet = self.wiring.outlet(Output(node.id))
        await run_blocking(running, action, inputs, outlet, self.context.folder)
        running.metrics.wait_out_seconds = outlet.wait_seconds

    def _running(self, node: Node) -> RunningNode:
        epoch = self.epochs.start.epoch
        folder, run_id = self.context.dead_letters, self.context.run_id
        parts, still_open = self.epochs.start.parts, self.open_letters.get(node.id)
        origin = LetterOrigin(
            node.id, run_id, self.epochs.cursors, self.context.attempts, still_open
        )
        listed = parts.get(listed_as(node.id), [])
        letters = DeadLetters(folder, origin, listed, self.lease)
        self.letters.append(letters)
        return RunningNode(
            node=node,
            metrics=self.metrics[node.id],
            caller=self._caller(node),
            epochs=self.epochs,
            dead_letters=letters,
            superseding=Superseding(
                folder,
                node.id,
                run_id,
                open_=still_open,
                listed=parts.get(superseded_as(node.id), []),
                lease=self.lease,
            ),
            limits=self.limits,
            epoch=epoch,
            changes=self.changes.get(node.id),
            suspects=self.suspects.of(node.id) if self.suspects else NodeSuspects(),
            lease=self.lease,
            pace=self.pace,
            wanted=partial(self.demand.wants, node.id),
            checkpoint_key=(
                checkpoint_key(self.context.progress, self.stage, node.id)
                if node.id == self.keeper
                else None
            ),
        )

    async def _observe(self) -> None:
        while self.context.observe is not None:
            self._tell()
            await anyio.sleep(OBSERVE_SECONDS)

    def _tell(self) -> None:
        if self.context.observe is not None:
            self.context.observe(list(self.metrics.values()))
