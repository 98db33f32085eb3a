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
    assert time.monotonic() - began < 45


async def test_prefixes_are_characters_and_globs_follow_them(s3_server, s3, place):
    for key in ("logs/2024-01.txt", "logs/2024-02.md", "logs/2025.txt", "logs/2024-x/y.txt"):
        s3.put(f"{place}/{key}", key.encode())
    connection = connection_to(s3_server)
    found = await records(source(connection, prefix=f"{place}/logs/2024-", glob="**/*.txt"))
    assert sorted(row["text"] for row in found) == ["logs/2024-01.txt", "logs/2024-x/y.txt"]
    at = f"s3://{s3_server.endpoint.removeprefix('http://')}/tests/{place}"
    uri = f"{at}/logs/2024-01.txt"
    assert uri in {row["_source"]["uri"] for row in found}
    assert source(connection, prefix=f"{place}/").location() == at
    for params in ({"prefix": f"{place}/nothing/"}, {"prefix": f"{place}/", "glob": "*.txtt"}):
        with pytest.raises(ConfigError, match=at) as caught:
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
    assert connection.location() == "s3://example.org:443/lake"
    assert "hush" not in repr(connection)


@pytest.mark.parametrize(
    ("endpoint", "location"),
    [
        (None, "s3://lake"),
        ("https://s3.eu-west-1.amazonaws.com", "s3://lake"),
        ("http://127.0.0.1:9000/", "s3://127.0.0.1:9000/lake"),
        ("https://Minio.example.org", "s3://minio.example.org:443/lake"),
        ("https://h/s3/", "s3://h:443/s3/lake"),
        ("http://[::1]", "s3://[::1]:80/lake"),
    ],
)
def test_buckets_of_one_name_in_two_stores_are_told_apart(endpoint, location):
    assert S3Connection(bucket="lake", endpoint=endpoint).location() == location


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"profile": "x", "anonymous": True}, "two kinds"),
        ({"access_key_id": "a", "secret_access_key": "b", "profile": "x"}, "two kinds"),
        ({"role_arn": "arn:aws:iam::1:role/x"}, '"web_identity_token_file" is missing'),
    ],
)
def test_credentials_are_of_one_kind(fields, reason):
    with pytest.raises(ValidationError, match=reason):
        S3Connection(bucket="lake", **fields)


async def test_no_token_of_the_environment_is_taken_with_the_keys(s3_server, s3, monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-somebody-else")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-somebody-else")
    async with source(connection_to(s3_server), prefix="exists"):
        pass


