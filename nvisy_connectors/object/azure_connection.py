"""How a container of Azure Blob Storage is reached."""

import re
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_core import PydanticCustomError

from nvisy_connectors.object.addresses import address, checked_key, checked_secret
from nvisy_connectors.object.azure_connection_string import parse_connection_string
from nvisy_connectors.object.bucket_connection import BucketConnection, check_kinds, revealed
from nvisy_connectors.object.errors import StoreTerms
from nvisy_dagster.sdk import LocalPath
from nvisy_dagster.sdk.params import camel

if TYPE_CHECKING:
    from obstore.store import AzureStore

_CONTAINER = re.compile(r"\$?[a-z0-9](-?[a-z0-9])*")
_ACCOUNT = re.compile(r"[a-z0-9]+")
_ID = re.compile(r"[A-Za-z0-9._-]+")


class AzureConnection(BucketConnection):
    """A container and the credentials for it.

    Say one kind of credentials: `account_key`, `sas_token`, the secret of an application
    (`tenant_id`, `client_id`, `client_secret`), the token of a workload (`tenant_id`, `client_id`,
    `federated_token_file`) or `anonymous`. Without any those of the environment are used:
    variables, workload identity, or the managed identity of the machine.
    """

    type: ClassVar[str] = "azure"
    terms: ClassVar[StoreTerms] = StoreTerms(
        "Azure", "container", "`container`, `account_name` and `endpoint`"
    )
    # An account with folders lists keys in an order of its own.
    lists_from_key: ClassVar[bool] = False

    container: str = Field(min_length=3, max_length=63)
    """Name of the container: lower-case letters, digits and `-`."""
    account_name: str | None = Field(default=None, min_length=3, max_length=24)
    """Name of the storage account. It may be left out when `connection_string` names it."""
    account_key: SecretStr | None = None
    """One of the two keys of the account."""
    sas_token: SecretStr | None = None
    """Shared access signature, such as `sv=...&sig=...`; it must allow to list, and for a sink to
    write and delete too."""
    connection_string: SecretStr | None = None
    """Connection string of the account, as the portal shows it: account, key or signature, and
    endpoint in one."""
    tenant_id: str | None = None
    """Directory of the application, with `client_id`."""
    client_id: str | None = None
    """Application, or managed identity when it is said alone."""
    client_secret: SecretStr | None = None
    """Secret of the application."""
    federated_token_file: LocalPath | None = None
    """File with the token of a workload. Kubernetes on Azure sets it in the environment, together
    with `tenant_id` and `client_id`; then none of them is needed here."""
    authority_host: str | None = None
    """Where tokens are asked for, if not at `https://login.microsoftonline.com`."""

    @model_validator(mode="before")
    @classmethod
    def _with_connection_string(cls, document: Any) -> Any:  # noqa: ANN401 - any JSON
        """What the string says, as if it were said in fields."""
        if not isinstance(document, dict):
            return document
        written = cast("dict[str, Any]", document)
        text = written.get("connection_string", written.get("connectionString"))
        if isinstance(text, SecretStr):
            text = text.get_secret_value()
        if not isinstance(text, str):
            return written
        said = parse_connection_string(text)
        for name, value in said.items():
            beside = written.get(name, written.get(camel(name)))
            if isinstance(beside, SecretStr):
                beside = beside.get_secret_value()
            if beside not in {None, value}:
                raise PydanticCustomError(
                    "contradiction",
                    '"{field}" contradicts "connection_string"',
                    {"field": name, "remedy": "keep one of the two"},
                )
        spelled = {camel(name) for name in said}
        return {name: value for name, value in written.items() if name not in spelled} | said

    # The client puts these into a URL or a header; what fits neither ends the process in a panic.
    @field_validator("container")
    @classmethod
    def _container_is_valid(cls, value: str) -> str:
        if not _CONTAINER.fullmatch(value):
            raise PydanticCustomError(
                "name",
                "the container is no name that Azure knows",
                {"remedy": "use its bare name: lower-case letters, digits and single hyphens"},
            )
        return value

    @field_validator("account_name")
    @classmethod
    def _account_is_valid(cls, value: str | None) -> str | None:
        if value is not None and not _ACCOUNT.fullmatch(value):
            raise PydanticCustomError(
                "name",
                "the account_name is no name that Azure knows",
                {"remedy": "use its bare name: lower-case letters and digits"},
            )
        return value

    @field_validator("account_key", "client_secret")
    @classmethod
    def _secret_is_valid(cls, value: SecretStr | None) -> SecretStr | None:
        return checked_secret(value)

    @field_validator("sas_token")
    @classmethod
    def _signature_is_valid(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        text = checked_key(value.get_secret_value()).removeprefix("?")
        # The client goes on without a signature when it finds none.
        if "sig=" not in text or not all("=" in pair for pair in text.split("&")):
            raise PydanticCustomError(
                "key",
                "the shared access signature has no sig=",
                {"remedy": "give all of it, sv=...&sig=..., without the URL before the ?"},
            )
        return SecretStr(text)

    @field_validator("tenant_id", "client_id")
    @classmethod
    def _id_is_valid(cls, value: str | None) -> str | None:
        if value is not None and not _ID.fullmatch(value):
            raise PydanticCustomError(
                "name", "it is no id that Azure knows", {"remedy": "copy it from the portal"}
            )
        return value

    @field_validator("authority_host")
    @classmethod
    def _authority_is_valid(cls, value: str | None) -> str | None:
        return cls._endpoint_is_valid(value)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.account_name is None:
            raise PydanticCustomError(
                "missing_account",
                '"account_name" is missing',
                {"remedy": "add it, or a `connection_string` that names it"},
            )
        for secret in ("client_secret", "federated_token_file"):
            for name in ("tenant_id", "client_id"):
                if getattr(self, secret) is not None and getattr(self, name) is None:
                    raise PydanticCustomError(
                        "half",
                        '"{missing}" is missing: "{secret}" only works together with it',
                        {"missing": name, "secret": secret, "remedy": "add it"},
                    )
        check_kinds({
            "account_key": self.account_key is not None,
            "sas_token": self.sas_token is not None,
            "client_secret": self.client_secret is not None,
            "federated_token_file": self.federated_token_file is not None,
            "anonymous": self.anonymous,
        })
        return self

    def location(self) -> str:
        """`az://account/container`; `az://host:port/.../container` of another endpoint."""
        if _is_azure(urlsplit(self.endpoint or ""), self.account_name):
            return f"az://{self.account_name}/{self.container}"
        return address("az", self.container, self.endpoint, lambda url: not url.hostname)

    def make_store(self) -> "AzureStore":
        """The client; blocks."""
        from obstore.store import AzureStore

        file = self.federated_token_file
        options: dict[str, Any] = {
            "account_name": self.account_name,
            "endpoint": self.endpoint or f"https://{self.account_name}.blob.core.windows.net",
            "account_key": self.account_key,
            "sas_key": self.sas_token,
            "tenant_id": self.tenant_id,
            "client_id": self.client_id,
            "client_secret": self.client_secret,
            "federated_token_file": None if file is None else str(file),
            "authority_host": self.authority_host,
            "credential_type": self._kind(),
            "skip_signature": self.anonymous,
        }
        return AzureStore(self.container, **self.settings(), **revealed(options))

    def _kind(self) -> str | None:
        """The client's word for the credentials, without which it prefers the environment's."""
        kinds = {
            "access_key": self.account_key,
            "sas_token": self.sas_token,
            "client_secret": self.client_secret,
            "workload_identity": self.federated_token_file,
        }
        return next((kind for kind, value in kinds.items() if value is not None), None)


def _is_azure(url: SplitResult, account: str | None) -> bool:
    return url.hostname in {None, f"{account}.blob.core.windows.net"}
