"""A stage -> one synchronous op. It has no config and no configurable input."""

from collections.abc import Callable, Generator, Mapping, Sequence
from textwrap import shorten
from typing import Any, cast

import dagster as dg

from nvisy_dagster.compiler import Output, Stage
from nvisy_dagster.engine.materialized import Manifest
from nvisy_dagster.translator.attempt import GRAPH_TAG
from nvisy_dagster.translator.checks import evaluations, evaluations_of_failure
from nvisy_dagster.translator.io_manager import IO_MANAGER_KEY, MANIFEST_TYPE
from nvisy_dagster.translator.metadata import Shown, node_metadata, stage_table
from nvisy_dagster.translator.open_letters import OpenLetterCounts
from nvisy_dagster.translator.preview import previews_wanted
from nvisy_dagster.translator.runtime import Runtime
from nvisy_dagster.translator.stage_names import StageNames
from nvisy_dagster.translator.stage_run import StageReport, StageRun, stage_retries

STAGE_TAG = "nvisy/stage"
LONGEST_DESCRIPTION = 1000


def stage_op(runtime: Runtime, stage: Stage, names: StageNames) -> dg.OpDefinition:
    """The op that runs a stage.

    Its outputs are the stage's sinks, which carry nothing, and its materialized outputs, which
    carry manifests. Secrets, data and progress never pass through Dagster.
    """
    sinks = [node for node in stage.nodes if runtime.plan.nodes[node].kind == "sink"]
    outs = {names.outputs[node]: dg.Out(dg.Nothing) for node in sinks} | {
        names.outputs[output.name]: dg.Out(MANIFEST_TYPE, io_manager_key=IO_MANAGER_KEY)
        for output in stage.outputs
    }
    return dg.op(
        name=names.op(stage),
        description=shorten(", ".join(stage.nodes), LONGEST_DESCRIPTION, placeholder=" ..."),
        ins={names.outputs[output.name]: dg.In(MANIFEST_TYPE) for output in stage.inputs},
        out=outs,
        # Without a schema an op would take any config.
        config_schema={},
        tags={GRAPH_TAG: runtime.plan.name, STAGE_TAG: stage.id},
        pool=_pool(runtime, stage),
        retry_policy=_retry_policy(runtime),
    )(_compute(runtime, stage, names, sinks))


def _compute(
    runtime: Runtime, stage: Stage, names: StageNames, sinks: Sequence[str]
) -> Callable[..., Generator[dg.Output[Any], None, None]]:
    def compute(
        context: dg.OpExecutionContext, **manifests: Manifest
    ) -> Generator[dg.Output[Any], None, None]:
        prefix = str(context.op_handle).rpartition(".")[0]
        steps = {id_: f"{prefix}.{step}" if prefix else step for id_, step in names.steps.items()}
        inputs = {output.name: manifests[names.outputs[output.name]] for output in stage.inputs}
        run = StageRun(runtime, stage, steps, context)
        try:
            report = run.run(inputs)
        except dg.Failure:
            # Yielded: what is logged of an op that fails is lost.
            for evaluation in evaluations_of_failure(runtime, names, run.metrics):
                yield cast("Any", evaluation)
            raise
        if runtime.ended is not None:
            runtime.ended(report.result)
        metadata = _metadata(runtime, report)
        for node, key in names.streamed(stage).items():
            context.log_event(dg.AssetMaterialization(key, metadata=metadata[node]))
        for evaluation in evaluations(runtime, names, report, context.run_id):
            # Its signature does not name what it takes besides.
            context.log_event(cast("Any", evaluation))
        table = {"stage": stage_table(report.result.metrics)}
        for node in sinks:
            yield dg.Output(None, names.outputs[node], metadata={**metadata[node], **table})
        for output in stage.outputs:
            manifest = report.result.manifests[output.name]
            facts = {**_manifest_metadata(metadata[output.node], output, manifest), **table}
            yield dg.Output(manifest, names.outputs[output.name], metadata=facts)

    return compute


def _metadata(runtime: Runtime, report: StageReport) -> dict[str, dict[str, dg.MetadataValue]]:
    preview = runtime.preview and previews_wanted()
    shown = Shown(report.seconds, report.result.resumed, report.redactor, preview)
    letters = OpenLetterCounts(runtime)
    return {
        node.node: node_metadata(node, shown, runtime.locations.get(node.node))
        | letters.metadata(node)
        for node in report.result.metrics
    }


def _manifest_metadata(
    node: Mapping[str, dg.MetadataValue], output: Output, manifest: Manifest
) -> dict[str, dg.MetadataValue]:
    facts = dict(node) if output.route is None else {}
    return facts | {
        "dagster/row_count": dg.MetadataValue.int(manifest.rows),
        "bytes_kept": dg.MetadataValue.int(sum(part.bytes for part in manifest.parts)),
        "location": dg.MetadataValue.path(manifest.folder),
    }


def _pool(runtime: Runtime, stage: Stage) -> str | None:
    """The pool that is named for the stage, else one named like a connection.

    An op has one pool, so the connection of a sink goes before that of an action or a source.
    """
    if stage.id in runtime.plan.pools:
        return runtime.plan.pools[stage.id]
    nodes = [runtime.plan.nodes[node] for node in stage.nodes]
    for kind in ("sink", "action", "source"):
        for node in nodes:
            if node.kind == kind and node.connection is not None:
                return node.connection
    return None


def _retry_policy(runtime: Runtime) -> dg.RetryPolicy | None:
    """For a step's process that dies; a stage that fails asks for its retry itself.

    In the run's own process there is no such crash, and a policy would retry interrupted runs.
    """
    retries = stage_retries(runtime)
    if runtime.plan.execution.executor != "multiprocess" or not retries:
        return None
    delay = runtime.plan.defaults.retry.initial_delay_seconds
    return dg.RetryPolicy(max_retries=retries, delay=cast("int", delay))
