"""The main job: documents become a searchable index, and follow what happens to the documents."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pytest

from nvisy_connectors.vector.qdrant import QdrantConnection

pytestmark = [pytest.mark.anyio]

GRAPH = "examples/handbook/handbook.json"
QUESTION = "How do I read a CSV file?"
LICENCES = re.compile(r"creative commons|CC0|apache|MIT licen[sc]e|GPL|copyright", re.IGNORECASE)


@pytest.fixture
def handbook(checkout):
    return checkout / "examples" / "handbook"


@pytest.fixture
def csv(handbook):
    return handbook / "docs" / "library" / "csv.rst"


async def points_in(handbook) -> dict[str, Mapping[str, Any]]:
    """Every stored point's payload, by id."""
    store = QdrantConnection(path=handbook / ".nvisy" / "vectors").store("handbook")
    found: dict[str, Mapping[str, Any]] = {}
    await store.open()
    try:
        start = None
        while True:
            page = await store.page(start, 1000)
            found |= {str(key): value for key, value in zip(page.ids, page.payloads, strict=True)}
            if page.next is None:
                return found
            start = page.next
    finally:
        await store.close()


def by_file(points):
    files = defaultdict(dict)
    for key, payload in points.items():
        files[payload["_source"]["uri"]][key] = payload
    return dict(files)


def test_documents_are_real_and_licensed(handbook):
    documents = list((handbook / "docs").rglob("*.rst"))
    assert len(documents) >= 200
    assert sum(path.stat().st_size for path in documents) < 3_000_000
    licence = (handbook / "docs" / "LICENSE-PSF.txt").read_text("utf-8")
    assert "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2" in licence
    assert "Python 3.11.2" in licence
    # A document under another licence would say so.
    assert [path.name for path in documents if LICENCES.search(path.read_text("utf-8"))] == []


async def test_every_document_is_indexed_and_found(run, handbook, csv):
    said = run("nvisy", "run", GRAPH)
    documents = sorted((handbook / "docs").rglob("*.rst"))
    points = await points_in(handbook)
    assert f"{len(documents)} records read, {len(points):,} written" in said
    files = by_file(points)
    assert sorted(files) == [path.as_uri() for path in documents]
    for path in documents:
        text = path.read_text("utf-8")
        for payload in files[path.as_uri()].values():
            assert payload["text"] == text[payload["start"] : payload["end"]]

    hits = json.loads(run("nvisy", "search", GRAPH, QUESTION, "--json"))["hits"]
    assert len(hits) == 3
    assert hits[0]["score"] >= hits[1]["score"] >= hits[2]["score"] > 0.5
    trace = hits[0]["trace"]
    assert trace["source"] == csv.as_uri()
    assert csv.read_text("utf-8")[trace["start"] : trace["end"]] == hits[0]["text"]
    assert "csv.reader" in hits[0]["text"]


async def test_index_follows_the_documents(run, handbook, csv):
    def index() -> None:
        run("nvisy", "run", "--engine-only", GRAPH)

    index()
    first = await points_in(handbook)
    index()
    assert await points_in(handbook) == first, "running twice changes nothing"

    whole = csv.read_text("utf-8")
    csv.write_text(whole[: len(whole) // 3], "utf-8")
    index()
    shorter = await points_in(handbook)
    before, after = by_file(first), by_file(shorter)
    uri = csv.as_uri()
    assert 0 < len(after[uri]) < len(before[uri]), "stale chunks are gone"
    assert all(p["text"] in csv.read_text("utf-8") for p in after[uri].values())
    assert {k: v for k, v in after.items() if k != uri} == {
        k: v for k, v in before.items() if k != uri
    }, "other documents are left alone"

    added = "\n\nA wombat reads comma separated files at night, all by itself.\n"
    csv.write_text(whole + added, "utf-8")
    (csv.parent / "zebra.rst").write_text("The zebra module counts stripes.\n", "utf-8")
    index()
    longer = by_file(await points_in(handbook))
    assert len(longer[uri]) >= len(before[uri])
    assert len(longer) == len(before) + 1
    question = "wombat that reads comma separated files"
    [best] = json.loads(run("nvisy", "search", GRAPH, question, "--limit", 1, "--json"))["hits"]
    assert "wombat" in best["text"]
