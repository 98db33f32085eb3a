"""The base classes of sources, actions, routers and sinks.

Phases of a component: its params are validated, `output` and `check` are called while the graph
compiles (pure: no I/O), `open` acquires clients, then `read`, `apply`, `route` or `write` do the
work, and leaving the context closes every client.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar, cast, get_args, get_origin

import pyarrow as pa
from anyio import fail_after, to_thread

from nvisy_dagster.sdk.capabilities import Capabilities
from nvisy_dagster.sdk.changes import Bookmark, Change
from nvisy_dagster.sdk.edge_type import PRIMITIVES, EdgeType
from nvisy_dagster.sdk.errors import ConfigError
from nvisy_dagster.sdk.params import Connection, Cursor, Params
from nvisy_dagster.sdk.rejected import Decoded, RejectedRecord

P = TypeVar("P", bound=Params)
C = TypeVar("C", bound=Cursor)

ANY_PRIMITIVE = frozenset(PRIMITIVES)

CLOSE_SECONDS = 10.0
"""Longest time that a component may take to close its clients."""


@dataclass(frozen=True)
class Batch(Generic[C]):
    """An Arrow record batch and the position to resume from once it is committed.

    All records made from one source record travel in the epoch of the batch that held it.
    """

    data: pa.RecordBatch
    cursor: C
    rejected: Sequence[RejectedRecord] = ()
    """What was found between these records and could not become one. `data` may be empty then."""


@dataclass(frozen=True)
class Progress:
    """Where a sink stands when it starts."""

    id: str
    """Names the chain of attempts at one run; stays the same across crashes and resumes."""
    epoch: int
    """Last epoch that a checkpoint covers; 0 when nothing was committed yet."""
    token: int = 0
    """Fencing token of the lease under which the stage runs: a higher one is a newer holder's. A
    sink that can refuses to commit under a lower token than the newest it saw."""
    partial: bool = False
    """Whether only single records come, as when dead letters are replayed: what the sink holds
    besides them stays, of their roots and of earlier runs."""
    graph: str = ""
    """Name of the graph."""


class Component(ABC, Generic[P]):
    """What sources, actions, routers and sinks have in common.

    The type argument declares the params class; the first paragraph of the docstring is the
    component's summary on its reference page.

    Args:
        params: Validated params.
        connection: The resolved connection, for components that have a `connection_type`.
        node_id: Id of the node, an ingredient of the ids of the records it makes.
        folder: Folder that relative paths are resolved against: that of the graph's file.
    """

    name: ClassVar[str]
    params_type: ClassVar[type[Params]]
    connection_type: ClassVar[type[Connection] | None] = None
    connection_required: ClassVar[bool] = True
    capabilities: ClassVar[Capabilities] = Capabilities()
    requires: ClassVar[Sequence[str]] = ()
    """Modules that must be importable, checked when the graph compiles."""
    extra: ClassVar[str | None] = None
    """The extra of `nvisy-dagster` (or another distribution) that installs `requires`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401 - the language's own signature
        super().__init_subclass__(**kwargs)
        # Its own bases only: what a parent declared must not undo what this class sets.
        for base in cls.__dict__.get("__orig_bases__", ()):
            origin = get_origin(base)
            if not (isinstance(origin, type) and issubclass(origin, Component)):
                continue
            for argument in get_args(base):
                if isinstance(argument, type) and issubclass(argument, Params):
                    cls.params_type = argument
                elif isinstance(argument, type) and issubclass(argument, Cursor):
                    cast("type[Source[Any, Any]]", cls).cursor_type = argument

    def __init__(
        self,
        params: P,
        connection: Connection | None = None,
        *,
        node_id: str = "",
        folder: Path | None = None,
    ) -> None:
        self.params = params
        self.connection = connection
        self.node_id = node_id
        self.folder = folder
        self.stack = AsyncExitStack()

    @classmethod
    def prepare(cls, params: Sequence[Any]) -> None:
        """Work out in bulk what the checks of many nodes need.

        Called when a graph compiles, before the checks, with the params of all its nodes of this
        component. Pure; mistakes are left to the checks.
        """

    def resolve(self, path: str | PurePath) -> Path:
        """An absolute path: relative ones start at the graph's folder, else the working one."""
        return Path(os.path.abspath((self.folder or Path.cwd()) / path))  # noqa: PTH100 - pure, keeps symlinks

    async def open(self) -> None:
        """Acquire clients and register what must be closed on `self.stack`.

        Raises:
            ConfigError: The system refuses these params or credentials.
            TransientError: The system cannot be reached now.
        """

    async def __aenter__(self) -> Self:
        await self.stack.__aenter__()
        try:
            await self.open()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        # Shielded: in a cancelled task every await would raise, and clients would stay open.
        with fail_after(CLOSE_SECONDS, shield=True):
            await self.stack.aclose()


