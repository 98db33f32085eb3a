"""What all calls to one system go through: its breaker, its retry budget, its rate limits."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nvisy_dagster.compiler import Node, Plan
from nvisy_dagster.engine.breaker import Breaker
from nvisy_dagster.engine.rate_limit import Limiter, RateLimiter
from nvisy_dagster.engine.replay_selection import FOLDER as REPLAYS
from nvisy_dagster.engine.retry_budget import RetryBudget
from nvisy_dagster.engine.shared_limit import SharedRateLimiter
from nvisy_dagster.graph.policies import RateLimit

LIMITS = "limits"


@dataclass(frozen=True)
class Gate:
    """What a node's calls go through."""

    breaker: Breaker = field(default_factory=Breaker)
    budget: RetryBudget = field(default_factory=RetryBudget)
    limiters: Sequence[Limiter] = ()
    """The node's own rate limit and its connection's."""


class Gates:
    """The gates of a run: the nodes of one connection share theirs, any other has its own.

    A stage that runs in a process of its own has gates of its own. The rate limits of connections
    hold over all processes of the machine that keep them in one folder; nothing else is shared:
    each process finds out for itself that a system is down, and probes it once at a time.

    Args:
        plan: The plan.
        limits: Where the rate limits of connections are kept, see `limits_folder`; by default they
            hold for these gates alone.
    """

    def __init__(self, plan: Plan, limits: Path | None = None) -> None:
        self._plan = plan
        self._limits = limits
        self._shared: dict[tuple[str, str], Gate] = {}
        self._gates: dict[str, Gate] = {}

    def of(self, node: Node) -> Gate:
        """The gate of a node."""
        if node.id not in self._gates:
            self._gates[node.id] = self._made(node)
        return self._gates[node.id]

    def _made(self, node: Node) -> Gate:
        key = ("node", node.id) if node.connection is None else ("connection", node.connection)
        if key not in self._shared:
            said = self._plan.connections.get(node.connection or "")
            limit = said.rate_limit if said else None
            self._shared[key] = Gate(limiters=[self._limiter(key[1], limit)] if limit else [])
        shared = self._shared[key]
        own = node.policies.rate_limit
        limiters = [*([RateLimiter(own)] if own else []), *shared.limiters]
        return Gate(shared.breaker, shared.budget, limiters)

    def _limiter(self, connection: str, limit: RateLimit) -> Limiter:
        if self._limits is None:
            return RateLimiter(limit)
        return SharedRateLimiter(limit, self._limits, connection)


def limits_folder(storage: Path) -> Path:
    """Where all runs in this storage keep the rate limits of connections.

    Args:
        storage: The storage of the run; that of a replay lies inside the one of its graph.
    """
    parents = storage.parents
    if len(parents) > 2 and parents[1].name == REPLAYS:  # noqa: PLR2004 - ROOT/replays/GRAPH/ID
        storage = parents[2]
    return storage / LIMITS
