"""Parts of which no copy is kept: what their store does not take is told, and written again."""

import json
import tempfile

import anyio
import pyarrow as pa
import pytest
from object_faults import LARGE, digest, large_rows, retries, through, try_often
from object_records import rows
from object_servers import connection_to
from servers.fault_proxy import KINDS, fault_proxy

from nvisy_connectors.object import open_parts
from nvisy_connectors.object.formats.compression import COMPRESSIBLE
from nvisy_connectors.object.part_file import SMALL_BYTES, PartFile
from nvisy_connectors.object.sink import AHEAD
from nvisy_connectors.object.uploads import OnlyUpload, Upload
from nvisy_dagster.compiler import compile_graph
from nvisy_dagster.engine.run import run_plan
from nvisy_dagster.graph.load import build_graph
from nvisy_dagster.sdk import ConfigError, EpochLostError, NvisyError, Progress, TransientError

pytestmark = pytest.mark.anyio

SLOW = pytest.mark.soak

FORMS = [
    (form, codec)
    for form in ("jsonl", "csv", "parquet", "arrow")
    for codec in ("none", "gzip", "zstd", "bz2")
    if codec == "none" or form in COMPRESSIBLE
]


async def written(make, batches, epochs, *, bounded=True):
    """Write epochs of the same batches as the engine does; returns how often one was lost."""
    done = lost = 0
    while done < epochs:
        async with make() as writer:
            await writer.start(Progress("run", done, bounded_epochs=bounded))
            try:
                while done < epochs:
                    for batch in batches:
                        await try_often(lambda: writer.write(batch))  # noqa: B023 - called at once
                    await try_often(lambda: writer.commit(done + 1))  # noqa: B023
                    done += 1
            except EpochLostError:
                lost += 1
    return lost


async def write_often(writer, batch):
    for _ in range(3):
        await writer.write(batch)


@pytest.mark.parametrize(
    ("store", "kind"),
    [
        pytest.param(name, kind, marks=[] if name == "azure" or kind == "torn" else SLOW)
        for name in ("gcs", "azure")
        for kind in KINDS
    ],
    indirect=["store"],
)
async def test_what_is_written_is_whole(store, proxy, place, kind, ahead, monkeypatch):
    """Each request goes wrong once, and the client does not try again by itself."""
    batch = large_rows()
    batches = [batch.slice(0, LARGE - 1), batch.slice(LARGE - 1)]
    await written(lambda: store.sink(prefix=f"{place}-plain"), batches, 1, bounded=False)
    (plain,) = store.objects(f"{place}-plain").values()
    lost = 0
    with retries(0, monkeypatch):
        for number in range(1, 20):
            prefix = f"{place}-{number}"
            proxy.fail(number, kind)
            lost += await written(
                lambda: store.sink(through(proxy, store), prefix=prefix),  # noqa: B023
                batches,
                1,
            )
            found = [digest(data) for data in store.objects(prefix).values()]
            assert found == [digest(plain)]
            if not proxy.strike.happened:
                break  # there are not so many requests
    assert number > 3
    assert lost >= 2, "copies were kept"


async def test_an_outage_is_an_epoch_that_is_lost(store, proxy, place, ahead, monkeypatch):
    batch = large_rows()
    with retries(0, monkeypatch):
        writer = store.sink(through(proxy, store), prefix=place)
        async with writer:
            await writer.start(Progress("run", 0, bounded_epochs=True))
            await writer.write(batch)
            await writer.commit(1)
            kept = store.objects(place)
            assert len(kept) == 1
            proxy.refuse_all("503 Service Unavailable")
            with pytest.raises(EpochLostError, match=r"no copy is kept: .*503"):
                await write_often(writer, batch)
            proxy.fail(0, "")
            for _ in range(2):  # it is over, and what was lost stays lost
                with pytest.raises(EpochLostError, match="cut off"):
                    await writer.write(batch)
                with pytest.raises(EpochLostError, match="cut off"):
                    await writer.commit(2)
    assert store.objects(place) == kept


async def test_a_store_that_refuses_says_so(store, proxy, place, ahead):
    writer = store.sink(through(proxy, store), prefix=place)
    async with writer:
        await writer.start(Progress("run", 0, bounded_epochs=True))
        await writer.write(large_rows())
        proxy.refuse_all("403 Forbidden")
        with pytest.raises(ConfigError) as caught:
            await write_often(writer, large_rows())
        assert caught.value.tag == "auth"
    assert store.objects(place) == {}


