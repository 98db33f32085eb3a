"""A process that is stopped between two steps, and revived when others have been there.

Where it stops is a failpoint; what the others do meanwhile is done right there.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pyarrow as pa
import pytest
from servers.fault_proxy import FaultProxy, fault_proxy
from servers.seaweedfs import S3Server
from test_lease import holding
from test_object_storage import environment, s3_server, silence

from nvisy_dagster.engine import bookmark, change_reader, in_flight, object_storage, storage
from nvisy_dagster.engine.bookmark import (
    BookmarkFiles,
    TouchedLog,
    journal_name,
    own_folder,
    promote,
    read_all_again,
)
from nvisy_dagster.engine.change_reader import ChangeReader
from nvisy_dagster.engine.checkpoint import Checkpoint
from nvisy_dagster.engine.failure import StorageError
from nvisy_dagster.engine.in_flight import Recorder, bury, deaths
from nvisy_dagster.engine.lease import FencedError, Lease
from nvisy_dagster.engine.object_storage import open_object_storage
from nvisy_dagster.engine.storage_place import storage_root

__all__ = ["environment", "s3_server"]

SOURCE: Any = SimpleNamespace(id="docs", on_removed="remove", incremental=True)
PLAN: Any = SimpleNamespace(nodes={"docs": SOURCE}, stage_of={"docs": SimpleNamespace(id="stage")})
CHAINS = [f"01M{number:023d}" for number in range(4)]
"""Of attempts, in order."""


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "local":
        return tmp_path / "state"
    request.getfixturevalue("environment")
    return storage_root()


def rows(*keys: str) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"key": list(keys)})


class World:
    """The state of a graph with one incremental source."""

    def __init__(self, root: Path) -> None:
        self.graph = root / "graphs" / "g"
        self.files = BookmarkFiles(self.graph, "docs")

    def stage(self, chain: str) -> Path:
        return self.graph / chain / "stage"

    def reader(self, chain: str, lease: Lease | None = None, basis: str = "b") -> ChangeReader:
        return ChangeReader(SOURCE, self.stage(chain), chain, basis, Checkpoint(), lease=lease)

    def read(self, chain: str) -> Checkpoint:
        """Read everything in a chain; what it remembers is the chain's name."""
        reader = self.reader(chain)

        async def write() -> Any:
            await reader._journal.write(rows(chain))
            return await reader.commit(1)

        return Checkpoint(epoch=1, parts={journal_name("docs"): [anyio.run(write)]})

    def promote(self, chain: str, checkpoint: Checkpoint) -> None:
        promote(self.graph, chain, PLAN, lambda _: (self.stage(chain), checkpoint))

    @property
    def remembered(self) -> list[str]:
        """What the next run begins with."""
        # Fetched anew: a copy of this process may outlive what it is one of.
        current = self.files.read()
        assert current is not None
        assert storage.is_file(self.files.folder / current.file), "it names a file that is gone"
        return [
            row["key"] for batch in self.files.load("b").last or [] for row in batch.to_pylist()
        ]


def stopped_at(monkeypatch: pytest.MonkeyPatch, place: str, meanwhile: Callable[[], None]) -> None:
    """Have something done when a place is passed for the first time."""
    waiting = [meanwhile]

    def failpoint(name: str) -> None:
        if name == place and waiting:
            waiting.pop()()

    for module in (bookmark, change_reader):
        monkeypatch.setattr(module, "failpoint", failpoint)


@pytest.mark.parametrize(
    "place",
    [
        "bookmark.before_write",
        "bookmark.before_current",
        "bookmark.after_current",
        "bookmark.after_promotion",
    ],
)
def test_a_later_bookmark_is_not_replaced_by_an_earlier(
    root: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    world = World(root)
    world.promote(CHAINS[0], world.read(CHAINS[0]))
    earlier, later = world.read(CHAINS[1]), world.read(CHAINS[2])
    stopped_at(monkeypatch, place, lambda: world.promote(CHAINS[2], later))
    world.promote(CHAINS[1], earlier)
    assert world.remembered == [CHAINS[2]]
    world.promote(CHAINS[3], world.read(CHAINS[3]))
    assert world.remembered == [CHAINS[3]]


def test_what_was_asked_for_in_the_meantime_stays_asked_for(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(root)
    read_all_again(world.graph)
    first = world.read(CHAINS[0])
    stopped_at(monkeypatch, "bookmark.after_promotion", lambda: read_all_again(world.graph))
    world.promote(CHAINS[0], first)
    assert not world.files.load("b").trusted, "the second request is lost"
    world.promote(CHAINS[1], world.read(CHAINS[1]))
    assert world.files.load("b").trusted, "it has been read"


def test_what_the_next_bookmark_builds_on_is_of_the_last_holder(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(root)
    stage = world.stage(CHAINS[0])
    begun = own_folder(stage, "docs") / "begun.json"
    with Lease(stage, "first") as old:

        def take_over() -> None:
            silence(stage)
            with Lease(stage, "second") as new:
                world.reader(CHAINS[0], new, basis="new")

        stopped_at(monkeypatch, "bookmark.before_begun", take_over)
        with pytest.raises(FencedError, match="took over"):
            world.reader(CHAINS[0], old, basis="old")
    assert storage.read_json(begun)["basis"] == "new"


def test_a_torn_file_speaks_of_nothing_that_was_sent(tmp_path: Path) -> None:
    world = World(tmp_path)
    anyio.run(TouchedLog(world.files.touched, CHAINS[0]).add, rows("a", "b"))
    (file,) = world.files.touched.iterdir()
    whole = file.read_bytes()
    assert [batch.num_rows for batch in world.files.load("b").touched] == [2]
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        assert list(world.files.load("b").touched) == []


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    with fault_proxy(s3_server.endpoint) as proxy:
        yield proxy


def test_a_store_that_is_not_reached_is_no_empty_one(
    environment: Any, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    anyio.run(TouchedLog(World(storage_root()).files.touched, CHAINS[0]).add, rows("a"))
    monkeypatch.setenv("NVISY_WORK", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    monkeypatch.setattr(object_storage, "RETRIES", 0)
    open_object_storage.cache_clear()
    world = World(storage_root())
    proxy.lost = f"/{CHAINS[0]}-"
    with pytest.raises(StorageError, match="503") as told:
        world.files.load("b")
    assert told.value.tag == "server"
    proxy.lost = ""
    assert [batch.num_rows for batch in world.files.load("b").touched] == [1]


def bury_all(flights: Path) -> None:
    for death in deaths(flights):
        bury(flights, death)


def test_a_zombie_does_not_bury_the_calls_of_its_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVISY_LEASE_SECONDS", "2")
    flights = tmp_path / "in_flight"
    (flights / "dead").mkdir(parents=True)
    with Lease(tmp_path, "zombie") as zombie:
        assert [death.process for death in deaths(flights)] == ["dead"]
        zombie._ended.set()  # it is not renewed any more
        silence(tmp_path)
        with holding(tmp_path), Recorder(flights):
            with pytest.raises(FencedError, match="run target took over"):
                bury_all(flights)
            assert len(list(flights.iterdir())) == 2


def test_what_a_successor_makes_after_the_question_is_not_a_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in_flight" / "dead").mkdir(parents=True)
    real = in_flight.read_lease

    def slow(stage: Path) -> Any:
        """Answers, and then another takes over at once."""
        answer = real(stage)
        (stage / "in_flight" / "successor").mkdir()
        return answer

    with Lease(tmp_path, "zombie"):
        monkeypatch.setattr(in_flight, "read_lease", slow)
        assert [death.process for death in deaths(tmp_path / "in_flight")] == ["dead"]
