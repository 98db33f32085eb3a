"""Google's and Azure's stores, on their emulators: connections to them and clients of the tests."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from servers.azurite import ACCOUNT, KEY, REQUIRED_VARIABLE, azurite, make_container
from servers.gcs_guarded import PUBLIC, guarded_gcs, new_key, service_account

from nvisy_connectors.object import azure as azure_module
from nvisy_connectors.object import gcs as gcs_module
from nvisy_connectors.object.azure_connection import AzureConnection
from nvisy_connectors.object.bucket_connection import BucketConnection

BUCKET = "tests"


@dataclass(frozen=True)
class Store:
    """A running store.

    Args:
        name: Of its connector.
        module: Of its components.
        connection_type: Of its connections.
        endpoint: Where it is.
        fields: Of a connection that works.
        client: Of the tests' own.
    """

    name: str
    module: Any
    connection_type: type[BucketConnection]
    endpoint: str
    fields: dict[str, Any]
    client: Any

    def connection(self, **changes: Any) -> BucketConnection:
        """A connection; `None` takes a field out."""
        fields = {**self.fields, **changes}
        given = {name: value for name, value in fields.items() if value is not None}
        return self.connection_type.model_validate(given)

    def source(self, connection: BucketConnection | None = None, **params: Any) -> Any:
        kind = getattr(self.module, f"{self.name.title()}Source")
        return kind(kind.params_type(**params), connection or self.connection(), node_id="read")

    def sink(self, connection: BucketConnection | None = None, **params: Any) -> Any:
        kind = getattr(self.module, f"{self.name.title()}Sink")
        return kind(kind.params_type(**params), connection or self.connection(), node_id="write")

    def objects(self, prefix: str) -> dict[str, bytes]:
        """What is below a prefix."""
        keys = sorted(one["path"] for page in self.client.list(prefix=prefix) for one in page)
        return {key: bytes(self.client.get(key).bytes()) for key in keys}


@contextmanager
def running(name: str, folder: Path) -> Generator[Store]:
    """Run the store of a connector, until the block is left; skip where it cannot be had."""
    with {"gcs": _gcs, "azure": _azure}[name](folder) as store:
        yield store


@contextmanager
def _skipped() -> Generator[None]:
    try:
        yield
    except FileNotFoundError as error:
        if os.environ.get(REQUIRED_VARIABLE):
            raise
        pytest.skip(str(error))


@contextmanager
def _gcs(folder: Path) -> Generator[Store]:
    account = service_account(new_key())
    with _skipped():
        server = guarded_gcs(folder, BUCKET, account)
        endpoint = server.__enter__()
    try:
        from obstore.store import GCSStore

        fields = {"bucket": BUCKET, "endpoint": endpoint, "service_account_key": account}
        client = GCSStore(
            BUCKET,
            base_url=endpoint,
            service_account_key=account,
            client_options={"allow_http": True},
        )
        kind = gcs_module.GcsConnection
        yield Store("gcs", gcs_module, kind, endpoint, fields, client)
    finally:
        server.__exit__(None, None, None)


@contextmanager
def _azure(folder: Path) -> Generator[Store]:
    with _skipped():
        server = azurite(folder, BUCKET)
        running_server = server.__enter__()
    try:
        from obstore.store import AzureStore

        make_container(running_server, PUBLIC, public=True)
        fields = {
            "container": BUCKET,
            "endpoint": running_server.endpoint,
            "account_name": ACCOUNT,
            "account_key": KEY,
        }
        client = AzureStore(
            BUCKET,
            endpoint=running_server.endpoint,
            account_name=ACCOUNT,
            account_key=KEY,
            client_options={"allow_http": True},
        )
        endpoint = running_server.endpoint
        yield Store("azure", azure_module, AzureConnection, endpoint, fields, client)
    finally:
        server.__exit__(None, None, None)