async def test_what_was_sent_of_a_part_appears_only_if_nobody_has_taken_over(store, place, ahead):
    for sent in (1, 3):
        writer, successor = (store.sink(prefix=f"{place}-{sent}") for _ in range(2))
        async with writer:
            await writer.start(Progress("run", 0, token=1, bounded_epochs=True))
            for _ in range(sent):
                await writer.write(large_rows())
            async with successor:
                await successor.start(Progress("run", 0, token=2, bounded_epochs=True))
                with pytest.raises(NvisyError):
                    await writer.commit(1)
        assert store.objects(f"{place}-{sent}") == {}


async def test_the_disk_is_not_written_to_any_more(store, place, ahead, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def on_disk():
        return sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())

    writer = store.sink(prefix=place)
    async with writer:
        await writer.start(Progress("run", 0, bounded_epochs=True))
        await writer.write(large_rows())
        assert on_disk() > 5 << 20
        for _ in range(3):
            await writer.write(large_rows())
            assert on_disk() == 0
        await writer.commit(1)
    assert len(store.objects(place)) == 1


async def test_more_parts_are_sent_than_are_written_at_once(store, proxy, place, ahead):
    writer = store.sink(through(proxy, store), prefix=place, part_bytes=6 << 20)
    async with writer:
        await writer.start(Progress("run", 0, bounded_epochs=True))
        for _ in range(6):
            await writer.write(large_rows())
        begun = {path for path in proxy.puts if "part" in path}
        assert len(begun) > AHEAD
        assert store.objects(place) == {}
        await writer.commit(1)
    assert len(store.objects(place)) == 6


@pytest.mark.parametrize(("form", "codec"), FORMS)
async def test_every_format_is_sent_as_it_would_be_kept(gcs_store, place, form, codec, monkeypatch):
    monkeypatch.setattr(open_parts, "WORTH_BYTES", 1)
    batches = [rows(10_000, start=start) for start in range(0, 40_000, 10_000)]
    options = {
        "csv": {"csv": {"nested": "json"}},
        "parquet": {"parquet": {"row_group_rows": 15_000}},
    }
    for bounded in (False, True):
        await written(
            lambda: gcs_store.sink(
                prefix=f"{place}/{bounded}/",  # noqa: B023 - called at once
                format=form,
                compression=codec,
                **options.get(form, {}),
            ),
            batches,
            2,
            bounded=bounded,
        )
    kept, sent = (
        [digest(data) for data in gcs_store.objects(f"{place}/{bounded}/").values()]
        for bounded in (False, True)
    )
    assert kept == sent
    assert len(kept) == 2


async def test_partitions_are_sent_too(gcs_store, place, ahead):
    batch = large_rows()
    names = [f"p{number % 4}" for number in range(LARGE)]
    batch = batch.set_column(batch.schema.get_field_index("number"), "number", pa.array(names))
    for bounded in (False, True):
        await written(
            lambda: gcs_store.sink(
                prefix=f"{place}/{bounded}/",  # noqa: B023 - called at once
                format="parquet",
                partition_by=["number"],
                parquet={"row_group_rows": 1},
            ),
            [batch] * 6,
            1,
            bounded=bounded,
        )
    kept, sent = (
        {key.partition(f"/{bounded}/")[2]: digest(data) for key, data in found.items()}
        for bounded in (False, True)
        for found in [gcs_store.objects(f"{place}/{bounded}/")]
    )
    assert kept == sent
    assert len(kept) == 4


class Taken(Upload):
    """Takes what it is sent, until it is told not to."""

    def __init__(self):
        self.data, self.sizes, self.error, self.is_closed = b"", [], None, False

    async def write(self, data):
        if self.error:
            raise self.error
        self.data += bytes(data)
        self.sizes.append(len(data))

    async def close(self):
        self.is_closed = True
        if self.error:
            raise self.error


def upload(tmp_path, stored=None):
    taken, file = Taken(), PartFile(tmp_path / "part")

    async def size():
        return stored

    return taken, file, OnlyUpload(taken, file, size, "s3://bucket/part")


