"""When a checkpoint may be written: the cases in which writing it a moment early loses records."""

from pathlib import Path

import anyio
import pytest

from nvisy_dagster.engine.checkpoint import Checkpoint, CheckpointStore, Part, SourcePosition
from nvisy_dagster.engine.epochs import Epochs
from nvisy_dagster.graph.policies import Checkpoint as Interval

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoint.json")


def epochs(
    store: CheckpointStore, sources: str, committers: str, start: Checkpoint | None = None
) -> Epochs:
    return Epochs(
        store,
        start or Checkpoint(),
        Interval(interval_rows=1),
        sources=sources.split(),
        committers=committers.split(),
    )


async def test_written_when_every_committer_has_committed(store: CheckpointStore) -> None:
    e = epochs(store, "s", "a b")
    assert not e.due("s")
    e.read_rows(1)
    assert e.due("s")
    assert e.cut("s", {"after": 1}) == 1
    assert not e.due("s")
    await e.committed("a", 1)
    assert store.read().epoch == 0
    await e.committed("b", 1)
    assert store.read().epoch == 1
    assert store.read().sources["s"].cursor == {"after": 1}


async def test_one_epoch_at_a_time(store: CheckpointStore) -> None:
    e = epochs(store, "s", "a")
    e.read_rows(1)
    e.cut("s", {"after": 1})
    e.read_rows(1)
    assert not e.due("s"), "a second epoch while the first is under way"
    await e.committed("a", 1)
    e.read_rows(1)
    assert e.due("s")


async def test_waits_for_a_source_that_has_not_cut(store: CheckpointStore) -> None:
    e = epochs(store, "s t", "a")
    e.read_rows(1)
    e.cut("s", {"after": 1})
    await e.committed("a", 1)
    assert store.read().epoch == 0
    e.cut("t", {"after": 9})
    await e.committed("a", 1)
    assert store.read().epoch == 1


async def test_end_after_the_cut_belongs_to_the_next_epoch(store: CheckpointStore) -> None:
    """The source ends while its barrier is under way: what came in between is not committed yet."""
    e = epochs(store, "s t", "a b")
    e.read_rows(1)
    e.cut("s", {"after": 1})
    e.cut("t", {"after": 1})
    e.exhausted("s")
    await e.committed("a", 1)
    await e.committed("a", 2, Part(file="0000000002.arrow", epoch=2, rows=5, bytes=5))
    await e.ended("a")
    await e.committed("b", 1)
    written = store.read()
    assert written.epoch == 1
    assert written.sources["s"] == SourcePosition(cursor={"after": 1})
    assert written.parts["a"] == []


async def test_end_before_the_cut_stands_for_all_later_epochs(store: CheckpointStore) -> None:
    e = epochs(store, "s t", "a b")
    e.exhausted("s")
    await e.committed("a", 1, Part(file="0000000001.arrow", epoch=1, rows=5, bytes=5))
    await e.ended("a")
    e.read_rows(1)
    e.cut("t", {"after": 3})
    await e.committed("b", 1)
    written = store.read()
    assert written.sources["s"].done
    assert written.sources["t"] == SourcePosition(cursor={"after": 3})
    assert [part.epoch for part in written.parts["a"]] == [1]


async def test_waits_for_a_committer_that_is_still_taking_the_end(store: CheckpointStore) -> None:
    e = epochs(store, "s t", "a b")
    e.exhausted("s")
    e.read_rows(1)
    e.cut("t", {"after": 3})
    await e.committed("b", 1)
    assert store.read().epoch == 0, "what s sent to a is not committed yet"
    await e.committed("a", 1)
    await e.ended("a")
    assert store.read().epoch == 1


async def test_counts_are_those_of_the_barrier(store: CheckpointStore) -> None:
    e = epochs(store, "s t", "a")
    e.read_rows(1)
    e.cut("s", {"after": 1})
    e.passed("s", 1, {"records_out": 1})
    e.exhausted("s")
    e.passed("s", 2, {"records_out": 7})
    e.cut("t", {"after": 1})
    e.passed("t", 1, {"records_out": 2})
    await e.committed("a", 1)
    assert store.read().counts == {"s": {"records_out": 1}, "t": {"records_out": 2}}
    await e.complete()
    assert store.read().counts["s"] == {"records_out": 7}


