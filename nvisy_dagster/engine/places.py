"""Where the nodes of a plan read and write, as far as their progress depends on it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from nvisy_dagster.compiler import Node, Plan, Stage
from nvisy_dagster.engine.checkpoint import CheckpointStore
from nvisy_dagster.engine.dead_letter import listed_as
from nvisy_dagster.engine.failure import NodeError, node_error
from nvisy_dagster.engine.lease import Lease
from nvisy_dagster.engine.materialized import Manifest
from nvisy_dagster.engine.storage import names
from nvisy_dagster.sdk import Connection, Sink, Source


def basis(
    plan: Plan,
    stage: Stage,
    connections: Mapping[str, Connection],
    inputs: Mapping[str, Manifest],
) -> str:
    """Hash of where a stage reads and writes, and of the parts that it reads.

    The hash of the stage covers its params; this covers what they mean: a relative path in another
    folder, a connection that leads elsewhere now, an earlier stage that was begun anew.
    """
    places = {node: _location(plan, plan.nodes[node], connections) for node in stage.nodes}
    parts = {output.name: inputs[output.name].generation for output in stage.inputs}
    reaches = [
        reach(plan, plan.nodes[node], connections)
        for node in stage.nodes
        if plan.nodes[node].incremental
    ]
    text = json.dumps([places, parts, *reaches], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def reach(plan: Plan, source: Node, connections: Mapping[str, Connection]) -> str:
    """Hash of what becomes of a source's records, and where.

    What an incremental run leaves out must have gone through the same before, to the same places.
    """
    reached = plan.reached_from(source.id)
    hashes = sorted({plan.stage_of[node].hash for node in reached})
    places = {node: _location(plan, plan.nodes[node], connections) for node in sorted(reached)}
    text = json.dumps([hashes, places], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def check_apart(plan: Plan, connections: Mapping[str, Connection]) -> None:
    """Refuse two sinks that discard what was not committed and would discard each other's.

    Raises:
        NodeError: Two of them write to one place.
    """
    taken: dict[str, str] = {}
    for node in plan.nodes.values():
        if node.kind != "sink" or node.component.capabilities.write_mode != "epoch":
            continue
        place = _location(plan, node, connections)
        if place is None:
            continue
        other = taken.setdefault(place.rstrip("/"), node.id)
        if other != node.id:
            raise NodeError(
                node.id,
                f"it writes to {place}, where node {other!r} writes too",
                retryable=False,
                remedy="give each sink a folder or prefix of its own",
                tag="conflict",
            )


def discard_rivals(plan: Plan, stage: Stage, folder: Path, run_id: str) -> None:
    """Discard the progress that other versions of this stage made in the same attempt chain.

    Going on from it, once the graph is changed back, would trust sinks that this stage has written
    to meanwhile, and dead letters that it has removed.

    Raises:
        RunConflictError: Another live run holds one of them.
    """
    sinks = {node for node in stage.nodes if plan.nodes[node].kind == "sink"}
    letters = {listed_as(node) for node in stage.nodes}
    for name in sorted(names(folder.parent)):
        rival = folder.parent / name
        file = rival / "checkpoint.json"
        if rival == folder:
            continue
        made = CheckpointStore(file).read()
        if sinks & made.counts.keys() or letters & made.parts.keys():
            with Lease(rival, run_id) as lease:
                CheckpointStore(file, lease).discard()


def _location(plan: Plan, node: Node, connections: Mapping[str, Connection]) -> str | None:
    connection = connections.get(node.connection) if node.connection else None
    component = node.build(connection, plan.folder)
    if not isinstance(component, Source | Sink):
        return None
    try:
        return component.location()
    except Exception as error:
        raise node_error(node.id, error) from error
