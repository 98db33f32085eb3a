"""The components of a running stage: opened with retries, and every one closed."""

from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any

from nvisy_dagster.compiler import Node, Plan
from nvisy_dagster.engine.calls import Caller
from nvisy_dagster.engine.failure import NodeError, first_node_error, node_error
from nvisy_dagster.engine.lease import Lease
from nvisy_dagster.sdk import Component, Connection, Progress, Sink, TransientError


class Components:
    """What the nodes of a stage work with.

    Args:
        plan: The plan.
        connections: Resolved connections by name.
        progress: What a sink is told when it starts.
        lease: Under which a sink starts: it discards what no checkpoint covers.
    """

    def __init__(
        self,
        plan: Plan,
        connections: Mapping[str, Connection],
        progress: Progress,
        lease: Lease,
    ) -> None:
        self._plan = plan
        self._connections = connections
        self._progress = progress
        self._lease = lease
        self._opened: dict[str, Component[Any]] = {}

    def __getitem__(self, node_id: str) -> Component[Any]:
        return self._opened[node_id]

    async def open(self, node: Node, caller: Caller) -> None:
        """Open the component of a node, and start it if it is a sink.

        Raises:
            NodeError: It failed for good, or its retries are spent.
        """
        await _of(node.id, lambda: caller.retried(lambda: self._open(node)))

    async def _open(self, node: Node) -> None:
        connection = self._connections.get(node.connection) if node.connection else None
        # Built anew at every attempt: a component is opened once.
        component = node.build(connection, self._plan.folder)
        await component.__aenter__()
        self._opened[node.id] = component
        if not isinstance(component, Sink):
            return
        try:
            await self._lease.guarded(component.start)(self._progress)
        except TransientError:
            del self._opened[node.id]
            await component.__aexit__(None, None, None)
            raise

    async def finish(self, node: Node, caller: Caller) -> None:
        """Tell a sink that all is committed.

        Raises:
            NodeError: It failed for good, or its retries are spent.
        """
        component = self._opened[node.id]
        if isinstance(component, Sink):
            await _of(node.id, lambda: caller.retried(component.finish))

    async def close(
        self,
        exc_type: type[BaseException] | None,  # noqa: ARG002 - of the protocol
        exc: BaseException | None,
        traceback: TracebackType | None,  # noqa: ARG002 - of the protocol
    ) -> None:
        """Close every component, the last one first.

        Each bounds the time that takes, and shields it from cancellation.

        Raises:
            NodeError: One of them failed to, and nothing else had failed before.
        """
        failures: list[NodeError] = []
        for node_id, component in reversed(self._opened.items()):
            try:
                await component.__aexit__(None, None, None)
            except TimeoutError:
                message = "it did not close its clients in time"
                failures.append(NodeError(node_id, message, retryable=True, tag="timeout"))
            except Exception as error:  # noqa: BLE001 - the others must be closed all the same
                failures.append(node_error(node_id, error))
        self._opened.clear()
        if exc is not None:
            # What ended the stage is what its user must read.
            first = first_node_error(exc) if isinstance(exc, BaseExceptionGroup) else exc
            for failure in failures:
                first.add_note(f"then, when it was closed: {failure}")
        elif failures:
            raise failures[0]


async def _of(node_id: str, call: Callable[[], Awaitable[None]]) -> None:
    try:
        await call()
    except Exception as error:
        raise node_error(node_id, error) from error
