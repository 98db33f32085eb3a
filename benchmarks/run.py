"""All benchmarks, or some of them, against their yardsticks and targets.

    python benchmarks/run.py [--quick] [--repeat N] [--wait SECONDS] [NAME ...]

Exits with 1 when a target is missed.
"""

import argparse
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path

import data
import startup
import w1
import w2
from measure import Measured, measure
from report import HERE, MB, Report, alternate, least_cpu, peak, ratio, script

OUT = data.WORK / "out"
NVISY = str(Path(sys.executable).with_name("nvisy"))
STUB = HERE.parent / "tests" / "servers" / "openai_stub.py"
sys.path.append(str(HERE.parent / "tests"))
MALFORMED = ("syntax", "types", "range", "mixed")
"""Kinds of damage; see malformed.py."""


def nvisy_run(graph: Path) -> Measured:
    """Run a graph as a user does, from nothing; its seconds are those of the whole process."""
    with tempfile.TemporaryDirectory(dir=data.WORK) as state:
        environment = {"DAGSTER_HOME": f"{state}/dagster", "NVISY_STORAGE": f"{state}/nvisy"}
        found = measure([NVISY, "run", str(graph), "--json"], environment=environment, prefix="")
    found.result["seconds"] = found.wall_seconds
    return found


def run_w1(report: Report) -> None:
    rows = 200_000 if report.options.quick else 1_000_000
    source = data.w1(rows)
    yardstick, ours, dagster = OUT / "w1_duckdb", OUT / "w1", OUT / "w1_dagster"
    runs = alternate(
        report,
        {
            "DuckDB, one query": partial(script, "w1_duckdb.py", rows, yardstick),
            "engine": partial(script, "w1.py", rows, ours),
            "nvisy run, whole process": lambda: nvisy_run(w1.prepare(source, dagster)),
        },
    )
    if not w1.contents(yardstick) == w1.contents(ours) == w1.contents(dagster):
        raise RuntimeError("the contestants of W1 wrote different rows")
    report.rows("W1: JSONL -> filter -> map -> Parquet", "rows", rows, runs)
    report.target(
        "W1, rows/s of the engine to DuckDB's",
        ratio(runs["DuckDB, one query"], runs["engine"]),
        0.4,
        least=True,
    )
    report.target("W1, peak MB of the engine", peak(runs["engine"]) / MB, 600)
    _deduplicated(report, rows)


def _deduplicated(report: Report, rows: int) -> None:
    yardstick, ours = OUT / "w1_once_duckdb", OUT / "w1_once"
    runs = alternate(
        report,
        {
            "DuckDB, one query": partial(script, "w1_duckdb.py", rows, yardstick, "deduplicate"),
            "engine": partial(script, "w1.py", rows, ours, 1, "deduplicate"),
        },
    )
    # Which of the same texts stays is for DuckDB to choose.
    if w1.texts(yardstick) != w1.texts(ours):
        raise RuntimeError("the contestants of W1, deduplicated, wrote different texts")
    report.rows("W1, deduplicated by text", "rows", rows, runs)
    found = ratio(runs["DuckDB, one query"], runs["engine"])
    report.target("W1, deduplicated, rows/s of the engine to DuckDB's", found, 0.6, least=True)
    report.target("W1, deduplicated, peak MB of the engine", peak(runs["engine"]) / MB, 600)


def run_w2(report: Report) -> None:
    documents = 8_000 if report.options.quick else 20_000
    source = data.w2(documents)
    with stub() as url:
        runs = alternate(
            report,
            {
                "asyncio by hand, discard": partial(script, "w2_asyncio.py", documents, url),
                "engine, discard": partial(script, "w2.py", documents, url, "discard", "auto"),
                "engine, streamed, discard": partial(
                    script, "w2.py", documents, url, "discard", "streamed"
                ),
                "engine, Qdrant folder": partial(script, "w2.py", documents, url, "qdrant", "auto"),
                "nvisy run, Qdrant, whole": lambda: nvisy_run(
                    w2.prepare(source, url, "qdrant", "auto")
                ),
            },
        )
    counts = {
        run.result["chunks"] for all_of in runs.values() for run in all_of if "chunks" in run.result
    }
    if len(counts) != 1:
        raise RuntimeError(f"the contestants of W2 made different numbers of chunks: {counts}")
    report.rows("W2: documents -> chunks -> embeddings", "chunks", counts.pop(), runs)
    whole = min(run.result["all_seconds"] for run in runs["engine, Qdrant folder"])
    print(f"  (of the engine the embedding stage alone; all of it into Qdrant: {whole:.1f} s)")
    for name in ("engine, discard", "engine, Qdrant folder"):
        found = ratio(runs["asyncio by hand, discard"], runs[name])
        report.target(f"W2, embedding stage of {name}, to asyncio's", found, 0.6, least=True)


