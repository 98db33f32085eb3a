"""Amazon S3 and every store that speaks its protocol."""

import datetime as dt
import re
from typing import Annotated, Any, ClassVar, Self
from urllib.parse import urlsplit

from anyio import to_thread
from pydantic import (
    Field,
    SecretStr,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

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


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NAME_REMEDIES = {
    "bucket": "use its bare name: letters, digits, ., _ and -; a folder belongs into `prefix`",
    "region": "use a name such as eu-central-1",
}
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_PATH = re.compile(r"[A-Za-z0-9._~/-]*")


def _checked_key(text: str) -> str:
    text = text.strip()  # files of secrets end in a newline
    if text and text.isascii() and text.isprintable():
        return text
    raise PydanticCustomError(
        "key",
        "the key is empty or holds characters that no key has",
        {"remedy": "check the secret that it refers to"},
    )


def _is_http(url: str | None) -> bool:
    return urlsplit(url or "").scheme == "http"


def _is_plain_url(text: str) -> bool:
    """Whether it is scheme, host, port and path, and nothing else."""
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        return False
    plain = f"{url.scheme}://{url.netloc}{url.path}" == text and "@" not in url.netloc
    host = _HOST.fullmatch(url.hostname or "")
    known = url.scheme in {"http", "https"} and port != 0
    return bool(plain and known and host and _PATH.fullmatch(url.path))


class S3Connection(Connection):
    """A bucket and the keys to it."""

    type: ClassVar[str] = "s3"

    bucket: str = Field(min_length=3, max_length=255)
    """Name of the bucket: letters, digits, `.`, `_` and `-`."""
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

    # The client puts these into a URL or a header; what fits neither ends the process in a panic.
    @field_validator("bucket", "region")
    @classmethod
    def _name_is_valid(cls, value: str, info: ValidationInfo) -> str:
        if not _NAME.fullmatch(value):
            raise PydanticCustomError(
                "name",
                "the {field} is no name that S3 knows",
                {"field": info.field_name, "remedy": _NAME_REMEDIES[info.field_name or ""]},
            )
        return value

    @field_validator("endpoint")
    @classmethod
    def _endpoint_is_valid(cls, value: str | None) -> str | None:
        if value is None or _is_plain_url(value):
            return value
        raise PydanticCustomError(
            "endpoint",
            "the endpoint is no URL of a server",
            {"remedy": "write it as https://minio.example.org:9000; keys have fields of their own"},
        )

    @field_validator("access_key_id")
    @classmethod
    def _id_is_valid(cls, value: str | None) -> str | None:
        return None if value is None else _checked_key(value)

    @field_validator("secret_access_key", "session_token")
    @classmethod
    def _secret_is_valid(cls, value: SecretStr | None) -> SecretStr | None:
        return None if value is None else SecretStr(_checked_key(value.get_secret_value()))

    @model_validator(mode="after")
    def _keys_are_whole(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            missing = "access_key_id" if self.access_key_id is None else "secret_access_key"
            raise PydanticCustomError(
                "half",
                '"{missing}" is missing: the two keys only work together',
                {
                    "missing": missing,
                    "remedy": "add it, or leave both out to use the environment's credentials",
                },
            )
        if self.session_token is not None and self.access_key_id is None:
            raise PydanticCustomError(
                "half",
                '"session_token" only works together with the two keys',
                {"remedy": 'add "access_key_id" and "secret_access_key", or remove it'},
            )
        return self

    @model_validator(mode="after")
    def _http_is_allowed(self) -> Self:
        if self.allow_http is False and _is_http(self.endpoint):
            raise PydanticCustomError(
                "http",
                "the endpoint is http, and allow_http is false",
                {"remedy": "use an https endpoint, or remove allow_http", "at": ("endpoint",)},
            )
        return self

    def location(self) -> str:
        """`s3://bucket`."""
        return f"s3://{self.bucket}"


class S3SourceParams(ReadParams):
    """Which objects to read."""

    prefix: Prefix = ""
    """What the keys of the objects begin with, such as `handbook/`. It is an error when none
    does."""


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
        allow_http = _is_http(connection.endpoint)
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
