"""Object stores for the whole session, and a place of its own in them for each test."""

import itertools

import pytest
from object_servers import BUCKET
from servers.fault_proxy import fault_proxy
from servers.seaweedfs import seaweedfs
from servers.stores import running

from nvisy_connectors.object import bucket, open_parts, uploads

_places = itertools.count()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture
def s3(s3_server):
    """A client of the tests' own."""
    from obstore.store import S3Store

    store = S3Store(
        BUCKET,
        endpoint=s3_server.endpoint,
        access_key_id=s3_server.access_key_id,
        secret_access_key=s3_server.secret_access_key,
        region=s3_server.region,
        client_options={"allow_http": True},
    )
    store.put("exists", b"")  # an upload makes its bucket
    return store


@pytest.fixture(scope="session")
def gcs_store(tmp_path_factory):
    with running("gcs", tmp_path_factory.mktemp("gcs")) as store:
        yield store


@pytest.fixture(scope="session")
def azure_store(tmp_path_factory):
    with running("azure", tmp_path_factory.mktemp("azure")) as store:
        yield store


@pytest.fixture(params=["gcs", "azure"])
def store(request):
    return request.getfixturevalue(f"{request.param}_store")


@pytest.fixture
def place() -> str:
    """A prefix that no other test uses."""
    return f"place-{next(_places)}"


@pytest.fixture
def proxy(store):
    with fault_proxy(store.endpoint) as running:
        yield running


@pytest.fixture
def ahead(monkeypatch):
    """Parts are sent while they are written from one chunk on."""
    for module, name in ((open_parts, "WORTH"), (uploads, "CHUNK"), (bucket, "CHUNK")):
        monkeypatch.setattr(module, f"{name}_BYTES", 5 << 20)
