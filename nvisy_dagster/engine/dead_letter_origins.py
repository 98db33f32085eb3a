"""Which graph left a dead letter: two graphs of one name keep their state in one folder.

<storage>/graphs/<graph>/origins.json   run -> where its graph's file lay, what it reads and writes

A graph is taken for the same one if its file is in the same folder, or if one of its sources or
sinks is the same in all that is said of it. So a graph that is edited stays the same, and so does
one that is moved, or deployed to another folder with every release.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from nvisy_dagster.compiler import Plan
from nvisy_dagster.engine.dead_letter_listing import FOLDER
from nvisy_dagster.engine.documents import update_model
from nvisy_dagster.engine.stage_context import StageContext
from nvisy_dagster.engine.storage import names, read_model

FILE = "origins.json"
_REMEDY = "delete the file: letters of graphs of one name are not told apart then"


class GraphIdentity(BaseModel):
    """What tells a graph from others of its name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str | None
    """Folder of its file, if it has one."""
    ends: list[str]
    """Hashes of its sources and sinks."""

    def may_be(self, other: "GraphIdentity") -> bool:
        """Whether they may be the same graph."""
        if self.folder is None or other.folder is None or self.folder == other.folder:
            return True
        return not set(self.ends).isdisjoint(other.ends)


class _Run(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    chain: str
    graph: GraphIdentity


class _Origins(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    runs: dict[str, _Run]


def identity_of(plan: Plan) -> GraphIdentity:
    """What tells a graph from others of its name."""
    ends = [
        [node.id, node.component_name, node.connection, node.params.model_dump(mode="json")]
        for node in plan.nodes.values()
        if node.kind in {"source", "sink"}
    ]
    texts = [json.dumps(end, sort_keys=True).encode() for end in ends]
    return GraphIdentity(
        folder=None if plan.folder is None else str(plan.folder),
        ends=sorted(hashlib.blake2b(text, digest_size=8).hexdigest() for text in texts),
    )


def note_graph(plan: Plan, context: StageContext) -> None:
    """Remember which graph a run is of, before it leaves any letter.

    Raises:
        StorageError: The disk is full or refuses.
    """
    # What a replay runs is a part of its graph, which it notes itself.
    if context.partial or not _leaves_letters(plan):
        return
    letters = context.dead_letters
    note_run(letters.parents[1], letters.name, context.run_id, plan)


def note_run(graph: Path, chain: str, run_id: str, plan: Plan) -> None:
    """Remember which graph a run is of.

    Args:
        graph: Folder of the graph's state.
        chain: The run's attempt chain, or what holds its letters.
        run_id: The run.
        plan: Its graph.

    Raises:
        StorageError: The disk is full or refuses.
    """
    run = _Run(chain=chain, graph=identity_of(plan))
    there = {*names(graph), *names(graph / FOLDER)}

    def noted(found: _Origins | None) -> tuple[_Origins | None, None]:
        runs = found.runs if found else {}
        if runs.get(run_id) == run:
            return None, None
        kept = {name: one for name, one in runs.items() if one.chain in there}
        return _Origins(runs={**kept, run_id: run}), None

    update_model(graph / FILE, _Origins, noted, _REMEDY)


def graphs_of_runs(graph: Path) -> Mapping[str, GraphIdentity]:
    """Which graph each run is of, as far as that is known.

    Args:
        graph: Folder of the graph's state.

    Raises:
        StorageError: The document is damaged.
    """
    found = read_model(graph / FILE, _Origins, _REMEDY)
    return {name: run.graph for name, run in found.runs.items()} if found else {}


def of_others(
    runs: Mapping[str, GraphIdentity], own: GraphIdentity | None, of: Collection[str]
) -> dict[str, GraphIdentity]:
    """Those of some runs that are of another graph.

    Args:
        runs: As of `graphs_of_runs`.
        own: The graph.
        of: The runs.
    """
    if own is None:
        return {}
    return {name: runs[name] for name in of if name in runs and not runs[name].may_be(own)}


def _leaves_letters(plan: Plan) -> bool:
    return any(node.policies.on_error == "dead_letter" for node in plan.nodes.values())
