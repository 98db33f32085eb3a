"""Contestants run in turn, the table of what they took, and the targets."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from measure import Measured, measure, wait_until_idle

HERE = Path(__file__).parent
MB = 1e6


@dataclass
class Report:
    """The table, and the targets that were missed."""

    options: argparse.Namespace
    missed: list[str] = field(default_factory=list)

    def rows(
        self, title: str, unit: str, count: int, contestants: dict[str, list[Measured]]
    ) -> None:
        """A line per contestant: its best run, and the median of all."""
        print(f"\n{title} ({count:,} {unit})")
        print(
            f"  {'':26}{'best s':>9}{'median s':>10}{unit + '/s':>12}{'CPU s':>8}"
            f"{'wall s':>8}{'peak MB':>9}  others' cores"
        )
        for name, runs in contestants.items():
            best = min(runs, key=lambda run: run.seconds)
            print(
                f"  {name:26}{best.seconds:9.2f}{median(runs):10.2f}{count / best.seconds:12,.0f}"
                f"{least_cpu(runs):8.2f}{min(run.wall_seconds for run in runs):8.2f}"
                f"{peak(runs) / MB:9.0f}  {best.others:.1f}"
            )

    def target(self, what: str, value: float, limit: float, *, least: bool = False) -> None:
        """Compare a figure with its target."""
        met = value >= limit if least else value <= limit
        word = "at least" if least else "at most"
        print(f"  {'ok    ' if met else 'MISSED'} {what}: {value:.3g} ({word} {limit:g})")
        if not met:
            self.missed.append(what)


def median(runs: Sequence[Measured]) -> float:
    return sorted(run.seconds for run in runs)[len(runs) // 2]


def least_cpu(runs: Sequence[Measured]) -> float:
    return min(run.cpu_seconds for run in runs)


def peak(runs: Sequence[Measured]) -> int:
    return max(run.peak_bytes for run in runs)


def ratio(yardstick: list[Measured], ours: list[Measured]) -> float:
    """Best against best: what others on the machine take away is never in a best run's favour."""
    return min(run.seconds for run in yardstick) / min(run.seconds for run in ours)


def alternate(
    report: Report, contestants: dict[str, Callable[[], Measured]]
) -> dict[str, list[Measured]]:
    """Run the contestants in turn, so that a busy spell of the machine hits all of them."""
    runs: dict[str, list[Measured]] = {name: [] for name in contestants}
    for _ in range(report.options.repeat):
        for name, run in contestants.items():
            wait_until_idle(report.options.wait)
            runs[name].append(found := run())
            progress = f"{name}: {found.seconds:.2f} s, {found.cpu_seconds:.2f} CPU s"
            print(f"{progress}, others {found.others:.1f} cores", file=sys.stderr)
    return runs


def script(name: str, *arguments: object) -> Measured:
    """Run one of the scripts beside this one."""
    return measure([sys.executable, str(HERE / name), *map(str, arguments)])
