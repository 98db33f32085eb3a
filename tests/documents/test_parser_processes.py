"""The life of the processes that parse."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import anyio
import document_files as files
import psutil
import pytest
from parser_processes import parsers

from nvisy_connectors.documents.worker import Worker
from nvisy_dagster.sdk import ConfigError, TransientError

pytestmark = pytest.mark.anyio

TEXT = (b"some text", "text/plain")


async def until(condition, seconds=120):
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - processes tell nobody
            await anyio.sleep(0.01)


async def test_one_process_serves_many_documents(parser):
    async with parser() as action:
        (first,) = parsers()
        for _ in range(3):
            await action.apply(files.blobs([TEXT] * 5))
        assert [process.pid for process in parsers()] == [first.pid]


async def test_as_many_processes_as_asked_for(parser, awkward):
    async with parser(workers=3) as action:
        started = time.monotonic()
        await action.apply(files.blobs([(b"!sleep 2", "text/plain")] * 6))
        assert len(parsers()) == 3
        assert time.monotonic() - started < 11


async def test_killed_from_outside_it_is_retried_once(parser, awkward):
    killed = []

    async def kill(times):
        for _ in range(times):
            await until(lambda: any(p.pid not in killed and _busy(p) for p in parsers()))
            for process in parsers():
                killed.append(process.pid)
                process.send_signal(signal.SIGKILL)

    async with parser() as action:
        batch = files.blobs([(b"!sleep 0.5", "text/plain"), TEXT])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(kill, 1)
            made = await action.apply(batch)
    assert made.num_rows == 2
    assert len(killed) == 1


def _busy(process: psutil.Process) -> bool:
    """Whether its answer is awaited: it has started and sleeps for a document."""
    try:
        return time.time() - process.create_time() > 0.35
    except psutil.NoSuchProcess:
        return False


async def test_killed_while_it_waits_nobody_notices(parser):
    async with parser() as action:
        for process in parsers():
            process.kill()
            process.wait()
        assert (await action.apply(files.blobs([TEXT]))).num_rows == 1


async def test_cancelled_it_is_gone_at_once(parser, awkward):
    async with parser(workers=2) as action:
        with anyio.move_on_after(1):
            await action.apply(
                files.blobs([(b"!hang", "text/plain"), (b"!sleep 60", "text/plain")])
            )
        assert all(not _busy(process) or process.cpu_times().user < 5 for process in parsers())
        started = time.monotonic()
        assert (await action.apply(files.blobs([TEXT]))).num_rows == 1
        assert time.monotonic() - started < 50


async def test_a_process_that_keeps_memory_is_replaced(parser, monkeypatch):
    async with parser() as action:
        (first,) = parsers()
        monkeypatch.setattr(Worker, "is_fit", lambda self: self.pid != first.pid)
        for _ in range(2):
            await action.apply(files.blobs([TEXT]))
        assert first.pid not in {process.pid for process in parsers()}


PARENT = """
import asyncio, json, sys
sys.path.insert(0, {here!r})
import document_files as files
from parser_processes import parsers
from nvisy_connectors.documents.parse import Parse, ParseParams
from nvisy_connectors.documents.worker import Worker

Worker.module = "awkward_child"

async def main():
    async with Parse(ParseParams(workers=2), node_id="parse") as action:
        async def tell():
            while len(parsers()) < 2:
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.5)
            print(json.dumps([p.pid for p in parsers()]), flush=True)
        asyncio.get_running_loop().create_task(tell())
        await action.apply(files.blobs([(b"!hang", "text/plain"), (b"!sleep 60", "text/plain")]))

asyncio.run(main())
"""


async def test_no_process_outlives_its_parent():
    """Not even one that hangs with Python's lock, under a parent that was killed."""
    here = str(Path(__file__).parent)
    parent = subprocess.Popen(  # noqa: ASYNC220 - it is quick
        [sys.executable, "-c", PARENT.format(here=here)],
        env={**os.environ, "PYTHONPATH": here},
        stdout=subprocess.PIPE,
    )
    line = await anyio.to_thread.run_sync(parent.stdout.readline)
    pids = json.loads(line)
    assert len(pids) == 2
    assert all(psutil.pid_exists(pid) for pid in pids)
    parent.kill()
    parent.communicate()
    await until(lambda: not any(_lives(pid) for pid in pids), 10)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_a_parser_that_cannot_start_is_told_when_the_node_opens(parser, monkeypatch):
    monkeypatch.setattr(Worker, "module", "no_such_module_at_all")
    with pytest.raises(ConfigError, match="No module named no_such_module_at_all") as caught:
        await parser().open()
    assert caught.value.tag == "install"


async def test_a_parser_that_is_killed_at_its_start_may_come_later(parser, monkeypatch):
    monkeypatch.setattr(Worker, "module", "antigravity_killed")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ConfigError, match="exited with status 1"):
        await parser().open()
    script = Path(__file__).parent / "killed_at_start.sh"
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(TransientError, match="was ended by SIGKILL before it was ready"):
        await parser().open()


async def test_memory_stays_bounded_over_many_documents(parser):
    """The process that parses is not larger after 300 documents than twice what it was after 30."""
    batch = files.blobs([(files.word(), files.DOCX), (files.pdf(1), files.PDF)] * 5)

    async def after(action, times):
        for _ in range(times):
            await action.apply(batch)
        return sum(process.memory_info().rss for process in parsers())

    async with parser() as action:
        few = await after(action, 3)
        assert await after(action, 27) < few + (64 << 20)


async def test_nothing_is_left_on_the_disk(parser, tmp_path, monkeypatch):
    """The parser's library neither: a folder that others know is a place to put another one."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    async with parser(ocr=True) as action:
        assert list(tmp_path.iterdir()) == []
        kinds = [
            (files.pdf(), files.PDF),
            (files.word(), files.DOCX),
            (files.scan(""), "image/png"),
        ]
        assert (await action.apply(files.blobs(kinds))).num_rows == 3
        maps = await anyio.Path(f"/proc/{parsers()[0].pid}/maps").read_text()
        assert f"{tmp_path}/nvisy-parse-" in next(x for x in maps.splitlines() if "libpdfium" in x)
        assert list(tmp_path.iterdir()) == []
