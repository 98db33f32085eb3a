"""Replaying dead letters: their records run again, from the node that failed them to every sink.

The same plan, with sources of the records in the place of what comes before those nodes; its own
attempt chain, apart from those of runs. Only when that chain is complete are the letters marked, so
a replay that is cut off at any moment leaves them open, and the next one goes on with it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute
from anyio import to_thread

from nvisy_dagster.compiler import Edge, Node, Output, Plan
from nvisy_dagster.compiler.stages import plan_stages
from nvisy_dagster.engine.dead_letter_box import ALL, DeadLetterBox, LetterFilter
from nvisy_dagster.engine.dead_letter_listing import FOLDER, LISTING, keep_listing
from nvisy_dagster.engine.dead_letter_marks import KEY
from nvisy_dagster.engine.dead_letter_origins import note_run
from nvisy_dagster.engine.drain import StopRequest
from nvisy_dagster.engine.failpoint import failpoint
from nvisy_dagster.engine.failure import RunConflictError
from nvisy_dagster.engine.lease import Lease, read_lease
from nvisy_dagster.engine.metrics import NodeMetrics
from nvisy_dagster.engine.replay_decoding import decoding_node
from nvisy_dagster.engine.replay_overtaken import Overtaken, find_overtaken, guarded
from nvisy_dagster.engine.replay_records import (
    Refused,
    ReplayParams,
    ReplayRecords,
    ReplaySource,
    refuse_others,
    write_records,
)
from nvisy_dagster.engine.replay_selection import (
    Selection,
    is_ulid,
    replays_folder,
    select_letters,
    selection_of,
    unfinished,
)
from nvisy_dagster.engine.run import RunResult, run_plan
from nvisy_dagster.engine.stage_context import StageContext
from nvisy_dagster.engine.storage import is_kept, names, read_json, remove_folder, safe_name
from nvisy_dagster.graph.policies import Policies
from nvisy_dagster.sdk import Connection, NvisyError

pc = cast("Any", pyarrow.compute)

SOURCE_PREFIX = "@"
"""Before the id of a node in that of the source of its records; in the id of no node."""
SHOWN = 5


class ReplayError(NvisyError):
    """Some letters cannot be replayed; the others are."""

    default_tag = "schema"


@dataclass(frozen=True)
class ReplayResult:
    """What a replay did."""

    run_id: str
    selection: str | None
    """`None` if there was nothing to replay."""
    letters: int
    """Letters that were run again."""
    through: int
    """Those of them that did not fail again at their node."""
    failed: int
    """Letters that it left: of records that failed again, at their node or behind it."""
    refused: Sequence[Refused]
    metrics: Mapping[str, NodeMetrics]
    resumed: bool


def source_id(node: str) -> str:
    """Id of the source that reads the records of a node's letters."""
    return f"{SOURCE_PREFIX}{node}"


def replay_plan(
    plan: Plan,
    records: ReplayRecords,
    selection: Selection,
    overtaken: Overtaken = Overtaken(),  # noqa: B008 - it is immutable
) -> Plan:
    """The part of a plan that letters run through, with a source of their records for each node.

    Args:
        plan: The compiled graph.
        records: The records to read.
        selection: Whose records they are.
        overtaken: What is left out.
    """
    kept = _behind(plan, records.files)
    edges = [edge for edge in plan.edges if edge.output.node in kept and edge.target in kept]
    sources: dict[str, Node] = {}
    decoding: dict[str, Node] = {}
    for node, file in records.files.items():
        path = selection.folder / "records" / file
        letters = ReplayParams(path=path, replay=selection.id, node=node, closed=overtaken.closed)
        if plan.nodes[node].kind == "source":
            decoding[node] = decoding_node(plan.nodes[node], letters)
            continue
        sources[source_id(node)] = _source(node, letters)
        edges.append(Edge(Output(source_id(node)), node, "streamed"))
    policies = {
        # All of them have failed before: how many fail again says nothing.
        node: found.policies.model_copy(update={"error_limit": None})
        for node, found in plan.nodes.items()
    }
    guards, edges = guarded(plan.nodes, edges, selection.id, overtaken)
    nodes = dict(sources)
    for node in (node for stage in plan.stages for node in stage.nodes if node in kept):
        nodes |= {edge.output.node: guards[edge.output.node] for edge in edges
                  if edge.target == node and edge.output.node in guards}  # fmt: skip
        nodes[node] = replace(decoding.get(node, plan.nodes[node]), policies=policies[node])
    return replace(plan, nodes=nodes, edges=edges, stages=plan_stages(nodes, edges, list(nodes)))


