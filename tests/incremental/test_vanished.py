"""A place that is empty all at once is more likely a disk that is not mounted than an intention."""

import shutil
from pathlib import Path

import pytest
from incremental_worlds import World, found

from nvisy_dagster.engine.failure import NodeError


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    for number in range(12):
        world.write(f"{number:02d}.txt", f"{number}: some text")
    return world


def unmount(world: World) -> None:
    for file in world.docs.iterdir():
        file.unlink()


@pytest.mark.parametrize("fresh", [False, True])
def test_a_place_that_became_empty_removes_nothing(world: World, fresh: bool) -> None:
    world.run()
    before = world.stored()
    aside = world.folder / "aside"
    shutil.copytree(world.docs, aside)
    unmount(world)
    with pytest.raises(NodeError, match="all 12 objects that the last run knew") as caught:
        world.run(fresh=fresh)
    assert caught.value.tag == "not_found"
    assert '"on_removed": "all"' in (caught.value.remedy or "")
    assert world.stored() == before
    # It is mounted again.
    shutil.copytree(aside, world.docs, dirs_exist_ok=True)
    result = world.run()
    assert found(result)[2] == 0
    assert world.stored() == before


def test_with_consent_all_of_it_goes(world: World) -> None:
    world.run()
    unmount(world)
    world.source["on_removed"] = "all"
    assert found(world.run()) == (0, 0, 12, 0)
    assert world.stored() == {}


def test_consent_alone_reads_nothing_again(world: World) -> None:
    world.run()
    world.source["on_removed"] = "all"
    assert found(world.run()) == (0, 0, 0, 12)


def test_a_run_that_was_cut_off_removes_nothing_in_an_empty_place(world: World) -> None:
    world.run()
    before = world.stored()
    for number in (0, 1, 2, 3):
        world.write(f"{number:02d}.txt", f"{number}: another text")
    assert world.run_killed("bookmark.touched:2")
    unmount(world)
    with pytest.raises(NodeError):
        world.run()
    assert world.stored() == before


def test_few_documents_may_go(world: World) -> None:
    world.run()
    for number in range(3, 12):
        world.delete(f"{number:02d}.txt")
    assert found(world.run())[2] == 9
    unmount(world)
    assert found(world.run())[2] == 3
    assert world.stored() == {}


def test_another_place_removes_nothing(world: World) -> None:
    """Two graphs of one name that share their state, or a path that was changed by mistake."""
    world.run()
    before = world.stored()
    other = world.folder / "other"
    other.mkdir()
    (other / "else.txt").write_text("something else")
    world.source["params"]["path"] = str(other)
    with pytest.raises(NodeError, match="none of the 12 objects") as caught:
        world.run()
    assert caught.value.tag == "conflict"
    assert world.stored() == before
    world.source["on_removed"] = "all"
    assert found(world.run()) == (1, 0, 12, 0)
    assert world.stored() == world.expected()
