"""Which model a node means, before and during the run: its name, its dimensions, how to ask it."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from anyio import to_thread

from nvisy_connectors.ai.local_model import (
    LOCAL_DIMENSIONS,
    WORDLLAMA_MODEL,
    LocalModel,
    load_local_model,
)
from nvisy_connectors.ai.openai_connection import OpenAIConnection
from nvisy_connectors.ai.vectors import Vectors
from nvisy_dagster.sdk import ConfigError

Provider = Literal["local", "openai"]

OPENAI_DIMENSIONS = {
    "text-embedding-3-small": 1536,
    "text-embedding-3-large": 3072,
    "text-embedding-ada-002": 1536,
}
"""OpenAI's own models and their dimensions; all but the last can make smaller vectors."""

_FIXED_SIZE = frozenset({"text-embedding-ada-002"})


class Embedder(Protocol):
    """Something that makes vectors."""

    async def embed(self, texts: list[str]) -> tuple[Vectors, npt.NDArray[np.int32] | None]:
        """Vectors `(n, d)` of the texts, and how many tokens each had, where that is told."""
        ...


@dataclass(frozen=True)
class ModelChoice:
    """The model that params and connection together mean."""

    provider: Provider
    name: str | None
    """`None` when only the connection, not known yet, can tell."""
    dimensions: int | None
    """`None` when only its answers tell."""
    asked_dimensions: int | None = None
    """What an endpoint must be asked for: `None` for the model's own."""

    async def open(self, connection: OpenAIConnection | None, stack: AsyncExitStack) -> Embedder:
        """Load the model or a client for it.

        Raises:
            ConfigError: The model is not installed, or connection or model is missing.
        """
        if self.provider == "local":
            loaded = await to_thread.run_sync(load_local_model, self.name or WORDLLAMA_MODEL)
            return _Local(loaded, self.dimensions or LOCAL_DIMENSIONS[WORDLLAMA_MODEL][0])
        if connection is None:
            raise _no_connection(self.name)
        if self.name is None:
            raise _no_model()
        # Imported here: aiohttp costs 0.2 s, and the local model needs none of it.
        from nvisy_connectors.ai.openai_client import OpenAIClient

        return _Remote(OpenAIClient(connection, self.name, self.asked_dimensions, stack))


def choose_model(
    provider: Provider | None,
    model: str | None,
    dimensions: int | None,
    connection: OpenAIConnection | None,
) -> ModelChoice:
    """What the params mean; pure.

    Without a provider: `openai` when there is a connection or the model is not a local one. A
    connection without any field is one whose values are not known yet.

    Raises:
        ConfigError: They contradict each other or what is known of the model.
    """
    if provider is None:
        foreign = model is not None and model not in LOCAL_DIMENSIONS
        provider = "openai" if connection is not None or foreign else "local"
    if provider == "local":
        return _local_choice(model or WORDLLAMA_MODEL, dimensions, connection)
    if connection is None:
        raise _no_connection(model)
    model = model or connection.model
    if model is None and connection.model_fields_set:
        raise _no_model()
    native = OPENAI_DIMENSIONS.get(model or "")
    if dimensions is not None and native is not None:
        fixed = model in _FIXED_SIZE
        if dimensions > native or (fixed and dimensions != native):
            raise ConfigError(
                f"param 'dimensions' is {dimensions}; {model!r} makes vectors of "
                f"{'' if fixed else 'at most '}{native}",
                remedy="leave 'dimensions' out or choose another model",
            )
    asked = None if dimensions == native else dimensions
    return ModelChoice("openai", model, dimensions or native, asked)


def _local_choice(
    model: str, dimensions: int | None, connection: OpenAIConnection | None
) -> ModelChoice:
    if connection is not None:
        raise ConfigError(
            "provider 'local' takes no connection",
            remedy="remove \"connection\" from the node, or use provider 'openai'",
        )
    if model not in LOCAL_DIMENSIONS:
        near = get_close_matches(model, LOCAL_DIMENSIONS, n=1, cutoff=0)
        raise ConfigError(
            f"param 'model': there is no local model {model!r}", remedy=f"use {near[0]!r}"
        )
    sizes = LOCAL_DIMENSIONS[model]
    if dimensions is not None and dimensions not in sizes:
        raise ConfigError(
            f"param 'dimensions' is {dimensions}; {model!r} makes vectors of "
            f"{', '.join(map(str, sizes))}",
            remedy=f"leave it out for {sizes[0]}",
        )
    return ModelChoice("local", model, dimensions or sizes[0])


def _no_connection(model: str | None) -> ConfigError:
    what = "provider 'openai'" if model is None else f"model {model!r}"
    local = ", ".join(map(repr, LOCAL_DIMENSIONS))
    return ConfigError(
        f"{what} needs a connection of type 'openai'",
        remedy=f'name one with "connection", or use a local model: {local}',
    )


def _no_model() -> ConfigError:
    return ConfigError(
        "param 'model' is missing: which model shall the endpoint use?",
        remedy="set 'model' on the node or on the connection",
    )


@dataclass(frozen=True)
class _Local:
    model: LocalModel
    dimensions: int

    async def embed(self, texts: list[str]) -> tuple[Vectors, npt.NDArray[np.int32] | None]:
        return await to_thread.run_sync(self.model.embed, texts, self.dimensions)


class _Client(Protocol):
    async def embed(self, texts: list[str]) -> Vectors: ...


@dataclass(frozen=True)
class _Remote:
    client: _Client

    async def embed(self, texts: list[str]) -> tuple[Vectors, npt.NDArray[np.int32] | None]:
        # The API tells the tokens of a request, not of each text.
        return await self.client.embed(texts), None
