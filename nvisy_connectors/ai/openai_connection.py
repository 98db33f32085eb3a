"""Access to OpenAI, or to any endpoint that speaks its API."""

from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from nvisy_dagster.sdk import Connection


class OpenAIConnection(Connection):
    """An OpenAI-compatible API: OpenAI itself, vLLM, Ollama, llama.cpp, LiteLLM and others."""

    type = "openai"

    api_key: SecretStr | None = None
    """Key sent as a bearer token; none for endpoints that ask for none."""
    base_url: str = "https://api.openai.com/v1"
    """Where the API lives, up to and including its version; `/embeddings` is added."""
    organization: str | None = None
    """Organization that is billed, for keys that belong to several."""
    model: str | None = None
    """Model of the nodes that name none."""
    timeout_seconds: float = Field(default=60.0, gt=0)
    """Longest time for one request."""
    trust_env: bool = False
    """Go through the proxy that `HTTPS_PROXY` and its kin name."""

    @field_validator("base_url")
    @classmethod
    def _plain_http_url(cls, value: str) -> str:
        url = urlsplit(value)
        if url.scheme not in {"http", "https"} or not url.hostname:
            raise ValueError(
                "base_url must be an http or https URL, such as http://localhost:8000/v1"
            )
        if url.username or url.password or url.query or url.fragment:
            raise ValueError("base_url must hold neither credentials nor a query; use api_key")
        return value.rstrip("/")

    def location(self) -> str:
        """URL of the API."""
        return self.base_url
