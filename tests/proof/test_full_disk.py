"""A full disk: a clear error, the old checkpoint readable, and a run goes on once there is room."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Case


class SmallDisk:
    """A file system of its own, in memory.

    Args:
        place: Where it is mounted.
    """

    def __init__(self, place: Path, size: str) -> None:
        self.place = place
        place.mkdir()
        self._mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs")

    def grow(self, size: str) -> None:
        self._mount("-o", f"remount,size={size}")

    def fill(self) -> None:
        """Leave no room at all."""
        with (self.place / "ballast").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 4096)
            except OSError:
                pass

    def _mount(self, *words: str) -> None:
        subprocess.run(["mount", *words, str(self.place)], check=True, capture_output=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str, str], SmallDisk]]:
    disks: list[SmallDisk] = []

    def make(name: str, size: str) -> SmallDisk:
        try:
            disks.append(SmallDisk(tmp_path / name, size))
        except (subprocess.CalledProcessError, FileNotFoundError):
            pytest.skip("only root may mount a small disk")
        return disks[-1]

    yield make
    for disk in disks:
        subprocess.run(["umount", str(disk.place)], check=True)


def fails_for_want_of_room(case: Case) -> None:
    victim = case.start()
    assert victim.wait() == 1, victim.errors
    told = victim.errors.strip().splitlines()[-1]
    assert "No space left on device" in told or "disk is full" in told, told
    assert "space" in told
    assert "bug" not in told
    case.check()


def test_no_room_for_what_is_kept_between_stages(
    tmp_path: Path, small_disk: Callable[[str, str], SmallDisk]
) -> None:
    disk = small_disk("small", "1m")
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "state").symlink_to(disk.place)
    case = Case(tmp_path / "case", rows=5000)
    fails_for_want_of_room(case)
    assert case.epoch() > 0
    disk.grow("100m")
    case.finish()


def test_no_room_for_the_checkpoint(
    tmp_path: Path, small_disk: Callable[[str, str], SmallDisk]
) -> None:
    disk = small_disk("small", "1m")
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "state").symlink_to(disk.place)
    case = Case(tmp_path / "case", kind="files")
    victim = case.start(NVISY_FAILPOINT="checkpoint.after_write:2")
    victim.wait()
    disk.fill()
    fails_for_want_of_room(case)
    assert case.epoch() == 2
    (disk.place / "ballast").unlink()
    case.finish()


def test_no_room_for_what_a_sink_spools(
    tmp_path: Path, small_disk: Callable[[str, str], SmallDisk]
) -> None:
    disk = small_disk("small", "64k")
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "out").symlink_to(disk.place)
    case = Case(tmp_path / "case", kind="files", rows=6000)
    fails_for_want_of_room(case)
    disk.grow("100m")
    case.finish()
    assert not list(disk.place.glob(".nvisy*")), "the spool is left"
