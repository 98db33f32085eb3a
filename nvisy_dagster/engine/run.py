"""Running a whole plan without Dagster: for tests, benchmarks and embedding."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio

from nvisy_dagster.compiler import Plan, Stage
from nvisy_dagster.engine.drain import StopRequest
from nvisy_dagster.engine.gate import Gates, limits_folder
from nvisy_dagster.engine.materialized import Manifest
from nvisy_dagster.engine.metrics import NodeMetrics
from nvisy_dagster.engine.progress import ProgressStore
from nvisy_dagster.engine.replay_selection import replays_folder
from nvisy_dagster.engine.stage import run_stage
from nvisy_dagster.engine.stage_context import StageContext, StageResult
from nvisy_dagster.engine.storage_place import storage_root
from nvisy_dagster.sdk import Connection, NvisyError


def default_storage() -> Path:
    """Root folder of run state: `$NVISY_STORAGE`, else `.nvisy` in the working folder."""
    return storage_root()


@dataclass(frozen=True)
class RunResult:
    """What a run did."""

    run_id: str
    progress: str
    metrics: Mapping[str, NodeMetrics]
    """By node id."""
    resumed: bool


async def run_plan(  # noqa: PLR0913 - what a run may be told, by keyword
    plan: Plan,
    connections: Mapping[str, Connection],
    *,
    storage: Path | str | None = None,
    run_id: str | None = None,
    fresh: bool = False,
    observe: Callable[[Sequence[NodeMetrics]], None] | None = None,
    stop: StopRequest | None = None,
    adapt: Callable[[StageContext], StageContext] = lambda context: context,
) -> RunResult:
    """Run every stage, one after the other.

    Args:
        plan: The compiled graph.
        connections: Resolved connections by name.
        storage: Root folder of run state, or the URL of an object store: see `storage_root`.
        run_id: Names this run; a fresh one by default.
        fresh: Begin anew even if the last run left off half way.
        observe: Called a few times a second with the metrics of the running stage.
        stop: Asks the run to drain and end.
        adapt: Changes what a stage is told, for runs of another kind.

    Raises:
        RunStoppedError: It was asked to stop, and has; running again goes on.
        NodeError: A node failed; running again goes on from the last checkpoint.
        NvisyError: It took longer than it may, or its state cannot be read or written.
    """
    storage = storage_root(storage)
    run_id = run_id or str(uuid.uuid4())
    store = ProgressStore(storage, plan.name)
    progress = store.begin(run_id, fresh=fresh)
    limit = plan.defaults.concurrency.max_global
    run_limit = anyio.Semaphore(limit) if limit else None
    gates = Gates(plan, limits_folder(storage))
    manifests: dict[str, Manifest] = {}
    metrics: dict[str, NodeMetrics] = {}
    resumed = False
    seconds = plan.defaults.timeout.graph_seconds
    with anyio.move_on_after(seconds) as scope:
        for stage in plan.stages:
            folders = store.open_stage(progress, stage, run_id)
            result = await _run_one(
                plan,
                stage,
                store,
                adapt(
                    StageContext(
                        progress=progress,
                        run_id=run_id,
                        folder=folders.state,
                        dead_letters=folders.dead_letters,
                        token=folders.token,
                        inputs=manifests,
                        connections=connections,
                        observe=observe,
                        run_limit=run_limit,
                        gates=gates,
                        stop=stop,
                        excluded_by=replays_folder(storage, plan.name),
                    )
                ),
            )
            manifests |= result.manifests
            metrics |= {m.node: m for m in result.metrics}
            resumed |= result.resumed
    if scope.cancelled_caught:
        raise NvisyError(
            f"the run took longer than {seconds:g} s",
            remedy='raise "timeout.graph_seconds"; the next run goes on from the checkpoint',
            tag="timeout",
        )
    return RunResult(run_id, progress, metrics, resumed)


async def _run_one(
    plan: Plan, stage: Stage, store: ProgressStore, context: StageContext
) -> StageResult:
    result = await run_stage(plan, stage, context)
    store.stage_ended(context.progress, plan)
    return result
