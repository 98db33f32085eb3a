"""What was fetched of some objects."""

from collections.abc import Sequence
from dataclasses import dataclass

from nvisy_connectors.object.folder import Span
from nvisy_connectors.object.read_memory import Bytes


@dataclass(frozen=True)
class Fetched:
    """Some neighbouring spans and their bytes."""

    spans: list[Span]
    data: Sequence[Bytes]
