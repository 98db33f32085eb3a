"""The base classes of actions, and of routers."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

import pyarrow as pa
from anyio import to_thread

from nvisy_dagster.sdk.component import Consumer
from nvisy_dagster.sdk.edge_type import EdgeType
from nvisy_dagster.sdk.params import Params
from nvisy_dagster.sdk.push_down import Wanted

P = TypeVar("P", bound=Params)


class BaseAction(Consumer[P]):
    """What actions have in common: they say what they make of what they take."""

    made: EdgeType | None = None
    """What it makes, as the compiler found out; `None` outside of a plan."""

    @abstractmethod
    def output(self, incoming: EdgeType) -> EdgeType:
        """What it makes of what it takes; pure.

        Raises:
            ConfigError: The params do not fit the incoming schema.
        """


class Action(BaseAction[P]):
    """Turns a batch into a batch. Calls may overlap up to its concurrency; order is kept."""

    def wanted(self) -> Wanted | None:
        """What it wants of the records that come in, so that a source need not read the rest; pure.

        `None` if that cannot be said: then everything is read.
        """
        return None

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


class CombiningAction(BaseAction[P]):
    """An action whose inputs may differ: what it makes follows from all of them.

    Any other node that several edges lead to must get the same columns from each.
    """

    inputs: ClassVar[Sequence[str]] = ()
    """Names of its inputs. Each takes one edge, which says the name as its `input`. Without names
    there may be any number of edges, of one primitive."""

    @abstractmethod
    def output_of(self, inputs: Mapping[str, EdgeType]) -> EdgeType:
        """What it makes of what it takes; pure.

        Args:
            inputs: What comes in by the name of the input or, without names, by the id of the node
                that it comes from.

        Raises:
            ConfigError: The params do not fit the schemas, or those do not go together.
        """

    def output(self, incoming: EdgeType) -> EdgeType:
        """What it makes if all inputs are alike."""
        return self.output_of(dict.fromkeys(self.inputs or ("input",), incoming))


class BaseBlockingAction(BaseAction[P]):
    """What actions have in common that need all records before they can make any.

    Such an action begins a stage: what it takes was kept by the stages before it. What it makes is
    kept for those behind it, or taken by a sink as one epoch. A run that was cut off in the middle
    of it does it again.
    """

    drops: ClassVar[bool] = True
    """Whether what becomes of a record depends on the others, as where some are left out: a dead
    letter from before such a node is not replayed by itself, but closed by the next run."""

    makes: ClassVar[bool] = False
    """Whether it makes records of its own, instead of choosing and arranging those that came."""

    def traced(self) -> int | None:
        """How many of the records that it took left a trace in what it made; asked at the end.

        The others count as dropped. `None` for as many as it made: the same ones.
        """
        return None

    def interrupt(self) -> None:
        """Have `gather` end soon, in whatever way: the run is stopped.

        Called in another thread, and again until it has ended.
        """


class BlockingAction(BaseBlockingAction[P]):
    """An action that needs all records before it can make any, such as a sort."""

    @abstractmethod
    def gather(self, records: Iterable[pa.RecordBatch], scratch: Path) -> Iterator[pa.RecordBatch]:
        """Choose and arrange records, or make others of them; runs in a worker thread.

        Unless the action `makes` records, what comes out are records that came in, each at most
        once, with their ids. Always it is the same in the same order whenever the same came in.

        Args:
            records: All of them, in the order in which their sources told them; each iteration
                begins with the first.
            scratch: An empty folder on local disk, for what does not fit in memory. It is removed
                afterwards.

        Raises:
            DataError: The records cannot be gathered.
            OSError: The disk is full or refuses.
        """


class JoiningAction(CombiningAction[P], BaseBlockingAction[P]):
    """An action that needs all records of several inputs, which have names."""

    @abstractmethod
    def gather(
        self, inputs: Mapping[str, Iterable[pa.RecordBatch]], scratch: Path
    ) -> Iterator[pa.RecordBatch]:
        """Make records of those of all inputs; runs in a worker thread.

        The same come out in the same order whenever the same came in.

        Args:
            inputs: The records of each, in order; each iteration begins with the first.
            scratch: An empty folder on local disk, for what does not fit in memory. It is removed
                afterwards.

        Raises:
            DataError: The records cannot be joined.
            OSError: The disk is full or refuses.
        """


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
