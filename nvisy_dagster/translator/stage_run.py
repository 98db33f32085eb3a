"""One stage inside one op: from Dagster's context to the engine and back."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import anyio
import dagster as dg

from nvisy_dagster.compiler import Stage
from nvisy_dagster.engine.attempts import retry_delay
from nvisy_dagster.engine.connections import OpenConnections, open_connections
from nvisy_dagster.engine.drain import RunStoppedError, StopRequest
from nvisy_dagster.engine.gate import Gates, limits_folder
from nvisy_dagster.engine.materialized import Manifest
from nvisy_dagster.engine.metrics import NodeMetrics
from nvisy_dagster.engine.progress import ProgressStore
from nvisy_dagster.engine.replay_selection import replays_folder
from nvisy_dagster.engine.stage import run_stage
from nvisy_dagster.engine.stage_context import StageContext, StageResult
from nvisy_dagster.graph.redaction import Redactor
from nvisy_dagster.sdk import NvisyError
from nvisy_dagster.translator.attempt import begin
from nvisy_dagster.translator.dead_runs import forget_worker, note_worker, report_dead_runs
from nvisy_dagster.translator.failure import stage_failure
from nvisy_dagster.translator.io_manager import remove_lost_manifests
from nvisy_dagster.translator.runtime import Runtime
from nvisy_dagster.translator.signals import InterruptedRunError, run_blocking
from nvisy_dagster.translator.storage_folder import writable_storage

MOST_STAGE_RETRIES = 3
"""The engine has retried each call already; this is for what outlasts that."""
HEARTBEAT_SECONDS = 30.0


@dataclass(frozen=True)
class StageReport:
    """What a stage did, and what must not be shown of it."""

    result: StageResult
    seconds: float
    redactor: Redactor


def stage_retries(runtime: Runtime) -> int:
    """How often Dagster starts a failed stage again."""
    return min(runtime.plan.defaults.retry.max_retries, MOST_STAGE_RETRIES)


class StageRun:
    """Runs one stage for one op.

    Args:
        runtime: What the graph's ops share.
        stage: The stage.
        steps: Stage id -> step key, of the whole graph.
        context: The op's context.
    """

    def __init__(
        self,
        runtime: Runtime,
        stage: Stage,
        steps: Mapping[str, str],
        context: dg.OpExecutionContext,
    ) -> None:
        self._runtime = runtime
        self._stage = stage
        self._steps = steps
        self._context = context
        self._told = time.monotonic()
        self.metrics: Sequence[NodeMetrics] = ()
        """Of its nodes, while it runs and when it has failed."""

    def run(self, inputs: Mapping[str, Manifest]) -> StageReport:
        """Run the stage, going on from its checkpoint if there is one.

        Args:
            inputs: Manifests of the outputs that it reads, by name.

        Raises:
            dg.Failure: It failed for good.
            dg.RetryRequested: It failed, and may succeed later.
            dg.DagsterExecutionInterruptedError: A signal ended it.
        """
        redactor = Redactor(())
        failure: dg.Failure | None = None
        started = time.monotonic()
        try:
            runtime = self._runtime
            opened = open_connections(runtime.plan, runtime.connections, os.environ)
            redactor = opened.redactor
            with writable_storage(runtime.storage):
                result = self._run(inputs, opened)
            return StageReport(result, time.monotonic() - started, redactor)
        except (InterruptedRunError, RunStoppedError) as error:
            end = error if isinstance(error, RunStoppedError) else error.__cause__
            self._context.log.warning(redactor.scrub(str(end or "the run was stopped at once")))
        except Exception as error:  # noqa: BLE001 - whatever it is, only its scrubbed text goes on
            failure = stage_failure(error, redactor)
        # Raised here, where no exception is being handled: nothing unscrubbed hangs on to it.
        if failure is None:
            raise self._interrupted()
        self._raise(failure)
        raise failure

    def _run(self, inputs: Mapping[str, Manifest], opened: OpenConnections) -> StageResult:
        plan = self._runtime.plan
        store = ProgressStore(self._runtime.storage, plan.name)
        self._tell_who_runs()
        progress = begin(self._context, plan, store, self._steps)
        _check_inputs(inputs, progress)
        folders = store.open_stage(progress, self._stage, self._context.run_id)
        limit = plan.defaults.concurrency.max_global
        stop = StopRequest()
        context = StageContext(
            progress=progress,
            run_id=self._context.run_id,
            folder=folders.state,
            dead_letters=folders.dead_letters,
            token=folders.token,
            inputs=inputs,
            connections=opened.by_name,
            observe=self._observe,
            run_limit=anyio.Semaphore(limit) if limit else None,
            gates=Gates(plan, limits_folder(self._runtime.storage)),
            excluded_by=replays_folder(self._runtime.storage, plan.name),
            stop=stop,
        )
        try:
            result = run_blocking(lambda: self._in_time(context), stop)
        except InterruptedRunError:
            # It may have come to its end nevertheless.
            store.stage_ended(progress, plan)
            raise
        if store.stage_ended(progress, plan):
            remove_lost_manifests(self._runtime.storage)
            forget_worker(self._runtime.storage, self._context.run_id)
        return result

    def _tell_who_runs(self) -> None:
        runtime, run_id = self._runtime, self._context.run_id
        multiprocess = runtime.plan.execution.executor == "multiprocess"
        graph = runtime.plan.name
        note_worker(runtime.storage, run_id, graph, multiprocess=multiprocess)
        dead = report_dead_runs(self._context.instance, runtime.storage, graph, but=run_id)
        for other in dead:
            self._context.log.info("going on for run %s, whose process is gone", other)

    async def _in_time(self, context: StageContext) -> StageResult:
        """Within what the whole run may still take."""
        limit = self._runtime.plan.defaults.timeout.graph_seconds
        with anyio.move_on_after(None if limit is None else limit - self._run_seconds()):
            return await run_stage(self._runtime.plan, self._stage, context)
        raise NvisyError(
            f"the run took longer than {limit:g} s",
            remedy='raise "timeout.graph_seconds"; the next run goes on from the checkpoint',
            tag="timeout",
        )

    def _run_seconds(self) -> float:
        record = self._context.instance.get_run_record_by_id(self._context.run_id)
        return time.time() - record.start_time if record and record.start_time else 0.0

    def _interrupted(self) -> BaseException:
        if self._context.op_def.retry_policy is None:
            return dg.DagsterExecutionInterruptedError()
        # Dagster would take the interrupt for a crash, and its policy would start the step again.
        return dg.Failure("the run was interrupted", allow_retries=False)

    def _raise(self, failure: dg.Failure) -> None:
        attempt = self._context.retry_number + 1
        retries = stage_retries(self._runtime)
        if failure.allow_retries and attempt <= retries:
            retry = self._runtime.plan.defaults.retry
            seconds = retry_delay(retry, attempt, None)
            raise dg.RetryRequested(retries, seconds) from failure
        # Decided here: Dagster's own policy is for crashes only.
        failure.allow_retries = False

    def _observe(self, metrics: Sequence[NodeMetrics]) -> None:
        self.metrics = metrics
        if self._runtime.observe is not None:
            self._runtime.observe(metrics)
        if time.monotonic() - self._told >= HEARTBEAT_SECONDS:
            self._told = time.monotonic()
            numbers = ", ".join(
                f"{node.node} {node.counts.records_in or node.counts.records_out:,}"
                for node in metrics
            )
            self._context.log.info("records so far: %s", numbers)


def _check_inputs(inputs: Mapping[str, Manifest], progress: str) -> None:
    for name, manifest in inputs.items():
        if manifest.progress != progress:
            raise NvisyError(
                f"the records of {name} were made by another attempt than this run goes on with",
                remedy="launch the whole graph instead of a part of an earlier run",
                tag="progress_lost",
            )
