"""Measuring a program from outside: wall, CPU and memory of it and all its children."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

SAMPLE_SECONDS = 0.1
LONGEST_SECONDS = 900
IDLE_CORES = 0.2
RESULT = "RESULT "
"""How a contestant's last line begins; JSON follows."""


@dataclass(frozen=True)
class Measured:
    """What one run of a program took."""

    wall_seconds: float
    cpu_seconds: float
    """Of the program and all children that it waited for."""
    peak_bytes: int
    """Largest sum of the proportional set sizes (PSS) of its processes, sampled."""
    others: float
    """Cores that other programs kept busy meanwhile: a disturbed run says little."""
    result: dict[str, Any]
    """What the program said of itself; its `seconds` leave its imports out."""

    @property
    def seconds(self) -> float:
        """Seconds of the work itself."""
        return float(self.result["seconds"])


def measure(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None, prefix: str = RESULT
) -> Measured:
    """Run a program that tells its result, as JSON, after `prefix`.

    Raises:
        RuntimeError: It failed, or took too long; the message holds what it wrote.
    """
    busy = _machine_seconds()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=output, stderr=errors, env={**os.environ, **(environment or {})}
        )
        peak, cpu = _watch(process, started)
        wall = time.perf_counter() - started
        output.seek(0)
        text = output.read()
        errors.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{text}\n{errors.read()}")
    others = max((_machine_seconds() - busy - cpu) / wall, 0.0)
    return Measured(wall, cpu, peak, others, json.loads(text[text.index(prefix) + len(prefix) :]))


def wait_until_idle(longest_seconds: float) -> None:
    """Wait until other programs leave the cores alone, but no longer than this."""
    give_up = time.monotonic() + longest_seconds
    while time.monotonic() < give_up:
        before = _machine_seconds()
        time.sleep(1)
        if _machine_seconds() - before < IDLE_CORES:
            return


def tell(**facts: Any) -> None:  # noqa: ANN401 - any JSON
    """What a contestant calls at its end."""
    sys.stdout.write(RESULT + json.dumps(facts) + "\n")


def _watch(process: "subprocess.Popen[bytes]", started: float) -> tuple[int, float]:
    peak = 0
    while True:
        # wait4 tells the CPU time of this child alone, with the children that it waited for.
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return peak, usage.ru_utime + usage.ru_stime
        if time.perf_counter() - started > LONGEST_SECONDS:
            process.kill()
        peak = max(peak, _tree_bytes(process.pid))
        time.sleep(SAMPLE_SECONDS)


def _machine_seconds() -> float:
    """CPU seconds of everything on this machine since it started."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0)


def _tree_bytes(pid: int) -> int:
    total = 0
    try:
        root = psutil.Process(pid)
        for one in [root, *root.children(recursive=True)]:
            total += one.memory_full_info().pss
    except (psutil.Error, OSError):
        pass  # it ended between two looks
    return total
