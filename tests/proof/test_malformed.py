"""Malformed records: the dead letters are exactly those, and cost little."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import SEED, Case


@pytest.mark.parametrize(
    ("kind", "rows", "share"),
    [
        ("files", 20_000, 1e-4),
        ("files", 20_000, 1e-3),
        ("files", 20_000, 1e-2),
        ("table", 20_000, 1e-2),
    ],
)
def test_the_dead_letters_are_exactly_the_malformed_records(
    make_case: Callable[..., Case], kind: str, rows: int, share: float
) -> None:
    case = make_case(kind, rows=rows, refused=share, interval_rows=2000, batch_rows=500)
    verdict = case.finish()
    assert verdict.dead > 0, f"seed {SEED} has none"
    assert abs(verdict.dead / rows - share) < share


@pytest.mark.soak
def test_throughput_with_a_hundredth_malformed(tmp_path: Path) -> None:
    cases = {
        share: Case(
            tmp_path / str(share),
            kind="files",
            rows=1_000_000,
            refused=share,
            interval_rows=50_000,
            batch_rows=10_000,
        )
        for share in (0.0, 0.01)
    }
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(5):
        for share, case in cases.items():
            started = time.perf_counter()
            victim = case.start()
            assert victim.wait() == 0, victim.errors
            best[share] = min(best[share], time.perf_counter() - started)
    for case in cases.values():
        case.check(complete=True)
    assert best[0.0] / best[0.01] >= 0.8, best
