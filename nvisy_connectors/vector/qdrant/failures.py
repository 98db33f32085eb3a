"""Which of our errors a failure of the Qdrant client is."""

import json
import ssl
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nvisy_dagster.sdk import ConfigError, NvisyError, TransientError

if TYPE_CHECKING:
    from qdrant_client.http.exceptions import UnexpectedResponse

NOT_FOUND = 404
CONFLICT = 409
REFUSED = frozenset({400, 413, 422})
"""Statuses that say something about the content of a request; fewer points may pass."""

_AUTH = frozenset({401, 403})
_RETRIED = frozenset({408, 425, 429})
_TOO_MANY = 429
_SERVER_ERROR = 500
_SHOWN = 300


@contextmanager
def translated(location: str) -> Generator[None]:
    """Turn the client's errors into ours, naming `location`.

    Raises:
        ConfigError: The user must change something.
        TransientError: The same call may succeed later.
    """
    from qdrant_client.common.client_exceptions import QdrantException
    from qdrant_client.http.exceptions import ApiException

    try:
        yield
    except (ApiException, QdrantException, json.JSONDecodeError) as error:
        raise classify(error, location) from error


def classify(error: Exception, location: str) -> NvisyError:
    """The error of ours that tells the engine what to do next."""
    from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    if isinstance(error, ResourceExhaustedResponse):
        return _too_many(location, float(error.retry_after_s))
    if isinstance(error, QdrantException):  # a Retry-After that the client cannot read
        return _too_many(location, None)
    if isinstance(error, UnexpectedResponse):
        return _of_status(error, location)
    if isinstance(error, ResponseHandlingException):
        return _of_transport(error.source, location)
    return _unreadable(location, error)


def refusal(error: "UnexpectedResponse") -> str:
    """What the server said, in its own words."""
    try:
        said = error.structured()["status"]["error"]
    except (ValueError, KeyError, TypeError):
        said = error.content.decode(errors="replace")
    text = " ".join(str(said).split())
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _of_status(error: "UnexpectedResponse", location: str) -> NvisyError:
    status = error.status_code or 0
    said = refusal(error)
    if status in _AUTH:
        return ConfigError(
            f"{location} refuses the credentials ({status}): {said}",
            remedy="check 'api_key' of the connection and what it may do",
            tag="auth",
        )
    if status in _RETRIED or status >= _SERVER_ERROR:
        tag = "rate_limit" if status == _TOO_MANY else "server"
        return TransientError(f"{location} answered {status}: {said}", tag=tag)
    if status == NOT_FOUND:
        return ConfigError(
            f"{location} was not found (404): {said}",
            remedy="check 'url' of the connection and the param 'collection'",
            tag="not_found",
        )
    return ConfigError(f"{location} refuses the request ({status}): {said}", tag="refused")


def _of_transport(source: Exception, location: str) -> NvisyError:
    import httpx

    if isinstance(source, httpx.TimeoutException):
        return TransientError(
            f"{location} did not answer in time",
            remedy="raise 'timeout_seconds' of the connection if the server is only slow",
            tag="timeout",
        )
    if isinstance(source, httpx.UnsupportedProtocol | httpx.InvalidURL):
        return ConfigError(f"{location} is no address: {source}", remedy="correct 'url'")
    if isinstance(source, httpx.TransportError):
        if _untrusted(source):
            return ConfigError(
                f"the certificate of {location} is not trusted: {source}",
                remedy="give the server a certificate that this machine trusts",
                tag="auth",
            )
        return TransientError(
            f"cannot reach {location}: {source or type(source).__name__}",
            remedy="check that Qdrant runs there and that 'url' is right",
        )
    return _unreadable(location, source)


def _unreadable(location: str, error: Exception) -> TransientError:
    # A body that was cut off, or the page of a proxy.
    return TransientError(
        f"{location} gave an answer that cannot be read: {str(error)[:_SHOWN]}",
        remedy="check that 'url' is the address of a Qdrant server",
    )


def _untrusted(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _too_many(location: str, seconds: float | None) -> TransientError:
    return TransientError(f"{location} asks to slow down", retry_after=seconds, tag="rate_limit")
