"""Where a Qdrant is."""

from typing import TYPE_CHECKING, ClassVar, Self
from urllib.parse import quote, urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from nvisy_dagster.sdk import Connection, LocalPath

if TYPE_CHECKING:
    from nvisy_connectors.vector.qdrant.store import Store

DEFAULT_PORT = 6333


class QdrantConnection(Connection):
    """A Qdrant server (`url`), or a local folder opened by Qdrant's own engine (`path`).

    The folder needs no server; one process at a time can open a collection in it.
    """

    type: ClassVar[str] = "qdrant"

    url: str | None = None
    """Address of the REST API of a server, such as `https://example.cloud.qdrant.io:6333`."""
    api_key: SecretStr | None = None
    """API key of the server; use `https` with it, or it travels in the clear."""
    timeout_seconds: float = Field(default=30.0, gt=0, le=3600)
    """Longest wait for one answer of the server."""
    path: LocalPath | None = None
    """Local folder with one folder per collection, made when missing; a relative path begins at the
    folder of the graph."""

    @field_validator("url")
    @classmethod
    def _plain_http(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must begin with http:// or https:// and name a host")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("must hold no credentials, query or fragment; the key is 'api_key'")
        _ = parts.port  # raises ValueError when it is none
        return url

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.url is None) == (self.path is None):
            raise ValueError("give exactly one of 'url' (a server) and 'path' (a local folder)")
        if self.path is not None and self.api_key is not None:
            raise ValueError("'api_key' belongs to 'url'; a local folder has none")
        return self

    def location(self) -> str:
        """`qdrant://host:port`, or the URI of the folder."""
        if self.path is not None:
            return self.path.as_uri()
        parts = urlsplit(str(self.url))
        host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
        return f"qdrant://{host}:{parts.port or DEFAULT_PORT}{parts.path.rstrip('/')}"

    def collection_location(self, collection: str) -> str:
        """URI of one collection."""
        return f"{self.location()}/{quote(collection, safe='')}"

    def store(self, collection: str) -> "Store":
        """The back end that serves a collection; not yet open."""
        if self.path is not None:
            from nvisy_connectors.vector.qdrant.edge_store import EdgeStore

            return EdgeStore(self.path, collection)
        from nvisy_connectors.vector.qdrant.server_store import ServerStore

        return ServerStore(self, collection)