async def test_pieces_come_in_their_order_and_small_ones_together(tmp_path):
    taken, file, sent = upload(tmp_path)
    pieces = [bytes([n]) * size for n, size in enumerate([10, SMALL_BYTES, 3, 4, SMALL_BYTES, 5])]
    for piece in pieces:
        file.write(piece)
    await sent.send()
    for piece in pieces:
        file.write(piece)
    await sent.send()
    changing = bytearray(b"a" * SMALL_BYTES)
    file.write(changing)
    file.write(memoryview(changing)[:7])
    changing[:] = b"b" * SMALL_BYTES
    file.close()
    assert await sent.finish()
    assert taken.data == b"".join(pieces) * 2 + b"a" * (SMALL_BYTES + 7)
    assert taken.sizes[1:] == [10, SMALL_BYTES, 7, SMALL_BYTES, 5, SMALL_BYTES, 7]
    assert taken.is_closed


async def test_a_file_that_is_closed_before_it_is_sent(tmp_path):
    taken, file, sent = upload(tmp_path)
    file.write(b"whole")
    file.close()
    assert await sent.finish()
    assert (taken.data, taken.is_closed) == (b"whole", True)


@pytest.mark.parametrize(("stored", "appears"), [(5, True), (4, False), (None, False)])
async def test_an_answer_that_is_lost_is_asked_for(tmp_path, stored, appears):
    taken, file, sent = upload(tmp_path, stored)
    file.write(b"whole")
    await sent.send()
    taken.error = TransientError("no answer")
    with pytest.raises(TransientError, match="no answer") as caught:
        await sent.finish()
    assert not isinstance(caught.value, EpochLostError)
    if appears:
        assert await sent.finish()
    else:
        with pytest.raises(EpochLostError, match="it did not appear"):
            await sent.finish()


async def test_what_is_cut_off_while_it_is_sent_is_lost(tmp_path):
    taken, file, sent = upload(tmp_path)
    began = anyio.Event()

    async def for_ever(data):
        began.set()
        await anyio.sleep_forever()

    taken.write = for_ever
    file.write(b"whole")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sent.send)
        await began.wait()
        tasks.cancel_scope.cancel()
    with pytest.raises(EpochLostError, match=r"s3://bucket/part failed, .*a call was cut off"):
        await sent.finish()


async def test_a_run_writes_a_lost_epoch_again(s3_server, s3, place, ahead, tmp_path):
    """The whole way: the store is gone for a while amid an epoch, and the stage begins it again."""
    text = "x" * 2_000
    (tmp_path / "in.jsonl").write_text(
        "".join(json.dumps({"n": n, "text": f"{n} {text}"}) + "\n" for n in range(30_000))
    )
    document = {
        "name": "outage",
        "retry": {"max_retries": 20, "initial_delay_seconds": 0.2, "backoff": "fixed"},
        "checkpoint": {"interval_rows": 10_000, "interval_seconds": 1000},
        "nodes": [
            {
                "id": "in",
                "type": "source",
                "connector": "local",
                "params": {"path": str(tmp_path / "in.jsonl"), "format": "jsonl"},
            },
            {
                "id": "out",
                "type": "sink",
                "connector": "s3",
                "connection": "s3",
                "params": {"prefix": f"{place}/", "format": "jsonl"},
            },
        ],
        "edges": [{"from": "in", "to": "out"}],
    }
    plan = compile_graph(build_graph(document, connections={"s3": {"type": "s3"}}))
    with fault_proxy(s3_server.endpoint) as proxy:
        connection = connection_to(s3_server, endpoint=proxy.endpoint)

        async def outage():
            while not any("partNumber=2" in path or "part-" in path for path in proxy.puts):  # noqa: ASYNC110
                await anyio.sleep(0.001)
            proxy.lost = place
            await anyio.sleep(1)
            proxy.lost = ""

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(outage)
            result = await run_plan(plan, {"s3": connection}, storage=tmp_path / "state")
    assert result.metrics["out"].counts.records_out == 30_000
    numbers = [
        json.loads(line)["n"]
        for page in s3.list(prefix=f"{place}/")
        for one in page
        for line in bytes(s3.get(one["path"]).bytes()).splitlines()
    ]
    assert sorted(numbers) == list(range(30_000))
