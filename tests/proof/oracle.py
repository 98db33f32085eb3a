"""Judges what a run left behind, without a line of the engine: `oracle.py FOLDER [--complete]`.

It reads the source file, the sinks, the dead letters and the checkpoints with their own libraries,
prints its verdict as JSON and exits with 1 if anything is wrong:

- every source record is in exactly one place: a sink with the right content, the dead letters, or
  dropped; up to the cursor while the run is under way, all of them once it is `--complete`;
- the keys in a sink are unique;
- the cursor is never ahead of what is durable, and `--before VERDICT` never behind what it was;
- what a crash repeats is one epoch at most: `--replayed` records in a sink that takes upserts.
"""

import argparse
import hashlib
import json
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

PART = re.compile(r"part-(?P<run>.+?)-(?P<epoch>\d{8,})-\d+\.parquet")
EDGE = "edge:"
LETTERS = "dead_letters:"
SHOWN = 5
NO_LIMIT = 10**12

Json = dict[str, Any]


@dataclass
class Verdict:
    """What was found; wrong if there is any fault."""

    faults: list[str] = field(default_factory=list)
    chain: str | None = None
    """The chain of attempts that was judged."""
    read: int = 0
    dead: int = 0
    dropped: int = 0
    written: dict[str, int] = field(default_factory=dict)
    """Sink -> records in it."""
    cursors: dict[str, list[int]] = field(default_factory=dict)
    """Stage -> epoch of its checkpoint, and how many source records that covers."""
    replayed: dict[str, int] = field(default_factory=dict)
    """Sink -> records in it that the checkpoint does not cover: a resumed run repeats them."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    def expect(self, wrong: Any, what: str) -> None:
        """Note a fault, with a few of the culprits, unless there are none."""
        if wrong:
            shown = sorted(wrong)[:SHOWN] if isinstance(wrong, set) else wrong
            many = f"{len(wrong)} " if isinstance(wrong, set) else ""
            self.faults.append(f"{many}{what}: {shown}")


@dataclass
class Source:
    """The records of the source, by their fate."""

    keys: list[int]
    """In the order in which they are read."""
    wanted: dict[int, str]
    """Key -> content hash of what must be in the sinks."""
    dead: set[int]
    dropped: set[int]


def read_source(folder: Path) -> Source:
    """What must become of each line, decided here and not by the engine."""
    source = Source([], {}, set(), set())
    for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        key, amount = record["key"], record["amount"]
        source.keys.append(key)
        if record["kind"] == "drop":
            source.dropped.add(key)
        elif not (amount.isascii() and amount.isdigit()):
            source.dead.add(key)
        else:
            source.wanted[key] = digest(key, record["text"].upper(), int(amount))
    return source


def digest(key: int, text: str, amount: int) -> str:
    """The content of a record that arrived."""
    return hashlib.sha256(json.dumps([key, text, amount]).encode()).hexdigest()


def digests(rows: list[Json]) -> list[tuple[int, str]]:
    return [(row["key"], digest(row["key"], row["text"], row["amount"])) for row in rows]


@dataclass
class Stage:
    """The checkpoint of one stage, as its file has it."""

    name: str
    folder: Path
    document: Json
    covered: set[int]
    """Keys of the source records that it covers."""


class State:
    """What the current chain of attempts has on storage."""

    def __init__(self, storage: Path, source: Source, base: "Base | None") -> None:
        self.ahead = False
        """Whether a checkpoint's file is ahead of the one that is kept beside the records."""
        self.chain: str | None = None
        self.complete = False
        self.stages: list[Stage] = []
        self.letters: list[int] = []
        """Keys of the dead letters."""
        self.lost: list[str] = []
        """Files that a checkpoint lists, and that are not there."""
        for file in storage.rglob("chains.json"):
            chains = json.loads(file.read_text(encoding="utf-8"))
            self.chain = chains["current"]
            self.complete = chains["chains"][self.chain]["complete"]
            self._read(file.parent, source, base)

    def _read(self, folder: Path, source: Source, base: "Base | None") -> None:
        assert self.chain is not None
        documents = {
            file.parent: json.loads(file.read_text(encoding="utf-8"))
            for file in (folder / self.chain).glob("*/checkpoint.json")
        }
        kept = base.checkpoint(self.chain) if base else None
        if kept is not None:
            # What is in one transaction with the records decides; the file follows behind.
            ((home, behind),) = documents.items()
            self.ahead = behind["epoch"] > kept["epoch"]
            documents[home] = kept
        for home, document in documents.items():
            covered = covered_keys(document, documents, source)
            self.stages.append(Stage(home.name, home, document, covered))
            for name, parts in document["parts"].items():
                if name.startswith(LETTERS):
                    place = folder / "dead_letters" / self.chain / name.removeprefix(LETTERS)
                    for part in parts:
                        self._read_letters(place / part["file"])

    def _read_letters(self, file: Path) -> None:
        """What a checkpoint lists; a file that none lists holds no letter."""
        if not file.exists():
            self.lost.append(file.name)
            return
        table = pa.ipc.open_file(pa.BufferReader(file.read_bytes())).read_all()
        self.letters += [record["key"] for record in table.column("record").to_pylist()]


