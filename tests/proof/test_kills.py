"""SIGKILL at every named place and at random moments, then the oracle: none lost, none doubled."""

import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import SEED, Case

import nvisy_connectors
import nvisy_dagster

ELSEWHERE = (
    "replay.",
    "bookmark.",
    "object.",
    "suspect",
    "sink.before_remove",
    "sink.after_remove",
    "superseded.",
    "index.",
    "marks.",
)
"""Failpoints that no run of these graphs passes; each is proven where what it guards is tested, see
`test_every_other_failpoint_is_passed_somewhere`."""
ONCE = ("lease.", "run.")
"""Failpoints that are passed once in a stage: a run of two stages passes them twice."""
BOTH = ("part.",)
"""Failpoints that only the graph with a materialized output passes."""
IN_ONE = ("sink.before_commit", "sink.after_commit", "checkpoint.before_write")

soak = pytest.mark.soak


def all_failpoints() -> list[str]:
    """Every failpoint that the source names, so that none is forgotten."""
    found: set[str] = set()
    for package in (nvisy_dagster, nvisy_connectors):
        for file in Path(package.__path__[0]).rglob("*.py"):
            found |= set(re.findall(r"failpoint\(\s*\"([^\"]+)\"", file.read_text()))
    return sorted(found)


def failpoints() -> list[str]:
    return [name for name in all_failpoints() if not name.startswith(ELSEWHERE)]


def passages() -> list[object]:
    """Every failpoint with each graph that passes it; in the suite the quickest one, once each."""
    found: list[object] = []
    for place in failpoints():
        quickest = "both" if place.startswith(BOTH) else "files"
        for kind in ("files", "both", "table"):
            if place.startswith(BOTH) and kind != "both":
                continue
            for passage in range(1, 2 if place.startswith(ONCE) else 4):
                # Its own way to commit: one transaction.
                apart = kind == "table" and place in IN_ONE
                middle = passage == 2 or place.startswith(ONCE)
                marks = [] if middle and (kind == quickest or apart) else [soak]
                found.append(pytest.param(kind, f"{place}:{passage}", marks=marks))
    return found


@pytest.mark.parametrize(("kind", "place"), passages())
def test_at_a_failpoint(make_case: Callable[..., Case], kind: str, place: str) -> None:
    case = make_case(kind, refused=0.02)
    victim = case.start(NVISY_FAILPOINT=place)
    assert victim.wait() == -signal.SIGKILL, f"it was not passed so often; {victim.errors}"
    case.check()
    case.finish()


def storm(case: Case, deaths: int, longest: float) -> None:
    """Kill a run at random moments, so many times in a row; judge after every death."""
    moments = random.Random(case.seed)
    for _ in range(deaths):
        victim = case.start()
        time.sleep(moments.uniform(0.0, longest))
        victim.kill()
        if case.completed:
            break
        case.check()
    if not case.completed:
        case.finish()


SECONDS = {"files": 0.8, "table": 1.5, "both": 4.0}
"""About how long the graphs take for 20,000 records."""


def seeds(suite: int, long: int) -> list[object]:
    """Kinds of graph and seeds, some for the suite and many for the soak."""
    kinds = list(SECONDS)
    return [
        pytest.param(kinds[n % 3], SEED + n, marks=[] if n < suite else [soak]) for n in range(long)
    ]


@pytest.mark.parametrize(("kind", "seed"), seeds(1, 200))
def test_at_a_random_moment(make_case: Callable[..., Case], kind: str, seed: int) -> None:
    size = {"rows": 20_000, "interval_rows": 1000, "batch_rows": 200}
    if kind == "both" and seed < SEED + 6:
        size = {}
    storm(make_case(kind, seed=seed, **size), 1, SECONDS[kind])


@pytest.mark.parametrize(("kind", "seed"), seeds(1, 20))
def test_twice_in_a_row(make_case: Callable[..., Case], kind: str, seed: int) -> None:
    storm(make_case(kind, seed=1000 + seed), 2, 1.0)


def test_every_other_failpoint_is_passed_somewhere() -> None:
    """A failpoint that is left out here is named by a test of what it guards."""
    tests = Path(__file__).parents[1]
    texts = [
        file.read_text(encoding="utf-8")
        for folder in ("engine", "incremental", "translator")
        for file in (tests / folder).glob("*.py")
    ]
    left_out = {name for name in all_failpoints() if name.startswith(ELSEWHERE)}
    assert left_out
    assert {name for name in left_out if not any(name in text for text in texts)} == set()
