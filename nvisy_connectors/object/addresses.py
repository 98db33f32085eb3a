"""What connections to object stores are checked for, and how their places are written."""

import re
from collections.abc import Callable
from urllib.parse import SplitResult, urlsplit

from pydantic import SecretStr
from pydantic_core import PydanticCustomError

_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_PATH = re.compile(r"[A-Za-z0-9._~/-]*")
_PORTS = {"http": 80, "https": 443}


def checked_key(text: str) -> str:
    """A credential without the line end that files of secrets have.

    Raises:
        PydanticCustomError: It fits no header.
    """
    text = text.strip()
    if text and text.isascii() and text.isprintable():
        return text
    raise PydanticCustomError(
        "key",
        "the key is empty or holds characters that no key has",
        {"remedy": "check the secret that it refers to"},
    )


def checked_secret(secret: SecretStr | None) -> SecretStr | None:
    """A secret that fits a header, see `checked_key`."""
    return None if secret is None else SecretStr(checked_key(secret.get_secret_value()))


def is_http(url: str | None) -> bool:
    """Whether what is sent there can be read by others."""
    return urlsplit(url or "").scheme == "http"


def is_plain_url(text: str) -> bool:
    """Whether it is scheme, host, port and path, and nothing else."""
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        return False
    plain = f"{url.scheme}://{url.netloc}{url.path}" == text and "@" not in url.netloc
    host = _HOST.fullmatch(url.hostname or "")
    return bool(plain and url.scheme in _PORTS and port != 0 and host and _PATH.fullmatch(url.path))


def address(
    scheme: str, bucket: str, endpoint: str | None, is_usual: Callable[[SplitResult], bool]
) -> str:
    """URI of a bucket, which no other bucket has.

    Args:
        scheme: Of the store, such as `s3`.
        bucket: Its name in the store that the world knows.
        endpoint: Another address of a store. Its host and port stand before the bucket: no name of
            a bucket has a colon.
        is_usual: Whether an endpoint leads to the store that the world knows.
    """
    url = urlsplit(endpoint or "")
    if not url.hostname or is_usual(url):
        return f"{scheme}://{bucket}"
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    path = url.path.rstrip("/")
    return f"{scheme}://{host}:{url.port or _PORTS[url.scheme]}{path}/{bucket}"
