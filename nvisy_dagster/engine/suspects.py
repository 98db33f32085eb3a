"""Records that may have killed the process: they run alone until it is known which one does.

After a death, the records of the calls that were in flight are suspects. They run in pieces of
about the square root of their number, one call at a time over the whole stage; when the process
dies again, those of the piece run one by one; a record that is alone in flight when the process
dies of itself is guilty, and treated by the node's `on_error`. That is three deaths at most.

A process that is killed from without leaves suspects too, but says nothing of its own end. So it
costs a slower pass and no record: only one that was in flight at `KILLS` deaths, and alone at the
last, is believed to cause them, as one does that needs more memory than there is.
"""

import base64
import math
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from nvisy_dagster.compiler import Plan, Stage
from nvisy_dagster.engine.failure import BEGIN_ANEW
from nvisy_dagster.engine.in_flight import ID_BYTES, Call, Death, Recorder, Slot, bury, deaths
from nvisy_dagster.engine.lease import Lease
from nvisy_dagster.engine.rejection import Reject, Rejected
from nvisy_dagster.engine.storage import read_model, remove_file, safe_name, write_json
from nvisy_dagster.engine.turns import Turns
from nvisy_dagster.sdk.envelope import ID

KILLS = 3
"""Deaths with a record in flight, alone at the last, after which it is guilty without a word."""
FEW = 16
"""So many suspects run one by one at once."""
MOST = 262_144
"""Suspects that are remembered of one node; the oldest are forgotten first."""

R = TypeVar("R")


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    """How many of them may be in one call."""
    ids: str
    """Base64 of the ids."""

    def array(self) -> pa.Array:
        """The ids."""
        return _ids(base64.b64decode(self.ids))


