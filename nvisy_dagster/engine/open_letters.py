"""The open letters of earlier runs that a stage may close, or add an attempt to."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute

from nvisy_dagster.compiler import Node
from nvisy_dagster.engine.dead_letter_box import DeadLetterBox
from nvisy_dagster.engine.dead_letter_listing import MARKS
from nvisy_dagster.engine.dead_letter_origins import graphs_of_runs
from nvisy_dagster.engine.stage_context import StageContext
from nvisy_dagster.engine.superseded import OpenLetters, settle

pc = cast("Any", pyarrow.compute)


def open_letters(nodes: Sequence[Node], context: StageContext) -> Mapping[str, OpenLetters]:
    """The letters of some nodes that are open, by node; those that are replayed left out.

    Raises:
        StorageError: Something of the storage is gone or damaged.
    """
    box = DeadLetterBox.of_graph(context.dead_letters.parents[1])
    letters = box.letters()
    # What this very chain has left is no earlier failure.
    letters = letters.filter(pc.field("chain") != context.dead_letters.name)
    own = graphs_of_runs(box.folder).get(context.run_id)
    if others := box.of_other_graphs(letters, own):
        foreign = pc.is_in(letters["run_id"], pa.array(sorted(others), pa.string()))
        letters = letters.filter(pc.invert(foreign))
    if context.attempts and letters.num_rows:
        replayed = pa.array(list(context.attempts), pa.binary(16))
        letters = letters.filter(pc.invert(pc.is_in(letters["letter_id"], replayed)))
    found: dict[str, OpenLetters] = {}
    for node in nodes if letters.num_rows else ():
        some = letters.filter(pc.field("node") == node.id)
        if some.num_rows:
            found[node.id] = OpenLetters(some, whole=node.kind == "source")
    return found


def settle_chain(context: StageContext) -> None:
    """Make marks of what earlier attempts of the chain closed, before a checkpoint of it goes.

    Raises:
        StorageError: The disk is full or refuses, or something of the storage is damaged.
    """
    letters = context.dead_letters
    settle(letters, context.folder.parent, letters.parent / MARKS)
