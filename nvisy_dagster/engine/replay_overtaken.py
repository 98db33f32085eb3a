"""What became of the letters of a replay while it was cut off, and what it must not write for that.

A run that goes on meanwhile may write newer versions of the same source records, and closes their
letters. What the replay has made of the older versions waits in its materialized edges: it is
dropped where a later stage reads them. So every such edge leads through a node that drops what came
of closed letters. It is there in every attempt, whether there is something to drop or not, and what
it drops is counted as dropped.

Behind the node that failed a record only its root is known. Where a letter was closed by something
newer, all that came of its root is dropped, and other letters of that root, although they are open,
are left as they are. A letter that was discarded closes nothing but itself.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute
from pydantic import Field

from nvisy_dagster.compiler import Edge, Node, Output
from nvisy_dagster.engine.dead_letter import letter_ids
from nvisy_dagster.engine.dead_letter_box import ALL, DeadLetterBox
from nvisy_dagster.engine.failure import StorageError
from nvisy_dagster.engine.replay_records import ANEW, Refused, ReplayRecords
from nvisy_dagster.engine.storage import fetch
from nvisy_dagster.graph.policies import Policies
from nvisy_dagster.sdk import Action, EdgeType, Params

pc = cast("Any", pyarrow.compute)

_LEFT = (
    "a run has written a newer version of what it was made of since the replay began, or what "
    "holds it is of an older version"
)


@dataclass(frozen=True)
class Overtaken:
    """What a replay must leave out."""

    closed: frozenset[bytes] = frozenset()
    """Letters whose records are not run."""
    roots: frozenset[bytes] = frozenset()
    """Roots of which nothing goes on into a later stage."""
    uris: frozenset[str] = frozenset()
    """Objects of which nothing does."""
    refused: Sequence[Refused] = ()
    """Letters among the closed ones that are open, and stay so."""


@dataclass(frozen=True)
class _Origin:
    """Where the record of a letter came from."""

    root: bytes
    uri: str
    whole: bool
    """Whether it stands for all of what its URI names."""


def find_overtaken(
    box: DeadLetterBox, letters: pa.Table, records: ReplayRecords, folder: Path
) -> Overtaken:
    """What is closed of the letters of a replay, since they were selected.

    Args:
        box: The graph's letters.
        letters: Those that were selected.
        records: Their records.
        folder: Where the records are.

    Raises:
        StorageError: Something of the storage is gone or damaged.
    """
    found = _became(box, letters)
    if all(status == "open" for status in found.values()):
        return Overtaken()
    origins: dict[bytes, _Origin] = {}
    for node, file in records.files.items():
        origins.update(_origins(node, folder / file))
    of: dict[str, list[_Origin]] = {"open": [], "discarded": [], "newer": []}
    for letter, status in found.items():
        if letter in origins:
            of[status].append(origins[letter])
    newer = {one.root for one in of["newer"]}
    newer_uris = {one.uri for one in of["newer"] if one.whole}
    given_up = {one.root for one in of["discarded"]} - {one.root for one in of["open"]}
    given_up_uris = {one.uri for one in of["discarded"] if one.whole}
    given_up_uris -= {one.uri for one in of["open"]}
    left = {
        letter
        for letter, one in origins.items()
        if found.get(letter) == "open" and (one.root in newer or one.uri in newer_uris)
    }
    return Overtaken(
        closed=frozenset(left | {letter for letter, status in found.items() if status != "open"}),
        roots=frozenset(newer | given_up),
        uris=frozenset(newer_uris | given_up_uris),
        refused=list(_refused(letters, left)),
    )


def _became(box: DeadLetterBox, letters: pa.Table) -> dict[bytes, str]:
    """Of each letter whether it is `open`, `discarded`, or closed by something `newer`."""
    ids = letters["letter_id"].combine_chunks()
    now = box.letters(ALL)
    now = now.filter(pc.is_in(now["letter_id"], ids))
    latest = {
        one["letter_id"]: (one["chain"], one["part"], one["status"])
        for one in now.select(["letter_id", "chain", "part", "status"]).to_pylist()
    }
    found: dict[bytes, str] = {}
    for one in letters.select(["letter_id", "chain", "part"]).to_pylist():
        chain, part, status = latest.get(one["letter_id"], ("", "", ""))
        same = (chain, part) == (one["chain"], one["part"])
        # What has failed again since is another failure: newer, too.
        found[one["letter_id"]] = status if same and status in {"open", "discarded"} else "newer"
    return found


def _origins(node: str, path: Path) -> Iterator[tuple[bytes, _Origin]]:
    try:
        with pa.OSFile(str(fetch(path)), "rb") as file:
            reader = pa.ipc.open_file(file)
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                ids = letter_ids(node, batch).to_pylist()
                roots = batch.column("_root_id").to_pylist()
                places = batch.column("_source").to_pylist()
                for id_, root, place in zip(ids, roots, places, strict=True):
                    yield id_, _Origin(root, place["uri"], place["position"] is None)
    except (OSError, pa.ArrowInvalid) as error:
        raise StorageError(
            f"{path}, the records of a replay, is gone or damaged: {error}", remedy=ANEW
        ) from error


def _refused(letters: pa.Table, left: Iterable[bytes]) -> Iterator[Refused]:
    of = letters.filter(pc.is_in(letters["letter_id"], pa.array(sorted(left), pa.binary(16))))
    parts = of.group_by(["node", "chain", "part"]).aggregate([("letter_id", "list")])
    for one in parts.to_pylist():
        ids = [id_.hex() for id_ in one["letter_id_list"]]
        yield Refused(
            node=one["node"],
            chain=one["chain"],
            part=one["part"],
            letters=len(ids),
            reason=f"{_LEFT}: run the graph, or replay what is still open then",
            ids=ids,
            read_again=True,
        )


class NotOvertakenParams(Params):
    """Params of `NotOvertaken`."""

    replay: str
    """The replay: another one has other progress."""
    roots: frozenset[bytes] = Field(default=frozenset(), exclude=True)
    """Roots of which nothing goes on."""
    uris: frozenset[str] = Field(default=frozenset(), exclude=True)
    """Objects of which nothing does."""


class NotOvertaken(Action[NotOvertakenParams]):
    """Drops what came of letters that are closed."""

    name = "not_overtaken"

    def output(self, incoming: EdgeType) -> EdgeType:
        """What it takes."""
        return incoming

    async def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Those of the records that may go on."""
        kept = batch
        if self.params.roots:
            roots = pa.array(sorted(self.params.roots), pa.binary(16))
            found = pc.is_in(kept.column("_root_id").cast(pa.binary(16)), roots)
            kept = kept.filter(pc.invert(found))
        if self.params.uris:
            uris = pc.struct_field(kept.column("_source"), "uri")
            found = pc.is_in(uris, pa.array(sorted(self.params.uris), uris.type))
            kept = kept.filter(pc.invert(found))
        return kept


def guarded(
    nodes: Mapping[str, Node], edges: Sequence[Edge], replay: str, overtaken: Overtaken
) -> tuple[dict[str, Node], list[Edge]]:
    """The nodes and edges of a replay, with a node that drops behind every materialized edge."""
    guards: dict[str, Node] = {}
    found: list[Edge] = []
    params = NotOvertakenParams(replay=replay, roots=overtaken.roots, uris=overtaken.uris)
    for edge in edges:
        if edge.kind == "streamed":
            found.append(edge)
            continue
        # Such characters are in the id of no node.
        guard = f"@{edge.output.name}>{edge.target}"
        guards[guard] = Node(
            id=guard,
            kind="action",
            component_name=NotOvertaken.name,
            component=NotOvertaken,
            params=params,
            connection=None,
            policies=Policies(),
            output=nodes[edge.output.node].output,
        )
        found += [
            Edge(edge.output, guard, "materialized"),
            # What needs all records reads nothing but what is kept.
            Edge(
                Output(guard),
                edge.target,
                "materialized" if nodes[edge.target].blocks else "streamed",
                edge.input,
            ),
        ]
    return guards, found
