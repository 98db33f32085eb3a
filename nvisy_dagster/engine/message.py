"""What flows through a channel."""

from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Barrier:
    """All before it belongs to this epoch or an earlier one."""

    epoch: int


@dataclass(frozen=True, slots=True)
class End:
    """Nothing follows."""


Message = pa.RecordBatch | Barrier | End
END = End()


def size_of(message: Message) -> int:
    """Bytes that the message keeps alive."""
    return 0 if isinstance(message, Barrier | End) else message.nbytes