def covered_keys(document: Json, documents: dict[Path, Json], source: Source) -> set[int]:
    """Keys of the source records that a checkpoint says are done with."""
    if not document["sources"]:
        return set()  # written when the stage began, before anything was read
    ((name, position),) = document["sources"].items()
    cursor = position["cursor"]
    if not name.startswith("stage:"):
        if position["done"] or (cursor is not None and cursor["offset"] is None):
            return set(source.keys)
        lines = 0 if cursor is None else cursor["line"] - 1 + cursor["skip"]
        return set(source.keys[:lines])
    # What reads another stage's parts covers all that those parts cover.
    (before,) = (path for path in documents if path.name.startswith(f"{name[6:]}-"))
    if position["done"]:
        return set(source.keys)
    epoch = cursor["epoch"] if cursor else 0
    made = list(part_keys(before, documents[before]))
    further = [key for key, _, part in made if part > epoch][: within(cursor)]
    return {key for key, _, part in made if part <= epoch} | set(further)


def within(cursor: Json | None) -> int:
    """How many records a cursor says were read of an epoch of which not all was read."""
    return sum(cursor["rows"].values()) if cursor else 0


def part_keys(folder: Path, document: Json) -> Iterator[tuple[int, str, int]]:
    """Key, content and epoch of the records in the parts that a checkpoint lists."""
    for name, parts in document["parts"].items():
        if not name.startswith(EDGE):
            continue
        for part in parts:
            file = folder / "edges" / name.removeprefix(EDGE) / part["file"]
            table = pa.ipc.open_file(pa.BufferReader(file.read_bytes())).read_all()
            for key, content in digests(table.select(["key", "text", "amount"]).to_pylist()):
                yield key, content, part["epoch"]