async def test_complete_covers_everything(store: CheckpointStore) -> None:
    e = epochs(store, "s", "a")
    e.exhausted("s")
    await e.committed("a", 1, Part(file="0000000001.arrow", epoch=1, rows=5, bytes=5))
    await e.ended("a")
    assert not store.read().complete
    await e.complete()
    assert store.read().complete
    assert store.read().sources["s"].done
    assert store.read().parts["a"][0].rows == 5


async def test_goes_on_from_where_it_was(store: CheckpointStore) -> None:
    start = Checkpoint(
        epoch=4,
        sources={"s": SourcePosition(cursor={"after": 40})},
        parts={"a": [Part(file="0000000004.arrow", epoch=4, rows=1, bytes=1)]},
    )
    e = epochs(store, "s", "a", start)
    assert e.position("s").cursor == {"after": 40}
    e.read_rows(1)
    assert e.cut("s", {"after": 50}) == 5
    await e.committed("a", 5, Part(file="0000000005.arrow", epoch=5, rows=1, bytes=1))
    assert [part.epoch for part in store.read().parts["a"]] == [4, 5]


async def test_a_source_that_must_cut_here_waits_for_the_epoch_under_way(
    store: CheckpointStore,
) -> None:
    e = epochs(store, "s t", "a")
    cuts: list[int] = []

    async def cut() -> None:
        cuts.append(e.cut("s", {"after": 10 + len(cuts)}))

    with anyio.fail_after(60):
        await e.cut_here("s", cut)
        assert cuts == [1]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(e.cut_here, "s", cut)
            await anyio.wait_all_tasks_blocked()
            assert cuts == [1], "the first is under way"
            e.cut("t", {"after": 1})
            await e.committed("a", 1)
        assert cuts == [1, 2]
        assert store.read().epoch == 1
        assert store.read().sources["s"].cursor == {"after": 10}
        # Due already, it is cut at once, and nobody asks for another.
        e.cut("t", {"after": 2})
        await e.committed("a", 2)
        assert not e.due("s")


async def test_a_source_that_must_cut_here_gets_no_more_than_the_final_epoch(
    store: CheckpointStore,
) -> None:
    e = epochs(store, "s", "a")
    cuts: list[int] = []

    async def cut() -> None:
        cuts.append(e.cut("s", {"after": len(cuts)}))

    await e.cut_here("s", cut)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(e.cut_here, "s", cut)
        await anyio.wait_all_tasks_blocked()
        e.stop()
        await e.committed("a", 1)
        await anyio.wait_all_tasks_blocked()
        assert cuts == [1, 2]
        assert not e.drained.is_set()
        await e.committed("a", 2)
        assert e.drained.is_set()
        tasks.start_soon(e.cut_here, "s", cut)
        await anyio.wait_all_tasks_blocked()
        assert cuts == [1, 2]
        tasks.cancel_scope.cancel()


async def test_where_nothing_is_cut_nobody_waits_for_it(store: CheckpointStore) -> None:
    e = Epochs(store, Checkpoint(), None, sources=["s"], committers=["a"])

    async def cut() -> None:
        raise AssertionError

    with anyio.fail_after(60):
        await e.cut_here("s", cut)


async def test_stopped_while_a_barrier_is_under_way_that_none_has_cut(
    store: CheckpointStore,
) -> None:
    """Then it is the final one; once one source has cut it, there is one more."""
    for begun in (False, True):
        e = epochs(store, "s t", "a", Checkpoint())
        cuts: dict[str, list[int]] = {"s": [], "t": []}

        async def cut(source: str, e: Epochs = e, cuts: dict[str, list[int]] = cuts) -> None:
            epoch = e.cut(source, {"after": 1})
            cuts[source].append(epoch)
            if all(epoch in found for found in cuts.values()):
                await e.committed("a", epoch)

        e.read_rows(1)
        if begun:
            await cut("s")
        e.stop()
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for source in "st":
                    tasks.start_soon(e.cut_final, source, lambda cut=cut, s=source: cut(s))
        last = 2 if begun else 1
        assert cuts == {"s": [*range(1, last + 1)], "t": [*range(1, last + 1)]}
        assert e.drained.is_set()
        assert e.written.epoch == last
        store.discard()
