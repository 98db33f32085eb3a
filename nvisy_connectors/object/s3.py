"""Amazon S3 and every store that speaks its protocol."""

import re
from typing import TYPE_CHECKING, Any, ClassVar, Self
from urllib.parse import SplitResult

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from nvisy_connectors.object import bucket_components as buckets
from nvisy_connectors.object.addresses import address, checked_key, checked_secret
from nvisy_connectors.object.bucket_connection import BucketConnection, check_kinds, revealed
from nvisy_connectors.object.errors import S3_TERMS, StoreTerms
from nvisy_connectors.object.s3_endpoint import found_endpoint
from nvisy_dagster.sdk import ConfigError, LocalPath

if TYPE_CHECKING:
    from obstore.store import S3Store

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NAME_REMEDIES = {
    "bucket": "use its bare name: letters, digits, ., _ and -; a folder belongs into `prefix`",
    "region": "use a name such as eu-central-1",
}
_BEFORE_A_ROLE = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
"""What the client takes rather than a role."""


class S3Connection(BucketConnection):
    """A bucket and the credentials for it.

    Say one kind of credentials: the two keys, a `profile`, a role with its token, or `anonymous`.
    Without any those of the environment are used: variables, web identity, or the role of the
    machine.

    Without `endpoint`, that of the environment is used (`AWS_ENDPOINT_URL_S3`, else
    `AWS_ENDPOINT_URL`), else that of the profile, else Amazon's. It is part of the ids of records
    and of where they are on the lineage page: set the same for all machines that run the graph.
    """

    type: ClassVar[str] = "s3"
    terms: ClassVar[StoreTerms] = S3_TERMS

    bucket: str = Field(min_length=3, max_length=255)
    """Name of the bucket: letters, digits, `.`, `_` and `-`."""
    region: str = "us-east-1"
    """Region of the bucket. By default that of the profile, if there is one."""
    access_key_id: str | None = None
    """Id of the access key."""
    secret_access_key: SecretStr | None = None
    """The secret that belongs to the access key."""
    session_token: SecretStr | None = None
    """Token of temporary credentials."""
    profile: str | None = Field(default=None, min_length=1)
    """Profile of `~/.aws/config` and `~/.aws/credentials` on the machine that runs the graph, of
    any kind that Amazon's own tools know. Needs `pip install boto3`."""
    role_arn: str | None = Field(default=None, min_length=1)
    """Role to take with the token in `web_identity_token_file`."""
    web_identity_token_file: LocalPath | None = None
    """File with the token of a workload, which is read again when it expires. Kubernetes on Amazon
    sets both in the environment; then neither is needed here."""

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

    @field_validator("access_key_id")
    @classmethod
    def _id_is_valid(cls, value: str | None) -> str | None:
        return None if value is None else checked_key(value)

    @field_validator("secret_access_key", "session_token")
    @classmethod
    def _secret_is_valid(cls, value: SecretStr | None) -> SecretStr | None:
        return checked_secret(value)

    @model_validator(mode="after")
    def _keys_are_whole(self) -> Self:
        _check_pair(self, "access_key_id", "secret_access_key")
        _check_pair(self, "role_arn", "web_identity_token_file")
        if self.session_token is not None and self.access_key_id is None:
            raise PydanticCustomError(
                "half",
                '"session_token" only works together with the two keys',
                {"remedy": 'add "access_key_id" and "secret_access_key", or remove it'},
            )
        check_kinds({
            "access_key_id": self.access_key_id is not None,
            "profile": self.profile is not None,
            "role_arn": self.role_arn is not None,
            "anonymous": self.anonymous,
        })
        return self

    def location(self) -> str:
        """`s3://bucket`; `s3://host:port/bucket` of a store that is not Amazon's."""
        return address("s3", self.bucket, self.used_endpoint(), _is_amazon)

    def used_endpoint(self) -> str | None:
        """The endpoint of this connection, else of the environment, else of the profile."""
        return self.endpoint or found_endpoint(self.profile).url

    def make_store(self) -> "S3Store":
        """The client; blocks."""
        from obstore.store import S3Store

        endpoint = self._checked_endpoint()
        # By both of its names: what the environment says by the second goes before the first.
        options: dict[str, Any] = {
            "region": self.region,
            "endpoint": endpoint,
            "aws_endpoint_url_s3": endpoint,
        }
        if self.access_key_id is not None:
            # By way of the provider, so that no token of the environment is taken with them.
            keys = revealed({
                "access_key_id": self.access_key_id,
                "secret_access_key": self.secret_access_key,
                "token": self.session_token,
            })
            options["credential_provider"] = lambda: keys | {"expires_at": None}
        elif self.profile is not None:
            options |= self._from_profile(self.profile)
        elif self.role_arn is not None:
            self.check_environment(_BEFORE_A_ROLE)
            options["role_arn"] = self.role_arn
            options["web_identity_token_file"] = str(self.web_identity_token_file)
        return S3Store(
            self.bucket,
            **self.settings(),
            **revealed(options | {"skip_signature": self.anonymous or None}),
        )

    def _checked_endpoint(self) -> str | None:
        if self.endpoint is not None:
            return self.endpoint
        found = found_endpoint(self.profile)
        if found.mistake is not None:
            raise ConfigError(
                f"{found.mistake} is no URL of a server",
                remedy="write it as https://store.example.org:9000, or give the connection an "
                "`endpoint`",
            )
        # The client reads the environment itself, and ends the process at an empty variable.
        return found.url or (f"https://s3.{self.region}.amazonaws.com" if found.is_empty else None)

    def _from_profile(self, profile: str) -> dict[str, Any]:
        try:
            import boto3
            from obstore.auth.boto3 import Boto3CredentialProvider
        except ImportError as error:
            raise ConfigError(
                f"the profile {profile!r} needs boto3, which is not installed",
                remedy="pip install boto3",
                tag="config",
            ) from error
        from botocore.exceptions import BotoCoreError

        try:
            provider = Boto3CredentialProvider(boto3.Session(profile_name=profile))
        except (BotoCoreError, ValueError) as error:
            raise ConfigError(
                f"the profile {profile!r} gives no credentials: {error}",
                remedy="check `profile`, and ~/.aws of the user that runs this",
                tag="auth",
            ) from error
        # Wrapped, or its region would contradict one that is given here.
        found: dict[str, Any] = {"credential_provider": lambda: provider()}  # noqa: PLW0108
        if "region" not in self.model_fields_set and "region" in provider.config:
            found["region"] = provider.config["region"]
        return found


class S3SourceParams(buckets.BucketReadParams):
    """Which objects to read."""


class S3SinkParams(buckets.BucketWriteParams):
    """Where to write."""


class S3Source(buckets.BucketSource[S3SourceParams]):
    """Read objects of an S3 bucket, in the order of their keys.

    An object that is replaced while it is read is noticed, never mixed.
    """

    name = "s3"
    connection_type = S3Connection


class S3Sink(buckets.BucketSink[S3SinkParams]):
    """Write objects to an S3 bucket.

    Parts wait on the disk of this machine until their epoch is committed, then they are uploaded.
    """

    name = "s3"
    connection_type = S3Connection


def _is_amazon(url: SplitResult) -> bool:
    return (url.hostname or "").endswith(".amazonaws.com")


def _check_pair(connection: S3Connection, one: str, other: str) -> None:
    if (getattr(connection, one) is None) != (getattr(connection, other) is None):
        raise PydanticCustomError(
            "half",
            '"{missing}" is missing: the two only work together',
            {
                "missing": one if getattr(connection, one) is None else other,
                "remedy": "add it, or leave both out to use the environment's credentials",
            },
        )
