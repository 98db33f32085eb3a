"""Any sequence of edits and crashes, and then a run: the same as a fresh run."""

import os
import signal
import tempfile
from collections import Counter
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from incremental_worlds import World

import nvisy_dagster.engine.failpoint as failpoints
from nvisy_dagster.sdk import NvisyError

NAMES = [f"{letter}.txt" for letter in "abcdef"]
PLACES = [
    "bookmark.touched",
    "sink.after_write",
    "sink.before_remove",
    "sink.after_remove",
    "sink.after_commit",
    "part.after_rename",
    "checkpoint.after_write",
    "bookmark.before_write",
    "bookmark.before_current",
    "bookmark.after_current",
    "bookmark.after_promotion",
]

texts = st.sampled_from(["", "short", "a" * 25 + "b" * 25, "word " * 15, "other " * 9])
edits = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(NAMES), texts),
    st.tuples(st.just("delete"), st.sampled_from(NAMES), st.none()),
    st.tuples(st.just("run"), st.booleans(), st.none()),
    st.tuples(st.just("crash"), st.sampled_from(PLACES), st.integers(1, 4)),
)


class _Crash(Exception):  # noqa: N818 - it is no mistake
    """Ends a run as suddenly as an exception can."""


class _Kernel:
    @staticmethod
    def kill(*_: object) -> None:
        raise _Crash

    @staticmethod
    def getpid() -> int:
        return 0


def _crashing(place: str, count: int):
    places = {(place, count): signal.SIGKILL}
    return mock.patch.multiple(failpoints, _PLACES=places, _passages=Counter(), os=_Kernel)


# Not shrunk: each example is many runs, and the steps of a failing one are few anyway.
@settings(
    max_examples=int(os.environ.get("NVISY_EXAMPLES", "6")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(st.lists(edits, min_size=3, max_size=14))
def test_random_edits_and_crashes_equal_a_fresh_run(steps):
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        world.write("kept.txt", "always there")
        for kind, what, how in steps:
            if kind == "write":
                world.write(what, how)
            elif kind == "delete":
                (world.docs / what).unlink(missing_ok=True)
            elif kind == "run":
                world.run(fresh=what)
            else:
                _run_and_crash(world, what, how)
        world.run()
        # A run that was cut off goes on with what it had listed: the next one sees the rest.
        world.run()
        assert world.stored() == world.expected()


def _run_and_crash(world: World, place: str, count: int) -> None:
    with _crashing(place, count):
        try:
            world.run()
        except _Crash:
            pass
        except NvisyError as error:
            if not isinstance(error.__cause__, _Crash):
                raise


def test_the_property_can_fail(tmp_path):
    """Negative control: without the note of what was touched, a crash leaves an orphan."""
    from nvisy_dagster.engine.bookmark import BookmarkFiles

    world = World(tmp_path)
    world.write("kept.txt", "always there")
    world.run()
    for number in range(4):
        world.write(f"new{number}.txt", "word " * 15)
    _run_and_crash(world, "sink.after_commit", 1)
    for number in range(4):
        world.delete(f"new{number}.txt")
    with mock.patch.object(BookmarkFiles, "touched_files", return_value=[]):
        world.run(fresh=True)
    with pytest.raises(AssertionError):
        assert world.stored() == world.expected()
