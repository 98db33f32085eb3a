"""`${env:NAME}`: how a connection says where a secret is instead of what it is."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from nvisy_dagster.graph.errors import shown, suggest
from nvisy_dagster.graph.places import Steps

STORES = ("env", "aws", "vault", "azure")
"""Where secrets may be; only `env` is read today."""

_REFERENCE = re.compile(r"(?P<escape>\$)?\$\{(?P<body>[^{}]*)\}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET_FIELD = re.compile(
    r"key|secret|password|passwd|token|credential|connection_?string|dsn", re.IGNORECASE
)


@dataclass(frozen=True)
class Reference:
    """A reference in a value.

    Args:
        store: One of `STORES`.
        name: What to look up there.
    """

    store: str
    name: str


class BadReferenceError(ValueError):
    """A reference that cannot be used; its arguments are message and remedy."""


def parse_reference(body: str) -> Reference:
    """What stands between `${` and `}`.

    Raises:
        BadReferenceError: It is no reference.
    """
    store, colon, name = body.partition(":")
    if not colon:
        remedy = f"write ${{env:{body}}}" if _VARIABLE.fullmatch(body) else "write ${env:NAME}"
        raise BadReferenceError(
            f"{shown('${' + body + '}')} does not say where the value is", remedy
        )
    if store not in STORES:
        raise BadReferenceError(f"unknown secret store {shown(store)}", suggest(store, STORES))
    if not name or (store == "env" and not _VARIABLE.fullmatch(name)):
        what = f"{shown(name)} cannot name what {store!r} holds"
        raise BadReferenceError(what, f"write ${{{store}:NAME}}")
    return Reference(store, name)


def look_up(reference: Reference, environ: Mapping[str, str]) -> str:
    """The value that a reference stands for.

    Raises:
        BadReferenceError: The store is not available, or does not have it.
    """
    if reference.store != "env":
        raise BadReferenceError(
            f"secrets from {reference.store!r} are not available yet", "use ${env:NAME}"
        )
    value = environ.get(reference.name)
    if value is None:
        raise BadReferenceError(
            f"the environment variable {reference.name} is not set",
            f"set it before the run: export {reference.name}=...",
        )
    return value


def references(text: str) -> Iterator[str]:
    """Bodies of the references in a text."""
    return (m["body"] for m in _REFERENCE.finditer(text) if not m["escape"])


def fill(text: str, environ: Mapping[str, str], secrets: set[str]) -> str:
    """The text with every reference replaced; `$${...}` becomes `${...}`.

    Args:
        text: What the connection says.
        environ: The environment.
        secrets: Receives the values that were put in.

    Raises:
        BadReferenceError: A reference cannot be used.
    """

    def value(match: re.Match[str]) -> str:
        if match["escape"]:
            return match[0][1:]
        found = look_up(parse_reference(match["body"]), environ)
        secrets.add(found)
        return found

    return _REFERENCE.sub(value, text)


def texts(value: Any, steps: Steps = ()) -> Iterator[tuple[Steps, str]]:  # noqa: ANN401 - any JSON
    """Every string in a JSON value, with its place."""
    if isinstance(value, str):
        yield steps, value
    elif isinstance(value, dict):
        for key, child in cast("dict[str, Any]", value).items():
            yield from texts(child, (*steps, key))
    elif isinstance(value, list):
        for index, child in enumerate(cast("list[Any]", value)):
            yield from texts(child, (*steps, index))


def is_secret(steps: Steps) -> bool:
    """Whether a field holds a secret by its name, as in published connections."""
    return any(isinstance(step, str) and _SECRET_FIELD.search(step) for step in steps)


def url_passwords(text: str) -> set[str]:
    """The password in a URL, as it stands there and decoded."""
    if "://" not in text:
        return set()
    try:
        password = urlsplit(text).password
    except ValueError:
        return set()
    return {password, unquote(password)} if password else set()
