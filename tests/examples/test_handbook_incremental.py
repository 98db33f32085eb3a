"""The handbook, kept up to date by incremental runs, equals one that is indexed afresh."""

import json
import shutil


def _points(vectors):
    from qdrant_edge import EdgeShard, ScrollRequest

    edge = EdgeShard.load(str(vectors / "handbook"))
    try:
        found, _ = edge.scroll(ScrollRequest(limit=100_000, with_payload=True, with_vector=True))
        return {str(p.id): (p.payload, [round(x, 5) for x in p.vector]) for p in found}
    finally:
        edge.close()


def _only(folder, documents):
    """Leave a few documents, so that the test is quick."""
    for path in sorted(folder.rglob("*.rst"))[documents:]:
        path.unlink()


def test_incremental_runs_equal_a_fresh_one(run, checkout):
    handbook = checkout / "examples" / "handbook"
    docs = handbook / "docs"
    _only(docs, 12)
    document = json.loads((handbook / "handbook.json").read_text())
    document["nodes"][0]["incremental"] = True
    (handbook / "handbook.json").write_text(json.dumps(document))
    graph = "examples/handbook/handbook.json"
    assert "incremental: 12 new, 0 changed, 0 removed, 0 unchanged" in run("nvisy", "run", graph)
    added, changed, shortened, emptied, deleted, *_ = sorted(docs.rglob("*.rst"))
    (docs / "brand_new.rst").write_text(added.read_text() + "\nand more")
    changed.write_text("Another beginning.\n" + changed.read_text())
    shortened.write_text(shortened.read_text()[:500])
    emptied.write_text("")
    deleted.unlink()
    said = run("nvisy", "run", graph)
    assert "4 records read" in said
    assert "incremental: 1 new, 3 changed, 1 removed, 8 unchanged" in said
    assert "incremental: 0 new, 0 changed, 0 removed, 12 unchanged" in run(
        "nvisy", "run", graph, "--engine-only"
    )
    kept = _points(handbook / ".nvisy" / "vectors")
    shutil.rmtree(handbook / ".nvisy")
    run("nvisy", "run", graph, "--storage", checkout / "other")
    assert _points(handbook / ".nvisy" / "vectors") == kept
    assert len(kept) > 50
