"""Replaying the dead letters of a graph: a job with one op, `<graph>__replay`."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from nvisy_dagster.compiler import Plan
from nvisy_dagster.engine.attempts import retry_delay
from nvisy_dagster.engine.connections import open_connections
from nvisy_dagster.engine.drain import RunStoppedError, StopRequest
from nvisy_dagster.engine.replay import (
    Replay,
    ReplayResult,
    raise_refused,
    refused_in_words,
)
from nvisy_dagster.graph.connections import NamedConnection
from nvisy_dagster.graph.redaction import Redactor
from nvisy_dagster.translator.failure import ToldFailure, read_failure, stage_failure
from nvisy_dagster.translator.instance import default_instance_home, open_instance
from nvisy_dagster.translator.metadata import Shown, node_metadata
from nvisy_dagster.translator.open_letters import OpenLetterCounts
from nvisy_dagster.translator.ops import GRAPH_TAG
from nvisy_dagster.translator.preview import previews_wanted
from nvisy_dagster.translator.runtime import Observe, Runtime
from nvisy_dagster.translator.signals import InterruptedRunError, run_blocking
from nvisy_dagster.translator.stage_names import StageNames
from nvisy_dagster.translator.stage_run import stage_retries
from nvisy_dagster.translator.storage_folder import writable_storage

REPLAY_TAG = "nvisy/replay"
"""Run tag: the selection of letters to replay; without it, all that are open."""
_INTERRUPTED = "DagsterExecutionInterruptedError"


@dataclass
class ReplayWatch:
    """What somebody in this process wants to know of a replay."""

    planned: Callable[[Plan], None] | None = None
    """Called with what is going to be run."""
    result: ReplayResult | None = None


def replay_job_name(graph: str) -> str:
    """Name of the job that replays a graph's dead letters.

    Args:
        graph: Name of the graph's own job.
    """
    return f"{graph}__replay"


def replay_job(runtime: Runtime, watch: ReplayWatch | None = None) -> dg.JobDefinition:
    """The job that replays dead letters of a graph.

    Which ones, the run tag `nvisy/replay` says: it names a selection in the storage folder. Without
    it all open letters are replayed.
    """
    names = StageNames(runtime.plan)
    name = replay_job_name(names.graph)

    def compute(context: dg.OpExecutionContext) -> None:
        _ReplayRun(runtime, watch or ReplayWatch(), context).run()

    op = dg.op(
        name=f"{name}__letters",
        description="Run dead letters again from the node that failed them.",
        out=dg.Out(dg.Nothing),
        # Without a schema an op would take any config.
        config_schema={},
        tags={GRAPH_TAG: runtime.plan.name},
    )(compute)
    graph = dg.GraphDefinition(name=name, node_defs=[op])
    return graph.to_job(
        name=name,
        description=f"Replays the dead letters of {runtime.plan.name}.",
        tags={**runtime.plan.tags, GRAPH_TAG: runtime.plan.name},
        executor_def=dg.in_process_executor,
    )


class _ReplayRun:
    """The replay of one Dagster run."""

    def __init__(
        self, runtime: Runtime, watch: ReplayWatch, context: dg.OpExecutionContext
    ) -> None:
        self._runtime = runtime
        self._watch = watch
        self._context = context

    def run(self) -> None:
        redactor = Redactor(())
        failure: dg.Failure | None = None
        try:
            opened = open_connections(self._runtime.plan, self._runtime.connections, os.environ)
            redactor = opened.redactor
            with writable_storage(self._runtime.storage):
                result = self._replay(opened.by_name)
            self._watch.result = result
            self._tell(result, redactor)
            raise_refused(result.refused)
        except (InterruptedRunError, RunStoppedError) as error:
            self._context.log.warning(redactor.scrub(str(error.__cause__ or error)))
            failure = None
        except Exception as error:  # noqa: BLE001 - whatever it is, only its scrubbed text goes on
            failure = stage_failure(error, redactor)
        else:
            return
        # Raised here, where no exception is being handled: nothing unscrubbed hangs on to it.
        if failure is None:
            raise dg.DagsterExecutionInterruptedError
        self._raise(failure)

    def _replay(self, connections: Mapping[str, Any]) -> ReplayResult:
        replay = Replay(self._runtime.plan, self._runtime.storage, self._context.run_id)
        stop = StopRequest()
        return run_blocking(
            lambda: replay.run(
                connections,
                selection=self._context.run.tags.get(REPLAY_TAG),
                observe=self._runtime.observe,
                planned=self._watch.planned,
                stop=stop,
            ),
            stop,
        )

    def _tell(self, result: ReplayResult, redactor: Redactor) -> None:
        facts = {
            "letters": dg.MetadataValue.int(result.letters),
            "through": dg.MetadataValue.int(result.through),
            "left": dg.MetadataValue.int(result.failed),
            "refused": dg.MetadataValue.int(sum(one.letters for one in result.refused)),
        }
        metrics = list(result.metrics.values())
        names = StageNames(self._runtime.plan)
        preview = self._runtime.preview and previews_wanted()
        shown = Shown(0.0, result.resumed, redactor, preview)
        open_letters = OpenLetterCounts(self._runtime)
        for node in metrics:
            if node.node in self._runtime.plan.nodes:
                metadata = node_metadata(node, shown, self._runtime.locations.get(node.node))
                # What the asset holds is not what a replay adds to it.
                metadata.pop("dagster/row_count", None)
                metadata |= open_letters.metadata(node)
                self._context.log_event(
                    dg.AssetObservation(names.node_key(node.node), metadata={**metadata, **facts})
                )
        left_to_runs = refused_in_words([one for one in result.refused if one.read_again])
        if left_to_runs is not None:
            self._context.log.warning(redactor.scrub(left_to_runs))
        self._context.log.info(
            "%s letters replayed: %s went through, %s were left",
            result.letters,
            result.through,
            result.failed,
        )

    def _raise(self, failure: dg.Failure) -> None:
        attempt = self._context.retry_number + 1
        retries = stage_retries(self._runtime)
        if failure.allow_retries and attempt <= retries:
            retry = self._runtime.plan.defaults.retry
            raise dg.RetryRequested(retries, retry_delay(retry, attempt, None)) from failure
        failure.allow_retries = False
        raise failure


@dataclass(frozen=True)
class ReplayExecution:
    """What a replay from the command line did."""

    success: bool
    run_id: str
    result: ReplayResult | None
    failure: ToldFailure | None = None
    interrupted: bool = False


def execute_replay(  # noqa: PLR0913 - each is an independent choice
    plan: Plan,
    connections: Mapping[str, NamedConnection],
    *,
    storage: Path,
    selection: str | None = None,
    instance_home: Path | None = None,
    observe: Observe | None = None,
    planned: Callable[[Plan], None] | None = None,
) -> ReplayExecution:
    """Replay dead letters in this process; the run is listed in Dagster as any other.

    Args:
        plan: The compiled graph.
        connections: Its connections as they are written.
        storage: Root folder of run state.
        selection: Which letters; by default a replay that was cut off, else all that are open.
        instance_home: Folder of the Dagster instance, see `default_instance_home`.
        observe: Called a few times a second with the metrics of the running stage.
        planned: Called with what is going to be run.
    """
    from nvisy_dagster.translator.definitions import LoadedGraph, make_runtime

    watch = ReplayWatch(planned)
    runtime = make_runtime(LoadedGraph(plan, connections), storage, observe=observe)
    job = replay_job(runtime, watch)
    with open_instance(instance_home or default_instance_home(runtime.storage)) as instance:
        run = job.execute_in_process(
            # Dagster's own console handler would print every event.
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            instance=instance,
            tags={REPLAY_TAG: selection} if selection else None,
            raise_on_error=False,
        )
        failed = [event for event in run.all_events if event.is_step_failure]
    errors = [event.step_failure_data.error for event in failed]
    interrupted = any(error and error.cls_name == _INTERRUPTED for error in errors)
    told = None if run.success or interrupted else _told(failed)
    return ReplayExecution(run.success, run.run_id, watch.result, told, interrupted)


def _told(failed: list[dg.DagsterEvent]) -> ToldFailure:
    for event in failed:
        data = event.step_failure_data.user_failure_data
        if data is not None:
            return read_failure(data)
    texts = [event.message for event in failed if event.message]
    return ToldFailure(texts[0] if texts else "the replay failed outside of its op", tag="crash")