def _behind(plan: Plan, nodes: Mapping[str, object]) -> set[str]:
    found = set(nodes)
    waiting = list(nodes)
    while waiting:
        for edge in plan.edges_from[waiting.pop()]:
            if edge.target not in found:
                found.add(edge.target)
                waiting.append(edge.target)
    return found


def _source(node: str, params: ReplayParams) -> Node:
    return Node(
        id=source_id(node),
        kind="source",
        component_name=ReplaySource.name,
        component=ReplaySource,
        params=params,
        connection=None,
        policies=Policies(),
        output=None,
    )


def choose(storage: Path, graph: str, name: str | None) -> Selection | None:
    """The selection to replay: the named one, else one that is not over, else all open letters.

    Returns:
        `None` if there is nothing to replay.

    Raises:
        NvisyError: The name is none, or something of the storage is damaged.
    """
    if name is not None:
        return selection_of(storage, graph, name)
    pending = unfinished(storage, graph)
    if pending:
        return pending[0]
    letters = DeadLetterBox(storage, graph).letters(LetterFilter())
    return select_letters(storage, graph, letters) if letters.num_rows else None


class Replay:
    """The replay of one selection.

    Args:
        plan: The compiled graph, as it is now.
        storage: Root folder of run state.
        run_id: The run that replays.
    """

    def __init__(self, plan: Plan, storage: Path, run_id: str) -> None:
        self._plan = plan
        self._storage = storage
        self._run_id = run_id
        self._box = DeadLetterBox(storage, plan.name)

    async def run(
        self,
        connections: Mapping[str, Connection],
        *,
        selection: str | None = None,
        observe: Callable[[Sequence[NodeMetrics]], None] | None = None,
        planned: Callable[[Plan], None] | None = None,
        stop: StopRequest | None = None,
    ) -> ReplayResult:
        """Replay letters to the end, going on where an earlier replay of them was cut off.

        Args:
            connections: Resolved connections by name.
            selection: Which letters; see `choose`.
            observe: Called a few times a second with the metrics of the running stage.
            planned: Called with what is going to be run.
            stop: Asks the replay to drain and end.

        Raises:
            RunConflictError: A run, or another replay, of the graph is going on.
            NodeError: A node failed; replaying again goes on from the last checkpoint.
            NvisyError: The storage is damaged, or the replay took longer than it may.
        """
        async with Lease(replays_folder(self._storage, self._plan.name), self._run_id):
            # In this order, as a stage of a run does it the other way round: of two that begin at
            # once, at least one sees the other.
            self._refuse_runs()
            chosen = choose(self._storage, self._plan.name, selection)
            if chosen is None:
                return ReplayResult(self._run_id, None, 0, 0, 0, (), {}, resumed=False)
            letters = chosen.letters()
            records = await to_thread.run_sync(self._records, chosen, letters)
            if not records.files:
                chosen.remove()
                return ReplayResult(
                    self._run_id, chosen.id, 0, 0, 0, records.refused, {}, resumed=False
                )
            overtaken = await to_thread.run_sync(self._overtaken, chosen, letters, records)
            plan = replay_plan(self._plan, records, chosen, overtaken)
            if planned is not None:
                planned(plan)
            progress = _completed(chosen, plan)
            if progress is not None:
                # It was cut off before its letters were marked.
                result = RunResult(run_id=self._run_id, progress=progress, metrics={}, resumed=True)
                return await to_thread.run_sync(self._end, chosen, letters, records, result)
            result = await run_plan(
                plan,
                connections,
                storage=chosen.folder,
                run_id=self._run_id,
                observe=observe,
                stop=stop,
                adapt=partial(self._adapt, _attempts(letters)),
            )
            records = records.and_refused(overtaken.refused)
            return await to_thread.run_sync(self._end, chosen, letters, records, result)

    def _records(self, selection: Selection, letters: pa.Table) -> ReplayRecords:
        # Some may have been discarded since they were selected.
        still_open = _open(self._box, letters)
        own, refused = refuse_others(self._plan, self._box, still_open)
        folder = selection.folder / "records"
        return write_records(self._plan, self._box, own, folder, refused)

    def _overtaken(
        self, selection: Selection, letters: pa.Table, records: ReplayRecords
    ) -> Overtaken:
        return find_overtaken(self._box, letters, records, selection.folder / "records")

    def _adapt(self, attempts: Mapping[bytes, int], context: StageContext) -> StageContext:
        """A stage of the replay leaves its letters beside those of runs."""
        letters = self._box.folder / FOLDER / context.progress
        note_run(self._box.folder, context.progress, self._run_id, self._plan)
        return replace(
            context, dead_letters=letters, attempts=attempts, partial=True, excluded_by=None
        )

    def _refuse_runs(self) -> None:
        folder = self._box.folder
        for chain in filter(is_ulid, names(folder)):
            for stage in names(folder / chain):
                lease = read_lease(folder / chain / stage)
                if lease is not None and lease.is_live:
                    raise RunConflictError(
                        f"run {lease.run_id} is running this graph now",
                        remedy="wait until it ends, or terminate it; then replay again",
                    )

    def _end(
        self, selection: Selection, letters: pa.Table, records: ReplayRecords, run: RunResult
    ) -> ReplayResult:
        """List the letters that it left, mark those that it ran again, forget the rest."""
        graph = self._box.folder
        ran = _open(self._box, _without(letters, records.refused))
        failpoint("replay.before_listing")
        keep_listing(graph, run.progress, selection.folder / "graphs" / graph.name / run.progress)
        failpoint("replay.before_mark")
        self._box.mark(ran, "replayed", self._run_id)
        failpoint("replay.after_mark")
        left = self._box.letters(ALL)
        left = left.filter(pc.field("chain") == run.progress)
        ids = left["letter_id"].combine_chunks()
        again = pc.sum(pc.is_in(ran["letter_id"], ids)).as_py() or 0
        selection.remove()
        return ReplayResult(
            run_id=self._run_id,
            selection=selection.id,
            letters=ran.num_rows,
            through=ran.num_rows - again,
            failed=left.num_rows,
            refused=records.refused,
            metrics=run.metrics,
            resumed=run.resumed,
        )


