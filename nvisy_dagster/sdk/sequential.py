"""The base class of actions that go by what came before."""

from abc import abstractmethod
from collections.abc import Iterable
from typing import ClassVar, TypeVar

import pyarrow as pa

from nvisy_dagster.sdk.action import BaseAction
from nvisy_dagster.sdk.params import Params

P = TypeVar("P", bound=Params)


class SequentialAction(BaseAction[P]):
    """Sends records on by what came before them: it gets one batch after the other, in order.

    What it sends are records that it took, as they are and in their order: it may leave some out,
    and hold some back to send them on in other batches. It computes, quickly and without I/O, and
    fails on no record.

    A checkpoint remembers nothing of it but how many records it took, since all that it held back
    is sent on before. So what it lets through may depend on that number alone.
    """

    drops: ClassVar[bool] = True
    """Whether it leaves records out, so that what becomes of one depends on those before it: a dead
    letter from before such a node is not replayed by itself, but closed by the next run."""

    def begin(self, taken: int) -> None:
        """Told once, before the first batch.

        Args:
            taken: How many records it took in an attempt that was cut off; what it made of them is
                settled, and they do not come again.
        """

    @abstractmethod
    def take(self, batch: pa.RecordBatch) -> Iterable[pa.RecordBatch]:
        """Take a batch; what is sent on now."""

    def flush(self) -> Iterable[pa.RecordBatch]:
        """All that it holds back: before every barrier, at the end, and when it is due."""
        return ()

    def due_seconds(self) -> float | None:
        """How long from now what it holds back may wait; `None` for as long as it takes.

        Asked after every batch that it took.
        """
        return None

    def has_enough(self) -> bool:
        """Whether it lets no further record through.

        What comes before it, and is wanted by nobody else, is then neither read nor worked on.
        """
        return False
