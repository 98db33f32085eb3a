"""What an OpenAI-compatible endpoint's refusals mean for the engine."""

import datetime as dt
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, cast

from pydantic_core import from_json

from nvisy_dagster.sdk import ConfigError, DataError, NvisyError, TransientError

_MESSAGE_LENGTH = 300
_TRANSIENT = frozenset({
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
})
_REFUSED_INPUT = frozenset({
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
})
_OUR_PARAMS = frozenset({"model", "dimensions", "encoding_format"})
_OUR_PARAMS_NAMED = re.compile(r"\b(dimensions|encoding_format|matryoshka)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Refusal:
    """An answer other than 200.

    Args:
        status: HTTP status code.
        headers: Response headers, with case-insensitive names.
        body: Response body.
        secret: What must not appear in an error text, should the endpoint repeat it.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    secret: str | None = None

    def error(self, *, model: str, count: int) -> NvisyError:
        """The error to raise.

        A refused batch of one names its row. Of a larger batch nobody knows which texts are to
        blame: its `DataError` has no rows, which says that the batch was refused as a whole.

        Args:
            model: Model that was asked for.
            count: Texts in the request.
        """
        details = self._details()
        text = f"HTTP {self.status}: {self._message(details)}"
        if self.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            remedy = "check the connection's api_key and what it may use"
            return ConfigError(f"the endpoint refuses the key: {text}", remedy=remedy, tag="auth")
        if self.status == HTTPStatus.PAYMENT_REQUIRED or "insufficient_quota" in {
            details.get("code"),
            details.get("type"),
        }:
            remedy = "add credit to the account or raise its limit"
            return ConfigError(f"the account's quota is spent: {text}", remedy=remedy, tag="quota")
        if self.status == HTTPStatus.NOT_FOUND:
            remedy = f"check the model {model!r} and the connection's base_url"
            return ConfigError(f"no such model or endpoint: {text}", remedy=remedy, tag="not_found")
        if self.status in _TRANSIENT or self.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return self._transient(text)
        if self.status in _REFUSED_INPUT and not _blames_params(details):
            return _refused_input(text, count)
        remedy = "check the node's params and the connection's base_url"
        return ConfigError(
            f"the endpoint refuses the request: {text}", remedy=remedy, tag="refused"
        )

    def _transient(self, text: str) -> TransientError:
        limited = self.status == HTTPStatus.TOO_MANY_REQUESTS
        if limited:
            what = "the endpoint limits the rate"
            remedy = "lower the node's concurrency, or ask the provider for a higher limit"
        else:
            what = "the endpoint failed"
            remedy = "look at the provider's status page or the server's log, then run again"
        return TransientError(
            f"{what}: {text}",
            retry_after=retry_after_seconds(self.headers),
            remedy=remedy,
            tag="rate_limit" if limited else "server",
        )

    def _details(self) -> dict[str, Any]:
        try:
            document = from_json(self.body)
        except ValueError:
            return {}
        if not isinstance(document, dict):
            return {}
        error = cast("dict[str, Any]", document).get("error", document)
        return cast("dict[str, Any]", error) if isinstance(error, dict) else {"message": error}

    def _message(self, details: dict[str, Any]) -> str:
        message = details.get("message") or details.get("detail")
        text = str(message) if message else self.body[:_MESSAGE_LENGTH].decode(errors="replace")
        text = text if text.strip() else "no reason given"
        if self.secret:
            text = text.replace(self.secret, "***")
        text = " ".join(text.split())
        return text if len(text) <= _MESSAGE_LENGTH else f"{text[:_MESSAGE_LENGTH]}..."


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by `retry-after-ms` or `Retry-After` (seconds or HTTP-date), if any."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("Retry-After")
    seconds = _number(value)
    if seconds is not None or value is None:
        return seconds
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return max(0.0, (moment - dt.datetime.now(dt.UTC)).total_seconds())


def _blames_params(details: Mapping[str, Any]) -> bool:
    """Whether what is refused is in every request alike, so that no text is to blame.

    OpenAI names the parameter; others (vLLM, llama.cpp) only speak of it.
    """
    if details.get("param") is not None:
        return details["param"] in _OUR_PARAMS
    return bool(_OUR_PARAMS_NAMED.search(str(details.get("message", ""))))


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _refused_input(text: str, count: int) -> DataError:
    rows = {0: text} if count == 1 else {}
    which = "the text" if count == 1 else f"a batch of {count} texts"
    return DataError(f"the endpoint refuses {which}: {text}", rows=rows, tag="refused")