def run_overhead(report: Report) -> None:
    batches = 2_000 if report.options.quick else 10_000
    actions = {"called on the loop": "pass", "called in a thread": "pass_in_thread"}
    runs = alternate(
        report,
        {name: partial(script, "overhead.py", batches, action) for name, action in actions.items()},
    )
    report.rows("Overhead: source -> action -> sink, doing nothing", "batches", batches, runs)
    for name, measured in runs.items():
        best = min(run.result["milliseconds_per_hop"] for run in measured)
        report.target(f"overhead, ms per batch and hop, action {name}", best, 1)


def run_startup(report: Report) -> None:
    with tempfile.TemporaryDirectory(dir=data.WORK) as folder:
        graphs = [startup.prepare(Path(folder) / str(n)) for n in range(report.options.repeat)]
        turns = iter(graphs)
        numbers = iter(range(report.options.repeat))
        runs = alternate(
            report,
            {
                "nvisy run": lambda: nvisy_run(next(turns)),
                "the parts, in one process": lambda: script(
                    "startup.py", Path(folder) / f"parts{next(numbers)}"
                ),
            },
        )
    report.rows("Start-up: `nvisy run`, three nodes", "records", startup.RECORDS, runs)
    parts = min(runs["the parts, in one process"], key=lambda run: run.seconds).result["parts"]
    for name, seconds in parts.items():
        print(f"    {name:34}{seconds:6.2f} s")
    best = min(run.seconds for run in runs["nvisy run"])
    report.target("start-up, seconds of `nvisy run`", best, 6)


def run_memory(report: Report) -> None:
    # Less data than the buffers hold says nothing: 1x is the whole workload.
    times = 3 if report.options.quick else 10
    w1_of = partial(script, "w1.py", 1_000_000, OUT / "w1_memory")
    with stub() as url:
        w2_of = partial(script, "w2.py", 20_000, url, "discard", "auto")
        for name, workload in (("W1", w1_of), ("W2", w2_of)):
            sizes = {f"{copies}x": partial(workload, copies) for copies in (1, times)}
            runs = alternate(report, sizes)
            small, large = (peak(measured) for measured in runs.values())
            print(f"\nMemory, {name}: {small / MB:.0f} MB, {times}x: {large / MB:.0f} MB")
            report.target(f"memory, {name}, growth to {times}x", large / small - 1, 0.15)


def run_checkpoint(report: Report) -> None:
    copies = 2 if report.options.quick else 4
    work = partial(script, "checkpoint.py", "rows", copies)
    out = OUT / "checkpoint"
    runs = alternate(
        report,
        {"one, at the end": partial(work, 0, out), "every second": partial(work, 1, out)},
    )
    report.rows("Checkpoints: W1", "rows", copies * 1_000_000, runs)
    slower = 1 / ratio(runs["one, at the end"], runs["every second"]) - 1
    report.target("checkpoint every second, cost in throughput", slower, 0.05)
    none, every = (least_cpu(measured) for measured in runs.values())
    print(f"  in CPU seconds: {100 * (every / none - 1):+.1f}%")
    _acknowledgement(report)


def _acknowledgement(report: Report) -> None:
    batches = 300 if report.options.quick else 1_000
    work = partial(script, "checkpoint.py", "each", batches)
    # Some ten batches are on their way between the source and the sink: so often at most.
    runs = alternate(
        report, {"one, at the end": partial(work, 0), "as often as can be": partial(work, 1)}
    )
    report.rows("Acknowledgement: a graph that does nothing", "batches", batches, runs)
    without, often = (min(found, key=lambda run: run.seconds) for found in runs.values())
    checkpoints = often.result["checkpoints"]
    more = 1000 * (often.seconds - without.seconds) / checkpoints
    print(f"  {checkpoints} checkpoints, {more:.2f} ms each")


