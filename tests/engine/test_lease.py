"""One live run at a time: leases that are renewed, run out, and are taken over by one other."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_kill import check_complete, start

from nvisy_dagster.engine import storage
from nvisy_dagster.engine.checkpoint import Checkpoint, CheckpointStore
from nvisy_dagster.engine.failure import RunConflictError
from nvisy_dagster.engine.lease import FencedError, Lease, LeaseRecord, read_lease
from nvisy_dagster.engine.materialized import PartWriter

SECONDS = 1.0


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVISY_LEASE_SECONDS", str(SECONDS))


class Target:
    """A holder in a process of its own."""

    def __init__(self, folder: Path) -> None:
        here = Path(__file__).parent
        self.process = subprocess.Popen(
            [sys.executable, str(here / "lease_target.py"), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.line().startswith("held")

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, line: str) -> str:
        assert self.process.stdin is not None
        print(line, file=self.process.stdin, flush=True)
        return self.line()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def holding(folder: Path) -> Generator[Target]:
    target = Target(folder)
    try:
        yield target
    finally:
        target.process.kill()
        target.process.communicate()


def test_a_live_holder_is_not_disturbed(tmp_path: Path) -> None:
    with Lease(tmp_path, "first") as lease:
        time.sleep(2 * SECONDS)
        with pytest.raises(RunConflictError, match="run first is running this graph now"):
            Lease(tmp_path, "second").__enter__()
        lease.check()


def test_tokens_only_grow(tmp_path: Path) -> None:
    tokens: list[int] = []
    for least in (1, 1, 1000, 5):
        with Lease(tmp_path, "run", least) as lease:
            tokens.append(lease.token)
            assert lease.taken_from is None
    assert tokens == [1, 2, 1000, 1001]
    assert len(storage.names(tmp_path / "lease")) <= 2


def test_one_that_was_killed_is_followed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVISY_LEASE_SECONDS", "60")
    with holding(tmp_path) as target:
        # Nobody waits for it: it stays in the table of processes.
        target.process.send_signal(signal.SIGKILL)
        time.sleep(0.1)
        began = time.monotonic()
        with Lease(tmp_path, "next") as lease:
            assert time.monotonic() - began < 30
            assert lease.taken_from is not None
            assert lease.taken_from.run_id == "target"
            assert lease.token == 2


def test_a_revived_one_may_not_write(tmp_path: Path) -> None:
    with holding(tmp_path) as target:
        assert target.ask("1") == "ok"
        target.stop()
        with pytest.raises(RunConflictError):
            Lease(tmp_path, "early").__enter__()
        time.sleep(1.2 * SECONDS)
        with Lease(tmp_path, "next") as lease:
            store = CheckpointStore(tmp_path / "checkpoint.json", lease)
            assert store.claim().epoch == 1
            store.write(Checkpoint(epoch=2))
            target.go_on()
            assert target.ask("check").startswith("FencedError run next took over from run target")
            assert target.ask("7").startswith("FencedError")
        # Its holder has come to its end since: that gives the lease back to nobody.
        assert target.ask("check").startswith("FencedError")
        assert target.ask("8").startswith("FencedError")
    assert CheckpointStore(tmp_path / "checkpoint.json").read().epoch == 2


def test_one_that_slept_and_was_not_missed_goes_on(tmp_path: Path) -> None:
    with holding(tmp_path) as target:
        target.stop()
        time.sleep(1.5 * SECONDS)
        target.go_on()
        assert target.ask("check") == "ok"
        assert target.ask("3") == "ok"


class Overtaken(Lease):
    """Another run takes over right after the last look."""

    rival: Lease | None = None

    def check(self) -> None:
        super().check()
        if self.rival is None:
            self._ended.set()
            record = self._record().model_copy(update={"renewed_uptime": 0.0})
            storage.replace_json(self._path, record.model_dump(mode="json"))
            self.rival = Lease(self._stage, "rival")
            self.rival.__enter__()


def test_a_checkpoint_that_is_about_to_appear_does_not(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.json"
    with Overtaken(tmp_path, "slow") as lease:
        with pytest.raises(FencedError, match="run rival took over from run slow"):
            CheckpointStore(path, lease).write(Checkpoint(epoch=9))
        assert lease.rival is not None
        assert CheckpointStore(path).read().epoch == 0


@pytest.mark.anyio
async def test_a_part_that_is_about_to_appear_does_not(tmp_path: Path) -> None:
    import pyarrow as pa

    folder = tmp_path / "edges" / "out"
    with Overtaken(tmp_path, "slow") as lease:
        writer = PartWriter(folder, 0, lease)
        await writer.write(pa.record_batch({"n": [1]}))
        with pytest.raises(FencedError):
            await writer.commit(1)
        assert lease.rival is not None
        lease.rival.__exit__(None, None, None)
    assert list(folder.iterdir()) == []


def test_of_many_that_take_over_one_wins(tmp_path: Path) -> None:
    with holding(tmp_path) as target:
        target.process.kill()
        target.process.wait()
    for round_ in range(20):
        won, lost = contend([Lease(tmp_path, f"{round_}-{n}") for n in range(8)])
        assert (len(won), len(lost)) == (1, 7)
        won[0].check()
        won[0].__exit__(None, None, None)


def contend(leases: list[Lease]) -> tuple[list[Lease], list[RunConflictError]]:
    """Have all of them entered at once; who won, and why the others did not."""
    line = threading.Barrier(len(leases))
    won: list[Lease] = []
    lost: list[RunConflictError] = []

    def take(lease: Lease) -> None:
        line.wait()
        try:
            won.append(lease.__enter__())
        except RunConflictError as error:
            lost.append(error)

    threads = [threading.Thread(target=take, args=(lease,)) for lease in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won, lost


def test_one_that_cannot_renew_in_time_may_not_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> list[str]:
        raise storage.StorageError(f"{folder}: Input/output error")

    with Lease(tmp_path, "run") as lease:
        monkeypatch.setattr(storage, "names", refuse)
        with pytest.raises(storage.StorageError):
            lease.check()
        time.sleep(1.2 * SECONDS)
        with pytest.raises(FencedError, match=r"ran out, and cannot be renewed: .*Input/output"):
            lease.check()
        monkeypatch.undo()


def abroad(tmp_path: Path, silent_seconds: float) -> LeaseRecord:
    """A lease that was taken on another machine and last renewed so long ago."""
    with Lease(tmp_path, "here"):
        pass
    record = read_lease(tmp_path)
    assert record is not None
    changes = {
        "boot_id": "another",
        "released": False,
        "run_id": "abroad",
        "renewed_at": time.time() - silent_seconds,
        "seconds": SECONDS,
    }
    return record.model_copy(update=changes)


def test_one_on_another_machine_is_watched_before_it_is_taken_for_dead(tmp_path: Path) -> None:
    record = abroad(tmp_path, 5)
    path = tmp_path / "lease" / "0000000001.json"
    storage.replace_json(path, record.model_dump(mode="json"))
    began = time.monotonic()
    with Lease(tmp_path, "next") as lease:
        assert time.monotonic() - began >= SECONDS / 2
        assert lease.taken_from == record


@pytest.mark.parametrize("silent_seconds", [5, 0.1])
def test_one_on_another_machine_is_left_alone_while_it_beats(
    tmp_path: Path, silent_seconds: float
) -> None:
    """Its clock may be behind ours."""
    record = abroad(tmp_path, silent_seconds)
    path = tmp_path / "lease" / "0000000001.json"
    storage.replace_json(path, record.model_dump(mode="json"))
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(SECONDS / 6):
            now = record.model_copy(update={"renewed_at": time.time() - silent_seconds})
            storage.replace_json(path, now.model_dump(mode="json"))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(RunConflictError, match="run abroad"):
            Lease(tmp_path, "next").__enter__()
    finally:
        ended.set()
        thread.join()


def test_a_lease_of_a_folder_that_is_gone_is_lost(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    with Lease(folder, "run") as lease:
        storage.remove_folder(folder)
        with pytest.raises(FencedError, match="another run took over"):
            lease.check()
    assert not folder.exists()


def test_a_stopped_run_is_overtaken_and_writes_nothing_when_revived(tmp_path: Path) -> None:
    zombie = start(tmp_path, NVISY_LEASE_SECONDS="1")
    while not (tmp_path / "ledger").exists():
        time.sleep(0.005)
    time.sleep(0.3)
    zombie.send_signal(signal.SIGSTOP)
    (tmp_path / "ledger").rename(tmp_path / "ledger.zombie")
    time.sleep(1.2)
    again = start(tmp_path, NVISY_LEASE_SECONDS="1")
    while not (tmp_path / "ledger").exists() and again.poll() is None:
        time.sleep(0.005)
    zombie.send_signal(signal.SIGCONT)
    _, errors = zombie.communicate(timeout=180)
    output, told = again.communicate(timeout=180)
    assert zombie.returncode == 1
    assert "took over from run" in errors
    assert again.returncode == 0, told
    check_complete(tmp_path, output)
