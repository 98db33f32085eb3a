"""Embeddings over HTTP: one POST per batch, vectors in base64."""

import os
from contextlib import AsyncExitStack
from importlib.metadata import version

import aiohttp
from anyio import to_thread
from pydantic_core import to_json

from nvisy_connectors.ai.openai_connection import OpenAIConnection
from nvisy_connectors.ai.openai_errors import Refusal
from nvisy_connectors.ai.vectors import Vectors, decode_response
from nvisy_dagster.sdk import ConfigError, TransientError

_CONNECT_SECONDS = 10.0
_REACH = "check the connection's base_url and the network, and that the server runs"
_USER_AGENT = f"nvisy-dagster/{version('nvisy-dagster')}"


class OpenAIClient:
    """Asks one model of one endpoint; calls may overlap.

    Args:
        connection: Where, and with which key.
        model: Name of the model.
        dimensions: Size of vector to ask for; `None` for the model's own.
        stack: Closes the HTTP session.
    """

    def __init__(
        self,
        connection: OpenAIConnection,
        model: str,
        dimensions: int | None,
        stack: AsyncExitStack,
    ) -> None:
        self._model = model
        self._options = {} if dimensions is None else {"dimensions": dimensions}
        self._url = f"{connection.base_url}/embeddings"
        key = connection.api_key
        self._secret = key.get_secret_value().strip() if key else None
        self._seconds = connection.timeout_seconds
        self._session = aiohttp.ClientSession(
            # The engine bounds the calls in flight; a second bound here could only be lower.
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(
                connection.timeout_seconds, sock_connect=_CONNECT_SECONDS
            ),
            headers=self._headers(connection.organization),
            trust_env=connection.trust_env,
        )
        stack.push_async_callback(self._session.close)

    async def embed(self, texts: list[str]) -> Vectors:
        """Vectors of the texts, `(n, d)`, in one request.

        Raises:
            ConfigError: Key, quota, model, address or params are refused.
            DataError: The endpoint refuses the texts.
            TransientError: No answer, or one that says to come back later.
        """
        fields = {"model": self._model, "input": texts, "encoding_format": "base64"}
        body = await self._post(to_json(fields | self._options), len(texts))
        return await to_thread.run_sync(decode_response, body, len(texts))

    async def _post(self, payload: bytes, count: int) -> bytes:
        try:
            # A redirect could carry the texts to a host that the user never named.
            async with self._session.post(
                self._url, data=payload, allow_redirects=False
            ) as response:
                body = await response.read()
                if response.status == 200:  # noqa: PLR2004 - HTTP OK
                    return body
                refusal = Refusal(response.status, response.headers, body, self._secret)
        except TimeoutError as error:
            raise self._late(error) from error
        except (aiohttp.InvalidURL, aiohttp.ClientSSLError) as error:
            raise ConfigError(
                f"{self._url} cannot be used: {error}",
                remedy="check the connection's base_url, and the certificate of the server",
                tag="connection",
            ) from error
        except aiohttp.ClientConnectorError as error:
            raise TransientError(
                f"{self._url} cannot be reached: {_reason(error)}", remedy=_REACH
            ) from error
        except aiohttp.ClientError as error:
            raise TransientError(
                f"{self._url} broke the connection off before its answer was complete",
                remedy="look at the server's log if this lasts; a smaller batch_rows may help",
            ) from error
        raise refusal.error(model=self._model, count=count)

    def _late(self, error: TimeoutError) -> TransientError:
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            text = f"{self._url} cannot be reached: no answer within {_CONNECT_SECONDS:g} s"
            return TransientError(text, remedy=_REACH, tag="timeout")
        return TransientError(
            f"{self._url} did not answer within {self._seconds:g} s",
            remedy="raise timeout_seconds of the connection, or lower batch_rows of the node",
            tag="timeout",
        )

    def _headers(self, organization: str | None) -> dict[str, str]:
        headers = {"User-Agent": _USER_AGENT, "Content-Type": "application/json"}
        if organization:
            headers["OpenAI-Organization"] = organization
        if not self._secret:
            return headers
        if not (self._secret.isascii() and self._secret.isprintable()):
            raise ConfigError(
                "the connection's api_key holds characters that no key has",
                remedy="check the secret that it refers to",
                tag="auth",
            )
        return headers | {"Authorization": f"Bearer {self._secret}"}


def _reason(error: aiohttp.ClientConnectorError) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"no machine is named {error.host!r}"
    # Python's own wording repeats host, port and the state of TLS.
    return os.strerror(error.errno).lower() if error.errno else error.strerror or "no connection"
