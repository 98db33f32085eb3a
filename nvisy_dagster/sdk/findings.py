"""What a call of an action finds in its records, by name: told here, counted by the engine.

They are counted like records: a call that is made again is counted once, and a checkpoint has those
of the epochs that it covers.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

_COLLECTED: ContextVar[dict[str, int] | None] = ContextVar("findings", default=None)


def tell_findings(counts: Mapping[str, int]) -> None:
    """Tell how many records of this call there are of each kind, such as those that break a rule.

    They count if the call returns, or raises a `DataError` with a `result`; outside of a run they
    count nowhere. A thread that `transform` runs in may tell.

    Args:
        counts: By name, as people are to read it; what is 0 is shown as 0.
    """
    collected = _COLLECTED.get()
    if collected is not None:
        add_findings(collected, counts)


def add_findings(total: dict[str, int], more: Mapping[str, int]) -> None:
    """Add counts to others."""
    for name, count in more.items():
        total[name] = total.get(name, 0) + count


@contextmanager
def collected_findings() -> Generator[dict[str, int]]:
    """What is told within the block, by this task and the threads that it waits for."""
    found: dict[str, int] = {}
    token = _COLLECTED.set(found)
    try:
        yield found
    finally:
        _COLLECTED.reset(token)
