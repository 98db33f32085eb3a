"""Two versions of a document in one run: the later one alone is left, wherever barriers fall."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from incremental_worlds import World

LONG = "".join(f"chunk number {number}     "[:20] for number in range(4))
SHORT = "one chunk, no more."


class Feed(World):
    """A world whose documents are told by a feed."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.path = folder / "feed.json"
        super().__init__(folder, {"connector": "feed", "params": {"path": str(self.path)}})
        self.steps: list[dict[str, str | None]] = []
        self.changes = changes

    def tell(self, *steps: dict[str, str | None]) -> None:
        self.steps += steps
        self.path.write_text(json.dumps(self.steps))

    def document(self, **changes: Any) -> dict[str, Any]:
        return super().document(**{**self.changes, **changes})

    def texts(self) -> dict[str, list[str]]:
        """Texts of the chunks by document."""
        found: dict[str, list[str]] = {}
        for payload, _ in self.stored().values():
            found.setdefault(payload["_source"]["uri"], []).append(payload["text"])
        return {uri.removeprefix("feed:"): sorted(texts) for uri, texts in found.items()}


ONE_BATCH = {"interval_rows": 1}
ONE_RUN = {"interval_seconds": 3600}


@pytest.fixture(params=["materialized", "streamed"])
def edges(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"execution": {"edges": request.param}}


# One epoch of the second stage may span many of the first, and one epoch many steps.
@pytest.mark.parametrize("interval", [ONE_BATCH, ONE_RUN])
def test_the_later_version_wins(tmp_path: Path, edges: dict[str, Any], interval: Any) -> None:
    feed = Feed(tmp_path, **edges, checkpoint=interval)
    feed.tell({"other": SHORT})
    feed.run()
    feed.tell({"a": LONG}, {"b": LONG}, {"a": SHORT}, {"c": LONG}, {"b": SHORT}, {"c": LONG[:40]})
    result = feed.run()
    assert feed.texts() == {
        "other": [SHORT],
        "a": [SHORT],
        "b": [SHORT],
        "c": [LONG[:20], LONG[20:40]],
    }
    counts = result.metrics["docs"].counts
    assert counts.records_in == counts.records_out == 6


@pytest.mark.parametrize("interval", [ONE_BATCH, ONE_RUN])
def test_what_is_gone_after_it_was_told_is_gone(
    tmp_path: Path, edges: dict[str, Any], interval: Any
) -> None:
    feed = Feed(tmp_path, **edges, checkpoint=interval)
    feed.tell({"other": SHORT, "gone": LONG})
    feed.run()
    feed.tell({"a": LONG}, {"a": None, "gone": SHORT}, {"gone": None}, {"b": None}, {"b": LONG})
    feed.run()
    assert {name: len(texts) for name, texts in feed.texts().items()} == {"other": 1, "b": 4}


@pytest.mark.parametrize("place", ["checkpoint.after_write:2", "part.after_rename:3"])
def test_versions_on_both_sides_of_a_crash(tmp_path: Path, place: str) -> None:
    feed = Feed(tmp_path, checkpoint=ONE_BATCH)
    feed.tell({"other": SHORT})
    feed.run()
    feed.tell({"a": LONG}, {"b": LONG}, {"c": SHORT})
    assert feed.run_killed(place)
    feed.tell({"a": SHORT}, {"b": None})
    feed.run()
    # The first stage may have been complete before: then this run found the rest.
    feed.run()
    assert feed.texts() == {"other": [SHORT], "a": [SHORT], "c": [SHORT]}


steps = st.lists(
    st.dictionaries(
        st.sampled_from("abc"), st.sampled_from([None, SHORT, LONG, LONG[:40]]), min_size=1
    ),
    min_size=1,
    max_size=8,
)


# Not shrunk: each example is two runs.
@settings(max_examples=10, deadline=None, phases=[Phase.explicit, Phase.generate], database=None)
@example(steps=[{"a": LONG[:40], "b": None}, {"a": None}], edges="materialized", rows=2)
@given(
    steps=steps,
    edges=st.sampled_from(["materialized", "streamed", "auto"]),
    rows=st.sampled_from([1, 2, 5, 100]),
)
def test_any_steps_leave_the_last_version_of_each(
    steps: list[dict[str, str | None]], edges: str, rows: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        feed = Feed(Path(folder), execution={"edges": edges}, checkpoint={"interval_rows": rows})
        feed.tell({"other": SHORT})
        feed.run()
        feed.tell(*steps)
        feed.run()
        last: dict[str, str | None] = {}
        for step in [{"other": SHORT}, *steps]:
            last |= step
        wanted = {name: -(-len(text) // 20) for name, text in last.items() if text is not None}
        assert {name: len(texts) for name, texts in feed.texts().items()} == wanted
