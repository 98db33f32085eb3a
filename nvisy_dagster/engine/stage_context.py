"""What a stage is given besides the plan, and what comes out of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from nvisy_dagster.compiler import Output, Plan, Stage
from nvisy_dagster.engine.channel import DEFAULT_LIMIT_BYTES
from nvisy_dagster.engine.checkpoint import Checkpoint
from nvisy_dagster.engine.dead_letter import Attempts
from nvisy_dagster.engine.drain import StopRequest
from nvisy_dagster.engine.gate import Gates
from nvisy_dagster.engine.materialized import Manifest
from nvisy_dagster.engine.metrics import NodeMetrics
from nvisy_dagster.engine.removed import removed_name
from nvisy_dagster.engine.storage import safe_name
from nvisy_dagster.engine.wiring import writer_name
from nvisy_dagster.sdk import Connection


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
    gates: Gates | None = None
    """What the calls of the run go through; by default the stage has its own."""
    token: int = 1
    """Least fencing token of its lease."""
    attempts: Attempts = field(default_factory=dict[bytes, int])
    """Of the dead letters that are replayed."""
    excluded_by: Path | None = None
    """Folder of a lease; while it is held, the stage does not run."""
    partial: bool = False
    """Whether only some records of what the sinks hold are run again; see `Progress`."""
    stop: StopRequest | None = None
    """Asks the stage to drain and end."""
    channel_bytes: int = DEFAULT_LIMIT_BYTES


@dataclass(frozen=True)
class StageResult:
    """What a stage did."""

    metrics: Sequence[NodeMetrics]
    manifests: Mapping[str, Manifest]
    """Its materialized outputs by name."""
    resumed: bool
    """Whether it went on from an earlier attempt's checkpoint."""


def restored_metrics(plan: Plan, stage: Stage, checkpoint: Checkpoint) -> list[NodeMetrics]:
    """The metrics of its nodes as of a checkpoint."""
    return [
        NodeMetrics.from_json(node, plan.nodes[node].kind, checkpoint.counts.get(node, {}))
        for node in stage.nodes
    ]


def manifests_of(
    stage: Stage, context: StageContext, checkpoint: Checkpoint
) -> dict[str, Manifest]:
    """What its materialized outputs consist of as of a checkpoint."""
    return {
        output.name: Manifest(
            progress=context.progress,
            output=output.name,
            folder=str(part_folder(context, output)),
            parts=checkpoint.parts.get(writer_name(output), []),
            generation=checkpoint.generation,
            removed=checkpoint.parts.get(removed_name(writer_name(output)), []),
        )
        for output in stage.outputs
    }


def part_folder(context: StageContext, output: Output) -> Path:
    """Where the parts of a materialized output are."""
    return context.folder / "edges" / safe_name(output.name)
