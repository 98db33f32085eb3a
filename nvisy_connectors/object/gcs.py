"""Google Cloud Storage."""

import json
import re
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast
from urllib.parse import SplitResult

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_core import PydanticCustomError

from nvisy_connectors.object import bucket_components as buckets
from nvisy_connectors.object.addresses import address
from nvisy_connectors.object.bucket_connection import BucketConnection, check_kinds, revealed
from nvisy_connectors.object.errors import StoreTerms
from nvisy_dagster.sdk import ConfigError, LocalPath

if TYPE_CHECKING:
    from obstore.store import GCSStore

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_USUAL = "https://storage.googleapis.com"
_BEFORE_A_KEY = (
    "GOOGLE_BEARER_TOKEN",
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
)
"""What the client takes rather than a key that it is given, or refuses beside it."""


class GcsConnection(BucketConnection):
    """A bucket and the credentials for it.

    Say one kind of credentials: `service_account_key`, `key_filename` or `anonymous`. Without any
    the application default credentials are used: `GOOGLE_APPLICATION_CREDENTIALS`, what `gcloud
    auth application-default login` left, or the service account of the machine, which on
    Kubernetes is that of the workload.
    """

    type: ClassVar[str] = "gcs"
    terms: ClassVar[StoreTerms] = StoreTerms(
        "Google Cloud Storage", "bucket", "`bucket` and `endpoint`"
    )

    bucket: str = Field(min_length=3, max_length=222)
    """Name of the bucket: lower-case letters, digits, `.`, `_` and `-`."""
    project_id: str | None = None
    """Project of the bucket; nothing that is done here needs it."""
    service_account_key: SecretStr | None = None
    """Key of a service account: the text of its JSON file."""
    key_filename: LocalPath | None = None
    """File with the JSON of a service account's key, or with application default credentials."""

    @field_validator("bucket")
    @classmethod
    def _name_is_valid(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise PydanticCustomError(
                "name",
                "the bucket is no name that Google Cloud Storage knows",
                {"remedy": "use its bare name, without gs://; a folder belongs into `prefix`"},
            )
        return value

    @field_validator("service_account_key")
    @classmethod
    def _key_is_valid(cls, value: SecretStr | None) -> SecretStr | None:
        # Said here, since the client's words may repeat what is in the key.
        if value is not None and not _is_key(value.get_secret_value()):
            raise PydanticCustomError(
                "key",
                "the key is no JSON of a service account",
                {"remedy": "give the whole text of the file, or its path as `key_filename`"},
            )
        return value

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        check_kinds({
            "service_account_key": self.service_account_key is not None,
            "key_filename": self.key_filename is not None,
            "anonymous": self.anonymous,
        })
        return self

    def location(self) -> str:
        """`gs://bucket`; `gs://host:port/bucket` of a store that is not Google's."""
        return address("gs", self.bucket, self.endpoint, _is_google)

    def make_store(self) -> "GCSStore":
        """The client; blocks."""
        from obstore.store import GCSStore

        options: dict[str, Any] = {"base_url": (self.endpoint or _USUAL).rstrip("/")}
        if self.service_account_key is not None or self.key_filename is not None:
            self.check_environment(_BEFORE_A_KEY)
        options["service_account_key"] = self.service_account_key
        if self.key_filename is not None:
            if not self.key_filename.is_file():
                raise ConfigError(
                    f"there is no key file {self.key_filename}",
                    remedy="check `key_filename`; a relative one begins at the folder of the graph",
                    tag="auth",
                )
            options["application_credentials"] = str(self.key_filename)
        if self.anonymous:
            options["skip_signature"] = True
        return GCSStore(self.bucket, **self.settings(), **revealed(options))


class GcsSourceParams(buckets.BucketReadParams):
    """Which objects to read."""


class GcsSinkParams(buckets.BucketWriteParams):
    """Where to write."""


class GcsSource(buckets.BucketSource[GcsSourceParams]):
    """Read objects of a bucket of Google Cloud Storage, in the order of their keys.

    An object that is replaced while it is read is noticed, never mixed.
    """

    name = "gcs"
    connection_type = GcsConnection


class GcsSink(buckets.BucketSink[GcsSinkParams]):
    """Write objects to a bucket of Google Cloud Storage.

    Parts wait on the disk of this machine until their epoch is committed, then they are uploaded.
    """

    name = "gcs"
    connection_type = GcsConnection


def _is_google(url: SplitResult) -> bool:
    return (url.hostname or "").endswith(".googleapis.com")


def _is_key(text: str) -> bool:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if not isinstance(found, dict):
        return False
    key = cast("dict[str, Any]", found)
    return all(isinstance(key.get(name), str) for name in ("private_key", "client_email"))
