"""What a user of the qdrant connector relies on, over both back ends."""

import datetime as dt
import decimal
import math
import sys

import anyio
import numpy as np
import pyarrow as pa
import pytest
from pydantic import SecretStr, ValidationError
from vector_records import embeddings

from nvisy_connectors.vector.qdrant import QdrantConnection, QdrantSink, QdrantSource
from nvisy_connectors.vector.qdrant.points import to_json_values, to_uuids
from nvisy_connectors.vector.qdrant.sink import QdrantSinkParams
from nvisy_connectors.vector.qdrant.source import QdrantSourceParams
from nvisy_connectors.vector.qdrant.stale import Epoch
from nvisy_dagster.sdk import ConfigError, DataError, EdgeType, Progress, TransientError
from nvisy_dagster.sdk.search import Searchable

pytestmark = pytest.mark.anyio


async def write(params, connection, *batches, epoch=0, node_id="index", commit=True):
    """One run: each batch an epoch of its own."""
    async with QdrantSink(params, connection, node_id=node_id) as sink:
        await sink.start(Progress("run", epoch))
        for number, batch in enumerate(batches, start=epoch + 1):
            for unit in sink.split(batch):
                await sink.write(unit)
            if commit:
                await sink.commit(number)
        await sink.finish()


async def stored(collection, connection):
    """`_id` as text -> row, as the source reads it."""
    source = QdrantSource(QdrantSourceParams(collection=collection), connection, node_id="read")
    async with source:
        rows = [row async for batch in source.read(None) for row in batch.data.to_pylist()]
    ids = to_uuids(pa.array([row["_id"] for row in rows], pa.binary(16)))
    return dict(zip(ids, rows, strict=True))


def ids_of(batch):
    return set(to_uuids(batch.column("_id")))


async def test_records_come_back_as_they_were(collection, connection):
    rows = embeddings([3, 2])
    await write(QdrantSinkParams(collection=collection, batch_rows=2), connection, rows)
    found = await stored(collection, connection)
    for uuid, row in zip(to_uuids(rows.column("_id")), rows.to_pylist(), strict=True):
        back = found[uuid]
        assert {n: back[n] for n in row if n not in {"vector", "index", "_metadata"}} == {
            n: v for n, v in row.items() if n not in {"vector", "index", "_metadata"}
        }
        assert back["vector"] == pytest.approx(row["vector"], abs=1e-6)
        assert back["payload"] == f'{{"index":{row["index"]}}}'
        assert back["_metadata"].replace(" ", "") == row["_metadata"].replace(" ", "")


async def test_a_shorter_document_leaves_no_stale_chunks(collection, connection):
    params = QdrantSinkParams(collection=collection, batch_rows=2)
    await write(params, connection, embeddings([5, 3, 4]))
    # The second run sees documents 0 and 1 only; the first of them became shorter.
    rerun = embeddings([2, 3], seed=1)
    await write(params, connection, rerun)
    untouched = {
        uuid
        for uuid, row in zip(
            to_uuids(embeddings([5, 3, 4]).column("_id")),
            embeddings([5, 3, 4]).to_pylist(),
            strict=True,
        )
        if row["_source"]["position"] == 2
    }
    found = await stored(collection, connection)
    assert set(found) == ids_of(rerun) | untouched
    assert len(untouched) == 4


async def test_a_resumed_run_removes_what_the_first_attempt_left(collection, connection):
    params = QdrantSinkParams(collection=collection)
    await write(params, connection, embeddings([5]), commit=False)
    await write(params, connection, embeddings([2], seed=1), epoch=1)
    assert set(await stored(collection, connection)) == ids_of(embeddings([2]))


async def test_stale_chunks_stay_when_asked(collection, connection):
    params = QdrantSinkParams(collection=collection, replace_root=False)
    await write(params, connection, embeddings([5]))
    await write(params, connection, embeddings([2], seed=1))
    assert set(await stored(collection, connection)) == ids_of(embeddings([5]))


async def test_two_sinks_share_a_collection_without_removing_the_others_points(
    collection, connection
):
    params = QdrantSinkParams(collection=collection)
    whole = embeddings([4])
    for _ in range(2):
        async with (
            QdrantSink(params, connection, node_id="one") as one,
            QdrantSink(params, connection, node_id="two") as two,
        ):
            for sink, half in ((one, whole.slice(0, 2)), (two, whole.slice(2))):
                await sink.start(Progress("run", 0))
                await sink.write(half)
            await one.commit(1)
            await two.commit(1)
    assert set(await stored(collection, connection)) == ids_of(whole)


