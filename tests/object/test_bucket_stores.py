"""What a user of Google's and of Azure's store relies on."""

import base64
import datetime as dt
import hashlib
import hmac
import http.server
import json
import threading
import time
from urllib.parse import quote

import pytest
from object_records import drain, records, rows
from pydantic import ValidationError
from servers.azurite import ACCOUNT, KEY
from servers.gcs_guarded import PUBLIC, new_key, service_account

from nvisy_connectors.object.azure_connection import AzureConnection
from nvisy_connectors.object.azure_connection_string import parse_connection_string
from nvisy_connectors.object.bucket import Bucket
from nvisy_connectors.object.gcs import GcsConnection
from nvisy_dagster.sdk import ConfigError, Progress, TransientError

pytestmark = pytest.mark.anyio

OTHER_KEY = base64.b64encode(b"x" * 64).decode()


async def refusal(component):
    with pytest.raises(ConfigError) as caught:
        async with component:
            pass
    return caught.value


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
    assert time.monotonic() - began < 10


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


def signature():
    """A shared access signature of the emulator's account."""
    fields = {
        "sv": "2021-08-06",
        "ss": "b",
        "srt": "sco",
        "sp": "rwdlac",
        "se": "2040-01-01T00:00:00Z",
    }
    order = [ACCOUNT, *(fields[name] for name in ("sp", "ss", "srt"))]
    text = "\n".join([*order, "", fields["se"], "", "", fields["sv"], "", ""])
    digest = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
    fields["sig"] = base64.b64encode(digest).decode()
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in fields.items())


async def test_every_kind_of_credentials_of_azure(azure_store, place, monkeypatch):
    # What the environment says must not go before what the connection says.
    monkeypatch.setenv("AZURE_STORAGE_TOKEN", "of-somebody-else")
    monkeypatch.setenv("AZURE_SKIP_SIGNATURE", "true")
    azure_store.client.put(f"{place}/a.md", b"text")
    string = f"AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={azure_store.endpoint}/;"
    signed = f"BlobEndpoint={azure_store.endpoint};SharedAccessSignature={signature()}"
    bare = {"account_key": None, "account_name": None, "endpoint": None}
    # Each writes elsewhere: the emulator deletes nothing for the bearer of a signature.
    for number, changes in enumerate((
        {},
        {"account_key": None, "sas_token": signature()},
        {"account_key": None, "sas_token": f"?{signature()}\n"},
        {**bare, "connection_string": string},
        {**bare, "account_name": ACCOUNT, "connection_string": signed},
    )):
        connection = azure_store.connection(**changes)
        assert KEY not in repr(connection)
        assert "sig=" not in repr(connection)
        async with azure_store.sink(connection, prefix=f"{place}/out{number}") as sink:
            await sink.start(Progress("run", 0))
            await sink.write(rows(3))
            await sink.commit(1)
        found = await records(azure_store.source(connection, prefix=f"{place}/a"))
        assert [row["text"] for row in found] == ["text"]
    public = azure_store.connection(account_key=None, anonymous=True, container=PUBLIC)
    async with azure_store.source(public):
        pass