async def test_a_profile(s3_server, s3, place, tmp_path, monkeypatch):
    pytest.importorskip("boto3")
    s3.put(f"{place}/a.md", b"text")
    file = tmp_path / "credentials"
    file.write_text(
        f"[other]\naws_access_key_id = {s3_server.access_key_id}\n"
        f"aws_secret_access_key = {s3_server.secret_access_key}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    keys = {"access_key_id": None, "secret_access_key": None}
    found = await records(source(connection_to(s3_server, **keys, profile="other"), prefix=place))
    assert [row["text"] for row in found] == ["text"]
    with pytest.raises(ConfigError, match="profile 'none' gives no credentials") as caught:
        async with source(connection_to(s3_server, **keys, profile="none")):
            pass
    assert caught.value.tag == "auth"


async def test_a_role_needs_its_token_and_no_keys_beside_it(s3_server, tmp_path, monkeypatch):
    role = {
        "access_key_id": None,
        "secret_access_key": None,
        "role_arn": "arn:aws:iam::1:role/x",
        "web_identity_token_file": str(tmp_path / "none"),
    }
    with pytest.raises(ConfigError, match="token file") as caught:
        async with source(connection_to(s3_server, **role)):
            pass
    assert caught.value.tag == "auth"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-somebody-else")
    with pytest.raises(ConfigError, match="AWS_ACCESS_KEY_ID goes before") as caught:
        async with source(connection_to(s3_server, **role)):
            pass
    assert caught.value.remedy.startswith("unset")


@pytest.fixture
def no_endpoint(monkeypatch):
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


HERE, THERE = "http://127.0.0.1:1", "https://there.example.org/s3"


@pytest.mark.parametrize(
    ("environment", "endpoint", "location"),
    [
        ({}, None, "s3://lake"),
        ({"AWS_ENDPOINT_URL": HERE}, None, "s3://127.0.0.1:1/lake"),
        ({"AWS_ENDPOINT": HERE}, None, "s3://127.0.0.1:1/lake"),
        ({"AWS_endpoint_url": HERE}, None, "s3://127.0.0.1:1/lake"),
        ({"AWS_ENDPOINT_URL": HERE, "AWS_ENDPOINT": THERE}, None, "s3://127.0.0.1:1/lake"),
        (
            {"AWS_ENDPOINT_URL": HERE, "AWS_ENDPOINT_URL_S3": THERE},
            None,
            "s3://there.example.org:443/s3/lake",
        ),
        ({"AWS_ENDPOINT_URL_S3": THERE}, HERE, "s3://127.0.0.1:1/lake"),
        ({"AWS_ENDPOINT_URL_S3": HERE}, "https://s3.eu-west-1.amazonaws.com", "s3://lake"),
        ({"AWS_ENDPOINT_URL": ""}, None, "s3://lake"),
        ({"AWS_ENDPOINT_URL": "", "AWS_ENDPOINT": HERE}, None, "s3://127.0.0.1:1/lake"),
        ({"AWS_ENDPOINT_URL": "https://s3.amazonaws.com"}, None, "s3://lake"),
    ],
)
def test_the_endpoint_of_the_environment_is_told(
    no_endpoint, monkeypatch, environment, endpoint, location
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert S3Connection(bucket="lake", endpoint=endpoint).location() == location


async def test_the_endpoint_that_is_told_is_the_one_that_is_used(
    no_endpoint, s3_server, s3, place, monkeypatch
):
    s3.put(f"{place}/a.md", b"text")
    there = connection_to(s3_server)
    nowhere = {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1", "AWS_ENDPOINT_URL": ""}
    for environment, endpoint in (
        ({"AWS_ENDPOINT_URL": s3_server.endpoint}, None),
        (
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ENDPOINT_URL_S3": s3_server.endpoint},
            None,
        ),
        # What the client itself would prefer to what it is told.
        (nowhere, s3_server.endpoint),
    ):
        with monkeypatch.context() as patched:
            for name, value in environment.items():
                patched.setenv(name, value)
            connection = connection_to(s3_server, endpoint=endpoint)
            assert connection.location() == there.location()
            [found] = await records(source(connection, prefix=place))
            assert found["_source"]["uri"] == f"{there.location()}/{place}/a.md"


async def test_an_endpoint_of_the_environment_that_is_no_url_is_named(
    no_endpoint, s3_server, monkeypatch
):
    for value in ("127.0.0.1:9000", "http://id:hush-hush@host"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", value)
        with pytest.raises(ConfigError, match="variable AWS_ENDPOINT_URL is no URL") as caught:
            async with source(connection_to(s3_server, endpoint=None)):
                pass
        assert "hush-hush" not in str(caught.value)


async def test_a_variable_of_nothing_ends_no_process(no_endpoint, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")  # nobody is asked
    connection = S3Connection(bucket="lake", anonymous=True)
    with pytest.raises(TransientError, match="cannot be reached"):
        async with source(connection):
            pass


async def test_the_endpoint_of_a_profile(no_endpoint, s3_server, s3, place, tmp_path, monkeypatch):
    pytest.importorskip("boto3")
    s3.put(f"{place}/a.md", b"text")
    keys = (
        f"aws_access_key_id = {s3_server.access_key_id}\n"
        f"aws_secret_access_key = {s3_server.secret_access_key}\n"
    )
    (tmp_path / "config").write_text(
        f"[profile plain]\nendpoint_url = {s3_server.endpoint}\n{keys}"
        f"[profile service]\nendpoint_url = http://127.0.0.1:1\nservices = mine\n{keys}"
        f"[services mine]\ns3 =\n  endpoint_url = {s3_server.endpoint}\n"
        f"[profile none]\nregion = eu-west-1\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-such-file"))
    without = {"access_key_id": None, "secret_access_key": None, "endpoint": None}
    for profile in ("plain", "service"):
        connection = connection_to(s3_server, **without, profile=profile)
        assert connection.location() == connection_to(s3_server).location()
        assert len(await records(source(connection, prefix=place))) == 1
    assert S3Connection(bucket="lake", profile="none").location() == "s3://lake"
    assert S3Connection(bucket="lake", profile="no-such").location() == "s3://lake"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:7")
    assert S3Connection(bucket="lake", profile="plain").location() == "s3://127.0.0.1:7/lake"