class Base:
    """The Postgres database of a run.

    Args:
        url: Its address, credentials included.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def checkpoint(self, chain: str) -> Json | None:
        """The checkpoint that was committed with the records."""
        if not self._ask("SELECT 1 FROM pg_tables WHERE tablename = '_nvisy_checkpoints'"):
            return None
        found = self._ask(
            "SELECT document FROM _nvisy_checkpoints WHERE starts_with(key, %s)"
            " AND document IS NOT NULL",
            f"{chain}/",
        )
        return json.loads(bytes(found[0][0])) if found else None

    def rows(self, table: str) -> list[tuple[int, str]]:
        """Key and content of the rows of a table."""
        if not self._ask("SELECT 1 FROM pg_tables WHERE tablename = %s", table):
            return []
        found = self._ask(f'SELECT key, text, amount FROM "{table}"')
        return [(key, digest(key, text, amount)) for key, text, amount in found]

    def _ask(self, query: str, *values: Any) -> list[Any]:
        import psycopg

        with psycopg.connect(self._url, autocommit=True) as connection:
            return connection.execute(query, values).fetchall()


def parquet_rows(folder: Path, chain: str | None) -> Iterator[tuple[int, str, int]]:
    """Key, content and epoch of the records in the parts of a chain."""
    for file in sorted(folder.glob("*.parquet")):
        found = PART.fullmatch(file.name)
        if found and found["run"] == chain:
            for key, content in digests(pq.read_table(file).to_pylist()):
                yield key, content, int(found["epoch"])


def qdrant_rows(folder: Path) -> Iterator[tuple[int, str]]:
    """Key and content of the points of an embedded collection, read from a copy of it."""
    import qdrant_edge

    if not (folder / "edge_config.json").exists():
        return
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        shard = qdrant_edge.EdgeShard.load(copy)
        try:
            request = qdrant_edge.ScrollRequest(limit=10**6, with_payload=True, with_vector=True)
            points, _ = shard.scroll(request)
            for point in points:
                assert point.vector, "a point has no vector"
                yield digests([point.payload])[0]
        finally:
            shard.close()


class Judge:
    """One judgement.

    Args:
        folder: The folder of the run; `proof.json` says what its sinks are.
        complete: Whether the run says that it has come to its end.
        before: The verdict before the last attempt.
        replayed: Most records that a crash may repeat in a sink that takes upserts.
    """

    def __init__(self, folder: Path, *, complete: bool, before: Json | None, replayed: int) -> None:
        self.folder = folder
        self.complete = complete
        self.before = before
        self.most_replayed = replayed
        self.source = read_source(folder)
        connections = json.loads((folder / "connections.json").read_text(encoding="utf-8"))
        self.base = Base(connections["base"]["url"]) if "base" in connections else None
        self.state = State(folder / "state", self.source, self.base)
        self.verdict = Verdict(chain=self.state.chain, read=len(self.source.keys))

    def judge(self) -> Verdict:
        """Everything that can be judged."""
        if self.complete and not self.state.complete:
            self.verdict.faults.append("the run ended, but its chain is not complete")
        for stage in self.state.stages:
            epoch = stage.document["epoch"]
            self.verdict.cursors[stage.name] = [epoch, len(stage.covered)]
            self._parts(stage)
        self._never_back()
        self._letters()
        graph = json.loads((self.folder / "proof.json").read_text(encoding="utf-8"))
        for node in graph["nodes"]:
            if node["type"] == "sink":
                getattr(self, f"_{node['connector']}")(node)
        self.verdict.dropped = len(self.source.dropped)
        self._counts(graph)
        return self.verdict

    def _never_back(self) -> None:
        if self.before is None or self.before["chain"] != self.state.chain:
            return
        for name, (epoch, covered) in self.before["cursors"].items():
            now = self.verdict.cursors.get(name)
            if now is None or now[0] < epoch or now[1] < covered:
                self.verdict.faults.append(
                    f"the cursor of {name} went back from {epoch, covered} to {now}"
                )

    def _parts(self, stage: Stage) -> None:
        """The parts that a checkpoint lists hold exactly what it covers; others, one epoch."""
        for name in stage.document["parts"]:
            if not name.startswith(EDGE):
                continue
            rows = list(part_keys(stage.folder, stage.document))
            self._same(name, [(key, content) for key, content, _ in rows], stage.covered)
            listed = {part["file"] for part in stage.document["parts"][name]}
            folder = stage.folder / "edges" / name.removeprefix(EDGE)
            late = {file.name for file in folder.glob("*.arrow")} - listed
            self.verdict.expect(late if len(late) > 1 else (), f"epochs to repeat in {name}")

    def _letters(self) -> None:
        keys = self.state.letters
        self.verdict.dead = len(keys)
        self.verdict.expect(self.state.lost, "files of dead letters are gone")
        doubled = {key for key, times in Counter(keys).items() if times > 1}
        self.verdict.expect(doubled, "records are in the dead letters more than once")
        covered = set(self.source.keys) if self.complete else self._reached()
        dead = self.source.dead & covered
        self.verdict.expect(set(keys) - dead, "dead letters that are none")
        self.verdict.expect(dead - set(keys), "records were refused, and are in no dead letter")

    def _reached(self) -> set[int]:
        """What the checkpoint of the stage that reads the source covers."""
        return next(
            (
                stage.covered
                for stage in self.state.stages
                if not any(name.startswith("stage:") for name in stage.document["sources"])
            ),
            set(),
        )

    def _covered_by(self, node: str) -> tuple[set[int], int]:
        """What the checkpoint of a sink's stage covers, and its epoch."""
        if self.complete:
            return set(self.source.keys), NO_LIMIT
        for stage in self.state.stages:
            if node in stage.document["counts"]:
                return stage.covered, stage.document["epoch"]
        return set(), 0

    def _local(self, node: Json) -> None:
        rows = list(parquet_rows(self.folder / node["params"]["path"], self.state.chain))
        covered, epoch = self._covered_by(node["id"])
        if self.complete:
            folder = self.folder / node["params"]["path"]
            runs = {file.name.rsplit("-", 2)[0] for file in folder.glob("*.parquet")}
            self.verdict.expect(runs if len(runs) > 1 else (), "runs have parts side by side")
        late = {e for _, _, e in rows if e > epoch}
        self.verdict.expect(late if len(late) > 1 else (), f"epochs to repeat in {node['id']}")
        done = [(key, content) for key, content, e in rows if e <= epoch]
        self._same(node["id"], done, covered)
        self._content(node["id"], [row[:2] for row in rows])
        self.verdict.written[node["id"]] = len(rows)
        self.verdict.replayed[node["id"]] = len(rows) - len(done)

    def _qdrant(self, node: Json) -> None:
        rows = list(qdrant_rows(self.folder / "vectors" / node["params"]["collection"]))
        self._upserted(node["id"], rows, self.most_replayed)

    def _postgres(self, node: Json) -> None:
        """Records and checkpoint are committed in one: the table is never ahead, nor behind."""
        assert self.base is not None
        name = node["id"]
        rows = self.base.rows(node["params"]["table"])
        covered, _ = self._covered_by(name)
        self._same(name, rows, covered)
        self.verdict.expect(self.state.ahead, "the checkpoint's file is ahead of the table")
        self.verdict.written[name] = len(rows)
        self.verdict.replayed[name] = 0

    def _upserted(self, name: str, rows: list[tuple[int, str]], most: int) -> None:
        """A sink that takes upserts may hold more than is covered, but not much."""
        covered, _ = self._covered_by(name)
        self._content(name, rows)
        missing = (self.source.wanted.keys() & covered) - {key for key, _ in rows}
        self.verdict.expect(missing, f"records are not in {name}")
        late = sum(key not in covered for key, _ in rows)
        self.verdict.expect(late if late > most else (), f"records to repeat in {name}")
        self.verdict.written[name] = len(rows)
        self.verdict.replayed[name] = late

    def _same(self, name: str, rows: list[tuple[int, str]], covered: set[int]) -> None:
        """These rows are those of the covered records, no more and no fewer."""
        self._content(name, rows)
        keys = {key for key, _ in rows}
        wanted = self.source.wanted.keys() & covered
        self.verdict.expect(wanted - keys, f"records are not in {name}")
        self.verdict.expect(keys - wanted, f"records are in {name} before their checkpoint")

    def _content(self, name: str, rows: list[tuple[int, str]]) -> None:
        doubled = {key for key, times in Counter(key for key, _ in rows).items() if times > 1}
        self.verdict.expect(doubled, f"keys are more than once in {name}")
        stray = {key for key, _ in rows} - self.source.wanted.keys()
        self.verdict.expect(stray, f"records do not belong into {name}")
        wrong = {k for k, content in rows if self.source.wanted.get(k, content) != content}
        self.verdict.expect(wrong, f"records have another content in {name}")

    def _counts(self, graph: Json) -> None:
        """What the run says of itself adds up to what is there."""
        file = self.folder / "counts.json"
        if not self.complete or not file.exists():
            return
        counts = json.loads(file.read_text(encoding="utf-8"))
        verdict = self.verdict
        dropped = sum(count["dropped"] for count in counts.values())
        dead = sum(count["dead"] for count in counts.values())
        for node in graph["nodes"]:
            if node["type"] == "sink":
                told = (counts["rows"]["records_out"], counts[node["id"]]["records_out"])
                there = (verdict.read, verdict.written[node["id"]])
                if told != there or (dropped, dead) != (verdict.dropped, verdict.dead):
                    verdict.faults.append(
                        f"it tells (read, written) {told}, {dropped} dropped, {dead} dead of "
                        f"{node['id']}; there are {there}, {verdict.dropped}, {verdict.dead}"
                    )
                if told[0] != told[1] + dropped + dead:
                    verdict.faults.append(f"the counts of {node['id']} do not add up")


def judge(
    folder: Path, *, complete: bool, before: Json | None = None, replayed: int = NO_LIMIT
) -> Verdict:
    """The verdict on a run."""
    return Judge(folder, complete=complete, before=before, replayed=replayed).judge()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--complete", action="store_true")
    parser.add_argument("--before", type=Path, help="an earlier verdict")
    parser.add_argument("--replayed", type=int, default=NO_LIMIT)
    options = parser.parse_args()
    before = json.loads(options.before.read_text()) if options.before else None
    verdict = judge(
        options.folder, complete=options.complete, before=before, replayed=options.replayed
    )
    sys.stdout.write(json.dumps({"ok": verdict.ok, **asdict(verdict)}, indent=2) + "\n")
    return 0 if verdict.ok else 1


if __name__ == "__main__":
    sys.exit(main())