class Tokens(http.server.BaseHTTPRequestHandler):
    """Gives out tokens, and is a store that shows them; or refuses."""

    seen: list
    refuses = False

    def do_POST(self):
        asked = self.rfile.read(int(self.headers["content-length"])).decode()
        self.seen.append((self.path, asked))
        if self.refuses:
            return self.answer(400, b'{"error": "invalid_client"}')
        return self.answer(200, json.dumps({"access_token": "given", "expires_in": 3600}).encode())

    def do_GET(self):
        self.seen.append((self.path.partition("?")[0], self.headers["authorization"]))
        self.answer(200, b"<EnumerationResults><Blobs></Blobs></EnumerationResults>")

    def answer(self, status, data):
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def tokens():
    handler = type("Handler", (Tokens,), {"seen": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        handler.url = f"http://127.0.0.1:{server.server_port}"
        yield handler
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("kind", ["client_secret", "federated_token_file"])
async def test_tokens_of_applications_and_workloads(azure_store, tokens, tmp_path, kind):
    (tmp_path / "token").write_text("hush-hush")
    secret = {"client_secret": "hush-hush", "federated_token_file": str(tmp_path / "token")}[kind]
    connection = azure_store.connection(
        endpoint=tokens.url,
        account_key=None,
        tenant_id="tenant",
        client_id="application",
        authority_host=tokens.url,
        **{kind: secret},
    )
    async with azure_store.source(connection):
        pass
    (path, asked), (_, shown) = tokens.seen
    assert path == "/tenant/oauth2/v2.0/token"
    assert "hush-hush" in asked
    assert shown == "Bearer given"
    tokens.refuses = True
    error = await refusal(azure_store.source(connection))
    assert error.tag == "auth"
    assert "hush-hush" not in f"{error} {error.__cause__} {connection!r}"


async def test_every_kind_of_credentials_of_google(gcs_store, place, tmp_path, monkeypatch):
    gcs_store.client.put(f"{place}/a.md", b"text")
    key = gcs_store.fields["service_account_key"]
    (tmp_path / "key.json").write_text(key)
    none = {"service_account_key": None}
    from_file = gcs_store.connection(**none, key_filename=str(tmp_path / "key.json"))
    for connection in (gcs_store.connection(), from_file, gcs_store.connection(**none)):
        if connection.key_filename is None and connection.service_account_key is None:
            file = str(tmp_path / "key.json")
            monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", file)
        found = await records(gcs_store.source(connection, prefix=place))
        assert [row["text"] for row in found] == ["text"]
        assert "PRIVATE KEY" not in repr(connection)
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "of-somebody-else")
    error = await refusal(gcs_store.source(from_file))
    assert "GOOGLE_BEARER_TOKEN goes before" in str(error)
    monkeypatch.delenv("GOOGLE_BEARER_TOKEN")
    missing = gcs_store.connection(**none, key_filename=str(tmp_path / "none.json"))
    assert "there is no key file" in str(await refusal(gcs_store.source(missing)))
    (tmp_path / "key.json").write_text('{"type": "hush"}')
    error = await refusal(gcs_store.source(from_file))
    assert error.remedy


@pytest.mark.parametrize(
    ("kind", "fields", "reason"),
    [
        (GcsConnection, {"bucket": "Bad Bucket"}, "the bucket is no name"),
        (GcsConnection, {"bucket": "gs://lake"}, "the bucket is no name"),
        (GcsConnection, {"service_account_key": '{"private_key": 1}'}, "no JSON of a service"),
        (GcsConnection, {"service_account_key": "[" * 100_000}, "no JSON of a service"),
        (GcsConnection, {"key_filename": "x", "anonymous": True}, "two kinds"),
        (GcsConnection, {"endpoint": "http://host/?a=b"}, "the endpoint is no URL"),
        (AzureConnection, {"container": "Lake"}, "the container is no name"),
        (AzureConnection, {"container": "a--b"}, "the container is no name"),
        (AzureConnection, {"account_name": "a/b?c"}, "the account_name is no name"),
        (AzureConnection, {"account_name": None}, '"account_name" is missing'),
        (AzureConnection, {"account_key": "hush", "sas_token": "sig=hush"}, "two kinds"),
        (AzureConnection, {"account_key": "hu\nsh"}, "the key is empty or holds"),
        (AzureConnection, {"sas_token": "https://host/x"}, "has no sig="),
        (AzureConnection, {"client_secret": "hush", "tenant_id": "t"}, '"client_id" is missing'),
        (AzureConnection, {"tenant_id": "a/../b"}, "it is no id"),
        (AzureConnection, {"authority_host": "host"}, "the endpoint is no URL"),
        (AzureConnection, {"connection_string": "hush"}, "has no `=`"),
        (
            AzureConnection,
            {"account_name": None, "connection_string": "AccountKey=hush"},
            '"account_name" is',
        ),
        (AzureConnection, {"connection_string": "AccountName=other"}, '"account_name" contradicts'),
    ],
)
def test_what_no_client_could_use_is_refused_at_once(kind, fields, reason):
    sound = {"bucket": "lake"}
    if kind is AzureConnection:
        sound = {"container": "lake", "account_name": "account"}
    given = {name: value for name, value in {**sound, **fields}.items() if value is not None}
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(given)
    (found,) = caught.value.errors()
    assert reason in found["msg"]
    assert found["ctx"]["remedy"]
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=k==",
            {"account_name": "a", "account_key": "k=="},
        ),
        (
            "AccountName=a;AccountKey=k==;EndpointSuffix=core.chinacloudapi.cn",
            {
                "account_name": "a",
                "account_key": "k==",
                "endpoint": "https://a.blob.core.chinacloudapi.cn",
            },
        ),
        (
            "BlobEndpoint=https://a.blob.core.windows.net/;SharedAccessSignature=sv=1&sig=x%3D",
            {
                "account_name": "a",
                "sas_token": "sv=1&sig=x%3D",
                "endpoint": "https://a.blob.core.windows.net",
            },
        ),
    ],
)
def test_connection_strings(text, said):
    assert parse_connection_string(text) == said
    assert parse_connection_string("UseDevelopmentStorage=true;")["account_name"] == ACCOUNT


@pytest.mark.parametrize(
    ("connection", "location"),
    [
        (GcsConnection(bucket="lake"), "gs://lake"),
        (
            GcsConnection(bucket="lake", endpoint="https://storage.me.rep.googleapis.com"),
            "gs://lake",
        ),
        (GcsConnection(bucket="lake", endpoint="http://h:4443"), "gs://h:4443/lake"),
        (AzureConnection(account_name="acc", container="lake"), "az://acc/lake"),
        (
            AzureConnection(
                account_name="acc", container="lake", endpoint="https://acc.blob.core.windows.net"
            ),
            "az://acc/lake",
        ),
        (
            AzureConnection(account_name="acc", container="lake", endpoint="http://h:1/acc/"),
            "az://h:1/acc/lake",
        ),
    ],
)
def test_locations(connection, location):
    assert connection.location() == location


def test_published_credentials_are_accepted():
    google = {"projectId": "p", "bucket": "lake", "keyFilename": "/etc/key.json"}
    assert GcsConnection.model_validate(google).project_id == "p"
    string = "AccountName=acc;AccountKey=hush"
    azure = {"accountName": "acc", "container": "lake", "connectionString": string}
    connection = AzureConnection.model_validate(azure)
    assert connection.location() == "az://acc/lake"
    assert connection.account_key.get_secret_value() == "hush"
    assert "hush" not in repr(connection)