def run_malformed(report: Report) -> None:
    rows = 200_000 if report.options.quick else 1_000_000
    out = OUT / "malformed"

    def run(rate: float, kind: str) -> Callable[[], Measured]:
        return partial(script, "malformed.py", rows, rate, kind, out)

    inferred = {
        "clean": run(0, "mixed"),
        "1 of 1,000,000, mixed": run(1e-6, "mixed"),
        "1 of 10,000, mixed": run(1e-4, "mixed"),
        "1 of 1,000, mixed": run(1e-3, "mixed"),
        **{f"1 of 100, {kind}": run(1e-2, kind) for kind in MALFORMED},
    }
    declared = {
        "clean, declared": run(0, "mixed:declared"),
        **{f"1 of 100, {kind}, declared": run(1e-2, f"{kind}:declared") for kind in MALFORMED},
    }
    runs = alternate(report, inferred | declared)
    report.rows("Malformed lines, to the dead letters", "rows", rows, runs)
    for names in (inferred, declared):
        clean, *others = (runs[name] for name in names)
        least = min(run.result["run_cpu_seconds"] for run in clean)
        for name, measured in zip(list(names)[1:], others, strict=True):
            found = ratio(clean, measured)
            report.target(f"malformed lines, {name}, rows/s to clean", found, 0.8, least=True)
            cpu = min(run.result["run_cpu_seconds"] for run in measured)
            print(f"  in CPU seconds of the run: {least / cpu:.2f}")


def run_blocking(report: Report) -> None:
    keys = 1_000_000 if report.options.quick else 8_000_000
    out = OUT / "blocking.arrow"
    for what in ("deduplicate", "sort"):
        runs = alternate(
            report,
            {
                who: partial(script, "blocking.py", keys, what, who, out)
                for who in ("duckdb", "action")
            },
        )
        if len({run.result["rows"] for found in runs.values() for run in found}) != 1:
            raise RuntimeError(f"the contestants of {what} wrote different rows")
        report.rows(f"{what} by a text key, 512 MB for DuckDB", "rows", keys, runs)
        slower = 1 / ratio(runs["duckdb"], runs["action"])
        report.target(f"{what}, seconds of the action to DuckDB's alone", slower, 1.3)
        report.target(f"{what}, peak MB of the action", peak(runs["action"]) / MB, 800)


def run_objects(report: Report) -> None:
    small, large = (1_000, 50) if report.options.quick else (10_000, 500)
    from servers.seaweedfs import seaweedfs  # of the tests

    data.WORK.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=data.WORK) as folder, seaweedfs(Path(folder)) as server:
        script("objects.py", "fill", server.endpoint, small, large)
        for what, title, count, unit, limit in (
            ("small", "Small objects from S3", small, "objects", 1.3),
            ("wide", "One object from S3 to S3, rows of 1.5 KB", large, "MB", 1.2),
            ("narrow", "One object from S3 to S3, rows of 68 bytes", large, "MB", None),
        ):
            runs = alternate(
                report,
                {who: partial(script, "objects.py", what, who, server.endpoint)
                 for who in ("obstore", "engine")},
            )  # fmt: skip
            report.rows(title, unit, count, runs)
            slower = 1 / ratio(runs["obstore"], runs["engine"])
            if limit is not None:
                report.target(f"{title}, seconds of the engine to obstore's alone", slower, limit)
            if what == "wide":
                report.target(f"{title}, peak MB", peak(runs["engine"]) / MB, 200)


@contextmanager
def stub() -> Generator[str]:
    """The embedding server of the tests, as a program; yields its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(STUB), str(port)])
    try:
        _wait_until_listening(port)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


def _wait_until_listening(port: int) -> None:
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("the embedding server did not start")


BENCHMARKS = {
    "w1": run_w1,
    "w2": run_w2,
    "overhead": run_overhead,
    "startup": run_startup,
    "memory": run_memory,
    "checkpoint": run_checkpoint,
    "malformed": run_malformed,
    "blocking": run_blocking,
    "objects": run_objects,
}
PACKAGES = ("pyarrow", "duckdb", "dagster", "aiohttp", "qdrant-edge-py")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="small data: seconds, not minutes")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each contestant")
    parser.add_argument(
        "--wait", type=float, default=0, help="seconds to wait for an idle machine before each run"
    )
    report = Report(parser.parse_args())
    unknown = set(report.options.names) - BENCHMARKS.keys()
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"Python {platform.python_version()}, {versions}")
    for name in report.options.names or BENCHMARKS:
        BENCHMARKS[name](report)
        sys.stdout.flush()
    shutil.rmtree(data.WORK / "state", ignore_errors=True)
    if report.missed:
        print(f"\n{len(report.missed)} missed: {'; '.join(report.missed)}")
    return 1 if report.missed else 0


if __name__ == "__main__":
    sys.exit(main())
