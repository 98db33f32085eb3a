"""Amazon S3 and every store that speaks its protocol."""

import datetime as dt
from typing import Annotated, Any, ClassVar

from anyio import to_thread
from pydantic import Field, SecretStr, StringConstraints

from nvisy_connectors.object.bucket import Bucket
from nvisy_connectors.object.params import ReadParams, WriteParams
from nvisy_connectors.object.sink import ObjectSink
from nvisy_connectors.object.source import ObjectSource
from nvisy_dagster.sdk import Component, ConfigError, Connection, connection_of

CONNECT_SECONDS = 5
REQUEST_SECONDS = 120
"""For a whole answer: 8 MiB over a slow line."""
RETRIES = 3
RETRY_SECONDS = 30
"""Short: beyond this the retry policy of the node decides."""

Prefix = Annotated[str, StringConstraints(max_length=1024, pattern=r"^([^/]|$)")]
"""What keys begin with."""


class S3Connection(Connection):
    """A bucket and the keys to it."""

    type: ClassVar[str] = "s3"

    bucket: str = Field(min_length=3, max_length=255)
    """Name of the bucket."""
    region: str = "us-east-1"
    """Region of the bucket."""
    access_key_id: str | None = None
    """Id of the access key. Without it the environment's credentials are used: variables, web
    identity, or the role of the machine."""
    secret_access_key: SecretStr | None = None
    """The secret that belongs to the access key."""
    session_token: SecretStr | None = None
    """Token of temporary credentials."""
    endpoint: str | None = None
    """URL of a store that is not Amazon's, such as `https://minio.example.org:9000`."""
    allow_http: bool | None = None
    """Whether unencrypted connections are allowed. By default only when `endpoint` says
    `http://`."""
    anonymous: bool = False
    """Whether to send no credentials, for public buckets."""

    def location(self) -> str:
        """`s3://bucket`."""
        return f"s3://{self.bucket}"


class S3SourceParams(ReadParams):
    """Which objects to read."""

    prefix: Prefix = ""
    """What the keys of the objects begin with, such as `handbook/`."""


class S3SinkParams(WriteParams):
    """Where to write."""

    prefix: Prefix = ""
    """Folder within the bucket, such as `exports/daily/`."""


class S3Source(ObjectSource[S3SourceParams]):
    """Read objects of an S3 bucket, in the order of their keys.

    An object that is replaced while it is read is noticed, never mixed.
    """

    name = "s3"
    connection_type = S3Connection
    requires = ("obstore",)
    extra = "object"

    def location(self) -> str | None:
        """`s3://bucket/prefix`."""
        return _location(self, self.params.prefix)

    async def make_folder(self) -> Bucket:
        """The bucket below the prefix."""
        return await _bucket(self, self.params.prefix)


class S3Sink(ObjectSink[S3SinkParams]):
    """Write objects to an S3 bucket.

    Parts wait on the disk of this machine until their epoch is committed, then they are uploaded.
    """

    name = "s3"
    connection_type = S3Connection
    requires = ("obstore",)
    extra = "object"

    def location(self) -> str | None:
        """`s3://bucket/prefix`."""
        return _location(self, self.params.prefix)

    async def make_folder(self) -> Bucket:
        """The bucket below the prefix."""
        prefix = self.params.prefix.rstrip("/")
        return await _bucket(self, f"{prefix}/" if prefix else "")


def _location(component: Component[Any], prefix: str) -> str | None:
    base = component.connection.location() if component.connection else None
    return f"{base}/{prefix}".rstrip("/") if base else None


async def _bucket(component: Component[Any], prefix: str) -> Bucket:
    connection: S3Connection = connection_of(component, S3Connection)
    store = await to_thread.run_sync(_store, connection)
    return Bucket(store, connection.location(), prefix)


def _store(connection: S3Connection) -> Any:  # noqa: ANN401 - obstore is imported when used
    from obstore.exceptions import BaseError
    from obstore.store import S3Store

    secret, token = connection.secret_access_key, connection.session_token
    if (connection.access_key_id is None) != (secret is None):
        raise ConfigError(
            "an S3 connection needs both `access_key_id` and `secret_access_key`, or neither",
            tag="auth",
        )
    options: dict[str, Any] = {
        "region": connection.region,
        "endpoint": connection.endpoint,
        "access_key_id": connection.access_key_id,
        "secret_access_key": secret.get_secret_value() if secret else None,
        "session_token": token.get_secret_value() if token else None,
        "skip_signature": connection.anonymous or None,
    }
    allow_http = connection.allow_http
    if allow_http is None:
        allow_http = (connection.endpoint or "").startswith("http://")
    try:
        return S3Store(
            connection.bucket,
            client_options={
                "allow_http": allow_http,
                "connect_timeout": dt.timedelta(seconds=CONNECT_SECONDS),
                "timeout": dt.timedelta(seconds=REQUEST_SECONDS),
            },
            retry_config={
                "max_retries": RETRIES,
                "retry_timeout": dt.timedelta(seconds=RETRY_SECONDS),
            },
            **{name: value for name, value in options.items() if value is not None},
        )
    except (BaseError, ValueError) as error:
        raise ConfigError(
            f"the S3 connection to {connection.location()} is not valid: "
            f"{str(error).partition(chr(10))[0]}",
            remedy="check `endpoint` and `region`",
        ) from error