class _Node(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    groups: list[_Group] = []
    """Suspects, the newest last."""
    alone: dict[str, int] = {}
    """Record -> deaths without a word at which it was alone in flight."""
    guilty: dict[str, str] = {}
    """Record -> how the process died of it."""


class _State(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    told: list[str] = []
    """Processes whose death is counted."""
    nodes: dict[str, _Node] = {}


class NodeSuspects:
    """The suspects of one node.

    Args:
        state: What is known of them.
        new_slot: Makes the file of a call; `None` for a node whose calls are not recorded.
        turns: Shared by the nodes of the stage; `None` when it has no suspects.
    """

    def __init__(
        self,
        state: _Node | None = None,
        new_slot: Callable[[], Slot] | None = None,
        turns: Turns | None = None,
    ) -> None:
        self._new_slot = new_slot
        self._turns = turns
        self._free: list[Slot] = []
        state = state or _Node()
        self._guilty = {bytes.fromhex(one): why for one, why in state.guilty.items()}
        self._rows: dict[bytes, int] = {}
        for group in state.groups:
            self._rows.update(dict.fromkeys(group.array().to_pylist(), group.rows))
        self._suspects = _set(self._rows)

    async def call(self, call: Callable[[], Awaitable[R]], records: pa.RecordBatch) -> R:
        """Make a call, on record while it is in flight; of suspects, alone in the whole stage."""
        if self._turns is None:
            return await self._recorded(call, records, alone=False)
        if not self._rows or not _any(self._is_suspect(records)):
            async with self._turns.together():
                return await self._recorded(call, records, alone=False)
        async with self._turns.alone():
            try:
                return await self._recorded(call, records, alone=True)
            finally:
                # It came back, with whatever result: the process lives.
                for one in records.column("_id").to_pylist():
                    self._rows.pop(one, None)

    async def _recorded(
        self, call: Callable[[], Awaitable[R]], records: pa.RecordBatch, *, alone: bool
    ) -> R:
        if self._new_slot is None:
            return await call()
        slot = self._free.pop() if self._free else self._new_slot()
        slot.put(records, alone=alone)
        try:
            return await call()
        finally:
            slot.clear()
            self._free.append(slot)

    def pieces(self, unit: pa.RecordBatch, reject: Reject) -> list[pa.RecordBatch]:
        """Cut a unit so that suspects are by themselves; the guilty go to `reject`."""
        if not self._rows and not self._guilty:
            return [unit]
        unit = self._without_guilty(unit, reject)
        found = self._is_suspect(unit)
        if not _any(found):
            return [unit] if unit.num_rows else []
        limits = np.zeros(unit.num_rows, np.int64)
        for row in np.flatnonzero(found):
            limits[row] = self._rows.get(unit.column("_id")[int(row)].as_py(), 0)
        seams = [0, *(np.flatnonzero(np.diff(limits)) + 1).tolist(), unit.num_rows]
        made: list[pa.RecordBatch] = []
        for start, end in pairwise(seams):
            step = int(limits[start]) or end - start
            made += [unit.slice(at, min(step, end - at)) for at in range(start, end, step)]
        return made

    def _without_guilty(self, unit: pa.RecordBatch, reject: Reject) -> pa.RecordBatch:
        if not self._guilty:
            return unit
        found = _is_in(unit.column("_id"), _set(self._guilty))
        if not _any(found):
            return unit
        records = unit.filter(found)
        reasons = [self._guilty[one] for one in records.column("_id").to_pylist()]
        reject(Rejected(records, reasons, "crash"))
        return unit.filter(pc.call_function("invert", [found]))

    def _is_suspect(self, records: pa.RecordBatch) -> pa.BooleanArray:
        return _is_in(records.column("_id"), self._suspects)


class Suspects:
    """The suspects of a stage.

    Args:
        nodes: What is known, by file name of the node.
        recorder: Where calls are recorded.
        plan: The plan.
    """

    def __init__(self, nodes: Mapping[str, _Node], recorder: Recorder, plan: Plan) -> None:
        self._nodes = nodes
        self._recorder = recorder
        self._plan = plan
        self._turns = Turns() if any(node.groups for node in nodes.values()) else None
        self._made: dict[str, NodeSuspects] = {}

    def of(self, node: str) -> NodeSuspects:
        """Those of one node. Records that fail the run anyway are not told apart."""
        if node not in self._made:
            state = self._nodes.get(safe_name(node))
            fails = self._plan.nodes[node].policies.on_error == "fail"
            self._made[node] = (
                NodeSuspects(turns=self._turns)
                if fails
                else NodeSuspects(state, lambda: self._recorder.slot(node), self._turns)
            )
        return self._made[node]


@contextmanager
def suspects_of(
    plan: Plan, stage: Stage, folder: Path, lease: Lease | None = None
) -> Generator[Suspects | None]:
    """The suspects of a stage; its calls are on record within the block.

    Args:
        plan: The plan.
        stage: The stage, whose lease is held.
        folder: Its state folder.
        lease: Under which what is known is written.

    Yields:
        The suspects; `None` for a stage that fails with its first bad record.

    Raises:
        StorageError: What earlier processes left cannot be read, or the disk is full.
    """
    nodes = (plan.nodes[node] for node in stage.nodes)
    if all(node.kind == "source" or node.policies.on_error == "fail" for node in nodes):
        yield None
        return
    file, flights = folder / "suspects.json", folder / "in_flight"
    state = read_model(file, _State, BEGIN_ANEW) or _State()
    found = [death for death in deaths(flights) if death.process not in state.told]
    if found:
        for death in found:
            state = _after(state, death)
        write_json(file, state.model_dump(mode="json"), lease)
    for death in deaths(flights):
        bury(flights, death)
    with Recorder(flights) as recorder:
        yield Suspects(state.nodes, recorder, plan)
    # Only here when nothing was raised: the stage is complete.
    if state.told:
        remove_file(file)


def _after(state: _State, death: Death) -> _State:
    """What is known after one more death."""
    nodes = dict(state.nodes)
    calls: dict[str, list[Call]] = {}
    for call in death.calls:
        calls.setdefault(call.node, []).append(call)
    lonely = len(death.calls) == 1 and death.calls[0].alone and death.calls[0].count == 1
    for name, own in calls.items():
        node = nodes.get(name, _Node())
        nodes[name] = _accused(node, own[0], death) if lonely else _narrowed(node, own)
    return _State(told=[*state.told[-99:], death.process], nodes=nodes)


def _accused(node: _Node, call: Call, death: Death) -> _Node:
    """A record was alone in flight."""
    one = call.ids.hex()
    alone = node.alone.get(one, 0) + 1
    kills = alone + sum(call.ids in group.array().to_pylist() for group in node.groups)
    if death.note:
        why = f"the process died of it: {death.note}"
    elif kills >= KILLS:
        why = f"the process was killed {kills} times with this record in flight, at last alone"
    else:
        return node.model_copy(update={"alone": {**node.alone, one: alone}})
    return node.model_copy(update={"guilty": {**node.guilty, one: why}})


def _narrowed(node: _Node, calls: list[Call]) -> _Node:
    ids = b"".join(call.ids for call in calls)[: MOST * ID_BYTES]
    count = len(ids) // ID_BYTES
    alone = all(call.alone for call in calls)
    rows = 1 if alone or count <= FEW else math.isqrt(count - 1) + 1
    groups = [*node.groups, _Group(rows=rows, ids=base64.b64encode(ids).decode())]
    while sum(len(group.ids) for group in groups) > MOST * ID_BYTES * 4 // 3 + 4:
        del groups[0]
    return node.model_copy(update={"groups": groups})


def _set(ids: Mapping[bytes, object]) -> pa.Array:
    return pa.array(list(ids), ID)


def _ids(data: bytes) -> pa.Array:
    return pa.Array.from_buffers(ID, len(data) // ID_BYTES, [None, pa.py_buffer(data)])


def _is_in(ids: pa.Array, wanted: pa.Array) -> pa.BooleanArray:
    return pc.call_function("is_in", [ids], pc.SetLookupOptions(wanted))


def _any(found: pa.BooleanArray) -> bool:
    return found.true_count > 0