class _Located(Component[P]):
    def location(self) -> str | None:
        """URI of the data that is read or written, without credentials.

        The key that lets two graphs meet on the lineage page; `None` when it has no address.
        """
        return self.connection.location() if self.connection else None


class Source(_Located[P], Generic[P, C]):
    """Reads batches from an external system."""

    cursor_type: ClassVar[type[Cursor]]
    bookmarks: ClassVar[bool] = False
    """Whether it can read only what changed since the last successful run: `read_changes`."""
    skips_bad_records: ClassVar[bool] = False
    """Whether it can tell which records are bad and read on behind them. A graph may set
    `on_error` only on a source that can."""
    decodes: ClassVar[bool] = False
    """Whether it can try again what `read` rejected, with `decode`: then its dead letters can be
    replayed."""
    bad_records: Literal["raise", "reject"] = "raise"
    """What `read` does with one: raise a `DataError`, or put it into `Batch.rejected`. Set before
    `read` is called, and only on a source that can tell."""
    most_rows: int | None = None
    """Most records that a batch should hold from now on; `None` for as many as it likes. It may
    change while `read` goes on. Checkpoints are taken between batches: a source that makes larger
    ones has more to do again after a crash."""

    def rows_at_most(self, wanted: int) -> int:
        """How many records the next batch may hold, of those that it would."""
        return wanted if self.most_rows is None else max(1, min(wanted, self.most_rows))

    @abstractmethod
    def output(self) -> EdgeType:
        """What it will read; pure.

        Raises:
            ConfigError: The params contradict each other.
        """

    @abstractmethod
    def read(self, cursor: C | None) -> AsyncGenerator[Batch[C], None]:
        """Yield batches that follow `cursor`, from the beginning when it is `None`.

        Every batch carries the envelope columns. One schema per read.

        Raises:
            DataError: A record cannot be read; the message names its place.
            TransientError: Reading again from the last cursor may succeed.
        """

    def check_incremental(self) -> None:
        """Refuse params with which it cannot tell what changed; pure, for sources with `bookmarks`.

        Raises:
            ConfigError: A param is missing, or does not go with an incremental read.
        """

    def read_changes(self, cursor: C | None, bookmark: Bookmark) -> AsyncGenerator[Change[C], None]:
        """Yield what is new, changed and gone since the bookmark; for sources with `bookmarks`.

        A step's `bookmark` rows, of all steps of a run, are the next run's bookmark. The engine
        makes them current when the whole run has succeeded, and not before.

        Args:
            cursor: Where to go on, if an attempt at this run was cut off.
            bookmark: What earlier runs left.

        Raises:
            DataError: A record cannot be read; the message names its place.
            TransientError: Reading again from the last cursor may succeed.
        """
        raise NotImplementedError

    def can_decode(self, rejected: RejectedRecord) -> bool:
        """Whether `decode` can try this one again; pure, for sources with `decodes`."""
        return rejected.data is not None

    def decode(self, rejected: Sequence[RejectedRecord]) -> AsyncGenerator[Decoded, None]:
        """Try again what `read` rejected, with the present params; for sources with `decodes`.

        Every one of them comes back, as a record or as rejected. Asked again, it makes the same of
        them, cut in the same way. Called after `open`.

        Args:
            rejected: As `read` gave them, without their reasons, and only such as `can_decode`.

        Raises:
            TransientError: The same call may succeed later.
        """
        raise NotImplementedError


