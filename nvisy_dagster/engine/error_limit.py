"""How many records of a node may fail before its run is given up: the `error_limit` policy."""

import shlex
from collections.abc import Awaitable, Callable

import anyio

from nvisy_dagster.compiler import Node
from nvisy_dagster.engine.failure import NodeError
from nvisy_dagster.engine.metrics import NodeMetrics

JUDGED_FROM = 100
"""Records of a node before a share of them says anything."""
_DROPPED = 'with "on_error" "dead_letter" instead of "drop" they are kept to be looked at'


class ErrorLimits:
    """Watches how many records the nodes of a stage fail, over its whole attempt chain.

    Args:
        graph: Name of the graph.
    """

    def __init__(self, graph: str) -> None:
        self._graph = graph
        self.broken: NodeError | None = None
        """Why the run is to be given up, as soon as what is under way is committed."""
        self._event = anyio.Event()

    def check(self, node: Node, metrics: NodeMetrics) -> None:
        """See whether too many records of a node have failed."""
        limit = node.policies.error_limit
        failed = metrics.counts.failed
        if limit is None or self.broken is not None or node.policies.on_error == "fail":
            return
        taken = metrics.counts.records_in
        if limit.count is not None and failed > limit.count:
            allowed = f"{limit.count:,}"
        elif limit.share is not None and taken >= JUDGED_FROM and failed > limit.share * taken:
            allowed = f"{limit.share:.3g} of them"
        else:
            return
        self.broken = NodeError(
            node.id,
            f"{failed:,} of {taken:,} records failed, and error_limit allows {allowed}",
            retryable=False,
            remedy=self._look(node)
            + "; correct the cause and begin anew, or raise error_limit and go on",
            tag="error_limit",
        )
        self._event.set()

    def _look(self, node: Node) -> str:
        if node.policies.on_error == "drop":
            return _DROPPED
        command = shlex.join(["nvisy", "dead-letters", "list", self._graph, "--node", node.id])
        return f"look at them with `{command}`"

    def insist(self) -> None:
        """Give the run up if too many records have failed.

        Raises:
            NodeError: They have.
        """
        if self.broken is not None:
            raise self.broken

    async def watch(self, drain: Callable[[], Awaitable[object]]) -> None:
        """Wait until too many have failed, commit what is under way, give the run up.

        Args:
            drain: Commits what is under way, so that the letters so far are kept.

        Raises:
            NodeError: Too many have failed.
        """
        await self._event.wait()
        await drain()
        self.insist()
