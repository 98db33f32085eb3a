"""A graph -> a job, named like the graph."""

import math
from typing import Any

import dagster as dg

from nvisy_dagster.compiler import Plan
from nvisy_dagster.translator.assets import GraphAssets
from nvisy_dagster.translator.attempt import GRAPH_TAG

MAX_RUNTIME_TAG = "dagster/max_runtime"


def graph_job(plan: Plan, assets: GraphAssets) -> Any:  # noqa: ANN401 - its class is private to Dagster
    """The job that runs a graph.

    Stages run one after the other in the run's own process, unless the graph asks for a process
    each. The run tag `nvisy/graph` is there to limit how many runs of a graph go at once. Runs have
    the graph's tags, too: some of them are for Dagster itself. The tags of runs are also those of
    the job: of a launch through the API, Dagster looks at those alone.
    """
    run_tags: dict[str, str] = {}
    limit = plan.defaults.timeout.graph_seconds
    if limit is not None:
        # The ops keep the limit themselves; this one is for a process that hangs.
        run_tags[MAX_RUNTIME_TAG] = str(math.ceil(limit) + 60)
    run_tags |= {**plan.tags, GRAPH_TAG: plan.name}
    multiprocess = plan.execution.executor == "multiprocess"
    return dg.define_asset_job(
        assets.names.graph,
        # Checks are evaluated on the way, by the stages.
        selection=dg.AssetSelection.assets(*assets.keys).without_checks(),
        description=plan.description,
        tags=run_tags,
        run_tags=run_tags,
        executor_def=dg.multiprocess_executor if multiprocess else dg.in_process_executor,
    )
