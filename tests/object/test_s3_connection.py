"""What a user is told when S3 says no, or says nothing."""

import time

import pytest
from object_records import drain, records, rows
from object_servers import connection_to
from pydantic import ValidationError

from nvisy_connectors.object.s3 import S3Connection, S3Sink, S3SinkParams, S3Source, S3SourceParams
from nvisy_dagster.sdk import ConfigError, Progress, TransientError

pytestmark = pytest.mark.anyio


def source(connection, **params):
    return S3Source(S3SourceParams(**params), connection, node_id="read")


@pytest.mark.parametrize(
    ("changes", "tag"),
    [
        ({"secret_access_key": "wrong-secret"}, "auth"),
        ({"access_key_id": "wrong-id"}, "auth"),
        ({"anonymous": True, "access_key_id": None, "secret_access_key": None}, "auth"),
        ({"bucket": "no-such-bucket"}, "not_found"),
    ],
)
async def test_refusals_are_config_errors(s3_server, s3, changes, tag):
    connection = connection_to(s3_server, **changes)
    sink = S3Sink(S3SinkParams(prefix="x"), connection, node_id="write")
    for component in (source(connection), sink):
        with pytest.raises(ConfigError) as caught:
            async with component:
                pass
        assert caught.value.tag == tag
        assert caught.value.remedy or tag == "auth"
        assert "wrong-secret" not in str(caught.value)


async def test_an_unreachable_endpoint_is_transient_and_quick(s3_server):
    began = time.monotonic()
    with pytest.raises(TransientError, match="cannot be reached"):
        await drain(source(connection_to(s3_server, endpoint="http://127.0.0.1:1")))
    assert time.monotonic() - began < 10


async def test_prefixes_are_characters_and_globs_follow_them(s3_server, s3, place):
    for key in ("logs/2024-01.txt", "logs/2024-02.md", "logs/2025.txt", "logs/2024-x/y.txt"):
        s3.put(f"{place}/{key}", key.encode())
    connection = connection_to(s3_server)
    found = await records(source(connection, prefix=f"{place}/logs/2024-", glob="**/*.txt"))
    assert sorted(row["text"] for row in found) == ["logs/2024-01.txt", "logs/2024-x/y.txt"]
    uri = f"s3://tests/{place}/logs/2024-01.txt"
    assert uri in {row["_source"]["uri"] for row in found}
    assert source(connection, prefix=f"{place}/").location() == f"s3://tests/{place}"
    for params in ({"prefix": f"{place}/nothing/"}, {"prefix": f"{place}/", "glob": "*.txtt"}):
        with pytest.raises(ConfigError, match=rf"s3://tests/{place}") as caught:
            await drain(source(connection, **params))
        assert caught.value.tag == "not_found"


async def test_an_object_replaced_while_reading_is_noticed(s3_server, s3, place):
    s3.put(f"{place}/a.jsonl", b'{"a": 1}\n' * 3000)
    read = source(
        connection_to(s3_server),
        prefix=place,
        format="jsonl",
        batch_bytes=90,
        columns={"a": "int64"},
    )
    async with read:
        batches = read.read(None)
        first = await anext(batches)
        s3.put(f"{place}/a.jsonl", b'{"a": 2}\n' * 3000)
        with pytest.raises(TransientError, match=r"a.jsonl changed"):
            async for _ in batches:
                pass
        with pytest.raises(ConfigError, match="from the beginning"):
            await anext(read.read(first.cursor))


async def test_a_large_part_is_uploaded_in_pieces(s3_server, s3, place):
    sink = S3Sink(S3SinkParams(prefix=place, envelope=True), connection_to(s3_server), node_id="w")
    batch = rows(100_000)
    async with sink:
        await sink.start(Progress("run", 0))
        await sink.write(batch)
        assert not [page for page in s3.list(prefix=place) if page]
        await sink.commit(1)
    (found,) = [o for page in s3.list(prefix=place) for o in page]
    assert found["path"] == f"{place}/part-run-00000001-0.jsonl"
    assert found["size"] > 20_000_000
    assert bytes(s3.get(found["path"]).bytes()).count(b"\n") == 100_000


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bucket": "Bad Bucket!"}, "the bucket is no name"),
        ({"bucket": "lake/folder"}, "the bucket is no name"),
        ({"region": "a b", "endpoint": None}, "the region is no name"),
        ({"endpoint": "http://ho st:9"}, "the endpoint is no URL"),
        ({"endpoint": "http://host/a b"}, "the endpoint is no URL"),
        ({"endpoint": "host:9000"}, "the endpoint is no URL"),
        ({"endpoint": "http://"}, "the endpoint is no URL"),
        ({"endpoint": "http://host:99999"}, "the endpoint is no URL"),
        ({"endpoint": "http://id:hush-hush@host"}, "the endpoint is no URL"),
        ({"access_key_id": "a\nb"}, "the key is empty or holds"),
        ({"secret_access_key": None}, '"secret_access_key" is missing'),
        ({"access_key_id": None}, '"access_key_id" is missing'),
        ({"access_key_id": None, "secret_access_key": None, "session_token": "t"}, "session_token"),
        ({"allow_http": False}, "endpoint is http, and allow_http is false"),
    ],
)
def test_what_no_client_could_use_is_refused_at_once(changes, reason):
    fields = {
        "bucket": "lake",
        "endpoint": "http://127.0.0.1:9",
        "access_key_id": "id",
        "secret_access_key": "hush-hush",
    }
    with pytest.raises(ValidationError) as caught:
        S3Connection.model_validate({**fields, **changes})
    (found,) = caught.value.errors()
    assert reason in found["msg"]
    assert found["ctx"]["remedy"]
    assert "hush-hush" not in str(caught.value)


@pytest.mark.parametrize(
    "endpoint",
    ["https://minio.example.org:9000", "http://127.0.0.1:8333/", "http://[::1]:9", "https://h/s3"],
)
def test_endpoints_that_are_right(endpoint):
    keys = {"access_key_id": "id\n", "secret_access_key": "hush"}
    connection = S3Connection.model_validate({"bucket": "my.lake_1", "endpoint": endpoint, **keys})
    assert connection.access_key_id == "id"


def test_published_credentials_are_accepted():
    connection = S3Connection.model_validate({
        "region": "eu-west-1",
        "bucket": "lake",
        "accessKeyId": "id",
        "secretAccessKey": "hush",
        "endpoint": "https://example.org",
    })
    assert connection.location() == "s3://lake"
    assert "hush" not in repr(connection)
