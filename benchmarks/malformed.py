"""What malformed lines cost: JSON lines -> filter -> Parquet, the bad ones to the dead letters.

`malformed.py ROWS RATE OUT`. A rate of 0 is the same graph on clean data.
"""

import random
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import data
import w1
from measure import tell

from nvisy_dagster.compiler import compile_graph
from nvisy_dagster.engine.run import run_plan
from nvisy_dagster.graph.load import build_graph

DAMAGE: tuple[Callable[[bytes], bytes], ...] = (
    lambda line: line[: len(line) // 2],
    lambda line: line[:-1],
    lambda line: line.replace(b'": ', b'" ', 1),
    lambda line: line.replace(b"a", b"\xff", 1),
    lambda _: b"oops",
)
"""Cut short, without the last brace, without a colon, not UTF-8, no JSON at all."""


def malformed(rows: int, rate: float) -> tuple[Path, int]:
    """W1's lines some of which are bad, and how many; the same ones every time."""
    clean = data.w1(rows)
    if not rate:
        return clean, 0
    path = clean.with_name(f"malformed_{rows}_{rate:g}.jsonl")
    chance = random.Random(33)
    bad = 0
    unfinished = path.with_suffix(".tmp")
    with clean.open("rb") as source, unfinished.open("wb") as target:
        for line in source:
            if chance.random() >= rate:
                target.write(line)
                continue
            target.write(chance.choice(DAMAGE)(line.removesuffix(b"\n")) + b"\n")
            bad += 1
    unfinished.replace(path)
    return path, bad


def graph(source: Path, out: Path) -> dict[str, Any]:
    """W1 without its map; bad lines are dead letters."""
    document = w1.graph(source, out)
    document["name"] = "malformed"
    document["nodes"] = [node for node in document["nodes"] if node["id"] != "lower"]
    document["nodes"][0]["on_error"] = "dead_letter"
    document["edges"] = [{"from": "read", "to": "english"}, {"from": "english", "to": "write"}]
    return document


def main(rows: int, rate: float, out: Path) -> None:
    source, bad = malformed(rows, rate)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    plan = compile_graph(build_graph(graph(source, out)))
    state = data.WORK / "state" / "malformed"
    shutil.rmtree(state, ignore_errors=True)
    cpu, started = time.process_time(), time.perf_counter()
    result = anyio.run(lambda: run_plan(plan, {}, storage=state))
    seconds = time.perf_counter() - started
    cpu_seconds = time.process_time() - cpu
    found = result.metrics["read"].counts.dead
    if found != bad:
        raise RuntimeError(f"{bad} lines are bad, and {found} became dead letters")
    tell(seconds=seconds, run_cpu_seconds=cpu_seconds, dead=found)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]).resolve())
