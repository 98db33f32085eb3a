"""How users of Google's and of Azure's store tell who they are, and where."""

import base64
import hashlib
import hmac
import http.server
import json
import threading
from urllib.parse import quote

import pytest
from object_records import records, refusal, rows
from pydantic import ValidationError
from servers.azurite import ACCOUNT, KEY
from servers.gcs_guarded import PUBLIC

from nvisy_connectors.object.azure_connection import AzureConnection
from nvisy_connectors.object.azure_connection_string import parse_connection_string
from nvisy_connectors.object.gcs import GcsConnection
from nvisy_dagster.sdk import Progress

pytestmark = pytest.mark.anyio


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