async def test_running_twice_changes_nothing(collection, connection):
    # Not cosine: the last bit of a normalised vector is the back end's own affair.
    params = QdrantSinkParams(collection=collection, distance="dot")
    await write(params, connection, embeddings([5, 3]))
    before = await stored(collection, connection)
    await write(params, connection, embeddings([5, 3]))
    assert await stored(collection, connection) == before


async def test_another_dimension_is_refused_before_anything_is_written(collection, connection):
    params = QdrantSinkParams(collection=collection)
    await write(params, connection, embeddings([2]))
    with pytest.raises(ConfigError, match=rf"dimension 4, but collection '{collection}'.* has 8"):
        await write(params, connection, embeddings([2], dimension=4))
    assert set(await stored(collection, connection)) == ids_of(embeddings([2]))


async def test_another_distance_is_refused(collection, connection):
    await write(QdrantSinkParams(collection=collection), connection, embeddings([2]))
    params = QdrantSinkParams(collection=collection, distance="dot")
    with pytest.raises(ConfigError, match=r"measures by 'cosine'.*says 'dot'"):
        await write(params, connection, embeddings([2]))


@pytest.mark.parametrize("distance", ["cosine", "dot", "euclid"])
async def test_every_distance_finds_the_vector_itself(collection, connection, distance):
    rows = embeddings([6])
    params = QdrantSinkParams(collection=collection, distance=distance)
    await write(params, connection, rows)
    async with QdrantSink(params, connection) as sink:
        assert isinstance(sink, Searchable)
        hits = await sink.search(rows.column("vector")[3].as_py(), 3)
    assert hits[0].id == to_uuids(rows.column("_id"))[3]
    assert hits[0].payload["text"] == "chunk 3 of document 0"
    assert hits[0].payload["_source"] == {"uri": "file:///docs", "position": 0}
    assert len(hits) == 3


async def test_searching_creates_nothing(collection, connection):
    params = QdrantSinkParams(collection=collection)
    async with QdrantSink(params, connection) as sink:
        with pytest.raises(ConfigError, match="there is no collection"):
            await sink.search([0.0] * 8, 3)
    with pytest.raises(ConfigError, match="there is no collection"):
        await stored(collection, connection)


async def test_searching_with_another_dimension_is_refused(collection, connection):
    params = QdrantSinkParams(collection=collection)
    await write(params, connection, embeddings([2]))
    async with QdrantSink(params, connection) as sink:
        with pytest.raises(ConfigError, match="dimension 3"):
            await sink.search([0.0] * 3, 3)


async def test_create_false_demands_the_collection(collection, connection):
    params = QdrantSinkParams(collection=collection, create=False)
    with pytest.raises(ConfigError, match="'create' is false"):
        await write(params, connection, embeddings([2]))


async def test_unfit_vectors_are_named_and_the_others_written(collection, connection):
    rows = embeddings([6])
    vectors = rows.column("vector").to_pylist()
    vectors[1][2] = math.nan
    vectors[3][0] = math.inf
    vectors[4] = None
    place = rows.schema.get_field_index("vector")
    field = rows.schema.field(place).with_nullable(True)
    rows = rows.set_column(place, field, pa.array(vectors, field.type))
    params = QdrantSinkParams(collection=collection)
    async with QdrantSink(params, connection, node_id="index") as sink:
        await sink.start(Progress("run", 0))
        with pytest.raises(DataError) as caught:
            await sink.write(rows)
        await sink.commit(1)
    assert set(caught.value.rows) == {1, 3, 4}
    assert caught.value.rows[4] == "the vector is null"
    ids = to_uuids(rows.column("_id"))
    assert set(await stored(collection, connection)) == {ids[0], ids[2], ids[5]}


async def test_only_chosen_columns_are_stored(collection, connection):
    params = QdrantSinkParams(collection=collection, payload=("text",))
    await write(params, connection, embeddings([1]))
    async with QdrantSink(params, connection) as sink:
        (hit,) = await sink.search([1.0] * 8, 1)
    assert {name for name in hit.payload if not name.startswith("_")} == {"text"}


async def test_sliced_batches_are_read_from_their_own_rows(collection, connection):
    rows = embeddings([4, 4])
    await write(QdrantSinkParams(collection=collection), connection, rows.slice(3, 4))
    found = await stored(collection, connection)
    assert set(found) == ids_of(rows.slice(3, 4))
    for uuid, row in zip(
        to_uuids(rows.slice(3, 4).column("_id")), rows.slice(3, 4).to_pylist(), strict=True
    ):
        assert found[uuid]["vector"] == pytest.approx(row["vector"], abs=1e-6)
        assert found[uuid]["_parent_ids"] == row["_parent_ids"]


