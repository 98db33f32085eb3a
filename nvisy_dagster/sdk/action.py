"""The base classes of actions, and of routers."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TypeVar

import pyarrow as pa
from anyio import to_thread

from nvisy_dagster.sdk.component import Consumer
from nvisy_dagster.sdk.edge_type import EdgeType
from nvisy_dagster.sdk.params import Params

P = TypeVar("P", bound=Params)


class Action(Consumer[P]):
    """Turns a batch into a batch. Calls may overlap up to its concurrency; order is kept."""

    @abstractmethod
    def output(self, incoming: EdgeType) -> EdgeType:
        """What it makes of what it takes; pure.

        Raises:
            ConfigError: The params do not fit the incoming schema.
        """

    @abstractmethod
    async def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Process one unit.

        Raises:
            DataError: Some rows cannot be processed.
            TransientError: The same call may succeed later.
        """


class KernelAction(Action[P]):
    """An action that computes: its `transform` runs in a worker thread, off the event loop."""

    @abstractmethod
    def transform(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Process one unit, in a thread; may run in several threads at once."""

    async def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Run `transform` in a worker thread."""
        return await to_thread.run_sync(self.transform, batch)


class Router(Consumer[P]):
    """Sends each record down one of the named routes of a `branch` node."""

    @abstractmethod
    def routes(self) -> Sequence[str]:
        """Names of the routes, the default route last if there is one; pure."""

    @abstractmethod
    def check(self, incoming: EdgeType) -> None:
        """Refuse predicates that do not fit the incoming schema; pure.

        Raises:
            ConfigError: A predicate does not fit.
        """

    @abstractmethod
    async def route(self, batch: pa.RecordBatch) -> Mapping[str, pa.RecordBatch]:
        """The records of the batch by route; a record in no route is dropped."""
