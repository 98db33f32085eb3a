"""Incremental runs of a local folder into an embedded Qdrant equal a fresh run."""

import pytest
from incremental_worlds import World, found

from nvisy_dagster.engine.failure import NodeError

LONG = "the quick brown fox jumps over the lazy dog, again and again and again"


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    for name in ("a", "b", "c", "d", "e"):
        world.write(f"{name}.txt", f"{name}: {LONG}")
    return world


def test_the_first_run_is_full_and_the_second_reads_nothing(world):
    first = world.run()
    assert found(first) == (5, 0, 0, 0)
    assert world.stored() == world.expected()
    again = world.run()
    assert found(again) == (0, 0, 0, 5)
    assert again.metrics["docs"].counts.records_out == 0
    assert world.stored() == world.expected()


def test_added_changed_shortened_emptied_and_deleted_documents(world):
    world.run()
    world.write("f.txt", f"f: {LONG}")
    world.write("a.txt", f"another a: {LONG}")
    world.write("b.txt", "short")
    world.write("c.txt", "   ")
    world.delete("d.txt")
    result = world.run()
    assert found(result) == (1, 3, 1, 1)
    assert result.metrics["docs"].counts.records_out == 4
    assert world.stored() == world.expected()
    assert found(world.run()) == (0, 0, 0, 5)


def test_the_last_document_may_go(world):
    world.run()
    for name in ("a", "b", "c", "d", "e"):
        world.delete(f"{name}.txt")
    assert found(world.run()) == (0, 0, 5, 0)
    assert world.stored() == {}


def test_fresh_reads_everything_and_still_tells_what_is_gone(world):
    world.run()
    world.delete("a.txt")
    world.write("b.txt", "short")
    result = world.run(fresh=True)
    assert result.metrics["docs"].counts.records_out == 4
    assert found(result) == (0, 4, 1, 0)
    assert world.stored() == world.expected()
    assert found(world.run()) == (0, 0, 0, 4)


def test_a_changed_graph_reads_everything(world):
    world.run()
    document = world.document()
    document["nodes"][1]["params"]["size"] = 30
    world.document = lambda **_: document
    result = world.run()
    assert result.metrics["docs"].counts.records_out == 5
    assert world.stored() == world.expected()


def test_a_changed_document_that_fails_keeps_its_old_chunks(world):
    world.run()
    before = world.stored()
    world.write("a.txt", "POISON")
    world.write("b.txt", "short")
    result = world.run()
    assert result.metrics["embed"].counts.dead == 1
    kept = {i: p for i, p in before.items() if p[0]["_source"]["uri"].endswith("/a.txt")}
    assert kept
    stored = world.stored()
    assert {i: p for i, p in stored.items() if p[0]["_source"]["uri"].endswith("/a.txt")} == kept
    world.write("a.txt", "well again")
    world.run()
    assert world.stored() == world.expected()


def test_a_failed_run_does_not_move_the_bookmark(world):
    world.run()
    world.write("a.txt", "POISON")
    world.delete("b.txt")
    document = world.document()
    del document["nodes"][2]["on_error"]
    with_failure, world.document = world.document, lambda **_: document
    with pytest.raises(NodeError, match="poison"):
        world.run()
    world.document = with_failure
    world.write("a.txt", "well again")
    world.run()
    assert world.stored() == world.expected()


def test_lines_of_a_jsonl_file_that_are_gone(tmp_path):
    world = World(tmp_path)
    world.source = {
        "connector": "local",
        "params": {
            "path": str(world.docs),
            "format": "jsonl",
            "columns": {"text": "string"},
            "batch_rows": 3,
        },
    }
    lines = [f'{{"text": "line {n}"}}' for n in range(20)]
    world.write("many.jsonl", "\n".join(lines))
    world.write("other.jsonl", "\n".join(lines[:5]))
    world.write("third.jsonl", "\n".join(lines[:5]))
    first = world.run()
    assert first.metrics["docs"].counts.records_out == 30
    lines[3] = lines[11] = ""
    world.write("many.jsonl", "\n".join(lines[:15]))
    world.write("other.jsonl", "")
    world.delete("third.jsonl")
    result = world.run()
    assert found(result) == (0, 2, 1, 0)
    assert world.stored() == world.expected()
    assert len(world.stored()) == 13


KILLS = [
    "bookmark.touched:2",
    "sink.after_remove:1",
    "bookmark.before_current:1",
    "bookmark.after_current:1",
    *(
        pytest.param(place, marks=pytest.mark.soak)
        for place in ("sink.after_write:1", "sink.after_commit:1", "part.after_rename:3")
    ),
]


@pytest.mark.parametrize("failpoint", KILLS)
def test_killed_anywhere_the_next_run_makes_it_right(world, failpoint):
    world.run()
    world.write("f.txt", f"f: {LONG}")
    world.write("a.txt", "short")
    world.write("c.txt", "shorter")
    world.delete("d.txt")
    assert world.run_killed(failpoint), "the failpoint was not reached"
    # What was new, and may have reached the sink, goes before the run is taken up again.
    world.delete("f.txt")
    world.write("b.txt", "changed meanwhile")
    world.run()
    world.run()
    assert world.stored() == world.expected()