class _Consumer(Component[P]):
    accepts: ClassVar[frozenset[str]] = ANY_PRIMITIVE
    """Primitives it can take."""

    def rows_per_call(self) -> int | None:
        """Records that one call takes when there are enough of them; pure.

        `None` for any number. By default what its capabilities say.
        """
        return self.capabilities.max_rows

    def split(self, batch: pa.RecordBatch) -> Iterable[pa.RecordBatch]:
        """Cut a batch into the units of one call each; pure.

        One unit is retried as a whole, so a unit should be what one request can carry.
        """
        limit = self.capabilities.max_rows
        if limit is None or batch.num_rows <= limit:
            yield batch
            return
        for start in range(0, batch.num_rows, limit):
            yield batch.slice(start, limit)

    def cost(self, batch: pa.RecordBatch) -> int:  # noqa: ARG002 - none, whatever the batch
        """Tokens that a call with this unit takes, for `rate_limit.tokens`; pure, cheap.

        None by default. An estimate will do, rather too high than too low.
        """
        return 0


class Action(_Consumer[P]):
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


class Router(_Consumer[P]):
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


class Sink(_Located[P], _Consumer[P]):
    """Writes batches to an external system."""

    keeps_checkpoint: ClassVar[bool] = False
    """Whether it makes the stage's checkpoint durable in one transaction with the records. Then,
    where nothing else in the stage commits, `commit_with_checkpoint` is called instead of `commit`,
    and the stage goes on from `stored_checkpoint`."""

    def check(self, incoming: EdgeType) -> None:
        """Refuse a schema that it cannot write; pure.

        Raises:
            ConfigError: The incoming schema does not fit.
        """

    async def start(self, progress: Progress) -> None:
        """Called once, after `open` and before the first write.

        A sink with `write_mode="epoch"` discards here what it holds of `progress.id` after
        `progress.epoch`.
        """

    @abstractmethod
    async def write(self, batch: pa.RecordBatch) -> int | None:
        """Take one unit; it may be buffered until `commit`.

        Returns:
            How many of its records it took or found there already, if the system tells; `None` for
            all. The run fails when these numbers do not add up.

        Raises:
            DataError: Some rows were refused; the others are written.
            TransientError: The same call may succeed later.
        """

    @abstractmethod
    async def commit(self, epoch: int) -> None:
        """Return only when everything written so far is durable."""

    async def stored_checkpoint(self, key: str) -> bytes | None:  # noqa: ARG002 - for overriding
        """The document of the last transaction under this key; for sinks with `keeps_checkpoint`.

        Called once, after `start` and before the first write. No transaction of an earlier holder
        of the key commits after it was read.
        """
        return None

    async def commit_with_checkpoint(self, epoch: int, key: str, document: bytes) -> None:
        """As `commit`, with the document in the same transaction; with `keeps_checkpoint`.

        Args:
            epoch: As of `commit`.
            key: Names the stage's progress; the same across attempts.
            document: What `stored_checkpoint` gives from then on.

        Raises:
            EpochLostError: The transaction is undone, or nobody knows whether it is.
        """
        raise NotImplementedError

    def keeps_earlier(self) -> bool:
        """Whether what earlier runs wrote stays; pure."""
        return True

    async def remove(self, root_ids: pa.Array) -> None:
        """Remove what was made of these root records, but not what this epoch wrote.

        For sinks with the capability `removes`. Called when every `write` of an epoch has returned,
        before its `commit`, which makes it durable. It may be repeated, and name ids that were
        never written.

        Args:
            root_ids: `fixed_size_binary(16)`, without nulls; compared with `_root_id`.

        Raises:
            TransientError: The same call may succeed later.
        """
        raise NotImplementedError

    async def finish(self) -> None:
        """Called after the last commit of a run that succeeded.

        Called again if it fails transiently, or if the run dies before its end is on record.
        """


def connection_of(component: Component[Any], kind: type[Connection]) -> Any:  # noqa: ANN401
    """The component's connection, which must be of this kind.

    Raises:
        ConfigError: The component has no connection, or one of another kind.
    """
    if not isinstance(component.connection, kind):
        raise ConfigError(
            f"node {component.node_id!r} needs a connection of type {kind.type!r}",
            remedy=f'name one with "connection", defined in connections.json as type {kind.type!r}',
        )
    return component.connection
