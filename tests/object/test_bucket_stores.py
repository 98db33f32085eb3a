"""What a user of Google's and of Azure's store relies on."""

import base64
import datetime as dt
import tempfile
import time

import pytest
from object_records import drain, records, refusal, rows
from servers.gcs_guarded import new_key, service_account

from nvisy_connectors.object.bucket import Bucket
from nvisy_dagster.sdk import ConfigError, Progress, TransientError

pytestmark = pytest.mark.anyio

OTHER_KEY = base64.b64encode(b"x" * 64).decode()


async def test_wrong_credentials_are_told(store):
    wrong = {
        "gcs": [
            {"service_account_key": service_account(new_key())},
            {"service_account_key": None, "anonymous": True},
        ],
        "azure": [
            {"account_key": OTHER_KEY},
            {"account_key": "no base64"},
            {"account_key": None, "anonymous": True},
            {"account_key": None, "sas_token": "sv=2021-08-06&sig=hush%2Bhush"},
        ],
    }[store.name]
    for changes in wrong:
        for make in (store.source, store.sink):
            error = await refusal(make(store.connection(**changes)))
            assert error.tag == ("auth" if changes.get("account_key") != "no base64" else "config")
            assert error.remedy
            assert not any(str(v) in str(error) for v in changes.values() if isinstance(v, str))
            assert "hush" not in str(error.__cause__)


async def test_a_missing_bucket_is_told_by_its_field(store):
    field = {"gcs": "bucket", "azure": "container"}[store.name]
    connection = store.connection(**{field: "no-such-one"})
    for make in (store.source, store.sink):
        error = await refusal(make(connection, prefix="x"))
        assert error.tag == "not_found"
        assert f"there is no {field} at {connection.location()}" in str(error)
        assert f"`{field}`" in error.remedy


async def test_an_unreachable_endpoint_is_transient_and_quick(store):
    began = time.monotonic()
    with pytest.raises(TransientError, match="cannot be reached"):
        await drain(store.source(store.connection(endpoint="http://127.0.0.1:1/x")))
    assert time.monotonic() - began < 45


async def test_prefixes_are_characters_and_globs_follow_them(store, place):
    for key in ("logs/2024-01.txt", "logs/2024-02.md", "logs/2025.txt", "logs/2024-x/ü y%20.txt"):
        store.client.put(f"{place}/{key}", key.encode())
    found = await records(store.source(prefix=f"{place}/logs/2024-", glob="**/*.txt"))
    assert sorted(row["text"] for row in found) == ["logs/2024-01.txt", "logs/2024-x/ü y%20.txt"]
    at = f"{store.connection().location()}/{place}"
    assert f"{at}/logs/2024-01.txt" in {row["_source"]["uri"] for row in found}
    assert store.source(prefix=f"{place}/").location() == at
    for params in ({"prefix": f"{place}/nothing/"}, {"prefix": f"{place}/", "glob": "*.txtt"}):
        with pytest.raises(ConfigError, match=at) as caught:
            await drain(store.source(**params))
        assert caught.value.tag == "not_found"


async def test_an_object_replaced_while_reading_is_noticed(store, place):
    store.client.put(f"{place}/a.jsonl", b'{"a": 1}\n' * 3000)
    read = store.source(prefix=place, format="jsonl", batch_bytes=90, columns={"a": "int64"})
    async with read:
        batches = read.read(None)
        first = await anext(batches)
        store.client.put(f"{place}/a.jsonl", b'{"a": 2}\n' * 3000)
        with pytest.raises(TransientError, match=r"a.jsonl changed"):
            async for _ in batches:
                pass
        with pytest.raises(ConfigError, match="from the beginning"):
            await anext(read.read(first.cursor))


async def test_a_record_has_one_time_whether_it_is_listed_or_asked_for(store, place):
    store.client.put(f"{place}/a.jsonl", b'{"a": 1}\n' * 30)
    params = {"prefix": place, "format": "jsonl", "batch_bytes": 90, "columns": {"a": "int64"}}
    whole = await drain(store.source(**params))
    rest = await drain(store.source(**params), whole[0].cursor)
    assert len(rest) == len(whole) - 1
    assert rest[-1].data.equals(whole[-1].data)


async def test_a_large_part_appears_at_once(store, place):
    sink = store.sink(prefix=place, envelope=True)
    async with sink:
        await sink.start(Progress("run", 0))
        await sink.write(rows(100_000))
        assert store.objects(place) == {}
        await sink.commit(1)
    ((key, data),) = store.objects(place).items()
    assert key == f"{place}/part-run-00000001-0.jsonl"
    assert len(data) > 20_000_000
    assert data.count(b"\n") == 100_000


async def test_the_disk_holds_only_what_is_not_published_yet(store, place, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    sink = store.sink(prefix=place, part_bytes=1000)
    async with sink:
        await sink.start(Progress("run", 0))
        for epoch in range(1, 4):
            await sink.write(rows(100))
            await sink.write(rows(100))
            assert [file for file in tmp_path.rglob("*") if file.is_file()]
            await sink.commit(epoch)
            assert [file for file in tmp_path.rglob("*") if file.is_file()] == []
    assert len(store.objects(place)) == 6


async def test_what_a_commit_has_published_is_not_sent_again(store, place, monkeypatch):
    sink = store.sink(prefix=place, part_bytes=1)
    async with sink:
        await sink.start(Progress("run", 0))
        for _ in range(3):
            await sink.write(rows(10))
        publish, flush = sink.objects.publish, sink.objects.flush
        sent = []

        async def counted(file, key):
            sent.append(key)
            await publish(file, key)

        async def fails():
            raise TransientError("not now")

        monkeypatch.setattr(sink.objects, "publish", counted)
        monkeypatch.setattr(sink.objects, "flush", fails)
        with pytest.raises(TransientError):
            await sink.commit(1)
        monkeypatch.setattr(sink.objects, "flush", flush)
        await sink.commit(1)
    assert len(store.objects(place)) == len(sent) == 3


async def test_deleting_goes_on_behind_what_is_gone_already(store, place):
    keys = [f"{place}/{number}" for number in range(5)]
    for key in keys:
        store.client.put(key, b"x")
    folder = await store.sink(prefix=place).make_folder()
    await folder.delete(["none", "0", "gone", *"1234"])
    assert store.objects(place) == {}


class Listed:
    """A store with an order of its own, as an account with folders has."""

    def __init__(self, *keys):
        self.keys = keys

    def list(self, prefix=None, offset=None):
        async def pages():
            for key in self.keys:
                yield [{"path": key, "size": 1, "e_tag": "1", "last_modified": dt.datetime.now()}]  # noqa: DTZ005

        return pages()


async def following(after, *keys):
    bucket = Bucket(Listed(*keys), "az://a/b", lists_from_key=False)
    return [info.key async for page in bucket.listing(after) for info in page]


async def test_a_read_goes_on_where_the_store_cannot_begin_at_a_key():
    assert await following("b", "a", "b", "c") == ["c"]
    assert await following("b", "a", "c") == ["c"]
    assert await following("sub-x", "a", "sub/x", "sub-x", "sub.md") == ["sub.md"]
    assert await following("sub/x", "a", "sub/x", "sub-x", "sub.md") == ["sub-x", "sub.md"]
    with pytest.raises(ConfigError, match="az://a/b/sub-y is gone"):
        await following("sub-y", "a", "sub/x", "sub-x", "sub.md")
