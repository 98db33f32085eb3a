"""Which stages a Dagster run executes, and which of them it is asked to do again."""

from collections.abc import Mapping

import dagster as dg

from nvisy_dagster.compiler import Plan
from nvisy_dagster.engine.progress import ProgressStore, Reexecution

GRAPH_TAG = "nvisy/graph"
"""Run tag: name of the graph."""
FRESH_TAG = "nvisy/fresh"
"""Run tag: `true` begins anew even if the last run left off half way."""


def begin(
    context: dg.OpExecutionContext, plan: Plan, store: ProgressStore, steps: Mapping[str, str]
) -> str:
    """The attempt chain of the run that this op belongs to.

    A launch, a retry of the run, and a re-execution of all steps go on with what the last run left
    unfinished. A re-execution of some steps goes on with the run it re-executes, and does those
    steps again that succeeded there.

    Args:
        context: The op's context.
        plan: The compiled graph.
        store: Its attempt chains.
        steps: Stage id -> step key.

    Raises:
        ProgressLostError: What the re-executed run left behind is gone.
    """
    run = context.run
    # Dagster hands a run's tags on to its retries and re-executions, which must not begin anew.
    fresh = run.tags.get(FRESH_TAG, "").lower() == "true" and run.parent_run_id is None
    chosen = set(run.step_keys_to_execute or steps.values())
    stages = [stage for stage, step in steps.items() if step in chosen]
    if run.parent_run_id is None or len(stages) == len(steps):
        return store.begin(run.run_id, fresh=fresh)
    redo = [
        stage for stage in stages if _succeeded(context.instance, run.parent_run_id, steps[stage])
    ]
    reexecution = Reexecution(of=run.parent_run_id, redo=redo)
    return store.begin(run.run_id, reexecution=reexecution, plan=plan)


def _succeeded(instance: dg.DagsterInstance, run_id: str | None, step: str) -> bool:
    """Whether the step succeeded in this run or, if it did not execute it, in the one before."""
    while run_id is not None:
        for stats in instance.get_run_step_stats(run_id, [step]):
            if stats.status is not None:
                return stats.status.value == "SUCCESS"
        run = instance.get_run_by_id(run_id)
        run_id = run.parent_run_id if run else None
    return False
