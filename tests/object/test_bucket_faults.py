"""A store or a network that fails: what was read and written is right, or an error."""

import json
import os

import pytest
from object_faults import digest, large_rows, retries, through, try_often
from object_records import drain, records, rows
from servers.fault_proxy import KINDS, READ_KINDS, ReadFault

from nvisy_dagster.sdk import ConfigError, NvisyError, Progress, TransientError

pytestmark = pytest.mark.anyio


async def contents(source):
    """Digests of the blobs that a source reads."""
    return sorted(digest(row["data"]) for row in await records(source))


@pytest.mark.parametrize("kind", READ_KINDS)
async def test_what_is_read_is_right_or_an_error(store, proxy, place, kind, monkeypatch):
    blobs = {f"{place}/{number}": os.urandom(300_000 + number) for number in range(4)}
    for key, data in blobs.items():
        store.client.put(key, data)
    expected = sorted(digest(data) for data in blobs.values())
    source = store.source(through(proxy, store), prefix=f"{place}/", format="binary")

    async def read():
        return await contents(source)

    # Whenever it goes wrong, and however often the client tries by itself.
    with retries(0, monkeypatch):
        for skipped in range(3):
            proxy.read_fault = ReadFault(kind, f"{place}/", times=2, skipped=skipped)
            assert await try_often(read) == expected
            assert proxy.read_fault.happened == 2
        proxy.read_fault = ReadFault(kind, f"{place}/2", times=1000)
        with pytest.raises(TransientError):
            await read()
    proxy.read_fault = ReadFault(kind, f"{place}/", times=2)
    assert await try_often(read) == expected


async def test_a_large_object_that_is_cut_off_again_and_again(store, proxy, place):
    """Its blocks are read one by one: none is lost, none is there twice."""
    line = b'{"a": "' + b"x" * 90 + b'"}\n'
    store.client.put(f"{place}/large.jsonl", line * 200_000)
    proxy.read_fault = ReadFault("truncated", f"{place}/large.jsonl", times=5)
    params = {"prefix": f"{place}/", "format": "jsonl", "columns": {"a": "string"}}

    async def read():
        return await drain(store.source(through(proxy, store), **params))

    batches = await try_often(read)
    assert sum(batch.data.num_rows for batch in batches) == 200_000
    assert proxy.read_fault.happened == 5


@pytest.mark.parametrize(
    ("large", "kind"),
    [
        pytest.param(large, kind, id=f"{size}-{kind}", marks=pytest.mark.soak if long else [])
        for large, size in ((False, "small"), (True, "large"))
        for kind in KINDS
        for long in [large and kind != "refused"]
    ],
)
async def test_what_is_written_is_whole(store, proxy, place, kind, large, ahead):
    """Each request of the upload goes wrong once; nothing is seen until all of it is there."""
    batch = large_rows() if large else rows(10)
    writer = store.sink(through(proxy, store), prefix=place, envelope=False)
    plain = store.sink(prefix=f"{place}-plain", envelope=False)
    async with plain:
        await plain.start(Progress("run", 0))
        await plain.write(batch)
        await plain.commit(1)
    expected = [digest(data) for data in store.objects(f"{place}-plain").values()]
    async with writer:
        await writer.start(Progress("run", 0))
        for epoch in range(1, 9 if large else 2):
            proxy.fail(epoch, kind)
            await writer.write(batch.slice(0, batch.num_rows - 1))
            await writer.write(batch.slice(batch.num_rows - 1))  # what was written is sent before
            assert len(store.objects(place)) == epoch - 1
            await try_often(lambda: writer.commit(epoch))  # noqa: B023 - called at once
            if not proxy.strike.happened:
                break  # there are not so many requests
            assert [digest(d) for d in store.objects(place).values()] == expected * epoch


async def test_a_part_is_sent_while_it_is_written(store, proxy, place, ahead):
    """A store that refuses all of that gets it afterwards."""
    batch = large_rows()
    for number, (epoch, refused) in enumerate(((1, False), (1, True), (3, False))):
        prefix = f"{place}-{number}"
        writer = store.sink(through(proxy, store), prefix=prefix, envelope=False)
        async with writer:
            await writer.start(Progress("run", 0))
            proxy.fail(0, "")
            if refused:
                proxy.refuse_all("503 Service Unavailable")
            await writer.write(batch)
            await writer.write(batch)
            assert proxy.puts, "nothing was sent"
            assert store.objects(prefix) == {}
            proxy.fail(0, "")
            await writer.commit(epoch)
        ((key, data),) = store.objects(prefix).items()
        assert "-00000001-0.jsonl" in key
        texts = [json.loads(line)["text"] for line in data.splitlines()]
        assert texts == batch.column("text").to_pylist() * 2


async def test_what_was_sent_of_a_part_appears_only_with_its_file(store, place, ahead):
    """Who takes over removes it: one that stood still meanwhile has nothing to publish."""
    writer, successor = (store.sink(prefix=place, envelope=False) for _ in range(2))
    async with writer:
        await writer.start(Progress("run", 0, token=1))
        for _ in range(2):
            await writer.write(large_rows())
        async with successor:
            await successor.start(Progress("run", 0, token=2))
            with pytest.raises(NvisyError):
                await writer.commit(1)
    assert store.objects(place) == {}


async def test_nothing_is_seen_of_an_upload_that_failed(store, proxy, place):
    writer = store.sink(through(proxy, store), prefix=place)
    async with writer:
        await writer.start(Progress("run", 0))
        await writer.write(large_rows())
        proxy.refuse_all("403 Forbidden", after=2)
        with pytest.raises(ConfigError) as caught:
            await writer.commit(1)
        assert caught.value.tag == "auth"
        assert store.objects(place) == {}
        proxy.fail(0, "")
    assert store.objects(place) == {}