def test_params_and_incoming_columns_are_checked_at_compile_time():
    sink = QdrantSink(QdrantSinkParams(collection="docs", payload=("titel",)))
    with pytest.raises(ConfigError, match=r"'payload' names .* titel"):
        sink.check(EdgeType("embedding", embeddings([1]).schema))
    for name in ("a/b", ".hidden", "..", "", "a\nb"):
        with pytest.raises(ValidationError):
            QdrantSinkParams(collection=name)


def test_places_and_secrets(tmp_path):
    server = QdrantConnection(url="http://db.example:7000", api_key=SecretStr("very-secret-key"))
    assert server.location() == "qdrant://db.example:7000"
    assert QdrantConnection(url="http://db.example").location() == "qdrant://db.example:6333"
    folder = QdrantConnection(path=tmp_path)
    assert folder.location() == tmp_path.as_uri()
    sink = QdrantSink(QdrantSinkParams(collection="my docs"), folder)
    assert sink.location() == f"{tmp_path.as_uri()}/my%20docs"
    wrong = [
        {},
        {"url": "http://a", "path": "b"},
        {"url": "localhost:6333"},
        {"url": "http://user:password@host"},
        {"url": "http://host:99999"},
        {"path": "b", "api_key": "k"},
    ]
    for fields in wrong:
        with pytest.raises(ValidationError):
            QdrantConnection.model_validate(fields)


def test_values_that_json_cannot_hold():
    moment = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    columns = {
        "float": (pa.array([1.5, math.nan, math.inf, None]), [1.5, None, None, None]),
        "time": (pa.array([moment], pa.timestamp("s", "UTC")), ["2026-01-02T03:04:05.000000Z"]),
        "berlin": (
            pa.array([moment], pa.timestamp("us", "Europe/Berlin")),
            ["2026-01-02T03:04:05.000000Z"],
        ),
        "date": (pa.array([dt.date(2026, 1, 2)]), ["2026-01-02"]),
        "bytes": (pa.array([b"\x00\xff"]), ["AP8="]),
        "decimal": (pa.array([decimal.Decimal("1.10")]), ["1.10"]),
        "nested": (pa.array([{"a": [math.nan, 1.0]}]), [{"a": [None, 1.0]}]),
        "dictionary": (pa.array(["x", "x"]).dictionary_encode(), ["x", "x"]),
    }
    for name, (column, wanted) in columns.items():
        assert to_json_values(column) == wanted, name


def test_stale_points_are_named_root_by_root_in_bounded_requests():
    sizes = [1, 5000, 3, 4000, 90, *[7] * 1000]
    rows = embeddings(sizes, dimension=1)
    epoch = Epoch()
    order = np.random.default_rng(0).permutation(rows.num_rows)
    for start in range(0, rows.num_rows, 1000):
        epoch.add(rows.take(pa.array(order[start : start + 1000])))
    groups = list(epoch.renewals())
    roots = [root for group in groups for root in group.roots]
    assert len(roots) == len(set(roots)) == len(sizes)
    assert all(len(group.keep) <= 4096 or len(group.roots) == 1 for group in groups)
    of_root = {}
    for uuid, root in zip(
        to_uuids(rows.column("_id")), to_uuids(rows.column("_root_id")), strict=True
    ):
        of_root.setdefault(root, set()).add(uuid)
    for group in groups:
        assert set(group.keep) == set().union(*(of_root[root] for root in group.roots))


async def test_a_collection_that_is_open_elsewhere_says_so(tmp_path, collection):
    connection = QdrantConnection(path=tmp_path)
    await write(QdrantSinkParams(collection=collection), connection, embeddings([1]))
    hold = (
        "import sys, time, filelock\n"
        "lock = filelock.FileLock(sys.argv[1]); lock.acquire()\n"
        "print('held', flush=True); time.sleep(60)"
    )
    lock = tmp_path / f".{collection}.lock"
    async with await anyio.open_process([sys.executable, "-c", hold, str(lock)]) as holder:
        try:
            assert holder.stdout is not None
            assert (await holder.stdout.receive()).startswith(b"held")
            with pytest.raises(TransientError, match=r"open in another process.*one process"):
                await stored(collection, connection)
        finally:
            holder.kill()
    assert len(await stored(collection, connection)) == 1


async def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"meow")
    with pytest.raises(ConfigError, match="no Qdrant collection"):
        await write(
            QdrantSinkParams(collection="photos"), QdrantConnection(path=tmp_path), embeddings([1])
        )
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"meow"