def _open(box: DeadLetterBox, letters: pa.Table) -> pa.Table:
    """Those of the letters that are open."""
    still_open = box.letters().select(KEY).group_by(KEY).aggregate([])
    return letters.join(still_open, KEY, join_type="left semi")


def _attempts(letters: pa.Table) -> dict[bytes, int]:
    ids, attempts = letters["letter_id"].to_pylist(), letters["attempt"].to_pylist()
    return dict(zip(ids, attempts, strict=True))


def _completed(selection: Selection, plan: Plan) -> str | None:
    """The attempt chain of a replay that came to its end, but not to its marks."""
    chains = read_json(selection.folder / "graphs" / safe_name(plan.name) / "chains.json")
    if chains is None or not chains["chains"][chains["current"]]["complete"]:
        return None
    return chains["current"]


def _without(letters: pa.Table, refused: Sequence[Refused]) -> pa.Table:
    for one in refused:
        same = [
            pc.equal(letters[column], getattr(one, column)) for column in ("node", "chain", "part")
        ]
        of_these = pc.and_(pc.and_(same[0], same[1]), same[2])
        if one.ids is not None:
            ids = pa.array(map(bytes.fromhex, one.ids), pa.binary(16))
            of_these = pc.and_(of_these, pc.is_in(letters["letter_id"], ids))
        letters = letters.filter(pc.invert(of_these))
    return letters


def refused_in_words(refused: Sequence[Refused]) -> str | None:
    """Which letters could not be replayed, and why; `None` if there are none."""
    by_reason: dict[str, int] = {}
    for one in refused:
        by_reason[one.reason] = by_reason.get(one.reason, 0) + one.letters
    if not by_reason:
        return None
    told = [f"{count:,} of them: {reason}" for reason, count in by_reason.items()]
    more = f"; and {len(told) - SHOWN} more reasons" if len(told) > SHOWN else ""
    count = sum(by_reason.values())
    noun = "letter" if count == 1 else "letters"
    return f"{count:,} {noun} cannot be replayed. {'; '.join(told[:SHOWN])}{more}"


def raise_refused(refused: Sequence[Refused]) -> None:
    """Name the letters that could not be replayed, if the user must do something about them.

    Those that the next run reads again are no failure of the replay.

    Raises:
        ReplayError: There are.
    """
    told = refused_in_words([one for one in refused if not one.read_again])
    if told is None:
        return
    raise ReplayError(
        told,
        remedy="they stay as they are: put right what is said of them, or discard them with "
        "`nvisy dead-letters discard`; the others were replayed",
    )


def begin_anew(storage: Path, graph: str) -> int:
    """Forget replays that are not over; their letters are open, as before.

    Returns:
        How many there were.

    Raises:
        RunConflictError: A replay is going on.
    """
    pending = unfinished(storage, graph)
    letters = storage / "graphs" / safe_name(graph) / FOLDER
    if pending:
        with Lease(replays_folder(storage, graph), "nvisy dead-letters"):
            _forget(graph, letters, pending)
    return len(pending)


def _forget(graph: str, letters: Path, pending: Sequence[Selection]) -> None:
    for selection in pending:
        for chain in filter(is_ulid, names(selection.folder / "graphs" / safe_name(graph))):
            # What is listed may be all that is left of letters that are marked already.
            if not is_kept(letters / chain / LISTING):
                remove_folder(letters / chain)
        selection.remove()
