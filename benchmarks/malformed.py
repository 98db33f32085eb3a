"""What malformed lines cost in W1: the bad ones become dead letters, the others go on.

`malformed.py ROWS RATE KIND OUT`. A rate of 0 is the same graph on clean data. The kinds are
`syntax`, `types`, `range` and `mixed`; with `:declared` the graph declares its columns.
"""

import os
import random
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import data
import w1
from measure import tell

from nvisy_dagster.compiler import compile_graph
from nvisy_dagster.engine.run import run_plan
from nvisy_dagster.graph.load import build_graph

Damage = Callable[[bytes], bytes]

SYNTAX: tuple[Damage, ...] = (
    lambda line: line[: len(line) // 2],
    lambda line: line[:-1],
    lambda line: line.replace(b'": ', b'" ', 1),
    lambda line: line.replace(b"a", b"\xff", 1),
    lambda _: b"oops",
)
"""Cut short, without the last brace, without a colon, not UTF-8, no JSON at all."""


def _field(name: bytes, value: bytes) -> Damage:
    """Give a field another value."""
    found = re.compile(rb'("' + name + rb'": )("[^"]*"|\[[^]]*\]|[^,}]*)')
    return lambda line: found.sub(rb"\g<1>" + value, line, count=1)


TYPES: tuple[Damage, ...] = (
    _field(b"id", b'"no number"'),
    _field(b"score", b"true"),
    _field(b"lang", b"7"),
    _field(b"tags", b'"none"'),
    _field(b"name", b"{}"),
)
"""A text for a number, a boolean for one, a number for a text, a text for an array, an object for a
text within an object."""

RANGE: tuple[Damage, ...] = (_field(b"score", b"1e999"), _field(b"score", b"-1.5E+400"))
DECLARED_RANGE: tuple[Damage, ...] = (*RANGE, _field(b"id", b"12345678901234567890"))
"""Too big for a float, and for an integer: without declared columns that would make it a float."""

KINDS: dict[str, tuple[Sequence[Damage], Sequence[Damage]]] = {
    "syntax": (SYNTAX, SYNTAX),
    "types": (TYPES, TYPES),
    "range": (RANGE, DECLARED_RANGE),
    "mixed": ((*SYNTAX, *TYPES, *RANGE), (*SYNTAX, *TYPES, *DECLARED_RANGE)),
}
"""Damage to lines whose columns are inferred, and whose columns are declared."""

COLUMNS = {
    "id": "int64",
    "text": "string",
    "lang": "string",
    "score": "float64",
    "ts": "string",
    "meta": "struct<source: string, tags: list<string>, author: struct<id: int64, name: string>>",
}


def malformed(rows: int, rate: float, kind: str) -> tuple[Path, int]:
    """W1's lines of which a share is bad, at least one, and how many; the same ones every time."""
    clean = data.w1(rows)
    if not rate:
        return clean, 0
    name, _, declared = kind.partition(":")
    damage = KINDS[name][bool(declared)]
    path = clean.with_name(f"malformed_{rows}_{rate:g}_{kind.replace(':', '_')}.jsonl")
    count = path.with_suffix(".count")
    # A file that was just written is slower to read: the system is still writing it.
    if count.exists():
        return path, int(count.read_text(encoding="utf-8"))
    chance = random.Random(33)
    bad = frozenset(chance.sample(range(rows), max(1, round(rows * rate))))
    unfinished = path.with_suffix(".tmp")
    with clean.open("rb") as source, unfinished.open("wb") as target:
        for number, line in enumerate(source):
            if number in bad:
                target.write(chance.choice(damage)(line.removesuffix(b"\n")) + b"\n")
            else:
                target.write(line)
        target.flush()
        os.fsync(target.fileno())
    unfinished.replace(path)
    count.write_text(str(len(bad)), encoding="utf-8")
    return path, len(bad)


def graph(source: Path, out: Path, *, declared: bool) -> dict[str, Any]:
    """W1; bad lines are dead letters."""
    document = w1.graph(source, out)
    document["name"] = "malformed"
    document["nodes"][0]["on_error"] = "dead_letter"
    if declared:
        document["nodes"][0]["params"]["columns"] = COLUMNS
    return document


def main(rows: int, rate: float, kind: str, out: Path) -> None:
    source, bad = malformed(rows, rate, kind)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    plan = compile_graph(build_graph(graph(source, out, declared=kind.endswith(":declared"))))
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
    main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], Path(sys.argv[4]).resolve())
