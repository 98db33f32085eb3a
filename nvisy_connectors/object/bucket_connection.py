"""What connections to all object stores have in common."""

import datetime as dt
import os
from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import SecretStr, field_validator, model_validator
from pydantic_core import PydanticCustomError

from nvisy_connectors.object.addresses import is_http, is_plain_url
from nvisy_connectors.object.errors import StoreTerms, without_queries
from nvisy_dagster.sdk import ConfigError, Connection

if TYPE_CHECKING:
    from obstore.store import ObjectStore

CONNECT_SECONDS = 5
REQUEST_SECONDS = 120
"""For a whole answer: 8 MiB over a slow line."""
RETRIES = 3
RETRY_SECONDS = 30
"""Short: beyond this the retry policy of the node decides."""


class BucketConnection(Connection):
    """A bucket and the credentials for it."""

    terms: ClassVar[StoreTerms]
    """How the store and its fields are called."""
    lists_from_key: ClassVar[bool] = True
    """Whether the store can begin a listing behind a key."""

    endpoint: str | None = None
    """URL of another store that speaks this protocol, such as `https://store.example.org:9000`."""
    allow_http: bool | None = None
    """Whether unencrypted connections are allowed. By default only when the endpoint says
    `http://`."""
    anonymous: bool = False
    """Whether to send no credentials, for what is public."""

    # The client puts it into a URL; what does not fit ends the process in a panic.
    @field_validator("endpoint")
    @classmethod
    def _endpoint_is_valid(cls, value: str | None) -> str | None:
        if value is None or is_plain_url(value):
            return value
        raise PydanticCustomError(
            "endpoint",
            "the endpoint is no URL of a server",
            {"remedy": "write it as https://store.example.org:9000; keys have fields of their own"},
        )

    @model_validator(mode="after")
    def _http_is_allowed(self) -> Self:
        if self.allow_http is False and is_http(self.endpoint):
            raise PydanticCustomError(
                "http",
                "the endpoint is http, and allow_http is false",
                {"remedy": "use an https endpoint, or remove allow_http", "at": ("endpoint",)},
            )
        return self

    @abstractmethod
    def location(self) -> str:
        """URI of the bucket, which no other bucket of any store has."""

    def used_endpoint(self) -> str | None:
        """The endpoint that is really used; `None` for the store's own."""
        return self.endpoint

    @abstractmethod
    def make_store(self) -> "ObjectStore":
        """The client; blocks.

        Raises:
            ConfigError: The credentials contradict the environment, or a file of them is broken.
            Exception: Of the client, if the fields make no sense to it.
        """

    def open_store(self) -> "ObjectStore":
        """The client; blocks.

        Raises:
            ConfigError: There is none for these fields.
        """
        from obstore.exceptions import BaseError

        try:
            return self.make_store()
        except (BaseError, ValueError) as error:
            raise ConfigError(
                f"the {self.terms.store} connection to {self.location()} is not valid: "
                f"{without_queries(str(error))}",
                remedy=f"check {self.terms.check}",
            ) from error

    def settings(self) -> dict[str, Any]:
        """How clients of all stores are made."""
        allow_http = is_http(self.used_endpoint()) if self.allow_http is None else self.allow_http
        return {
            "client_options": {
                "allow_http": allow_http,
                "connect_timeout": dt.timedelta(seconds=CONNECT_SECONDS),
                "timeout": dt.timedelta(seconds=REQUEST_SECONDS),
            },
            "retry_config": {
                "max_retries": RETRIES,
                "retry_timeout": dt.timedelta(seconds=RETRY_SECONDS),
            },
        }

    def check_environment(self, variables: Iterable[str]) -> None:
        """Refuse variables that the client would prefer to the credentials of this connection.

        Raises:
            ConfigError: One of them is set.
        """
        for name in variables:
            if os.environ.get(name) or os.environ.get(name.lower()):
                raise ConfigError(
                    f"the environment variable {name} goes before the credentials of the "
                    f"{self.terms.store} connection to {self.location()}",
                    remedy=f"unset {name}, or leave the credentials out of the connection",
                    tag="auth",
                )


def check_kinds(kinds: dict[str, bool]) -> None:
    """Refuse more than one kind of credentials.

    Args:
        kinds: Fields of a kind, and whether it is given.

    Raises:
        PydanticCustomError: The client would choose one by itself.
    """
    given = [kind for kind, is_given in kinds.items() if is_given]
    if len(given) > 1:
        raise PydanticCustomError(
            "two_kinds",
            '"{one}" and "{other}" are two kinds of credentials',
            {"one": given[0], "other": given[1], "remedy": "keep one of them"},
        )


def revealed(options: dict[str, Any]) -> dict[str, Any]:
    """Options as the client takes them: those that are given, secrets in clear."""
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in options.items()
        if value is not None
    }
