"""Running one compiled graph in this process, in Dagster: what the command line does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg

from nvisy_dagster.compiler import Plan
from nvisy_dagster.engine.metrics import NodeMetrics
from nvisy_dagster.engine.stage_context import StageResult
from nvisy_dagster.graph.connections import NamedConnection
from nvisy_dagster.translator.attempt import FRESH_TAG
from nvisy_dagster.translator.definitions import LoadedGraph, make_runtime, translate
from nvisy_dagster.translator.failure import ToldFailure, read_failure
from nvisy_dagster.translator.instance import default_instance_home, open_instance
from nvisy_dagster.translator.names import dagster_name
from nvisy_dagster.translator.runtime import Observe

_INTERRUPTED = "DagsterExecutionInterruptedError"


@dataclass(frozen=True)
class ExecutionResult:
    """What a run did."""

    success: bool
    run_id: str
    metrics: list[NodeMetrics]
    """Of the stages that ended and, last, of the one that failed."""
    resumed: bool
    """Whether a stage went on from an earlier run's checkpoint."""
    failure: ToldFailure | None = None
    interrupted: bool = False
    """Whether a signal ended it."""


def execute_plan(  # noqa: PLR0913 - each is an independent choice, all but two have a default
    plan: Plan,
    connections: Mapping[str, NamedConnection],
    *,
    instance_home: Path | None = None,
    ephemeral: bool = False,
    storage: Path | None = None,
    observe: Observe | None = None,
    fresh: bool = False,
    preview: bool = True,
) -> ExecutionResult:
    """Run a graph in this process; the run is listed in Dagster as any other.

    It goes on with what an earlier run of the graph left unfinished. Nothing is printed.

    Args:
        plan: The compiled graph.
        connections: Its connections as they are written.
        instance_home: Folder of the Dagster instance, see `default_instance_home`.
        ephemeral: Keep the run in memory only; progress is on storage all the same.
        storage: Root folder of run state.
        observe: Called a few times a second with the metrics of the running stage.
        fresh: Begin anew even if the last run left off half way.
        preview: Whether the run's records may be shown on Dagster's pages.
    """
    recorder = _Recorder(observe)
    loaded = LoadedGraph(plan, connections)
    made = make_runtime(loaded, storage, preview=preview, observe=recorder.observe)
    runtime = replace(made, ended=recorder.ended)
    definitions = translate([runtime], [runtime])
    job = definitions.resolve_job_def(dagster_name(plan.name))
    home = instance_home or default_instance_home(runtime.storage)
    with dg.DagsterInstance.ephemeral() if ephemeral else open_instance(home) as instance:
        run = job.execute_in_process(
            # Dagster's own console handler would print every event.
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            instance=instance,
            tags={FRESH_TAG: "true"} if fresh else None,
            raise_on_error=False,
        )
        return recorder.result(run)


class _Recorder:
    """Keeps what the stages of a run told."""

    def __init__(self, observe: Observe | None) -> None:
        self._observe = observe
        self._metrics: dict[str, NodeMetrics] = {}
        self._resumed = False

    def observe(self, metrics: Sequence[NodeMetrics]) -> None:
        self._metrics |= {node.node: node for node in metrics}
        if self._observe is not None:
            self._observe(metrics)

    def ended(self, result: StageResult) -> None:
        self._metrics |= {node.node: node for node in result.metrics}
        self._resumed |= result.resumed

    def result(self, run: dg.ExecuteInProcessResult) -> ExecutionResult:
        failed = [event for event in run.all_events if event.is_step_failure]
        errors = [event.step_failure_data.error for event in failed]
        interrupted = any(error and error.cls_name == _INTERRUPTED for error in errors)
        return ExecutionResult(
            success=run.success,
            run_id=run.run_id,
            metrics=list(self._metrics.values()),
            resumed=self._resumed,
            failure=None if run.success or interrupted else _failure(failed),
            interrupted=interrupted,
        )


def _failure(failed: Sequence[dg.DagsterEvent]) -> ToldFailure:
    for event in failed:
        data = event.step_failure_data.user_failure_data
        if data is not None:
            return read_failure(data)
    texts = [event.message for event in failed if event.message]
    message = texts[0] if texts else "the run failed outside of its stages"
    return ToldFailure(message, tag="crash")
