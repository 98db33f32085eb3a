"""Asking a vector sink a question."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Hit:
    """One stored record that is near a vector."""

    id: str
    """The record's `_id`, as a UUID."""
    score: float
    """Nearness in the collection's own distance."""
    payload: Mapping[str, Any]
    """The columns stored beside the vector, as JSON values."""


@runtime_checkable
class Searchable(Protocol):
    """A sink whose records can be searched by vector once it is open, without `start`."""

    async def search(self, vector: Sequence[float], limit: int) -> Sequence[Hit]:
        """The `limit` records nearest to `vector`, best first.

        Raises:
            ConfigError: There is nothing to search, or the vector has another dimension.
            TransientError: The system cannot be reached now.
        """
        ...
