"""What sources, actions, routers and sinks have in common.

Phases of a component: its params are validated, `output` and `check` are called while the graph
compiles (pure: no I/O), `open` acquires clients, then `read`, `apply`, `route` or `write` do the
work, and leaving the context closes every client.
"""

import os
from abc import ABC
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any, ClassVar, Generic, Self, TypeVar, get_args, get_origin

import pyarrow as pa
from anyio import fail_after

from nvisy_dagster.sdk.capabilities import Capabilities
from nvisy_dagster.sdk.edge_type import PRIMITIVES
from nvisy_dagster.sdk.errors import ConfigError
from nvisy_dagster.sdk.params import Connection, Params

P = TypeVar("P", bound=Params)

ANY_PRIMITIVE = frozenset(PRIMITIVES)

CLOSE_SECONDS = 10.0
"""Longest time that a component may take to close its clients."""


def type_arguments(cls: type) -> Iterator[type]:
    """The classes that a component's own bases are given, such as its params.

    Its own bases only: what a parent declared must not undo what the class sets.
    """
    for base in cls.__dict__.get("__orig_bases__", ()):
        origin = get_origin(base)
        if isinstance(origin, type) and issubclass(origin, Component):
            yield from (argument for argument in get_args(base) if isinstance(argument, type))


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
        for argument in type_arguments(cls):
            if issubclass(argument, Params):
                cls.params_type = argument

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


class Located(Component[P]):
    """What has an address."""

    def location(self) -> str | None:
        """URI of the data that is read or written, without credentials.

        The key that lets two graphs meet on the lineage page; `None` when it has no address.
        """
        return self.connection.location() if self.connection else None


class Consumer(Component[P]):
    """What takes batches."""

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
