"""The endpoint that the environment or a profile gives a connection to S3 that has none."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from nvisy_connectors.object.addresses import is_plain_url

_VARIABLES = ("aws_endpoint_url_s3", "aws_endpoint_url", "aws_endpoint")
"""In the order in which they count, as the client reads them: in any case behind `AWS_`."""
_FILES = ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "HOME")


@dataclass(frozen=True)
class FoundEndpoint:
    """What was found."""

    url: str | None = None
    mistake: str | None = None
    """What holds text that is no URL."""
    is_empty: bool = False
    """Whether a variable is set to nothing, which says nothing."""


def found_endpoint(profile: str | None) -> FoundEndpoint:
    """The endpoint of the environment, else of the profile: in the order of Amazon's own tools.

    Args:
        profile: Name of a profile, if the connection has one.
    """
    given = {name.lower(): name for name in os.environ if name.startswith("AWS_")}
    is_empty = False
    for variable in (given[name] for name in _VARIABLES if name in given):
        text = os.environ[variable].strip()
        if text:
            return _checked(text, f"the environment variable {variable}")
        is_empty = True
    text = None if profile is None else _of_profile(profile, *map(os.environ.get, _FILES))
    if text is None:
        return FoundEndpoint(is_empty=is_empty)
    return _checked(text, f"the endpoint_url of the profile {profile!r}")


def _checked(text: str, of: str) -> FoundEndpoint:
    return FoundEndpoint(text) if is_plain_url(text) else FoundEndpoint(mistake=of)


@lru_cache(maxsize=64)
def _of_profile(profile: str, *files: str | None) -> str | None:  # noqa: ARG001 - part of the key
    """What the files of Amazon's tools say, as they were when the process first asked."""
    try:
        from botocore.exceptions import BotoCoreError
        from botocore.session import Session
    except ImportError:
        return None  # opening the connection says what is missing
    session = Session(profile=profile)
    try:
        own: Mapping[str, Any] = session.get_scoped_config()
        services: Mapping[str, Any] = session.full_config.get("services", {})
    except BotoCoreError:
        return None  # the same
    of_s3 = services.get(own.get("services", ""), {}).get("s3", {})
    found = of_s3 if isinstance(of_s3, Mapping) else {}
    return found.get("endpoint_url") or own.get("endpoint_url")
